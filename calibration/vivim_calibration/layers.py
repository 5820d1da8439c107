"""The layers of an exported graph that INT8 is for, and by which names people know them.

Convolutions and products with a constant weight. Not the first convolution, which meets raw pixels (docs/export.md says
what their rounding costs where an image is nearly black), and not the classifier, which writes the logits. Products of
two activations (attention), softmax, norms and the operators of the domain `vivim` are no layers of this kind. Nor is
the one product whose weight has three dimensions (K, D, R + 2N): it makes time step, B and C of the scan, which stay
exact for the recurrence's sake, and ONNX Runtime has no int8 product with scales by channel and a batch of weights.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import onnx
from onnx import TensorProto

__all__ = ["Layer", "quantisable_layers"]

_PREFIX = "model."


@dataclass(frozen=True)
class Layer:
    """A node that can be quantised.

    Attributes:
        name: for people: the module of the checkpoint where it can be told, else the node's name.
        node: name of the node.
        kind: Conv, MatMul or Gemm.
        activation, weight: names of the tensors that get Q/DQ.
        axis: of the weight's output channels.
        parameters: numbers in the weight.
        is_depthwise: a convolution of every channel by itself.
    """

    name: str
    node: str
    kind: str
    activation: str
    weight: str
    axis: int
    parameters: int
    is_depthwise: bool = False


def quantisable_layers(model: onnx.ModelProto) -> list[Layer]:
    """The layers in the order of the graph; none for a graph without weights."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv" and not node.domain]
    kept = {*convolutions[:1], *convolutions[-1:]}
    names = _Names(model.graph)
    layers = []
    for node in model.graph.node:
        if node.domain or node.op_type not in ("Conv", "MatMul", "Gemm") or node.name in kept:
            continue
        weight = weights.get(node.input[1])
        if weight is None or node.input[0] in weights or (node.op_type == "MatMul" and len(weight.dims) != 2):
            continue
        axis = _output_axis(node, weight)
        size = 1
        for dim in weight.dims:
            size *= dim
        depthwise = node.op_type == "Conv" and 1 < _groups(node) == weight.dims[0]
        layers.append(Layer(names.of(node), node.name, node.op_type, node.input[0], weight.name, axis, size, depthwise))
    return layers


def _groups(convolution: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in convolution.attribute if attribute.name == "group"), 1)


def _output_axis(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    if node.op_type == "Conv":
        return 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else len(weight.dims) - 1


class _Names:
    """Names of the checkpoint's modules, from the parameters beside a node that kept theirs."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._makers = {output: node for node in graph.node for output in node.output}
        for node in graph.node:
            for name in node.input:
                self._users[name].append(node)

    def of(self, node: onnx.NodeProto) -> str:
        own = self._parameter(node, ".weight")
        if own:
            return own
        users = self._users[node.output[0]]
        for user in users:
            if user.op_type == "Add" and (biased := self._parameter(user, ".bias")):
                return biased
        mixer = self._mixer(users, ".conv_weight")
        if mixer:
            return f"{mixer}.in_proj"
        makers = [self._makers[name] for name in node.input[:1] if name in self._makers]
        mixer = self._mixer(makers, ".dt_weight")
        return f"{mixer}.out_proj" if mixer else node.name

    def _parameter(self, node: onnx.NodeProto, suffix: str) -> str:
        for name in node.input:
            if name.startswith(_PREFIX) and name.endswith(suffix):
                return str(name).removeprefix(_PREFIX).removesuffix(suffix)
        return ""

    def _mixer(self, nodes: list[onnx.NodeProto], suffix: str) -> str:
        return next((found for node in nodes if node.domain and (found := self._parameter(node, suffix))), "")
