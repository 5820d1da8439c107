"""A bfloat16 file as ONNX Runtime can run it: ONNX Runtime has no bfloat16 convolutions, TensorRT has.

Every bfloat16 tensor becomes a float32 tensor of bfloat16 values: what a node computes in float32 is rounded to
bfloat16 and back. That is what hardware does that multiplies bfloat16 and sums in float32, up to the order of the sums.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vivim_runtime.sessions import Session, open_session
from vivim_runtime.sessions.onnx import OnnxSession
from vivim_runtime.sessions.onnx_file import check_onnx_file

__all__ = ["EmulatedSession", "float_from_bfloat16", "open_artefact"]

# These only move numbers: what they put out is rounded already.
_MOVES = {
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Pad",
    "Relu",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}


def float_from_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that computes the same numbers with float32 tensors only; `model` itself is left as it is."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    narrow = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.BFLOAT16}
    for value in (*graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            narrow.add(value.name)
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            wide = np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type in _MOVES:
            continue
        for index, name in enumerate(node.output):
            if name in narrow:
                node.output[index] = f"{name}_exact"
                nodes.append(helper.make_node("Cast", [node.output[index]], [f"{name}_bf16"], to=TensorProto.BFLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}_bf16"], [name], to=TensorProto.FLOAT))
        if node.op_type == "Cast":
            target = next(a for a in node.attribute if a.name == "to")
            if target.i == TensorProto.BFLOAT16:
                target.i = TensorProto.FLOAT
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def open_artefact(path: Path, device: str = "auto", threads: int = 0, bodies: bool = False) -> Session:
    """A session for a model file, as vivim_runtime.open_session gives it; a bf16 ONNX file is emulated.

    `bodies`: an ONNX file computes the scan itself, as in a runtime that has not our operators.
    """
    if path.suffix == ".onnx" and path.is_file() and _is_bfloat16(path):
        return EmulatedSession(path, device, threads, bodies)
    return OnnxSession(path, device, threads, bodies=True) if bodies else open_session(path, device, threads)


def _is_bfloat16(path: Path) -> bool:
    check_onnx_file(path)
    try:
        model = onnx.load(path)
    except Exception:  # protobuf's own; whoever opens the file says what is wrong with it
        return False
    return any(entry.key == "vivim.precision" and entry.value == "bf16" for entry in model.metadata_props)


class EmulatedSession(OnnxSession):
    """A bf16 file in ONNX Runtime, which has no bf16 convolutions: float32 rounded to bf16 after every operation."""

    def __init__(self, path: Path, device: str = "auto", threads: int = 0, bodies: bool = False) -> None:
        with TemporaryDirectory() as folder:
            emulated = Path(folder) / path.name
            onnx.save(float_from_bfloat16(onnx.load(path)), emulated)
            super().__init__(emulated, device, threads, bodies=bodies)
        self.backend = "ONNX Runtime, bf16 emulated"
        self.info = replace(self.info, path=path)
