"""Bodies in standard ONNX operators for `vivim::CausalConv1d` and `vivim::SelectiveScan`: one file runs anywhere.

So have `vivim::StreamingConv1d` and `vivim::StreamingScan`, which go on from a state (vivim.scan.streaming).

A runtime that knows the operators (the TensorRT plugin) never looks at the bodies; any other (ONNX Runtime) inlines
them. They compute what `vivim.scan.operators` computes, the scan in the same chunked way: G = K*B sequences are cut
into M chunks of c steps each, and three loops replace the one over L:

    1. from a zero state, c steps over (G*M, N, D)           what each chunk hands on
    2. M steps over (G, N, D)                                the chunks chained through their total decays
    3. from the true initial states, c steps over (G*M, N, D)   y

Sequences are brought into scan order, and back, by one Gather of rows each; its indices depend on shapes alone, so that
a runtime folds them where shapes are static. The last chunk may run past L: what it computes there is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "DOMAIN",
    "DOMAIN_VERSION",
    "Nodes",
    "causal_conv1d_function",
    "chain_body",
    "chunk_counts",
    "selective_scan_function",
    "silu",
    "softplus",
    "step_body",
]

DOMAIN = "vivim"
DOMAIN_VERSION = 1

# Numbers that one step of all chunks handles: enough to share among threads, few enough to stay in the cache.
# Measured on two threads at B3 stage 1, K = 3: 0.23 s at this size, 0.29 s at half, 0.33 s at four times; a single loop
# over L, which cannot use a second core, takes 0.30 to 0.65 s.
_STEP_ELEMENTS = 196_608
# A chunk shorter than this is not worth its place in the chain.
_SHORTEST_CHUNK = 16
_LN2 = 0.6931471805599453


@dataclass
class Nodes:
    """A list of nodes under construction: `nodes.Add(a, b)` appends one and returns the name of its output."""

    prefix: str = "v"
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def __getattr__(self, op_type: str) -> Callable[..., str]:
        if not op_type[0].isupper():
            raise AttributeError(op_type)

        def append(*inputs: str, **attributes: Any) -> str:
            return self.append(op_type, inputs, 1, **attributes)[0]

        return append

    def append(self, op_type: str, inputs: tuple[str, ...], outputs: int, **attributes: Any) -> list[str]:
        """Append one node and return the names of its outputs."""
        name = f"{self.prefix}{len(self.nodes)}"
        names = [name + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        # ONNX Runtime up to 1.21 refuses a function with two nodes that have the same name, the empty one included.
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=name, **attributes))
        return names

    def constant(self, value: np.ndarray) -> str:
        """A constant tensor.

        Always as `value`: ONNX Runtime before 1.25 loses the shape of `value_ints` where it inlines a function.
        """
        return self.Constant(value=numpy_helper.from_array(np.asarray(value, order="C")))

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: int) -> str:
        """A constant int64 scalar."""
        return self.constant(np.array(value, np.int64))

    def number(self, value: float) -> str:
        """A constant float scalar."""
        return self.constant(np.array(value, np.float32))

    def attribute(self, name: str) -> str:
        """The function's integer attribute `name`, as an int64 vector of one."""
        output = f"{self.prefix}{len(self.nodes)}"
        node = helper.make_node("Constant", [], [output], name=output)
        scalar = onnx.AttributeProto(name="value_int", type=onnx.AttributeProto.INT, ref_attr_name=name)
        node.attribute.append(scalar)
        self.nodes.append(node)
        return self.Unsqueeze(node.output[0], self.ints(0))

    def dim(self, x: str, axis: int) -> str:
        """One dimension of x, as an int64 vector of one."""
        return self.Shape(x, start=axis, end=axis + 1)

    def range(self, count: str) -> str:
        """0 .. count-1, as an int64 vector; `count` is a vector of one."""
        return self.Range(self.scalar(0), self.Squeeze(count, self.ints(0)), self.scalar(1))

    def as_float(self, x: str) -> str:
        """x in float32: state and recurrence never run in half precision."""
        return self.Cast(x, to=TensorProto.FLOAT)

    def shape(self, *dims: str | int) -> str:
        """A shape vector from dimensions (vectors of one, or numbers)."""
        return self.Concat(*(self.ints(d) if isinstance(d, int) else d for d in dims), axis=0)


@dataclass(frozen=True)
class _Grid:
    """The token grid: L tokens in `rows` rows; names of int64 vectors of one."""

    length: str
    rows: str
    columns: str

    @classmethod
    def of(cls, n: Nodes, length: str) -> _Grid:
        rows = n.attribute("rows")
        return cls(length, rows, n.Div(length, rows))

    def token_of_step(self, n: Nodes, step: str, direction: int) -> str:
        """Tokens that a direction visits at the steps (vivim.scan.reference.token_of_step)."""
        if direction % 2:
            step = n.Sub(n.Sub(self.length, n.ints(1)), step)
        if direction < 2:
            return step
        return n.Add(n.Mul(n.Mod(step, self.rows), self.columns), n.Div(step, self.rows))

    def step_of_token(self, n: Nodes, token: str, direction: int) -> str:
        """The inverse of `token_of_step`."""
        step = token
        if direction >= 2:
            step = n.Add(n.Mul(n.Mod(token, self.columns), self.rows), n.Div(token, self.columns))
        return n.Sub(n.Sub(self.length, n.ints(1)), step) if direction % 2 else step


def _stack(n: Nodes, rows: list[str]) -> str:
    """K vectors (X) -> (K, 1, X)."""
    return n.Concat(*(n.Unsqueeze(row, n.ints(0, 1)) for row in rows), axis=0)


def silu(n: Nodes, x: str) -> str:
    return n.Mul(x, n.Sigmoid(x))


def softplus(n: Nodes, x: str) -> str:
    """log(1 + e^x) = max(x, 0) + log1p(e), e = e^-|x|.

    log1p(e) is log(1 + e) plus what rounding 1 + e lost (its factor 1 / (1 + e) changes that by less than an ulp of the
    sum): relative error of a few ulp for any x, and half the time of ONNX Runtime's Softplus.
    """
    one = n.number(1.0)
    e = n.Exp(n.Neg(n.Abs(x)))
    u = n.Add(e, one)
    return n.Add(n.Relu(x), n.Add(n.Log(u), n.Sub(e, n.Sub(u, one))))


def _function(
    name: str, inputs: list[str], outputs: list[str], attributes: list[str], n: Nodes, opset: int
) -> onnx.FunctionProto:
    return helper.make_function(
        DOMAIN,
        name,
        inputs,
        outputs,
        n.nodes,
        [helper.make_opsetid("", opset)],
        attributes=attributes,
        doc_string=f"Reference body of {DOMAIN}::{name} for the directions of this file.",
    )


def causal_conv1d_function(
    directions: tuple[int, ...], taps: int, opset: int, streaming: bool = False
) -> onnx.FunctionProto:
    """The body of `CausalConv1d(xz (B, L, >= D), weight (K, D, taps), bias (K, D)) -> (K, B, L, D)`.

    For every tap, the rows that many steps back are gathered straight to the tokens they contribute to; a row of zeros
    behind each sequence stands for what lies before its start. Of `StreamingConv1d(xz, tail (B, taps-1, D), weight,
    bias)` the tail's rows stand behind it too, and the first direction gathers those.
    """
    n = Nodes()
    width, batch, length = n.dim("weight", 1), n.dim("xz", 0), n.dim("xz", 1)
    grid = _Grid.of(n, length)
    x = n.as_float(n.Slice("xz", n.ints(0), width, n.ints(2)))  # (B, L, D)
    padded = n.Pad(x, n.ints(0, 0, 0, 0, 1, 0))
    if streaming:
        padded = n.Concat(padded, n.as_float("tail"), axis=1)  # token L is zero, L+1 the oldest of the tail
    padded = n.Reshape(padded, n.shape(-1, width))  # (B*(L+1), D)
    behind = taps if streaming else 1  # rows behind each sequence
    sequence = n.Mul(n.range(batch), n.Add(length, n.ints(behind)))  # (B,) first row of each sequence
    sequence = n.Unsqueeze(sequence, n.ints(1))  # (B, 1)
    tokens = n.range(length)
    steps = [grid.step_of_token(n, tokens, direction) for direction in directions]
    weight = n.as_float("weight")
    total = n.Unsqueeze(n.as_float("bias"), n.ints(1, 2))  # (K, 1, 1, D)
    for tap in reversed(range(taps)):
        row = n.Unsqueeze(n.Gather(weight, n.scalar(tap), axis=2), n.ints(1, 2))  # (K, 1, 1, D)
        back = taps - 1 - tap
        if back == 0:
            source = n.Unsqueeze(x, n.ints(0))  # (1, B, L, D)
        else:
            rows = []
            for k, (step, direction) in enumerate(zip(steps, directions, strict=True)):
                before = n.Sub(step, n.ints(back))
                token = grid.token_of_step(n, n.Max(before, n.ints(0)), direction)
                # Step -1 is the last of the tail, token L + taps - 1.
                outside = n.Add(before, n.Add(length, n.ints(taps))) if streaming and k == 0 else length
                rows.append(n.Where(n.Less(before, n.ints(0)), outside, token))
            source = n.Gather(padded, n.Add(_stack(n, rows), sequence), axis=0)  # (K, B, L, D)
        total = n.Add(total, n.Mul(source, row))
    output = n.CastLike(silu(n, total), "xz")
    if streaming:
        names = ["xz", "tail", "weight", "bias"]
        return _function("StreamingConv1d", names, [output], ["rows", "directions"], n, opset)
    return _function("CausalConv1d", ["xz", "weight", "bias"], [output], ["rows", "directions"], n, opset)


def selective_scan_function(
    directions: tuple[int, ...], mean: bool, opset: int, gate: bool = True, streaming: bool = False
) -> onnx.FunctionProto:
    """The body of `SelectiveScan(xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip) -> (B, L, D)`.

    Shapes as in `vivim.scan.operators.selective_scan`. A body cannot ask whether an input is there: without `gate` it
    never looks at xz, which its nodes then leave out. Of `StreamingScan(.., d_skip, initial) -> (B, L, D), (B, N, D)`
    (`vivim.scan.streaming`) the chain starts from the state, and steps past L leave it as it is: without that, what the
    last chunk ends with would not be the state after L steps.
    """
    n = Nodes()
    directions_count, batch, length = n.dim("dbc", 0), n.dim("dbc", 1), n.dim("dbc", 2)
    width, states, rank = n.dim("xc", 3), n.dim("A_log2e", 2), n.dim("dt_weight", 2)
    sequences = n.Mul(directions_count, batch)  # G
    grid = _Grid.of(n, length)
    one = n.ints(1)

    # Chunks: M of them, c steps each.
    chunks, steps = chunk_counts(n, length, n.Mul(n.Mul(sequences, states), width), one)
    lanes = n.Mul(sequences, chunks)  # G*M

    # dt = softplus(w_dt low + b_dt), du = dt u; at token positions.
    xc = n.as_float("xc")
    dbc = n.as_float("dbc")
    low = n.Slice(dbc, n.ints(0), rank, n.ints(3))
    w_dt = n.Unsqueeze(n.Transpose(n.as_float("dt_weight"), perm=[0, 2, 1]), n.ints(1))  # (K, 1, R, D)
    b_dt = n.Unsqueeze(n.as_float("dt_bias"), n.ints(1, 2))  # (K, 1, 1, D)
    dt = softplus(n, n.Add(n.MatMul(low, w_dt), b_dt))  # (K, B, L, D)
    du = n.Mul(dt, xc)

    # Into scan order: row (c, G, M) of the tables is the token of chunk m's step c.
    order = n.Min(n.range(n.Mul(steps, chunks)), n.Sub(length, one))
    tokens = _stack(n, [grid.token_of_step(n, order, direction) for direction in directions])  # (K, 1, M*c)
    first = n.Reshape(n.Mul(n.range(sequences), length), n.shape(directions_count, batch, 1))
    rows = n.Reshape(n.Add(tokens, first), n.shape(sequences, chunks, steps))
    rows = n.Reshape(n.Transpose(rows, perm=[2, 0, 1]), n.shape(steps, lanes))  # (c, G*M)

    def ordered(x: str, channels: str, axis: int) -> str:
        """(K, B, L, X) -> (c, G*M, X) with a 1 inserted at `axis`."""
        flat = n.Reshape(x, n.shape(-1, channels))
        return n.Unsqueeze(n.Gather(flat, rows, axis=0), n.ints(axis))

    after_b = n.Add(rank, states)
    b = ordered(n.Slice(dbc, rank, after_b, n.ints(3)), states, 3)  # (c, G*M, N, 1)
    c = ordered(n.Slice(dbc, after_b, n.Add(after_b, states), n.ints(3)), states, 2)  # (c, G*M, 1, N)
    dt, du = ordered(dt, width, 2), ordered(du, width, 2)  # (c, G*M, 1, D)
    if streaming:
        inside = n.as_float(n.Less(n.range(n.Mul(steps, chunks)), length))  # (M*c)
        inside = n.Expand(n.Reshape(inside, n.shape(1, chunks, steps)), n.shape(sequences, 1, 1))  # (G, M, c)
        inside = n.Reshape(n.Transpose(inside, perm=[2, 0, 1]), n.shape(steps, lanes, 1, 1))
        dt, du = n.Mul(dt, inside), n.Mul(du, inside)

    A = n.Mul(n.Transpose(n.as_float("A_log2e"), perm=[0, 2, 1]), n.number(_LN2))  # (K, N, D)
    A = n.Expand(n.Unsqueeze(A, one), n.shape(1, n.Mul(batch, chunks), 1, 1))
    A = n.Reshape(A, n.shape(lanes, states, width))  # (G*M, N, D)

    # 1. What each chunk hands on, from a zero state.
    zeros = n.Expand(n.number(0.0), n.shape(lanes, states, width))
    last = n.append("Scan", (zeros, dt, du, b), 1, num_scan_inputs=3, body=step_body(A, with_output=False))[0]
    total = n.Exp(n.Mul(n.ReduceSum(dt, n.ints(0), keepdims=0), A))  # (G*M, N, D)
    # 2. Chained: each chunk's initial state.
    by_chunk = n.shape(sequences, chunks, states, width)
    if streaming:
        others = n.Expand(n.number(0.0), n.shape(n.Sub(sequences, batch), states, width))
        start = n.Concat(n.as_float("initial"), others, axis=0)  # sequences 0 to B-1 are the first direction's
    else:
        start = n.Expand(n.number(0.0), n.shape(sequences, states, width))
    initial = n.append(
        "Scan",
        (start, n.Reshape(last, by_chunk), n.Reshape(total, by_chunk)),
        2,
        num_scan_inputs=2,
        scan_input_axes=[1, 1],
        scan_output_axes=[1],
        body=chain_body(),
    )[1]
    # 3. The scan, from the true initial states.
    initial = n.Reshape(initial, n.shape(lanes, states, width))
    ends, y = n.append("Scan", (initial, dt, du, b, c), 2, num_scan_inputs=4, body=step_body(A, with_output=True))

    # Back to token positions: token t of sequence g is row (step % c, g, step // c) of y.
    back = _stack(n, [grid.step_of_token(n, n.range(length), direction) for direction in directions])  # (K, 1, L)
    lane = n.Mul(n.Reshape(n.range(sequences), n.shape(directions_count, batch, 1)), chunks)
    back = n.Add(n.Mul(n.Mod(back, steps), lanes), n.Add(lane, n.Div(back, steps)))  # (K, B, L)
    y = n.Gather(n.Reshape(y, n.shape(-1, width)), back, axis=0)  # (K, B, L, D)

    y = n.Add(y, n.Mul(xc, n.Unsqueeze(n.as_float("d_skip"), n.ints(1, 2))))
    reduce = n.ReduceMean if mean else n.ReduceSum
    if gate:
        z = n.as_float(n.Slice("xz", n.Neg(width), n.ints(2**63 - 1), n.ints(2)))
        output = n.CastLike(n.Mul(reduce(y, n.ints(0), keepdims=0), silu(n, z)), "xc")
    else:
        output = n.CastLike(reduce(y, n.ints(0), keepdims=0), "xc")
    names = ["xc", "dbc", "xz", "A_log2e", "dt_weight", "dt_bias", "d_skip"]
    attributes = ["rows", "directions", "mean"]
    if not streaming:
        return _function("SelectiveScan", names, [output], attributes, n, opset)
    ends = n.Gather(n.Reshape(ends, by_chunk), n.Squeeze(n.Sub(chunks, one), n.ints(0)), axis=1)  # (G, N, D)
    final = n.Slice(ends, n.ints(0), batch, n.ints(0))
    return _function("StreamingScan", [*names, "initial"], [output, final], attributes, n, opset)


def chunk_counts(n: Nodes, length: str, per_chunk: str, one: str) -> tuple[str, str]:
    """M and c: how many chunks a sequence is cut into, and the steps of each.

    Args:
        length: L.
        per_chunk: numbers that one step of one chunk handles, of all sequences.
        one: the constant 1.
    """
    chunks = n.Min(n.Div(n.ints(_STEP_ELEMENTS), per_chunk), n.Div(length, n.ints(_SHORTEST_CHUNK)))
    chunks = n.Max(chunks, one)
    return chunks, n.Div(n.Sub(n.Add(length, chunks), one), chunks)


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def step_body(A: str, with_output: bool) -> onnx.GraphProto:
    """h <- exp(dt A) h + B du, and y = C h; (G*M, N, D) at a time. `A` comes from the enclosing graph."""
    n = Nodes("s")
    h = n.Add(n.Mul("h", n.Exp(n.Mul("dt", A))), n.Mul("b", "du"))
    inputs, outputs = ["h", "dt", "du", "b"], [h]
    if with_output:
        inputs.append("c")
        outputs.append(n.MatMul("c", h))  # (G*M, 1, D)
    return helper.make_graph(n.nodes, "step", [_value(i) for i in inputs], [_value(o) for o in outputs])


def chain_body() -> onnx.GraphProto:
    """The next chunk's initial state is last + total * initial; the current one is what the scan puts out."""
    n = Nodes("s")
    current = n.Identity("state")
    following = n.Add(n.Mul("state", "total"), "last")
    inputs = [_value(i) for i in ("state", "last", "total")]
    return helper.make_graph(n.nodes, "chain", inputs, [_value(following), _value(current)])
