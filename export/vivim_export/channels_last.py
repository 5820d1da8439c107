"""For ONNX Runtime on a CPU: a depthwise convolution and its GELU as one channels-last node, with a body.

    replaces   Transpose -> Conv (group = channels, 3 x 3 or 3 x 3 x 3, padded by 1) -> Transpose -> Reshape -> Gelu
    by         DepthwiseConvGelu2d or DepthwiseConvGelu3d -> Reshape
    where      nothing else uses what lies between, and all of it is float32

It is exact: the convolution adds the same products, and GELU, which works on each number by itself, moves before the
Reshape. libvivim_ort.so has the two operators (docs/onnxruntime.md); anything else runs the bodies, which are the nodes
that were replaced. Engines and precisions are made from the standard nodes, which
`vivim_export.cpu_graph.standard_nodes` brings back.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from vivim_export.functions import DOMAIN, DOMAIN_VERSION

__all__ = ["fuse_depthwise"]

# Operator by the number of spatial dimensions.
_NAMES = {2: "DepthwiseConvGelu2d", 3: "DepthwiseConvGelu3d"}


def fuse_depthwise(model: onnx.ModelProto) -> int:
    """Replace in place, wherever the rule holds; returns how often."""
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    rule = _Rule(model.graph)
    nodes: list[onnx.NodeProto] = []
    dimensions: set[int] = set()
    dropped: set[int] = set()
    for node in model.graph.node:
        if chain := rule.chain_from(node):
            # The chain's place is that of its last node: its Reshape may take a shape that is computed in between.
            rule.chains[id(chain[-1])] = chain
            dropped |= {id(part) for part in chain[:-1]}
    for node in model.graph.node:
        if id(node) in dropped:
            continue
        if chain := rule.chains.get(id(node)):
            spatial = len(_attribute(chain[1], "kernel_shape"))
            dimensions.add(spatial)
            nodes += rule.replacement(chain, spatial)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.functions.extend(_body(spatial, opset) for spatial in sorted(dimensions))
    if dimensions and DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    return len(rule.chains)


class _Rule:
    """Where the pattern is, and what replaces it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.chains: dict[int, list[onnx.NodeProto]] = {}
        self._graph = graph
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._users: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._users[name].append(node)

    def chain_from(self, first: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """The five nodes that begin with a Transpose, or None where the rule does not hold."""
        chain = [first]
        for kind in ("Transpose", "Conv", "Transpose", "Reshape", "Gelu"):
            if chain[-1].op_type != kind:
                return None
            if len(chain) == 5:
                break
            result = chain[-1].output[0]
            users = self._users[result]
            if len(users) != 1 or result in self._outputs:
                return None
            chain.append(users[0])
        before, conv, after, reshape, gelu = chain
        weight = self._weights.get(conv.input[1])
        # The Reshape's shape may be computed; its data must be the convolution's.
        if weight is None or len(conv.input) != 3 or reshape.input[0] != after.output[0]:
            return None
        spatial = len(weight.dims) - 2
        holds = (
            spatial in _NAMES
            and weight.data_type == onnx.TensorProto.FLOAT
            and list(weight.dims[1:]) == [1] + [3] * spatial
            and _attribute(conv, "group") == weight.dims[0]
            and _attribute(conv, "pads") == [1] * (2 * spatial)
            and _attribute(conv, "strides", [1] * spatial) == [1] * spatial
            and _attribute(conv, "dilations", [1] * spatial) == [1] * spatial
            and _attribute(before, "perm") == _to_channels_first(spatial)
            and _attribute(after, "perm") == _to_channels_last(spatial)
            and _attribute(gelu, "approximate", b"none") == b"none"
        )
        return chain if holds else None

    def replacement(self, chain: list[onnx.NodeProto], spatial: int) -> list[onnx.NodeProto]:
        before, conv, _, reshape, gelu = chain
        weight = numpy_helper.to_array(self._weights[conv.input[1]])  # (C, 1, [3,] 3, 3)
        name = f"{conv.input[1]}_channels_last"
        self._graph.initializer.remove(self._weights.pop(conv.input[1]))
        moved = np.ascontiguousarray(np.moveaxis(weight[:, 0], 0, -1))  # ([3,] 3, 3, C)
        self._graph.initializer.append(numpy_helper.from_array(moved, name))
        fused = helper.make_node(
            _NAMES[spatial],
            [before.input[0], name, conv.input[2]],
            [reshape.input[0]],
            name=f"{conv.name}_gelu",
            domain=DOMAIN,
            channels=int(weight.shape[0]),
        )
        out = helper.make_node("Reshape", list(reshape.input), list(gelu.output), name=reshape.name)
        out.attribute.extend(reshape.attribute)
        return [fused, out]


def _to_channels_first(spatial: int) -> list[int]:
    return [0, spatial + 1, *range(1, spatial + 1)]


def _to_channels_last(spatial: int) -> list[int]:
    return [0, *range(2, spatial + 2), 1]


def _attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _body(spatial: int, opset: int) -> onnx.FunctionProto:
    """The nodes that were replaced; the number of channels is an attribute, since a convolution's group is one."""
    axes = helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [1])
    conv = helper.make_node("Conv", ["first", "kernel", "bias"], ["sum"], name="conv", pads=[1] * (2 * spatial))
    conv.attribute.append(onnx.AttributeProto(name="group", type=onnx.AttributeProto.INT, ref_attr_name="channels"))
    to_kernel = [spatial, *range(spatial)]  # ([3,] 3, 3, C) -> (C, [3,] 3, 3)
    nodes = [
        helper.make_node("Constant", [], ["axes"], name="axes", value=axes),
        helper.make_node("Transpose", ["x"], ["first"], name="first", perm=_to_channels_first(spatial)),
        helper.make_node("Transpose", ["weight"], ["moved"], name="moved", perm=to_kernel),
        helper.make_node("Unsqueeze", ["moved", "axes"], ["kernel"], name="kernel"),
        conv,
        helper.make_node("Transpose", ["sum"], ["last"], name="last", perm=_to_channels_last(spatial)),
        helper.make_node("Gelu", ["last"], ["y"], name="gelu"),
    ]
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_function(
        DOMAIN, _NAMES[spatial], ["x", "weight", "bias"], ["y"], nodes, opsets, attributes=["channels"]
    )
