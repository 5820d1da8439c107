"""Building with classic TensorRT, on a stand-in of its module and a GPU of host memory: what a machine with a GPU does.

TensorRT for RTX builds for real in test_engine.py and never comes here: it needs no GPU, plugin or timing cache.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.fake_tensorrt import FakeBuilderTensorRT
from tests.runtime.engines import ADA
from tests.runtime.fake_gpu import FakeCuda
from tests.runtime.models import brightness_model, remembering_model
from vivim_export.engine import EngineOptions, build_engine
from vivim_export.precision_check import check_layers, layers_of_engine
from vivim_runtime.errors import CudaError, ModelError, ParityError, PluginError, PrecisionError, UsageError
from vivim_runtime.sessions.machine import Machine
from vivim_runtime.sessions.plugin import Plugin
from vivim_runtime.sessions.sidecar import EngineRecord, PluginRecord, Profile

OPTIONS = EngineOptions(backend="tensorrt", precision="fp32")


class Bench:
    """A model, its engine to be, and the TensorRT that builds it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.model = brightness_model(folder / "m.onnx", frames=2)
        self.engine = folder / "m.engine"
        self.cuda = FakeCuda()
        self.cuda.install(monkeypatch)
        # --plugin, and nowhere else: neither the environment nor a build folder has one.
        self.plugin = Plugin(folder / "given/libvivim_trt.so", "revision", "1" * 64, "2" * 64)
        monkeypatch.setattr(Plugin, "find", self._find)
        monkeypatch.setattr(Plugin, "load", lambda plugin, module: None)
        self.use("10.13.3.9", ADA)

    def _find(self, path: Path | None = None) -> Plugin:
        if path != self.plugin.path:
            raise PluginError("the plugin libvivim_trt.so was not found")
        return self.plugin

    def use(self, version: str, machine: Machine) -> FakeBuilderTensorRT:
        self.tensorrt = FakeBuilderTensorRT(self.cuda, version)
        self.tensorrt.scale = 1 / 16
        self.tensorrt.tensors["frames"] = ("input", (1, 2, 32, 48, 3), self.tensorrt.tensors["frames"][2])
        self.tensorrt.tensors["logits"] = ("output", (1, 2, 1, 32, 48), self.tensorrt.tensors["logits"][2])
        self.monkeypatch.setitem(sys.modules, "tensorrt", self.tensorrt)
        here = replace(machine, versions={"tensorrt": version})
        self.monkeypatch.setattr(Machine, "here", lambda *arguments, **named: here)
        return self.tensorrt

    def build(self, **options: Any) -> EngineRecord:
        return build_engine(self.model, self.engine, replace(OPTIONS, plugin=self.plugin.path, **options))[0]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_engine_is_built_read_back_and_compared_with_its_model(bench: Bench) -> None:
    bench.tensorrt.inspector = json.dumps({"Layers": ["grey"]})
    record = bench.build(workspace=0.5)
    assert bench.engine.read_bytes() == bench.tensorrt.content
    assert record.gpu == ADA.gpu and record.compute_capabilities == ("8.9",)
    assert record.parity is not None and record.parity["passed"]
    assert record.plugin == PluginRecord("revision", "1" * 64, "2" * 64)  # which the comparison used as well
    assert f"workspace {2**29}" in bench.tensorrt.log
    assert bench.cuda.live == {}


def test_streaming_engine_is_compared_frame_after_frame_with_states_of_its_own(bench: Bench) -> None:
    remembering_model(bench.model)
    bench.tensorrt.tensors = {
        "frames": ("input", (1, 1, 32, 48, 3), np.uint8),
        "logits": ("output", (1, 1, 1, 32, 48), np.float32),
        "state_h": ("input", (1, 2), np.float32),
        "next_state_h": ("output", (1, 2), np.float32),
    }
    record = bench.build()
    assert record.parity is not None and record.parity["passed"] and record.profile == Profile(1, 1, 1)
    assert record.description["vivim.streaming"] == "1" and bench.cuda.live == {}
    assert "cudaGraphLaunch" in bench.cuda.calls
    bench.tensorrt.forgets = True  # the proof that this can fail
    with pytest.raises(ParityError, match="does not stand for"):
        bench.build()
    with pytest.raises(UsageError, match="takes 1 clips a call"):
        bench.build(max_batch=2)


def test_version_compatible_engine_is_loaded_with_its_own_code_allowed(bench: Bench) -> None:
    bench.build()
    assert [line for line in bench.tensorrt.log if line.startswith("host code")] == ["host code False"] * 2
    bench.tensorrt.log.clear()
    record = bench.build(version_compatible=True)
    assert "version compatible" in bench.tensorrt.config.flags and record.version_compatible
    # Twice: the inspector's engine, and that of the comparison.
    assert [line for line in bench.tensorrt.log if line.startswith("host code")] == ["host code True"] * 2


def test_machine_without_a_gpu_is_told_before_anything_of_tensorrt_is_made(bench: Bench) -> None:
    tensorrt = bench.use("10.13.3.9", Machine(no_gpu="the NVIDIA driver finds no GPU"))
    tensorrt.builder = lambda logger: pytest.fail("a Builder without a GPU is a crash")
    with pytest.raises(ModelError, match=r"here is no GPU \(the NVIDIA driver finds no GPU\); .*--backend rtx"):
        bench.build()


def nothing(logger: Any) -> None:
    raise TypeError("pybind11::init(): factory function returned nullptr")


def crash(logger: Any) -> Any:
    """An object that must not be touched, as TensorRT 10.16 and 11.4 give it with a driver that is too old."""
    logger.log(1, "createInferBuilder: CUDA initialization failure with error: 35")
    return object()


@pytest.mark.parametrize(
    ("builder", "reason"), [(nothing, "factory function returned nullptr"), (crash, "CUDA initialization failure")]
)
def test_builder_that_does_not_start_is_one_line(builder: Any, reason: str, bench: Bench) -> None:
    bench.tensorrt.builder = builder
    with pytest.raises(CudaError, match=f"Builder of tensorrt 10.13.3.9 does not start on this machine: .*{reason}"):
        bench.build()
    assert not bench.engine.exists()


def test_hardware_compatibility_that_this_tensorrt_does_not_have_is_refused(bench: Bench) -> None:
    for version in ("10.3.0", "10.8.0.43"):
        bench.use(version, ADA)
        with pytest.raises(UsageError, match="same_compute_capability, which TensorRT .* does not have; .*ampere_plus"):
            bench.build(hardware_compatibility="same_compute_capability")
        assert "builder" not in bench.tensorrt.log
    bench.use("10.13.0", ADA)
    bench.build(hardware_compatibility="same_compute_capability")
    assert bench.tensorrt.config.hardware_compatibility_level.name == "SAME_COMPUTE_CAPABILITY"


def test_hardware_compatibility_on_a_jetson_is_refused_early(bench: Bench) -> None:
    bench.use("10.3.0", replace(ADA, gpu="Orin", compute_capability="8.7", jetson="36.4.0"))
    with pytest.raises(UsageError, match=r"ampere_plus, and this is a Jetson \(Jetson Linux 36\.4\.0\)"):
        bench.build(hardware_compatibility="ampere_plus")
    assert "builder" not in bench.tensorrt.log


def test_timing_cache_is_read_written_and_refused_where_it_does_not_fit(bench: Bench, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    bench.build(timing_cache=cache)
    assert cache.read_bytes() == b"+measured"
    bench.build(timing_cache=cache)
    assert cache.read_bytes() == b"+measured+measured"
    bench.tensorrt.refuse = "timing cache"
    with pytest.raises(UsageError, match="timings is not of this GPU and TensorRT"):
        bench.build(timing_cache=cache)
    assert cache.read_bytes() == b"+measured+measured"
    os.truncate(cache, 1 << 40)  # of which nothing is on the disk
    with pytest.raises(UsageError, match="timings is too large for a timing cache"):
        bench.build(timing_cache=cache)


def product(inputs: list[str], output: str) -> dict[str, Any]:
    def tensors(types: list[str]) -> list[dict[str, str]]:
        return [{"Name": "t", "Format/Datatype": kind} for kind in types]

    return {"Name": "dbc", "LayerType": "gemm", "Inputs": tensors(inputs), "Outputs": tensors([output])}


def test_product_is_judged_by_what_it_computes_in_not_by_a_cast_that_is_fused_into_it() -> None:
    """Six products of tiny feed a cast to float32, which TensorRT may fuse."""
    fused = layers_of_engine({"Layers": [product(["Half", "Half"], "Float")]})
    check_layers(fused, "fp16")
    with pytest.raises(PrecisionError, match=r"not fp16: dbc \(fp32\)"):
        check_layers(layers_of_engine({"Layers": [product(["Float", "Float"], "Half")]}), "fp16")


def test_whole_text_of_the_inspector_is_kept_also_where_the_engine_is_refused(bench: Bench) -> None:
    kept = bench.engine.with_name("m.engine.layers.json")
    bench.tensorrt.inspector = json.dumps({"Layers": [product(["Half"], "Half")], "Bindings": ["frames"]})
    with pytest.raises(PrecisionError, match=r"not fp32: dbc \(fp16\).*m\.engine\.layers\.json"):
        bench.build()
    assert kept.read_text() == bench.tensorrt.inspector and not bench.engine.exists()


@pytest.mark.parametrize("text", ["", "Layer(Name: grey)", '{"Layers": [', "[1, 2]", '{"Layers": [{"Inputs": [3]}]}'])
def test_text_of_the_inspector_that_is_not_as_expected_costs_no_engine(text: str, bench: Bench) -> None:
    bench.tensorrt.inspector = text
    record = bench.build()
    assert str(record.build_flags["precision_read_from"]).startswith("network")
    assert bench.engine.with_name("m.engine.layers.json").read_text() == text and bench.engine.exists()
