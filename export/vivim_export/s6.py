"""`vivim::S6Scan` in ONNX: its body in standard operators, and its lowered form.

    S6Scan(u, delta (B, D, L), B, C (B, G, N, L), A (D, N), skip, bias (D); softplus) -> (B, D, L)

It is `vivim.scan.s6.s6_scan`. The body is chunked as that of the fused scan is (vivim_export.functions): three Scan
nodes over a few dozen steps each, however long the sequence. A body cannot ask whether an input is there: skip and bias
that a network does not have are vectors of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from vivim_export.functions import DOMAIN, Nodes, chain_body, chunk_counts, softplus, step_body
from vivim_export.lowering import STEPS, Emitter, NodeSite, blocked_scan, name_nodes

__all__ = ["S6_INPUTS", "LowerS6Scan", "s6_scan_function"]

S6_INPUTS = ("u", "delta", "B", "C", "A", "skip", "bias")


def s6_scan_function(with_softplus: bool, opset: int) -> onnx.FunctionProto:
    """The body of `S6Scan`, for one value of its attribute `softplus`."""
    n = Nodes()
    one = n.ints(1)
    batch, width, length = n.dim("u", 0), n.dim("u", 1), n.dim("u", 2)
    groups, states = n.dim("B", 1), n.dim("A", 1)
    inner, sequences = n.Div(width, groups), n.Mul(batch, groups)  # E, and B*G of them
    chunks, steps = chunk_counts(n, length, n.Mul(n.Mul(sequences, states), inner), one)
    padding = n.Sub(n.Mul(steps, chunks), length)
    lanes = n.Mul(sequences, chunks)

    u = n.as_float("u")
    dt = n.Add(n.as_float("delta"), n.Unsqueeze(n.as_float("bias"), one))  # (B, D, L)
    dt = softplus(n, dt) if with_softplus else dt
    du = n.Mul(dt, u)

    def cut(x: str, channels: str, axis: int) -> str:
        """(B, G*X, L) or (B, G, X, L) -> (c, B*G*M, X) with a 1 inserted at `axis`; zeros behind the end."""
        flat = n.Reshape(x, n.shape(sequences, channels, length))
        padded = n.Pad(flat, n.shape(0, 0, 0, 0, 0, padding))
        parts = n.Reshape(padded, n.shape(sequences, channels, chunks, steps))
        rows = n.Reshape(n.Transpose(parts, perm=[3, 0, 2, 1]), n.shape(steps, lanes, channels))
        return n.Unsqueeze(rows, n.ints(axis))

    b, c = cut(n.as_float("B"), states, 3), cut(n.as_float("C"), states, 2)  # (c, B*G*M, N, 1), (c, B*G*M, 1, N)
    dt, du = cut(dt, inner, 2), cut(du, inner, 2)  # (c, B*G*M, 1, E)
    A = n.Transpose(n.Reshape(n.as_float("A"), n.shape(groups, inner, states)), perm=[0, 2, 1])  # (G, N, E)
    A = n.Expand(n.Unsqueeze(A, n.ints(0, 2)), n.shape(batch, groups, chunks, states, inner))
    A = n.Reshape(A, n.shape(lanes, states, inner))

    # 1. What each chunk hands on, from a zero state.
    zeros = n.Expand(n.number(0.0), n.shape(lanes, states, inner))
    last = n.append("Scan", (zeros, dt, du, b), 1, num_scan_inputs=3, body=step_body(A, with_output=False))[0]
    total = n.Exp(n.Mul(n.ReduceSum(dt, n.ints(0), keepdims=0), A))
    # 2. Chained: each chunk's initial state.
    by_chunk = n.shape(sequences, chunks, states, inner)
    start = n.Expand(n.number(0.0), n.shape(sequences, states, inner))
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
    initial = n.Reshape(initial, n.shape(lanes, states, inner))
    y = n.append("Scan", (initial, dt, du, b, c), 2, num_scan_inputs=4, body=step_body(A, with_output=True))[1]
    y = n.Transpose(n.Reshape(y, n.shape(steps, sequences, chunks, inner)), perm=[1, 3, 2, 0])
    y = n.Reshape(y, n.shape(sequences, inner, n.Mul(steps, chunks)))
    y = n.Reshape(n.Slice(y, n.ints(0), length, n.ints(2)), n.shape(batch, width, length))
    y = n.Add(y, n.Mul(u, n.Unsqueeze(n.as_float("skip"), one)))
    output = n.CastLike(y, "u")
    return helper.make_function(
        DOMAIN,
        "S6Scan",
        list(S6_INPUTS),
        [output],
        n.nodes,
        [helper.make_opsetid("", opset)],
        attributes=["softplus"],
        doc_string=f"Reference body of {DOMAIN}::S6Scan.",
    )


@dataclass(frozen=True)
class LowerS6Scan:
    """vivim::S6Scan -> the blocked scan of vivim_export.lowering, its groups in the place of directions."""

    steps: int = STEPS
    name = "lowering of the plain scan"

    def matches(self, site: NodeSite) -> bool:
        return site.node.domain == DOMAIN and site.node.op_type == "S6Scan"

    def reason_to_decline(self, site: NodeSite) -> str:
        for index in (4, 5, 6):
            if site.node.input[index] not in site.constants:
                return f"{site.node.input[index]}, a parameter of {site.node.name}, is no constant"
        known = site.dim(0, 1) and site.dim(0, 2) and site.dim(2, 1)
        return "" if known else f"the shape of {site.node.input[0]} or {site.node.input[2]} is not known"

    def rewrite(self, site: NodeSite) -> list[onnx.NodeProto]:
        return _lower(site, self.steps)


def _lower(site: NodeSite, steps: int) -> list[onnx.NodeProto]:
    n = Emitter(site.prefix)
    width, length, groups = site.dim(0, 1), site.dim(0, 2), site.dim(2, 1)
    inner = width // groups
    A = site.constant(4).reshape(groups, inner, -1).transpose(0, 2, 1)  # (G, N, E)
    states = A.shape[1]
    steps = min(steps, length)
    chunks = -(-length // steps)
    u = n.as_float(site.node.input[0])
    dt = n.as_float(site.node.input[1])
    if site.constant(6).any():
        dt = n.Add(dt, n.constant(site.constant(6)[:, None]))
    if site.attribute("softplus"):
        dt = softplus(n, dt)
    du = n.Mul(dt, u)

    def cut(x: str, channels: int) -> list[str]:
        """(B, G*X, L) or (B, G, X, L) -> c tensors (G, B, M, X), one a step."""
        parts = n.reshape(
            n.pad(n.reshape(x, -1, groups, channels, length), 4, 3, 0, chunks * steps - length),
            -1,
            groups,
            channels,
            chunks,
            steps,
        )
        whole = n.Transpose(parts, perm=[4, 1, 0, 3, 2])  # (c, G, B, M, X)
        return [n.Squeeze(n.part(whole, 0, s, s + 1), n.ints(0)) for s in range(steps)]

    dts, dus = cut(dt, inner), cut(du, inner)
    bs, cs = cut(n.as_float(site.node.input[2]), states), cut(n.as_float(site.node.input[3]), states)
    y, _ = blocked_scan(n, dts, dus, bs, cs, np.ascontiguousarray(A), chunks)  # (G, B, M*c, E)
    if chunks * steps > length:
        y = n.part(y, 2, 0, length)
    y = n.reshape(n.Transpose(y, perm=[1, 0, 3, 2]), -1, width, length)
    if site.constant(5).any():
        y = n.Add(y, n.Mul(u, n.constant(site.constant(5)[:, None])))
    n.Cast(y, to=site.data_type)
    return name_nodes(n, site)
