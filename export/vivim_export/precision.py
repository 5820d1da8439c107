"""Typed precision: a float32 graph becomes one of half precision whose casts are written down.

TensorRT 11 has no weak typing, and what a builder decides by itself cannot be promised. So the graph says it all, and
one policy decides what, for `vivim-export onnx` and for `vivim-export trt` alike:

    half      every linear layer, attention product and convolution but the first; the operators' data (x, z, dt_low,
              B, C, y); activations, the decoder's sums, in float16 residual sums too
    float32   what a rule of `KEEP_RULES` finds, each with its reason (and, within the operators, the scan's time step,
              state and recurrence); a cast stands wherever the two meet

Half is float16 or bfloat16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper

from vivim_export.functions import DOMAIN
from vivim_runtime.errors import ModelError, UsageError

__all__ = ["HALVES", "KEEP_RULES", "GraphView", "KeepRule", "half_from_float"]

HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_RANGES: dict[int, tuple[str, float]] = {
    TensorProto.FLOAT16: ("float16", 65_504.0),
    TensorProto.BFLOAT16: ("bfloat16", 3.39e38),
}

# Inputs of the operators that are data; the others are parameters.
_DATA_INPUTS = {"CausalConv1d": 1, "SelectiveScan": 3, "S6Scan": 4, "StreamingConv1d": 2, "StreamingScan": 3}
# Outputs that are float32 by the operator's definition: the state of the scan.
_FLOAT_OUTPUTS = {"StreamingScan": (1,)}
# Inputs that are float32 by the operator's definition, or no numbers that are computed with.
_UNTYPED_INPUTS = {"Resize": range(1, 4)}
# These only move numbers.
_MOVES = {"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


class GraphView:
    """A graph to ask about: nodes by their place in it, and which follow from which."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.maker = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self._readers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.input:
                self._readers.setdefault(name, []).append(index)

    def of_type(self, *op_types: str) -> list[int]:
        """Places of the standard nodes of some types."""
        return [i for i, node in enumerate(self.nodes) if node.op_type in op_types and node.domain != DOMAIN]

    def upstream(self, index: int) -> set[int]:
        """The nodes that a node follows from, and itself."""
        return self._reach(index, lambda node: [self.maker[name] for name in node.input if name in self.maker])

    def downstream(self, index: int) -> set[int]:
        """The nodes that follow from a node, and itself."""
        return self._reach(index, lambda node: [i for name in node.output for i in self._readers.get(name, [])])

    def _reach(self, index: int, neighbours: Callable[[onnx.NodeProto], list[int]]) -> set[int]:
        found: set[int] = set()
        todo = [index]
        while todo:
            current = todo.pop()
            if current not in found:
                found.add(current)
                todo += neighbours(self.nodes[current])
        return found


@dataclass(frozen=True)
class KeepRule:
    """One kind of tensor that stays float32.

    Attributes:
        name: what it is.
        reason: why half would not do.
        nodes: finds the nodes of a graph that compute in float32 for it; none where the graph has no such thing.
        inputs: finds single inputs, (node, which), of nodes that else compute in half.
        halves: the half precisions that it holds for.
    """

    name: str
    reason: str
    nodes: Callable[[GraphView], set[int]] = lambda graph: set()
    inputs: Callable[[GraphView], set[tuple[int, int]]] = lambda graph: set()
    halves: tuple[str, ...] = tuple(HALVES)


def _parameters_of_operators(graph: GraphView) -> set[tuple[int, int]]:
    ours = {index: node for index, node in enumerate(graph.nodes) if node.domain == DOMAIN}
    return {(i, which) for i, node in ours.items() for which in range(_DATA_INPUTS[node.op_type], len(node.input))}


def _up_to_the_first_convolution(graph: GraphView) -> set[int]:
    convolutions = graph.of_type("Conv")
    return graph.upstream(convolutions[0]) if convolutions else set()


def _behind_the_last_convolution(graph: GraphView) -> set[int]:
    convolutions = graph.of_type("Conv")
    return graph.downstream(convolutions[-1]) - {convolutions[-1]} if convolutions else set()


def _residual_sums(graph: GraphView) -> set[int]:
    """Sums x + f(x), and what moves the numbers of one sum to the next."""
    found: set[int] = set()
    for index in graph.of_type("Add"):
        makers = [graph.maker.get(name) for name in graph.nodes[index].input]
        for stream, branch in (makers, makers[::-1]):
            if stream is None or branch is None or stream not in graph.upstream(branch) - {branch}:
                continue
            found.add(index)
            while stream is not None and graph.nodes[stream].op_type in _MOVES:
                found.add(stream)
                stream = graph.maker.get(graph.nodes[stream].input[0])
    return found


# What stays float32 in a typed file; tests/export/test_precision.py finds nothing else there.
KEEP_RULES = (
    KeepRule(
        "pixels",
        "and the first convolution: where an image is nearly black, the norm behind it magnifies its rounding. "
        "On a cine loop, mask Dice of fp16 against float32 is 0.9962 with it in half and 0.9995 with it in float32",
        _up_to_the_first_convolution,
    ),
    KeepRule(
        "LayerNorm",
        "the variance of a row squares its values: beyond 256 that leaves float16's range",
        lambda graph: set(graph.of_type("LayerNormalization")),
    ),
    KeepRule(
        "softmax",
        "its sum over hundreds of keys loses what a half mantissa drops, and exp overflows float16 at 11.1",
        lambda graph: set(graph.of_type("Softmax")),
    ),
    KeepRule(
        "operator parameters",
        "A_log2e dt is an exponent that 20,480 steps multiply up; the kernels read them once",
        inputs=_parameters_of_operators,
    ),
    KeepRule(
        "residual sums",
        "of bf16 alone: dozens of branches added in 8 bits of mantissa. On 50 frames of 128 x 128 "
        "phantoms, mask Dice against float32 is 0.983 with bf16 sums and 0.995 with float32 ones; fp16 gains nothing",
        _residual_sums,
        halves=("bf16",),
    ),
    KeepRule(
        "logits",
        "the mask is their sign: upsampling in half would move contours; one channel costs nothing",
        _behind_the_last_convolution,
    ),
)


def half_from_float(model: onnx.ModelProto, precision: str = "fp16") -> onnx.ModelProto:
    """The typed copy of a float32 model of vivim-export; float32 logits out, and its description says the precision.

    A quantised file stays one, and is called int8: what is float32 between its Q/DQ nodes becomes half, scales too.

    Args:
        precision: fp16 or bf16.

    Raises:
        UsageError: another precision.
        ModelError: a weight that float16 cannot hold, or a tensor whose type is not known.
    """
    if precision not in HALVES:
        raise UsageError(f"the half precision is {precision}; expected {', '.join(HALVES)}")
    result = _copy_with_types(model)
    view = GraphView(result.graph)
    rules = [rule for rule in KEEP_RULES if precision in rule.halves]
    nodes = {place for rule in rules for place in rule.nodes(view)}
    inputs = {place for rule in rules for place in rule.inputs(view)}
    _Conversion(result.graph, HALVES[precision], nodes, inputs).run()
    for entry in result.metadata_props:
        if entry.key == "vivim.precision" and entry.value == "fp32":
            entry.value = precision
    described = [entry for entry in result.metadata_props if entry.key != "vivim.parity"]  # of the float32 file
    del result.metadata_props[:]
    result.metadata_props.extend(described)
    return result


def _copy_with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that knows the type of every tensor: what vivim-calibrate inserts does not say its own."""
    known = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    if any(name and name not in known for node in model.graph.node for name in node.output):
        return onnx.shape_inference.infer_shapes(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


class _Conversion:
    """The casts between what computes in half and what is kept."""

    def __init__(self, graph: onnx.GraphProto, half: int, nodes: set[int], inputs: set[tuple[int, int]]) -> None:
        self._graph, self._half = graph, half
        self._kept_nodes, self._kept_inputs = nodes, inputs
        self._outputs = {value.name for value in graph.output}
        self._values = {value.name: value for value in (*graph.value_info, *graph.output)}
        self._types = {v.name: v.type.tensor_type.elem_type for v in (*self._values.values(), *graph.input)}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._types |= {name: tensor.data_type for name, tensor in self._weights.items()}
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._halved: dict[str, str] = {}

    def run(self) -> None:
        """Type every node, and drop the float32 weights that none reads any more."""
        for index, node in enumerate(list(self._graph.node)):
            self._type(index, node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = Counter(name for node in self._nodes for name in node.input)
        weights = [tensor for tensor in self._graph.initializer if used[tensor.name]]
        dropped = set(self._weights) - {tensor.name for tensor in weights}
        values = [value for value in self._graph.value_info if value.name not in dropped]
        del self._graph.initializer[:], self._graph.value_info[:]
        self._graph.initializer.extend(weights)
        self._graph.value_info.extend(values)

    def _type(self, place: int, node: onnx.NodeProto) -> None:
        """Give a node inputs of the type that it is to compute in, and say so of its outputs."""
        wanted = TensorProto.FLOAT if place in self._kept_nodes else self._half
        for name in node.output:
            if name and name not in self._types:
                raise ModelError(f"the type of {name}, of {node.name}, is not known; export the model again")
        for which, name in enumerate(node.input):
            if (place, which) not in self._kept_inputs and which not in _UNTYPED_INPUTS.get(node.op_type, ()):
                node.input[which] = self._as(name, wanted, node)
        self._nodes.append(node)
        if node.op_type == "Constant" or wanted == TensorProto.FLOAT:  # whoever reads a constant casts it
            return
        for which, name in enumerate(node.output):
            if self._types.get(name) != TensorProto.FLOAT or which in _FLOAT_OUTPUTS.get(node.op_type, ()):
                continue
            if name in self._outputs:  # states go out in float32, as they come in
                narrow = f"{name}_half"
                node.output[which] = narrow
                self._nodes.append(
                    helper.make_node("Cast", [narrow], [name], name=f"cast_{name}", to=TensorProto.FLOAT)
                )
                value = self._graph.value_info.add()
                value.CopyFrom(self._values[name])
                value.name, value.type.tensor_type.elem_type = narrow, wanted
                self._values[narrow], self._types[narrow] = value, wanted
                continue
            self._types[name] = wanted
            self._values[name].type.tensor_type.elem_type = wanted

    def _as(self, name: str, wanted: int, reader: onnx.NodeProto) -> str:
        """A tensor in the type wanted; integers and the like stay what they are."""
        have = self._types.get(name)
        if have not in (TensorProto.FLOAT, self._half) or have == wanted:
            return name
        if name in self._weights:
            return self._half_weight(name, reader)
        if (name, wanted) not in self._casts:
            cast = self._casts[name, wanted] = f"{name}_{'float' if wanted == TensorProto.FLOAT else 'half'}"
            self._nodes.append(helper.make_node("Cast", [name], [cast], name=f"cast_{cast}", to=wanted))
            self._types[cast] = wanted
            if name in self._values:
                value = self._graph.value_info.add()
                value.CopyFrom(self._values[name])
                value.name, value.type.tensor_type.elem_type = cast, wanted
        return self._casts[name, wanted]

    def _half_weight(self, name: str, reader: onnx.NodeProto) -> str:
        if name not in self._halved:
            value = numpy_helper.to_array(self._weights[name])
            half = _half_tensor(value, self._half, f"{name}_half")
            if half is None:
                kind, end = _RANGES[self._half]
                raise ModelError(
                    f"the weight {self._place(name, reader)} reaches {float(np.abs(value).max()):.3g}, and {kind} ends "
                    f"at {end:.3g}; stay in float32 (trt: --fp32), or export with --bf16"
                )
            self._halved[name] = half.name
            self._graph.initializer.append(half)
            self._types[half.name] = self._half
        return self._halved[name]

    def _place(self, name: str, reader: onnx.NodeProto) -> str:
        """A weight by the name that a checkpoint has for it; of a product, whose transposed matrix has a number for a
        name, by the bias that is added to it, or else by its node."""
        if "." in name:
            return name.removeprefix("model.")
        for node in self._graph.node:
            biases = [other for other in node.input if other in self._weights and other.endswith(".bias")]
            if node.op_type == "Add" and reader.output[0] in node.input and biases:
                return biases[0].removeprefix("model.").removesuffix("bias") + "weight"
        return f"{name} of {reader.name}"


def _half_tensor(value: np.ndarray, half: int, name: str) -> onnx.TensorProto | None:
    """float32 numbers rounded to the nearest of a half precision; None where one leaves its range."""
    if half == TensorProto.FLOAT16:
        with np.errstate(over="ignore"):
            narrow = value.astype(np.float16)
        return numpy_helper.from_array(narrow, name) if np.isfinite(narrow).all() else None
    # bfloat16 is the upper half of float32, which numpy has no type for.
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32).astype(np.uint64)
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # ties to even
    if (upper & 0x7F80 == 0x7F80).any():
        return None
    return helper.make_tensor(name, half, value.shape, upper.astype("<u2").tobytes(), raw=True)
