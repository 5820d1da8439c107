"""`vivim::CausalConv1d` and `vivim::SelectiveScan` in standard operators, for a GPU compiler that takes no plugins.

The bodies in the ONNX file (vivim_export.functions) loop over steps: right for a CPU, thousands of launches on a GPU.
TensorRT for RTX has no plugins, so for it a rule replaces every node:

LowerConvolution    `taps` shifted products and their sum; a backward direction shifts the other way, without a flip
LowerScan           a blocked scan whose depth is the logarithm of its length. Sequences are cut into M chunks, c steps
                    each:
                    1. c unrolled steps from a zero state, all chunks at once: what each chunk hands on
                    2. the chunks chained by h <- total h + last, which is a scan of length M: the same again, until
                       one chunk is left
                    3. the c steps again from the true initial states: y
                    Every step is a few pointwise operations over (K, B, M, N, D), which a compiler fuses into one pass
                    that reads dt, du, B and C and keeps the state in registers.

StreamingConv1d and StreamingScan (vivim_export.streaming) are lowered by the same rules: the tail stands where the
zeros before the first step stood, and the state that comes in is what the first chunk starts from.

Time step, state and recurrence are float32 whatever the data are. Lengths that c does not divide are padded with
dt = 0, which leaves the state as it is. Shapes must be known but for the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from vivim_export.functions import DOMAIN, Nodes, silu, softplus
from vivim_export.rules import Rule
from vivim_runtime.errors import UsageError

__all__ = [
    "STEPS",
    "Emitter",
    "LowerConvolution",
    "LowerScan",
    "NodeSite",
    "blocked_scan",
    "lower_operators",
    "name_nodes",
]

# Steps of a chunk. More are fewer chunks to chain and a longer program to compile; 16 is about the smallest count at
# which the chain over chunks (1/c of the work) no longer shows.
STEPS = 16
_LN2 = 0.6931471805599453


@dataclass(frozen=True)
class NodeSite:
    """One node of ours, and what is known about its surroundings.

    Attributes:
        prefix: begins the names of what takes its place.
        shapes: of the graph's tensors, by name.
        constants: the graph's weights, by name.
    """

    node: onnx.NodeProto
    prefix: str
    shapes: dict[str, onnx.TypeProto.Tensor]
    constants: dict[str, onnx.TensorProto]

    def attribute(self, name: str) -> int | list[int]:
        value = next(a for a in self.node.attribute if a.name == name)
        return helper.get_attribute_value(value)

    @property
    def streams(self) -> bool:
        """Whether it goes on from a state."""
        return self.node.op_type.startswith("Streaming")

    @property
    def first_parameter(self) -> int:
        """Of a convolution, the input that is its weight."""
        return 2 if self.streams else 1

    def reason_of_directions(self) -> str:
        if self.streams and self.directions[0] != 0:
            return f"direction {self.directions[0]} of {self.node.name} goes on from a state; only 0 is known to"
        return ""

    @property
    def directions(self) -> list[int]:
        return list(self.attribute("directions"))  # type: ignore[arg-type]

    @property
    def rows(self) -> int:
        return int(self.attribute("rows"))  # type: ignore[arg-type]

    def constant(self, index: int) -> np.ndarray:
        """A parameter, float32."""
        return numpy_helper.to_array(self.constants[self.node.input[index]]).astype(np.float32)

    def dim(self, index: int, axis: int) -> int:
        """A dimension of an input; 0 where it is not known."""
        name = self.node.input[index]
        dims = self.shapes[name].shape.dim if name in self.shapes else []
        return dims[axis].dim_value if axis < len(dims) else 0

    @property
    def data_type(self) -> int:
        return self.shapes[self.node.input[0]].elem_type

    def reason_to_decline(self, parameters: range, dims: Sequence[tuple[int, int]]) -> str:
        """What is missing of parameters that must be constants and of (input, axis) that must be known.

        The first of `dims` is that of the tokens.
        """
        for index in parameters:
            if self.node.input[index] not in self.constants:
                return f"{self.node.input[index]}, a parameter of {self.node.name}, is no constant"
        for index, axis in dims:
            if not self.dim(index, axis):
                return f"the shape of {self.node.input[index]} is not known"
        tokens = self.dim(*dims[0])
        return f"{tokens} tokens do not divide into {self.rows} rows" if tokens % self.rows else ""


class LowerConvolution:
    """vivim::CausalConv1d or StreamingConv1d -> shifted products and their sum, in standard operators."""

    name = "lowering of the causal convolution"

    def matches(self, site: NodeSite) -> bool:
        return site.node.domain == DOMAIN and site.node.op_type in ("CausalConv1d", "StreamingConv1d")

    def reason_to_decline(self, site: NodeSite) -> str:
        first = site.first_parameter
        return site.reason_to_decline(range(first, first + 2), [(0, 1)]) or site.reason_of_directions()

    def rewrite(self, site: NodeSite) -> list[onnx.NodeProto]:
        return _lower_convolution(site)


@dataclass(frozen=True)
class LowerScan:
    """vivim::SelectiveScan or StreamingScan -> a blocked scan in standard operators, `steps` unrolled steps a chunk."""

    steps: int = STEPS
    name = "lowering of the selective scan"

    def matches(self, site: NodeSite) -> bool:
        return site.node.domain == DOMAIN and site.node.op_type in ("SelectiveScan", "StreamingScan")

    def reason_to_decline(self, site: NodeSite) -> str:
        gate = [(2, 2)] if site.node.input[2] else []
        return site.reason_to_decline(range(3, 7), [(1, 2), (0, 0), *gate]) or site.reason_of_directions()

    def rewrite(self, site: NodeSite) -> list[onnx.NodeProto]:
        return _lower_scan(site, self.steps)


def lower_operators(
    model: onnx.ModelProto,
    steps: int = STEPS,
    others: Sequence[Rule[NodeSite, list[onnx.NodeProto]]] = (),
    keep: Callable[[onnx.NodeProto], bool] | None = None,
) -> onnx.ModelProto:
    """A copy of a model of vivim-export without its operators and their bodies.

    Args:
        steps: c, unrolled steps of a chunk.
        others: rules of more operators than the two of this module.
        keep: nodes of ours that stay nodes, with their bodies.

    Raises:
        UsageError: a node that its rule declines; nothing else could run it.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    shapes = {value.name: value.type.tensor_type for value in (*result.graph.value_info, *result.graph.input)}
    rules: list[Rule[NodeSite, list[onnx.NodeProto]]] = [LowerConvolution(), LowerScan(steps), *others]
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(result.graph.node):
        site = NodeSite(node, f"{node.op_type}_{index}_", shapes, constants)
        rule = next((rule for rule in rules if rule.matches(site)), None)
        if rule is None or (keep is not None and keep(node)):
            nodes.append(node)
        elif reason := rule.reason_to_decline(site):
            raise UsageError(f"{rule.name} is not possible: {reason}; export the model again")
        else:
            nodes += rule.rewrite(site)
    left = {node.op_type for node in nodes if node.domain == DOMAIN}
    bodies = [function for function in result.functions if function.name in left]
    imports = [entry for entry in result.opset_import if entry.domain != DOMAIN or left]
    del result.graph.node[:], result.functions[:], result.opset_import[:]
    result.graph.node.extend(nodes)
    result.functions.extend(bodies)
    result.opset_import.extend(imports)
    _drop_unused_constants(result.graph)
    return result


class Emitter(Nodes):
    """Nodes with shapes known when they are made."""

    def part(self, x: str, axis: int, start: int, end: int) -> str:
        return self.Slice(x, self.ints(start), self.ints(end), self.ints(axis))

    def reverse(self, x: str, axis: int) -> str:
        return self.Slice(x, self.ints(-1), self.ints(-(2**31)), self.ints(axis), self.ints(-1))

    def reshape(self, x: str, *dims: int) -> str:
        """0 keeps a dimension, -1 is the batch."""
        return self.Reshape(x, self.ints(*dims))

    def pad(self, x: str, rank: int, axis: int, before: int, after: int) -> str:
        """Zeros before and after, along one axis."""
        if not before and not after:
            return x
        amounts = [0] * (2 * rank)
        amounts[axis], amounts[rank + axis] = before, after
        return self.Pad(x, self.ints(*amounts))

    def to_columns(self, x: str, rows: int, columns: int, width: int) -> str:
        """(B, L, X) in row-major order -> in column order; with rows and columns exchanged, the inverse."""
        grid = self.reshape(x, -1, rows, columns, width)
        return self.reshape(self.Transpose(grid, perm=[0, 2, 1, 3]), -1, rows * columns, width)

    def stack(self, parts: list[str], axis: int = 0) -> str:
        """K tensors -> one, with a new axis."""
        return self.Concat(*(self.Unsqueeze(part, self.ints(axis)) for part in parts), axis=axis)


def _lower_convolution(site: NodeSite) -> list[onnx.NodeProto]:
    """xz (B, L, >= D), [tail (B, taps-1, D),] weight (K, D, taps), bias (K, D) -> (K, B, L, D)."""
    n = Emitter(site.prefix)
    weight, bias = site.constant(site.first_parameter), site.constant(site.first_parameter + 1)
    width, taps = weight.shape[1:]
    length, rows = site.dim(0, 1), site.rows
    columns = length // rows
    x = n.as_float(n.part(site.node.input[0], 2, 0, width))  # (B, L, D)
    by_columns = ""
    outputs = []
    for k, direction in enumerate(site.directions):
        source = x
        if direction >= 2:
            source = by_columns = by_columns or n.to_columns(x, rows, columns, width)
        backward = direction % 2
        if site.streams and k == 0:
            source = n.Concat(n.as_float(site.node.input[1]), source, axis=1)
        else:
            source = n.pad(source, 3, 1, *((0, taps - 1) if backward else (taps - 1, 0)))
        total = ""
        for tap in range(taps):
            start = taps - 1 - tap if backward else tap
            product = n.Mul(n.part(source, 1, start, start + length), n.constant(weight[k, :, tap]))
            total = n.Add(total, product) if total else n.Add(product, n.constant(bias[k]))
        y = silu(n, total)
        outputs.append(n.to_columns(y, columns, rows, width) if direction >= 2 else y)
    n.Cast(n.stack(outputs), to=site.data_type)
    return name_nodes(n, site)


def _lower_scan(site: NodeSite, steps: int) -> list[onnx.NodeProto]:
    """xc (K or 1, B, L, D), dbc (K, B, L, R + 2N), xz (B, L, >= D), A_log2e (K, D, N), ... -> (B, L, D).

    With a state: and `initial` (B, N, D) -> `final` (B, N, D), of direction 0.
    """
    n = Emitter(site.prefix)
    xc, dbc, xz = site.node.input[:3]
    A = site.constant(3).transpose(0, 2, 1) * np.float32(_LN2)  # (K, N, D)
    w_dt, b_dt, skip = site.constant(4), site.constant(5), site.constant(6)
    count, states, width = A.shape
    rank, length, rows = w_dt.shape[2], site.dim(1, 2), site.rows
    columns, shared = length // rows, site.dim(0, 0) == 1
    steps = min(steps, length)
    chunks = -(-length // steps)

    dbc = n.as_float(dbc)
    low = n.MatMul(n.part(dbc, 3, 0, rank), n.constant(w_dt.transpose(0, 2, 1)[:, None]))  # (K, B, L, D)
    dt = softplus(n, n.Add(low, n.constant(b_dt[:, None, None])))
    x = n.as_float(xc)
    du = n.Mul(dt, x)

    def cut(x: str, width: int) -> list[str]:
        """(K, B, L, X) at token positions -> c tensors (K, B, M, X) in scan order, one a step."""
        parts = []
        for k, direction in enumerate(site.directions):
            part = n.reshape(n.part(x, 0, k, k + 1), -1, length, width)
            if direction >= 2:
                part = n.to_columns(part, rows, columns, width)
            if direction % 2:
                part = n.reverse(part, 1)
            part = n.pad(part, 3, 1, 0, chunks * steps - length)
            parts.append(n.reshape(part, -1, chunks, steps, width))
        whole = n.stack(parts)  # (K, B, M, c, X)
        return [n.reshape(n.part(whole, 3, s, s + 1), count, -1, chunks, width) for s in range(steps)]

    dts, dus = cut(dt, width), cut(du, width)
    bs, cs = (
        cut(n.part(dbc, 3, rank, rank + states), states),
        cut(n.part(dbc, 3, rank + states, rank + 2 * states), states),
    )
    incoming = ""  # (K, B, 1, N, D): what the first chunk starts from; other directions than the first from zero
    if site.streams:
        incoming = n.Unsqueeze(n.as_float(site.node.input[7]), n.ints(0, 2))
        incoming = n.pad(incoming, 5, 0, 0, count - 1)
    y, h = blocked_scan(n, dts, dus, bs, cs, A, chunks, incoming)
    if chunks * steps > length:
        y = n.part(y, 2, 0, length)

    outputs = []
    for k, direction in enumerate(site.directions):
        part = n.reshape(n.part(y, 0, k, k + 1), -1, length, width)
        if direction % 2:
            part = n.reverse(part, 1)
        if direction >= 2:
            part = n.to_columns(part, columns, rows, width)
        source = n.reshape(x if shared else n.part(x, 0, k, k + 1), -1, length, width)
        outputs.append(n.Add(part, n.Mul(source, n.constant(skip[k]))))
    total = outputs[0]
    for output in outputs[1:]:
        total = n.Add(total, output)
    if site.attribute("mean") and count > 1:
        total = n.Mul(total, n.number(1.0 / count))
    if xz:
        gate = site.dim(2, 2)
        total = n.Mul(total, silu(n, n.as_float(n.part(xz, 2, gate - width, gate))))
    if site.streams:  # steps past the end have left the last chunk's state as it was
        ends = n.part(n.part(h, 0, 0, 1), 2, chunks - 1, chunks)  # (1, B, 1, N, D)
        n.Squeeze(ends, n.ints(0, 2))
        n.nodes[-1].output[0] = site.node.output[1]
    n.Cast(total, to=site.data_type)
    return name_nodes(n, site)


def blocked_scan(
    n: Emitter,
    dts: list[str],
    dus: list[str],
    bs: list[str],
    cs: list[str],
    A: np.ndarray,
    chunks: int,
    incoming: str = "",
) -> tuple[str, str]:
    """y = C h of all steps (K, B, M*c, D), without the skip; h <- exp(dt A) h + B du. And h after them (K, B, M, N, D).

    Args:
        dts, dus: (K, B, M, D), one of each of the c steps of a chunk.
        bs, cs: (K, B, M, N), likewise.
        A: (K, N, D), powers of e.
        chunks: M.
        incoming: (K, B, 1, N, D), what the first chunk starts from; without it, zeros.
    """
    count, states, width = A.shape
    steps = len(dts)

    def widen(parts: list[str], axis: int) -> list[str]:
        return [n.Unsqueeze(part, n.ints(axis)) for part in parts]

    A_wide = n.constant(A[:, None, None])  # (K, 1, 1, N, D)
    dts, dus = widen(dts, 3), widen(dus, 3)  # (K, B, M, 1, D)
    bs, cs = widen(bs, 4), widen(cs, 4)  # (K, B, M, N, 1)

    def advance(h: str, s: int) -> str:
        fresh = n.Mul(bs[s], dus[s])
        return n.Add(n.Mul(n.Exp(n.Mul(dts[s], A_wide)), h), fresh) if h else fresh

    h = ""
    if chunks > 1:
        for s in range(steps):
            h = advance(h, s)
        total = n.Exp(n.Mul(n.Sum(*dts), A_wide)) if steps > 1 else n.Exp(n.Mul(dts[0], A_wide))
        h = _chain_chunks(n, h, total, (count, chunks, states, width), steps, incoming)
    elif incoming:
        h = incoming
    ys = []
    for s in range(steps):
        h = advance(h, s)
        ys.append(n.ReduceSum(n.Mul(cs[s], h), n.ints(3), keepdims=0))  # (K, B, M, D)
    return n.reshape(n.stack(ys, 3), count, -1, chunks * steps, width), h


def _chain_chunks(
    n: Emitter, last: str, total: str, shape: tuple[int, int, int, int], steps: int, first: str = ""
) -> str:
    """Each chunk's initial state (K, B, M, N, D), from what every chunk hands on and its total decay.

    The recurrence over chunks is cut into chunks itself. `first` (K, B, 1, N, D) is what the first chunk starts from;
    without it, zeros.
    """
    length = shape[1]
    # What chunk m starts from is what chunk m-1 ends with: shift by one.
    last = n.part(last, 2, 0, length - 1)
    last = n.Concat(first, last, axis=2) if first else n.pad(last, 5, 2, 1, 0)
    total = n.pad(n.part(total, 2, 0, length - 1), 5, 2, 1, 0)
    return _linear_scan(n, total, last, shape, steps)


def _linear_scan(n: Emitter, a: str, b: str, shape: tuple[int, int, int, int], steps: int) -> str:
    """h_m = a_m h_{m-1} + b_m, inclusive; all (K, B, M, N, D)."""
    count, length, states, width = shape
    steps = min(steps, length)
    chunks = -(-length // steps)
    padding = chunks * steps - length

    def cut(x: str) -> list[str]:
        whole = n.reshape(n.pad(x, 5, 2, 0, padding), count, -1, chunks, steps, states * width)
        return [n.reshape(n.part(whole, 3, s, s + 1), count, -1, chunks, states, width) for s in range(steps)]

    decays, fresh = cut(a), cut(b)
    initial = ""
    if chunks > 1:
        h, product = fresh[0], decays[0]
        for s in range(1, steps):
            h, product = n.Add(n.Mul(decays[s], h), fresh[s]), n.Mul(product, decays[s])
        initial = _chain_chunks(n, h, product, (count, chunks, states, width), steps)
    h = n.Add(n.Mul(decays[0], initial), fresh[0]) if initial else fresh[0]
    results = [h]
    for s in range(1, steps):
        h = n.Add(n.Mul(decays[s], h), fresh[s])
        results.append(h)
    whole = n.reshape(n.stack(results, 3), count, -1, chunks * steps, states, width)
    return n.part(whole, 2, 0, length) if padding else whole


def name_nodes(n: Emitter, site: NodeSite) -> list[onnx.NodeProto]:
    """The nodes, named after what they replace; the last one's result takes the name of the replaced node's."""
    for index, node in enumerate(n.nodes):
        node.name = f"{site.prefix}{node.op_type}_{index}"
    n.nodes[-1].output[0] = site.node.output[0]
    return n.nodes


def _drop_unused_constants(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
