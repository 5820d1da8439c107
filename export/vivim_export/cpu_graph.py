"""For ONNX Runtime on a CPU: runs of nodes that libvivim_ort.so has as one operator, as rules. Exact up to rounding.

FuseAddNorm           Add -> LayerNormalization over the last axis, the sum used elsewhere too (a residual):
                      AddLayerNorm, one pass over memory instead of three.
FuseMergedScales      The end of the folded decoder,
                          Transpose, Resize (twice or more as large, bilinear), Add, Relu, Conv 1x1
                      of four scales: MergeScales, channels last, so that nothing is transposed and the upsampled
                      scales, the largest tensors of the network, are never written.

Depthwise convolutions are the third (vivim_export.channels_last). All have bodies, which are the nodes that were
replaced: any runtime can run the file, and engines and precisions are made from the nodes that `standard_nodes` brings
back.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import helper, numpy_helper

from vivim_export.channels_last import fuse_depthwise
from vivim_export.functions import DOMAIN, DOMAIN_VERSION, Nodes
from vivim_export.rules import Declined, Rule

__all__ = ["FuseAddNorm", "FuseMergedScales", "Site", "for_cpu", "standard_nodes"]

_FLOAT = onnx.TensorProto.FLOAT
# Scans and their convolutions, for which engines have rules and plugins of their own; their bodies stay functions.
_OPERATORS = {"CausalConv1d", "SelectiveScan", "StreamingConv1d", "StreamingScan", "S6Scan"}


@dataclass(frozen=True)
class Fused:
    """What takes the place of some nodes.

    Attributes:
        node: the operator; it stands where the last of them stood.
        dropped: the nodes that it replaces, by their first output.
        constants: new weights.
    """

    node: onnx.NodeProto
    dropped: frozenset[str]
    constants: tuple[onnx.TensorProto, ...] = ()


@dataclass(frozen=True, eq=False)
class Surroundings:
    """A graph by its tensors' names."""

    makers: dict[str, onnx.NodeProto]
    users: dict[str, list[onnx.NodeProto]]
    outputs: frozenset[str]
    constants: dict[str, onnx.TensorProto]
    shapes: dict[str, onnx.TypeProto.Tensor]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> Surroundings:
        users: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                users[name].append(node)
        return cls(
            {name: node for node in graph.node for name in node.output},
            users,
            frozenset(value.name for value in graph.output),
            {tensor.name: tensor for tensor in graph.initializer},
            {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input, *graph.output)},
        )

    def maker(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The node of that kind which makes a tensor."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == kind and node.domain == "" else None

    def is_only_used_once(self, name: str) -> bool:
        return len(self.users.get(name, [])) == 1 and name not in self.outputs

    def dims(self, name: str) -> tuple[int | str, ...]:
        """Numbers and names of dimensions; () where they are not known."""
        if name in self.constants:
            return tuple(self.constants[name].dims)
        dims = self.shapes[name].shape.dim if name in self.shapes else ()
        known = tuple(dim.dim_value or dim.dim_param for dim in dims)
        return known if all(known) else ()

    def is_float(self, name: str) -> bool:
        if name in self.constants:
            return self.constants[name].data_type == _FLOAT
        return name in self.shapes and self.shapes[name].elem_type == _FLOAT


@dataclass(frozen=True)
class Site:
    """A node that a rule may begin at."""

    node: onnx.NodeProto
    graph: Surroundings = field(repr=False)


class FuseAddNorm:
    """Add -> LayerNormalization: AddLayerNorm(x, y, gamma, beta) -> (x + y, its norm)."""

    name = "residual sum and norm as one"

    def matches(self, site: Site) -> bool:
        return _is(site.node, "LayerNormalization") and site.graph.maker(site.node.input[0], "Add") is not None

    def reason_to_decline(self, site: Site) -> str:
        norm, graph = site.node, site.graph
        total = norm.input[0]
        add = graph.maker(total, "Add")
        assert add is not None
        if len(norm.input) != 3 or len([name for name in norm.output if name]) != 1:
            return "the norm has no bias, or puts out its statistics"
        if _attribute(norm, "axis", -1) not in (-1, 2) or _attribute(norm, "stash_type", 1) != 1:
            return "the norm is not over the last of three axes in float32"
        shape = graph.dims(total)
        if len(shape) != 3 or any(graph.dims(name) != shape for name in add.input):
            return "what is added is not of one known shape of three axes"
        if not all(graph.is_float(name) for name in (*add.input, *norm.input[1:])):
            return "it is not all float32"
        if any(user.op_type == "LayerNormalization" for user in graph.users[total] if user is not norm):
            return "two norms take the sum"
        return ""

    def rewrite(self, site: Site) -> Fused:
        norm = site.node
        add = site.graph.maker(norm.input[0], "Add")
        assert add is not None
        node = helper.make_node(
            "AddLayerNorm",
            [*add.input, *norm.input[1:]],
            [add.output[0], norm.output[0]],
            name=f"{norm.name}_sum",
            domain=DOMAIN,
            epsilon=_attribute(norm, "epsilon", 1e-5),
        )
        return Fused(node, frozenset({add.output[0], norm.output[0]}))

    @staticmethod
    def body(opset: int) -> onnx.FunctionProto:
        add = helper.make_node("Add", ["x", "y"], ["sum"], name="add")
        norm = helper.make_node("LayerNormalization", ["sum", "gamma", "beta"], ["normed"], name="norm", axis=-1)
        kind = onnx.AttributeProto.FLOAT
        norm.attribute.append(onnx.AttributeProto(name="epsilon", type=kind, ref_attr_name="epsilon"))
        inputs, outputs = ["x", "y", "gamma", "beta"], ["sum", "normed"]
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_function(
            DOMAIN, "AddLayerNorm", inputs, outputs, [add, norm], opsets, attributes=["epsilon"]
        )


@dataclass(frozen=True)
class _Scales:
    """The nodes of the decoder's end.

    Attributes:
        sources: of the four scales, (F, H, W, E), the largest first.
        bias: the constant that is added, (E, 1, 1).
        nodes: all of them but the convolution.
    """

    sources: tuple[str, ...]
    bias: str
    nodes: tuple[onnx.NodeProto, ...]


class FuseMergedScales:
    """Four scales -> logits: MergeScales(x0, x1, x2, x3, bias, weight, class_bias)."""

    name = "the decoder's scales as one"
    _COUNT = 4

    def matches(self, site: Site) -> bool:
        relu = site.graph.maker(site.node.input[0], "Relu") if _is(site.node, "Conv") else None
        return relu is not None and site.graph.maker(relu.input[0], "Add") is not None

    def reason_to_decline(self, site: Site) -> str:
        conv, graph = site.node, site.graph
        weight = graph.constants.get(conv.input[1])
        if weight is None or weight.dims[2:] != [1, 1] or len(conv.input) != 3 or conv.input[2] not in graph.constants:
            return "the convolution is not 1x1 with a bias, both constants"
        if _attribute(conv, "group", 1) != 1 or any(_attribute(conv, "pads", [0])):
            return "the convolution is in groups or padded"
        if any(stride != 1 for stride in _attribute(conv, "strides", [1])):
            return "the convolution is strided"
        found = self._scales(site)
        if isinstance(found, str):
            return found
        largest = graph.dims(found.sources[0])
        for source in found.sources:
            shape = graph.dims(source)
            if len(shape) != 4 or not all(isinstance(size, int) for size in shape[1:]):
                return f"the size of {source} is not known"
            if shape[3] != largest[3] or shape[0] != largest[0]:
                return f"{source} has other channels or frames than the first scale"
            if not graph.is_float(source):
                return f"{source} is not float32"
        if list(graph.constants[found.bias].dims) != [largest[3], 1, 1]:
            return "the bias is not one number a channel"
        return ""

    def _scales(self, site: Site) -> _Scales | str:
        """What is added up, or why that is something else."""
        graph = site.graph
        relu = graph.maker(site.node.input[0], "Relu")
        assert relu is not None
        nodes = [relu]
        terms: list[str] = []
        total = relu.input[0]
        if not graph.is_only_used_once(relu.output[0]):
            return "the sum is used elsewhere"
        while (add := graph.maker(total, "Add")) is not None:
            if not graph.is_only_used_once(total):
                return "a sum is used elsewhere"
            nodes.append(add)
            terms.append(add.input[1])
            total = add.input[0]
        terms.append(total)  # constant bias, first scale, other scales
        bias, *scales = terms[::-1]
        if bias not in graph.constants or len(scales) != self._COUNT:
            return f"it adds {len(scales)} tensors to {bias}; expected {self._COUNT} scales and a constant"
        sources = []
        for index, scale in enumerate(scales):
            if index:
                resize = graph.maker(scale, "Resize")
                if resize is None or not graph.is_only_used_once(scale):
                    return f"{scale} is not one upsampled scale"
                if reason := _reason_not_bilinear(resize):
                    return reason
                nodes.append(resize)
                scale = resize.input[0]
            transpose = graph.maker(scale, "Transpose")
            if transpose is None or not graph.is_only_used_once(scale):
                return f"{scale} is not made from channels last"
            if _attribute(transpose, "perm") != [0, 3, 1, 2]:
                return f"{scale} is not made from channels last"
            nodes.append(transpose)
            sources.append(transpose.input[0])
        return _Scales(tuple(sources), bias, tuple(nodes))

    def rewrite(self, site: Site) -> Fused:
        conv, graph = site.node, site.graph
        found = self._scales(site)
        assert isinstance(found, _Scales)
        weight = numpy_helper.to_array(graph.constants[conv.input[1]])[:, :, 0, 0]  # (K, E)
        bias = numpy_helper.to_array(graph.constants[found.bias])[:, 0, 0]
        names = f"{conv.input[1]}_matrix", f"{found.bias}_vector"
        height, width = graph.dims(found.sources[0])[1:3]
        node = helper.make_node(
            "MergeScales",
            [*found.sources, names[1], names[0], conv.input[2]],
            [conv.output[0]],
            name=f"{conv.name}_scales",
            domain=DOMAIN,
            size=numpy_helper.from_array(np.array([height, width], np.int64)),
        )
        constants = zip((weight, bias), names, strict=True)
        dropped = frozenset(dropped.output[0] for dropped in (*found.nodes, conv))
        made = tuple(numpy_helper.from_array(np.ascontiguousarray(value), name) for value, name in constants)
        return Fused(node, dropped, made)

    @classmethod
    def body(cls, opset: int) -> onnx.FunctionProto:
        n = Nodes("s")
        size = n.Constant()
        kind = onnx.AttributeProto.TENSOR
        n.nodes[-1].attribute.append(onnx.AttributeProto(name="value", type=kind, ref_attr_name="size"))
        names = [f"x{index}" for index in range(cls._COUNT)]
        total = n.Unsqueeze("bias", n.ints(1, 2))
        for index, name in enumerate(names):
            scale = n.Transpose(name, perm=[0, 3, 1, 2])
            if index:
                sizes = n.Concat(n.Shape(scale, start=0, end=2), size, axis=0)
                mode = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
                scale = n.Resize(scale, "", "", sizes, **mode)
            total = n.Add(total, scale)
        n.Conv(n.Relu(total), n.Unsqueeze("weight", n.ints(2, 3)), "class_bias")
        n.nodes[-1].output[0] = "logits"
        inputs = [*names, "bias", "weight", "class_bias"]
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_function(DOMAIN, "MergeScales", inputs, ["logits"], n.nodes, opsets, attributes=["size"])


def for_cpu(model: onnx.ModelProto) -> list[Declined]:
    """Apply every rule in place; says what was left as it was, and why."""
    fuse_depthwise(model)
    declined = []
    rules = (FuseAddNorm(), FuseMergedScales())
    for rule in rules:
        applied, left = _apply(model.graph, rule)
        declined += left
        if applied:
            opset = next(entry.version for entry in model.opset_import if not entry.domain)
            model.functions.append(rule.body(opset))
            if DOMAIN not in {entry.domain for entry in model.opset_import}:
                model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    return declined


def standard_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model without the operators of CPUs: their bodies stand in their places."""
    names = [(function.domain, function.name) for function in model.functions if function.domain == DOMAIN]
    ours = [entry for entry in names if entry[1] not in _OPERATORS]
    return onnx.inliner.inline_selected_functions(model, ours) if ours else model


def _apply(graph: onnx.GraphProto, rule: Rule[Site, Fused]) -> tuple[int, list[Declined]]:
    """Put what a rule makes into its places; sites of one rule share no nodes."""
    surroundings = Surroundings.of(graph)
    declined: list[Declined] = []
    placed: dict[str, onnx.NodeProto] = {}
    dropped: set[str] = set()
    for node in graph.node:
        site = Site(node, surroundings)
        if not rule.matches(site):
            continue
        if reason := rule.reason_to_decline(site):
            declined.append(Declined(rule.name, node.name or node.output[0], reason))
            continue
        fused = rule.rewrite(site)
        placed[node.output[0]] = fused.node
        dropped |= fused.dropped - {node.output[0]}
        graph.initializer.extend(fused.constants)
    nodes = [placed.get(node.output[0], node) for node in graph.node if node.output[0] not in dropped]
    nodes = _in_order(nodes, graph)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return len(placed), declined


def _in_order(nodes: list[onnx.NodeProto], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Every node behind those that make what it takes, otherwise as they were."""
    made = {name for node in nodes for name in node.output}
    ready: set[str] = set()
    ordered: list[onnx.NodeProto] = []
    waiting = nodes
    while waiting:
        later = []
        for node in waiting:
            if all(name in ready or name not in made for name in node.input):
                ordered.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        assert len(later) < len(waiting), "a circle"
        waiting = later
    return ordered


def _reason_not_bilinear(resize: onnx.NodeProto) -> str:
    expected = {
        "mode": b"linear",
        "coordinate_transformation_mode": b"half_pixel",
        "antialias": 0,
        "exclude_outside": 0,
        "keep_aspect_ratio_policy": b"stretch",
    }
    for name, value in expected.items():
        if (found := _attribute(resize, name, value)) != value:
            return f"{resize.output[0]} is resized with {name} {found!r}"
    return f"{resize.output[0]} is resized along chosen axes" if _attribute(resize, "axes", []) else ""


def _is(node: onnx.NodeProto, kind: str) -> bool:
    return node.op_type == kind and node.domain == ""


def _attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
