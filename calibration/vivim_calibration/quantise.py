"""Explicit Q/DQ: a float32 graph as one in which every rounding to INT8 is a node that can be seen.

    activation   x -> QuantizeLinear -> DequantizeLinear -> layer   one scale a tensor, shared by all that read it
    weight       int8 constant -> DequantizeLinear -> layer         one scale an output channel
    bias         stays float32 (TensorRT for RTX refuses quantised ones)

All symmetric S8. Scales are numbers that float16 holds, rounded up to them: the graph around the layers may become
float16, as it does in an engine, and every level still stands for the same value. Q/DQ stand at the inputs of layers
and nowhere else: a residual sum stays in float, and a compiler can fuse it into the product that writes it. Nodes and
functions of the domain `vivim` are left as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from vivim_calibration.histogram import LEVELS
from vivim_calibration.layers import Layer, quantisable_layers

__all__ = ["quantise_layers", "quantised_weight"]


def quantise_layers(
    model: onnx.ModelProto, ranges: Mapping[str, float], left_in_float: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy of a float32 model with Q/DQ at its layers; its description is that of the float32 file.

    Args:
        ranges: largest magnitude that int8 covers, for every activation of `quantisable_layers`.
        left_in_float: names of layers (`Layer.name`) that get no Q/DQ.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    chosen = {layer.node: layer for layer in quantisable_layers(model) if layer.name not in left_in_float}
    weights = {tensor.name: tensor for tensor in result.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    done: set[str] = set()
    for node in result.graph.node:
        layer = chosen.get(node.name)
        if layer is not None:
            if layer.activation not in done:
                nodes += _activation_nodes(layer.activation, ranges[layer.activation], constants)
            if layer.weight not in done:
                nodes.append(_weight_node(layer, numpy_helper.to_array(weights[layer.weight]), constants))
            done |= {layer.activation, layer.weight}
            node.input[0], node.input[1] = _dequantised(layer.activation), _dequantised(layer.weight)
        nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in result.graph.initializer if tensor.name in used]
    del result.graph.initializer[:]
    result.graph.initializer.extend([*kept, *constants])
    return result


def quantised_weight(
    weight: npt.NDArray[np.float32], axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """A weight in S8, and one scale for every index of `axis`; a channel of zeros has the scale 1."""
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    scale = _scale(np.abs(weight).max(axis=others))
    shape = [1] * weight.ndim
    shape[axis] = -1
    levels = np.round(weight / scale.reshape(shape))
    return np.clip(levels, -LEVELS, LEVELS).astype(np.int8), scale


def _scale(reach: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Magnitude of level 127 -> what one level is worth: a number of float16, rounded up; 1 where there is nothing.

    Costs 2^-11 of the range at most where levels are worth 6e-5 or more, and no level is worth less than 6e-8. What
    lies beyond float16 stays as it is, and vivim-export refuses such a model in fp16.
    """
    exact = np.asarray(reach, np.float32) / np.float32(LEVELS)
    with np.errstate(over="ignore"):
        nearest = exact.astype(np.float16)
    up = np.where(nearest < exact, np.nextafter(nearest, np.float16(np.inf)), nearest).astype(np.float32)
    return np.where(exact == 0, np.float32(1), np.where(np.isfinite(up), up, exact))


def _dequantised(name: str) -> str:
    return f"{name}_dq"


def _activation_nodes(name: str, reach: float, constants: list[onnx.TensorProto]) -> list[onnx.NodeProto]:
    scale = _scale(np.float32(reach))
    names = [name + suffix for suffix in ("_scale", "_zero")]
    constants.append(numpy_helper.from_array(scale, names[0]))
    constants.append(numpy_helper.from_array(np.array(0, np.int8), names[1]))
    quantise = helper.make_node("QuantizeLinear", [name, *names], [f"{name}_q"], name=f"quantise_{name}")
    back = helper.make_node("DequantizeLinear", [f"{name}_q", *names], [_dequantised(name)], name=f"dequantise_{name}")
    return [quantise, back]


def _weight_node(layer: Layer, weight: npt.NDArray[np.float32], constants: list[onnx.TensorProto]) -> onnx.NodeProto:
    levels, scale = quantised_weight(weight, layer.axis)
    names = [layer.weight + suffix for suffix in ("_int8", "_scale", "_zero")]
    for name, value in zip(names, (levels, scale, np.zeros(len(scale), np.int8)), strict=True):
        constants.append(numpy_helper.from_array(np.asarray(value), name))
    return helper.make_node(
        "DequantizeLinear", names, [_dequantised(layer.weight)], name=f"dequantise_{layer.weight}", axis=layer.axis
    )
