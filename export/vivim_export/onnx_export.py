"""PyTorch to ONNX: one file that holds the network, its operators' bodies, the preprocessing and its own description.

torch.export traces the network; the two custom operators become bare nodes of the domain `vivim`; their bodies are
appended as functions of the model (a function given to the exporter itself would be inlined and lost).
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxscript
import onnxscript.values
import torch
from onnx import helper
from torch import Tensor, nn

import vivim.operators  # noqa: F401  (registers torch.ops.vivim)
from vivim.checkpoint import load_checkpoint, resolve_weights
from vivim.config import MEAN, STD
from vivim.model import Vivim, stage_sizes
from vivim_export.errors import UsageError
from vivim_export.folding import fold_for_export
from vivim_export.functions import DOMAIN, DOMAIN_VERSION, causal_conv1d_function, selective_scan_function
from vivim_runtime.files import atomic_path, sha256_file

__all__ = ["OPSETS", "OnnxOptions", "export_onnx", "onnx_from_model"]

# GELU became an operator in 20; 21 and later change nothing that the network uses.
OPSETS = range(20, 24)
_FORMAT = "1"
# Distinct and visible on grey-scale images; repeated when there are more classes.
_COLORS = [[0, 230, 118], [255, 193, 7], [3, 169, 244], [233, 30, 99], [156, 39, 176], [255, 87, 34]]


@dataclass(frozen=True)
class OnnxOptions:
    """How to export.

    Attributes:
        size: (H, W) of the network's input, pixels.
        batch: clips at once; None leaves it open (dynamic).
        raw_input: take normalised float32 (B, T, 3, H, W), as the authors' code does, instead of uint8 RGB
            (B, T, H, W, 3) with the normalisation inside.
        opset: of the standard operators.
        fold: fold the decoder (exact; see vivim_export.folding).
    """

    size: tuple[int, int] = (256, 256)
    batch: int | None = 1
    raw_input: bool = False
    opset: int = 20
    fold: bool = True

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise UsageError(f"--opset is {self.opset}; expected {OPSETS.start} to {OPSETS.stop - 1}")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch is {self.batch}; expected at least 1")


class _Deployed(nn.Module):
    """The network as it is deployed: pixels in, logits out."""

    mean: Tensor
    scale: Tensor

    def __init__(self, model: Vivim, raw_input: bool) -> None:
        super().__init__()
        self.model, self.raw_input = model, raw_input
        self.register_buffer("mean", 255.0 * torch.tensor(MEAN))
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(STD)))

    def forward(self, x: Tensor) -> Tensor:
        """uint8 (B, T, H, W, 3), or float32 (B, T, 3, H, W) when raw -> logits (B, T, K, H, W)."""
        if not self.raw_input:
            x = ((x.to(torch.float32) - self.mean) * self.scale).permute(0, 1, 4, 2, 3)
        return self.model(x).logits


def export_onnx(
    weights: str | Path, output: str | Path, options: OnnxOptions, frames: int | None = None
) -> onnx.ModelProto:
    """Export a checkpoint to `output`, whole or not at all, and return the model.

    Args:
        weights: anything `vivim.load_checkpoint` takes.
        output: the .onnx file.
        frames: T of the clip; default what the checkpoint says.

    Raises:
        CheckpointError, InputError, UsageError: exit code 2.
    """
    path = resolve_weights(weights)
    model = onnx_from_model(load_checkpoint(path, frames), options, sha256_file(path))
    save_onnx(model, output)
    return model


def save_onnx(model: onnx.ModelProto, output: str | Path) -> None:
    """Check `model` fully and write it under a temporary name, then rename."""
    if Path(output).suffix != ".onnx":
        raise UsageError(f"the output is {output}; expected a name ending in .onnx")
    with atomic_path(output) as temporary:
        onnx.save(model, temporary)
        onnx.checker.check_model(temporary, full_check=True)


def onnx_from_model(model: Vivim, options: OnnxOptions, weights_sha256: str | None = None) -> onnx.ModelProto:
    """The ONNX model of a network; its T is `model.config.frames`."""
    config = model.config
    stage_sizes(config, *options.size)  # raises for a size that the network cannot take
    deployed = _Deployed(fold_for_export(model, options.fold), options.raw_input).eval()
    proto = _traced(deployed, _example(config.frames, options), options)
    for function in (
        causal_conv1d_function(config.direction_codes, config.conv, options.opset),
        selective_scan_function(config.direction_codes, True, options.opset),
    ):
        proto.functions.append(function)
    if DOMAIN not in {entry.domain for entry in proto.opset_import}:
        proto.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    _drop_debug_information(proto)
    helper.set_model_props(proto, _metadata(model, options, weights_sha256 or _sha256_of(model)))
    proto.producer_name, proto.producer_version = "vivim-edge", _version()
    proto.doc_string = "Vivim video segmentation (arXiv 2401.14168), exported by vivim-edge."
    return proto


def _example(frames: int, options: OnnxOptions) -> Tensor:
    # A dynamic batch is traced with 2 clips: torch.export takes a size of 1 for a constant.
    batch, (height, width) = options.batch or 2, options.size
    if options.raw_input:
        return torch.zeros(batch, frames, 3, height, width)
    return torch.zeros(batch, frames, height, width, 3, dtype=torch.uint8)


def _schema(name: str, inputs: list[str], attributes: dict[str, Any]) -> onnx.defs.OpSchema:
    types = [("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "data")]
    return onnx.defs.OpSchema(
        name,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[onnx.defs.OpSchema.FormalParameter(i, "T") for i in inputs],
        outputs=[onnx.defs.OpSchema.FormalParameter("y", "T")],
        type_constraints=types,
        attributes=[onnx.defs.OpSchema.Attribute(n, t) for n, t in attributes.items()],
    )


def _translations() -> dict[Any, Any]:
    """torch.ops.vivim -> bare ONNX nodes of the same names."""
    kinds = onnx.defs.OpSchema.AttrType
    opset = onnxscript.values.Opset(DOMAIN, DOMAIN_VERSION)
    attributes = {"rows": kinds.INT, "directions": kinds.INTS}
    conv = onnxscript.values.Op(opset, "CausalConv1d", _schema("CausalConv1d", ["xz", "weight", "bias"], attributes))
    inputs = ["xc", "dbc", "xz", "A_log2e", "dt_weight", "dt_bias", "d_skip"]
    scan = onnxscript.values.Op(
        opset, "SelectiveScan", _schema("SelectiveScan", inputs, {**attributes, "mean": kinds.INT})
    )

    def causal_conv1d(x, weight, bias, rows, directions):  # type: ignore[no-untyped-def]
        return conv(x, weight, bias, rows=rows, directions=directions)

    def selective_scan(  # type: ignore[no-untyped-def]
        xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, rows, directions, mean
    ):
        tensors = (xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip)
        return scan(*tensors, rows=rows, directions=directions, mean=int(mean))

    return {
        torch.ops.vivim.causal_conv1d.default: causal_conv1d,
        torch.ops.vivim.selective_scan.default: selective_scan,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch.onnx says about itself: packages we do not use, and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _traced(deployed: nn.Module, example: Tensor, options: OnnxOptions) -> onnx.ModelProto:
    name = "clip" if options.raw_input else "frames"
    shapes = None
    if options.batch is None:
        shapes = {"x": {0: torch.export.Dim("batch", min=1)}}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            opset_version=options.opset,
            input_names=[name],
            output_names=["logits"],
            dynamic_shapes=shapes,
            custom_translation_table=_translations(),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _drop_debug_information(proto: onnx.ModelProto) -> None:
    """Remove the stack traces that torch.onnx leaves on every node: they name files of the exporting machine."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]


def _metadata(model: Vivim, options: OnnxOptions, weights_sha256: str) -> dict[str, str]:
    """The file's description of itself: everything that a runtime needs."""
    config = model.config
    classes = [{"name": n, "color": _COLORS[i % len(_COLORS)]} for i, n in enumerate(config.classes)]
    versions = {
        "vivim-edge": _version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxscript": onnxscript.__version__,
        "python": platform.python_version(),
    }
    return {
        "vivim.format": _FORMAT,
        "vivim.config": config.to_json(),
        "vivim.preset": config.preset_name,
        "vivim.frames": str(config.frames),
        "vivim.height": str(options.size[0]),
        "vivim.width": str(options.size[1]),
        "vivim.batch": "dynamic" if options.batch is None else str(options.batch),
        "vivim.input": "float32" if options.raw_input else "uint8",
        "vivim.mean": json.dumps(MEAN),
        "vivim.std": json.dumps(STD),
        "vivim.classes": json.dumps(classes),
        "vivim.precision": "fp32",
        "vivim.weights_sha256": weights_sha256,
        "vivim.versions": json.dumps(versions, sort_keys=True),
    }


def _version() -> str:
    from importlib.metadata import version

    return version("vivim-edge")


def _sha256_of(model: Vivim) -> str:
    """SHA-256 over names and bytes of the weights, for a network that came from no file."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
