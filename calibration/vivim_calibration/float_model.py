"""The float32 file that everything starts from, and what cannot be quantised."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from vivim_calibration.layers import quantisable_layers
from vivim_runtime.errors import ModelError
from vivim_runtime.sessions.base import ModelInfo
from vivim_runtime.sessions.onnx_file import check_onnx_file

__all__ = ["FILM", "FloatModel", "load_float_model"]

# Frames of a film for a streaming file: what it remembers has come to itself after a few.
FILM = 8
_QUANTISING = {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True, eq=False)
class FloatModel:
    """A float32 file of vivim-export: its graph, what it says about itself, and its SHA-256."""

    proto: onnx.ModelProto = field(repr=False)
    info: ModelInfo
    sha256: str

    @property
    def frames(self) -> int:
        """Of the clips to learn from and to judge on; those of a streaming file are films from their first frame on."""
        return FILM if self.info.streaming else self.info.frames


def load_float_model(path: Path) -> FloatModel:
    """Read a float32 file of vivim-export.

    Raises:
        ModelError, vivim_runtime.errors.ModelError: it is none, or already quantised, or in half precision.
    """
    if not path.is_file():
        raise ModelError(f"there is no model {path}; make one with: vivim-export onnx --weights tiny -o {path.name}")
    check_onnx_file(path)
    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and onnx's exceptions share no base class
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} is no ONNX model: {first}; export it again") from None
    info = ModelInfo.from_metadata(path, {entry.key: entry.value for entry in model.metadata_props})
    if info.precision == "int8" or any(node.op_type in _QUANTISING for node in model.graph.node):
        raise ModelError(f"{path} is quantised already; give the fp32 file that it was made from")
    if info.precision != "fp32":
        raise ModelError(
            f"{path} is {info.precision}; ranges are learnt from float32: vivim-export onnx --weights W -o M.onnx"
        )
    if not quantisable_layers(model):
        raise ModelError(f"{path} has no convolution or linear layer that can be quantised")
    return FloatModel(model, info, hashlib.sha256(data).hexdigest())
