"""Engines and their records without a GPU: any bytes are an engine, as far as everything before loading goes."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import onnx

from tests.runtime.models import brightness_model, remembering_model
from vivim_runtime.files import sha256_file
from vivim_runtime.sessions.backends import BACKENDS
from vivim_runtime.sessions.machine import Machine
from vivim_runtime.sessions.sidecar import EngineRecord, LayerRecord, PluginRecord, Profile

CONTENT = b"an engine" * 100
COMMAND = "vivim-export trt tiny.onnx --fp16 -o tiny.engine"
PLUGIN = PluginRecord("revision-3", "a" * 64, "b" * 64)
ADA = Machine("NVIDIA GeForce RTX 4090", "8.9", "13.0", {"tensorrt": "10.13.3.9", "rtx": "1.7.1.116"})


def description(frames: int = 2, size: tuple[int, int] = (4, 6), batch: int | None = None) -> dict[str, str]:
    """What vivim-export writes into an ONNX file, of a network with one class."""
    values = {
        "format": "1",
        "preset": "tiny",
        "frames": str(frames),
        "height": str(size[0]),
        "width": str(size[1]),
        "batch": "dynamic" if batch is None else str(batch),
        "input": "uint8",
        "mean": json.dumps([0.5, 0.5, 0.5]),
        "std": json.dumps([0.5, 0.5, 0.5]),
        "classes": json.dumps([{"name": "lesion", "color": [0, 255, 0]}]),
        "precision": "fp32",  # of the file; the engine has its own
        "weights_sha256": "0" * 64,
    }
    return {f"vivim.{key}": value for key, value in values.items()}


# Of an engine for the GPU of ADA, with TensorRT and the plugin.
RECORD = EngineRecord(
    backend="tensorrt",
    engine_sha256=hashlib.sha256(CONTENT).hexdigest(),
    engine_bytes=len(CONTENT),
    onnx_sha256="c" * 64,
    weights_sha256="0" * 64,
    library_version="10.13.3.9",
    gpu="NVIDIA GeForce RTX 4090",
    compute_capabilities=("8.9",),
    hardware_compatibility="none",
    version_compatible=False,
    plugin=PLUGIN,
    precision="fp16",
    precision_found={"fp16": 1, "fp32": 1},
    layers=(LayerRecord("conv", "Convolution", "fp16"), LayerRecord("norm", "Normalization", "fp32")),
    profile=Profile(1, 1, 4),
    calibration_sha256=None,
    build_flags={"workspace": 4, "profiling-verbosity": "detailed"},
    build_command=COMMAND,
    parity={"passed": True, "mask_dice": 0.9998},
    description=description(),
    versions={"vivim-edge": "0.1.0"},
    created="2026-01-31T12:00:00+00:00",
)
# Of one that was built ahead of time with TensorRT for RTX.
RTX = dataclasses.replace(
    RECORD,
    backend="rtx",
    library_version="1.7.1.116",
    gpu=None,
    compute_capabilities=("8.6", "8.9", "12.0"),
    plugin=None,
    parity=None,
)


def engine_file(path: Path, record: EngineRecord = RECORD, **changes: Any) -> Path:
    """Write an engine and its record."""
    path.write_bytes(CONTENT)
    dataclasses.replace(record, **changes).write(path)
    return path


def real_engine(
    path: Path, backend: str, capability: str, gpu: str | None, profile: Profile, streams: bool = False
) -> Path:
    """Build `brightness_model` (or `remembering_model`, whose batch is 1) with the real library, and write its record;
    the ONNX file lies beside it."""
    module: Any = importlib.import_module(BACKENDS[backend].module)
    onnx_file = path.with_suffix(".onnx")
    if streams:
        remembering_model(onnx_file)
        profile = Profile(1, 1, 1)
        described = {entry.key: entry.value for entry in onnx.load(onnx_file).metadata_props}
    else:
        brightness_model(onnx_file, batch=None)
        described = description(frames=5, size=(32, 48))
    logger = module.Logger(module.Logger.ERROR)
    builder = module.Builder(logger)
    # TensorRT 11 and TensorRT for RTX know strongly typed networks only.
    typed = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = module.OnnxParser(network, logger)
    assert parser.parse_from_file(str(onnx_file)), parser.get_error(0).desc()
    configuration = builder.create_builder_config()
    if BACKENDS[backend].compiles:
        number = getattr(module.ComputeCapability, f"SM{capability.replace('.', '')}")
        configuration.num_compute_capabilities = 1
        configuration.set_compute_capability(number, 0)
    if not streams:
        shapes = builder.create_optimization_profile()
        shapes.set_shape("frames", *((batch, 5, 32, 48, 3) for batch in dataclasses.astuple(profile)))
        configuration.add_optimization_profile(shapes)
    path.write_bytes(bytes(builder.build_serialized_network(network, configuration)))
    dataclasses.replace(
        RECORD,
        backend=backend,
        engine_sha256=sha256_file(path),
        engine_bytes=path.stat().st_size,
        library_version=module.__version__,
        gpu=gpu,
        compute_capabilities=(capability,),
        plugin=None,
        precision="fp32",
        profile=profile,
        description=described,
    ).write(path)
    return path
