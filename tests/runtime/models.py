"""A model whose masks can be told by eye: a pixel is marked where its mean over RGB is above 128."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper


def brightness_model(
    path: Path,
    frames: int = 5,
    size: tuple[int, int] = (32, 48),
    batch: int | None = 1,
    classes: tuple[str, ...] = ("lesion",),
    **metadata: str,
) -> Path:
    """Write an ONNX file with our description whose logits are (mean - 128) / 16, the same for every class."""
    height, width = size
    batch_dim = "batch" if batch is None else batch
    constants = {"offset": [128.0], "scale": [1.0 / 16.0], "channels": [-1], "repeat": [1, 1, len(classes), 1, 1]}
    initializers = [
        helper.make_tensor(name, TensorProto.FLOAT if isinstance(v[0], float) else TensorProto.INT64, [len(v)], v)
        for name, v in constants.items()
    ]
    nodes = [
        helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "channels"], ["grey"], keepdims=0),
        helper.make_node("Sub", ["grey", "offset"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "axis"], ["single"]),
        helper.make_node("Tile", ["single", "repeat"], ["logits"]),
    ]
    initializers.append(helper.make_tensor("axis", TensorProto.INT64, [1], [2]))
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [batch_dim, frames, height, width, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch_dim, frames, len(classes), height, width])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return _described(model, path, frames, size, batch, classes, metadata)


def remembering_model(path: Path, size: tuple[int, int] = (32, 48), **metadata: str) -> Path:
    """Write a streaming ONNX file whose logits are (mean - 128) / 16 + h[0], and h <- h / 2 + their mean before it."""
    height, width = size
    constants = {"offset": [128.0], "scale": [1.0 / 16.0], "half": [0.5], "channels": [-1], "one": [1], "zero": [0]}
    nodes = [
        helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "channels"], ["grey"], keepdims=0),
        helper.make_node("Sub", ["grey", "offset"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled"], ["level"], keepdims=0),
        helper.make_node("Slice", ["state_h", "zero", "one", "one"], ["first"]),
        helper.make_node("Add", ["scaled", "first"], ["single"]),
        helper.make_node("Unsqueeze", ["single", "axis"], ["logits"]),
        helper.make_node("Mul", ["state_h", "half"], ["faded"]),
        helper.make_node("Add", ["faded", "level"], ["next_state_h"]),
    ]
    graph = helper.make_graph(
        nodes,
        "remembering",
        [
            helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, 1, height, width, 3]),
            helper.make_tensor_value_info("state_h", TensorProto.FLOAT, [1, 2]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, 1, height, width]),
            helper.make_tensor_value_info("next_state_h", TensorProto.FLOAT, [1, 2]),
        ],
        [
            *(
                helper.make_tensor(name, TensorProto.FLOAT if isinstance(v[0], float) else TensorProto.INT64, [1], v)
                for name, v in constants.items()
            ),
            helper.make_tensor("axis", TensorProto.INT64, [1], [2]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    states = json.dumps([{"input": "state_h", "output": "next_state_h", "shape": [1, 2]}])
    metadata = {"format": "2", "streaming": "1", "states": states} | metadata
    return _described(model, path, 1, size, 1, ("lesion",), metadata)


def _described(
    model: onnx.ModelProto,
    path: Path,
    frames: int,
    size: tuple[int, int],
    batch: int | None,
    classes: tuple[str, ...],
    metadata: dict[str, str],
) -> Path:
    height, width = size
    colors = [[0, 255, 0], [255, 0, 0], [0, 0, 255]]
    description = {
        "format": "1",
        "preset": "brightness",
        "frames": str(frames),
        "height": str(height),
        "width": str(width),
        "batch": "dynamic" if batch is None else str(batch),
        "input": "uint8",
        "mean": json.dumps([0.485, 0.456, 0.406]),
        "std": json.dumps([0.229, 0.224, 0.225]),
        "classes": json.dumps([{"name": n, "color": c} for n, c in zip(classes, colors, strict=False)]),
        "precision": "fp32",
        "weights_sha256": "0" * 64,
        **metadata,
    }
    helper.set_model_props(model, {f"vivim.{key}": value for key, value in description.items()})
    onnx.save(model, path)
    return path
