"""The two operators of the whole Mamba vision family, as PyTorch custom operators with autograd.

Tokens lie channels-last on a grid of `rows` x `cols`, row-major (Vivim: rows = T frames, cols = H*W); each of K
directions visits them in its own order (0 rows forward, 1 rows backward, 2 columns forward, 3 columns backward) and
leaves its result at the token it belongs to:

    causal_conv1d   xc_l = silu(b + sum_j w_j x_{l-3+j})                 x before the start of a scan is zero
    selective_scan  dt_l = softplus(w_dt low_l + b_dt)
                    h_l  = exp(dt_l A) h_{l-1} + dt_l B_l u_l            h (N, D), u = xc
                    y_l  = C_l h_l + d_skip u_l                          averaged over directions, times silu(z)

The scan is computed in chunks: with M chunks side by side, every step is one operation over (M, N, D), and there are
L / M steps instead of L. A first pass from a zero state gives each chunk's last state; those are chained through the
chunks' total decays; a second pass from the true initial states gives y. Nothing of size L * N * D is stored, so the
memory is that of a few (L, D) tensors. State and recurrence are float32 (float64 for float64 input) whatever the
inputs are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["causal_conv1d", "selective_scan"]

# Elements of the (M, N, D) state of all chunks: 512 KiB in float32, so that the three arrays that a step touches
# stay in a core's second-level cache. Measured best or within 5 % of it at all four B3 stages (benchmarks/scan_cpu.py).
_STATE_ELEMENTS = 1 << 17
# Elements of (L, N, D) that the backward pass keeps at once; channels are processed in blocks to stay below it.
_HISTORY_ELEMENTS = 1 << 23


def _to_order(x: Tensor, rows: int, direction: int) -> Tensor:
    """(B, L, D) at token positions -> (B, L, D) in the order in which a direction visits them."""
    if direction >= 2:
        batch, length, width = x.shape
        x = x.reshape(batch, rows, length // rows, width).transpose(1, 2).reshape(batch, length, width)
    return x.flip(1) if direction % 2 else x


def _from_order(x: Tensor, rows: int, direction: int) -> Tensor:
    """The inverse of `_to_order`."""
    if direction % 2:
        x = x.flip(1)
    if direction >= 2:
        batch, length, width = x.shape
        x = x.reshape(batch, length // rows, rows, width).transpose(1, 2).reshape(batch, length, width)
    return x


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# --- causal convolution -----------------------------------------------------------------------------------------


@torch.library.custom_op("vivim::causal_conv1d", mutates_args=())
def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: list[int]) -> Tensor:
    """Causal depthwise convolution and SiLU in every direction, from one read of x.

    Args:
        x: (B, L, >= D) tokens; the first D channels are read (the rest of in_proj's output is the gate).
        weight: (K, D, taps), the last tap meets the current step.
        bias: (K, D).
        rows: rows of the token grid; divides L.
        directions: K codes of 0 .. 3.

    Returns:
        (K, B, L, D) at natural token positions, dtype of x.
    """
    dtype = _compute_dtype(x)
    outputs = []
    for k, direction in enumerate(directions):
        ordered = _to_order(x[..., : weight.shape[1]].to(dtype), rows, direction)
        total = _causal_taps(ordered, weight[k].to(dtype), bias[k].to(dtype))
        outputs.append(_from_order(functional.silu(total, inplace=True), rows, direction))
    return torch.stack(outputs).to(x.dtype)


def _causal_taps(ordered: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, L, D) in scan order -> bias + sum of the taps, before the activation."""
    taps = weight.shape[-1]
    total = torch.addcmul(bias, ordered, weight[:, -1])
    for shift in range(1, min(taps, ordered.shape[1])):
        total[:, shift:].addcmul_(ordered[:, :-shift], weight[:, taps - 1 - shift])
    return total


@causal_conv1d.register_fake
def _causal_conv1d_fake(x: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: list[int]) -> Tensor:
    _check_grid(x.shape[1], rows, directions)
    return x.new_empty(len(directions), x.shape[0], x.shape[1], weight.shape[1])


def _check_grid(length: int, rows: int, directions: list[int]) -> None:
    if rows < 1 or length % rows:
        raise ValueError(f"{length} tokens do not form {rows} rows")
    if not directions or any(d not in (0, 1, 2, 3) for d in directions):
        raise ValueError(f"directions are {directions}; expected codes of 0 to 3")


def _conv_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, bias, rows, directions = inputs
    ctx.save_for_backward(x, weight, bias)
    ctx.rows, ctx.directions = rows, directions


def _conv_backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    x, weight, bias = ctx.saved_tensors
    dtype = _compute_dtype(x)
    width, taps = weight.shape[1:]
    grad_x = torch.zeros(x.shape, dtype=dtype, device=x.device)
    grad_weight = torch.zeros(weight.shape, dtype=dtype, device=x.device)
    grad_bias = torch.zeros(bias.shape, dtype=dtype, device=x.device)
    for k, direction in enumerate(ctx.directions):
        ordered = _to_order(x[..., :width].to(dtype), ctx.rows, direction)
        total = _causal_taps(ordered, weight[k].to(dtype), bias[k].to(dtype))
        gate = torch.sigmoid(total)
        # d silu(t) / dt = s (1 + t (1 - s)) with s = sigmoid(t)
        g = _to_order(grad[k].to(dtype), ctx.rows, direction) * gate * (1 + total * (1 - gate))
        back = g * weight[k, :, -1].to(dtype)
        grad_weight[k, :, -1] = (g * ordered).sum((0, 1))
        for shift in range(1, min(taps, ordered.shape[1])):
            back[:, :-shift].addcmul_(g[:, shift:], weight[k, :, taps - 1 - shift].to(dtype))
            grad_weight[k, :, taps - 1 - shift] = (g[:, shift:] * ordered[:, :-shift]).sum((0, 1))
        grad_bias[k] = g.sum((0, 1))
        grad_x[..., :width] += _from_order(back, ctx.rows, direction)
    return grad_x.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(bias.dtype), None, None


causal_conv1d.register_autograd(_conv_backward, setup_context=_conv_setup)


# --- selective scan ---------------------------------------------------------------------------------------------


@torch.library.custom_op("vivim::selective_scan", mutates_args=())
def selective_scan(
    xc: Tensor,
    dbc: Tensor,
    xz: Tensor | None,
    A_log2e: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    d_skip: Tensor,
    rows: int,
    directions: list[int],
    mean: bool,
) -> Tensor:
    """Selective scan in every direction: time step, recurrence, skip, mean (or sum) and gate.

    Args:
        xc: (K or 1, B, L, D) activated convolution output, at token positions; 1 shares it among directions.
        dbc: (K, B, L, R + 2N) columns [dt_low | B | C].
        xz: (B, L, >= D) whose last D channels are the gate z, or None for no gate.
        A_log2e: (K, D, N) = -exp(A_log) * log2(e).
        dt_weight, dt_bias, d_skip: (K, D, R), (K, D), (K, D).
        rows: rows of the token grid; divides L.
        directions: K codes of 0 .. 3.
        mean: average the directions (True) or sum them.

    Returns:
        (B, L, D) at token positions, dtype of xc.
    """
    total = _sum_of_directions(xc, dbc, A_log2e, dt_weight, dt_bias, d_skip, rows, directions)
    if mean:
        total /= len(directions)
    if xz is not None:
        total *= functional.silu(xz[..., -total.shape[-1] :].to(total.dtype))
    return total.to(xc.dtype)


@selective_scan.register_fake
def _selective_scan_fake(
    xc: Tensor,
    dbc: Tensor,
    xz: Tensor | None,
    A_log2e: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    d_skip: Tensor,
    rows: int,
    directions: list[int],
    mean: bool,
) -> Tensor:
    _check_grid(xc.shape[2], rows, directions)
    return xc.new_empty(xc.shape[1:])


def _sum_of_directions(
    xc: Tensor,
    dbc: Tensor,
    A_log2e: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    d_skip: Tensor,
    rows: int,
    directions: list[int],
) -> Tensor:
    """(B, L, D): what the directions add up to, before mean and gate, in the computing dtype."""
    dtype = _compute_dtype(xc)
    total = torch.zeros(xc.shape[1:], dtype=dtype, device=xc.device)
    for k, direction in enumerate(directions):
        u = xc[min(k, xc.shape[0] - 1)].to(dtype)
        total.addcmul_(u, d_skip[k].to(dtype))
        low, b, c = _columns(dbc[k].to(dtype), rows, direction, dt_weight.shape[-1], A_log2e.shape[-1])
        dt = functional.softplus(functional.linear(low, dt_weight[k].to(dtype), dt_bias[k].to(dtype)))
        A = (A_log2e[k].to(dtype) * math.log(2.0)).T.contiguous()  # (N, D)
        y = _Chunks(_to_order(u, rows, direction), dt, A, b, c).forward()
        total += _from_order(y, rows, direction)
    return total


def _columns(dbc: Tensor, rows: int, direction: int, rank: int, states: int) -> tuple[Tensor, ...]:
    """(B, L, R + 2N) -> low (B, L, R), B (B, L, N), C (B, L, N), in the order of a direction."""
    return _to_order(dbc, rows, direction).split([rank, states, states], dim=-1)


class _Chunks:
    """One direction's scan, cut into M chunks of `steps` steps; batch and chunks share the leading axis.

    A chunk that runs past the end is padded with dt = 0, which leaves the state as it is.
    """

    def __init__(self, u: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor) -> None:
        self.batch, self.length, self.width = u.shape
        self.A, self.states = A, A.shape[0]
        wanted = max(1, _STATE_ELEMENTS // (self.batch * self.states * self.width))
        # Below 8 chunks a step is shorter than its overhead; above sqrt(L) the chaining costs more than it saves.
        self.chunks = min(max(wanted, 8), max(1, math.isqrt(self.length)))
        self.steps = -(-self.length // self.chunks)
        self.u, self.dt, self.b, self.c = (self._cut(t) for t in (u, dt, b, c))
        self.du = self.dt * self.u

    def _cut(self, x: Tensor) -> Tensor:
        """(B, L, X) -> (B*M, steps, X)."""
        padding = self.chunks * self.steps - self.length
        if padding:
            x = functional.pad(x, (0, 0, 0, padding))
        return x.reshape(self.batch * self.chunks, self.steps, x.shape[-1])

    def _joined(self, x: Tensor) -> Tensor:
        """(B*M, steps, X) -> (B, L, X), the padding dropped."""
        return x.reshape(self.batch, self.chunks * self.steps, x.shape[-1])[:, : self.length]

    def _zeros(self) -> Tensor:
        return self.du.new_zeros(self.batch * self.chunks, self.states, self.width)

    def _decay(self, step: int, out: Tensor) -> Tensor:
        """exp(dt A) of one step of all chunks, into `out` (B*M, N, D)."""
        return torch.mul(self.dt[:, step, None], self.A, out=out).exp_()

    def _advance(self, h: Tensor, decay: Tensor, step: int) -> None:
        """h <- decay h + dt u B in place, for all chunks at once."""
        h.mul_(decay).addcmul_(self.du[:, step, None], self.b[:, step, :, None])

    def initial_states(self, decays: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B*M, N, D) twice: the state that each chunk starts from, and its total decay.

        `decays` (steps, B*M, N, D), when given, receives every step's exp(dt A).
        """
        last, scratch = self._zeros(), self._zeros()
        for step in range(self.steps if self.chunks > 1 or decays is not None else 0):
            self._advance(last, self._decay(step, scratch if decays is None else decays[step]), step)
        total = (self.dt.sum(1)[:, None] * self.A).exp_()
        return self._chained(last, total, range(1, self.chunks), -1), total

    def _chained(self, last: Tensor, total: Tensor, order: range, back: int) -> Tensor:
        """Each chunk's incoming state, from its neighbour's (`back` away) outgoing one, chunk after chunk."""
        shape = (self.batch, self.chunks, self.states, self.width)
        last, total, incoming = last.view(shape), total.view(shape), self._zeros().view(shape)
        for chunk in order:
            before = chunk + back
            torch.addcmul(last[:, before], incoming[:, before], total[:, before], out=incoming[:, chunk])
        return incoming.view(-1, self.states, self.width)

    def forward(self) -> Tensor:
        """y (B, L, D), without the skip."""
        h, _ = self.initial_states()
        decay = torch.empty_like(h)
        y = torch.empty_like(self.du)
        for step in range(self.steps):
            self._advance(h, self._decay(step, decay), step)
            y[:, step : step + 1] = torch.bmm(self.c[:, step, None], h)
        return self._joined(y)

    def backward(self, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """y again (B, L, D), and for its gradient g those of u, dt (B, L, D), A (N, D), b and c (B, L, N).

        The adjoint state runs backwards, s_l = exp(dt_{l+1} A) s_{l+1} + C_l g_l, chunked like the scan itself.
        """
        g = self._cut(g)
        # 1. The states again, kept this time: history[j] is the state before step j.
        decays = self.du.new_empty(self.steps, self.batch * self.chunks, self.states, self.width)
        h, total = self.initial_states(decays)
        history = h.new_empty(self.steps + 1, *h.shape)
        history[0] = h
        y = torch.empty_like(self.du)
        for step in range(self.steps):
            self._advance(h, decays[step], step)
            history[step + 1] = h
            y[:, step : step + 1] = torch.bmm(self.c[:, step, None], h)
        # 2. What each chunk hands to the one before it, from zero; then chained.
        s = self._zeros()
        for step in range(self.steps - 1 if self.chunks > 1 else -1, -1, -1):
            s.addcmul_(self.c[:, step, :, None], g[:, step, None]).mul_(decays[step])
        s = self._chained(s, total, range(self.chunks - 2, -1, -1), 1)
        # 3. The gradients, from the true adjoint states.
        grad_du, grad_dt = torch.empty_like(self.du), torch.empty_like(self.du)
        grad_b, grad_c = torch.empty_like(self.b), torch.empty_like(self.c)
        grad_A, work = self._zeros(), self._zeros()
        for step in range(self.steps - 1, -1, -1):
            s.addcmul_(self.c[:, step, :, None], g[:, step, None])
            grad_c[:, step] = torch.bmm(history[step + 1], g[:, step, :, None])[..., 0]
            grad_b[:, step] = torch.bmm(s, self.du[:, step, :, None])[..., 0]
            grad_du[:, step] = torch.bmm(self.b[:, step, None], s)[:, 0]
            s.mul_(decays[step])
            torch.mul(s, history[step], out=work)  # d/d(dt A) of this step
            grad_A.addcmul_(work, self.dt[:, step, None])
            grad_dt[:, step] = work.mul_(self.A).sum(1)
        grad_dt.addcmul_(grad_du, self.u)
        grad_u = grad_du.mul_(self.dt)
        joined = [self._joined(t) for t in (y, grad_u, grad_dt, grad_b, grad_c)]
        return joined[0], joined[1], joined[2], grad_A.sum(0), joined[3], joined[4]


def _scan_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, rows, directions, mean = inputs
    ctx.save_for_backward(*tensors)
    ctx.rows, ctx.directions, ctx.mean = rows, directions, mean


def _scan_backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip = ctx.saved_tensors
    rows, directions = ctx.rows, ctx.directions
    rank, states, width = dt_weight.shape[-1], A_log2e.shape[-1], xc.shape[-1]
    dtype = _compute_dtype(xc)
    wide = [t.to(dtype) for t in (xc, dbc, A_log2e, dt_weight, dt_bias, d_skip)]
    grads = [torch.zeros_like(t) for t in wide]
    x, columns, A_all, w_dt, b_dt, skip = wide
    grad_x, grad_dbc, grad_A, grad_w, grad_b, grad_skip = grads

    g = grad.to(dtype) / len(directions) if ctx.mean else grad.to(dtype)
    total, ungated = torch.zeros_like(g), g
    if xz is not None:
        z = xz[..., -width:].to(dtype)
        gate = torch.sigmoid(z)
        g = g * z * gate

    for k, direction in enumerate(directions):
        shared = min(k, x.shape[0] - 1)
        low, b, c = _columns(columns[k], rows, direction, rank, states)
        u, gk = _to_order(x[shared], rows, direction), _to_order(g, rows, direction)
        pre = functional.linear(low, w_dt[k], b_dt[k])  # (B, L, D)
        dt = functional.softplus(pre)
        y, gu, g_dt = u * skip[k], gk * skip[k], torch.empty_like(dt)
        gb, gc = torch.zeros_like(b), torch.zeros_like(c)
        for block in _channel_blocks(u.shape[0] * u.shape[1] * states, width):
            A = (A_all[k, block] * math.log(2.0)).T.contiguous()  # (N, channels)
            scan = _Chunks(u[..., block], dt[..., block], A, b, c)
            part_y, part_u, g_dt[..., block], part_A, part_b, part_c = scan.backward(gk[..., block])
            y[..., block] += part_y
            gu[..., block] += part_u
            grad_A[k, block] = part_A.T * math.log(2.0)
            gb += part_b
            gc += part_c
        total += _from_order(y, rows, direction)
        g_pre = g_dt * torch.sigmoid(pre)  # softplus' = sigmoid
        grad_skip[k] = (gk * u).sum((0, 1))
        grad_b[k] = g_pre.sum((0, 1))
        grad_w[k] = torch.einsum("bld,blr->dr", g_pre, low)
        grad_dbc[k] = _from_order(torch.cat((g_pre @ w_dt[k], gb, gc), dim=-1), rows, direction)
        grad_x[shared] += _from_order(gu, rows, direction)

    grad_xz = None
    if xz is not None:
        grad_xz = torch.zeros(xz.shape, dtype=xz.dtype, device=xz.device)
        grad_xz[..., -width:] = (ungated * total * gate * (1 + z * (1 - gate))).to(xz.dtype)
    sources = (xc, dbc, A_log2e, dt_weight, dt_bias, d_skip)
    narrow = [t.to(source.dtype) for t, source in zip(grads, sources, strict=True)]
    return narrow[0], narrow[1], grad_xz, *narrow[2:], None, None, None


def _channel_blocks(history_of_one: int, width: int) -> Iterator[slice]:
    """Slices of the channels, each small enough that its states of all steps fit `_HISTORY_ELEMENTS`."""
    block = min(width, max(8, _HISTORY_ELEMENTS // history_of_one))
    for start in range(0, width, block):
        yield slice(start, min(start + block, width))


selective_scan.register_autograd(_scan_backward, setup_context=_scan_setup)
