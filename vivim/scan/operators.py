"""The two operators of the whole Mamba vision family, as PyTorch custom operators with autograd.

Tokens lie channels-last on a grid of `rows` x `cols`, row-major (Vivim: rows = T frames, cols = H*W); each of K
directions visits them in its own order (0 rows forward, 1 rows backward, 2 columns forward, 3 columns backward) and
leaves its result at the token it belongs to:

    causal_conv1d   xc_l = silu(b + sum_j w_j x_{l-3+j})                 x before the start of a scan is zero
    selective_scan  dt_l = softplus(w_dt low_l + b_dt)
                    h_l  = exp(dt_l A) h_{l-1} + dt_l B_l u_l            h (N, D), u = xc
                    y_l  = C_l h_l + d_skip u_l                          averaged over directions, times silu(z)

All directions advance side by side, in one operation a step over (K*B, N, D). Where that is too little work a step, the
sequences are cut into M chunks that advance side by side too, and there are L / M steps: a first pass from a zero state
gives each chunk's last state; those are chained through the chunks' total decays; a second pass from the true initial
states gives y. Nothing of size L * N * D is stored, so the memory is that of a few (K*B, L, D) tensors. State and
recurrence are float32 (float64 for float64 input) whatever the inputs are. Where they are installed, compiled kernels
do the forward pass, on a GPU and on the CPU, and the gradients of the recurrence on the CPU (vivim.scan.kernels), and
those of mamba-ssm and causal-conv1d the backward pass on a GPU (vivim.scan.fused_backward).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from vivim.scan import fused_backward
from vivim.scan.kernels import cpu_library, library
from vivim.scan.orders import from_order, to_order

__all__ = ["causal_conv1d", "selective_scan"]

# A step over fewer elements than this is shorter than the overhead of its operations and is worth chunks, although they
# compute every exponential twice; with chunks, a step is over about `_CHUNKED_STEP` elements. Measured on one thread at
# the B3 shapes, 3 directions: stage 1 (6,144 elements) 230 ms with 64 chunks; stage 2 (12,288) 116 with 32, 125 with
# one; stages 3 and 4 (30,720 and 49,152) 56 and 20 with one, 73 and 29 with 8.
_SMALLEST_STEP = 12_289
_CHUNKED_STEP = 393_216
# Elements of (L, N, D) that the backward pass keeps at once; channels are processed in blocks to stay below it.
_HISTORY_ELEMENTS = 1 << 23
_LN2 = math.log(2.0)


_Compute = TypeVar("_Compute", bound=Callable[..., Any])


def _in_its_own_precision(compute: _Compute) -> _Compute:
    """Let a function decide its precision itself, also under torch.autocast, which reaches into custom operators."""

    @functools.wraps(compute)
    def run(x: Tensor, *others: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return compute(x, *others)

    return run  # type: ignore[return-value]


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
    return _vectorised_conv(x, weight, bias, rows, directions)


@causal_conv1d.register_kernel("cuda")
def _causal_conv1d_cuda(x: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: list[int]) -> Tensor:
    kernels = library()
    if kernels and kernels.takes_conv(x, weight):
        return kernels.causal_conv1d(x, weight, bias, rows, directions)
    return _vectorised_conv(x, weight, bias, rows, directions)


@causal_conv1d.register_kernel("cpu")
def _causal_conv1d_cpu(x: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: list[int]) -> Tensor:
    kernels = cpu_library()
    if kernels and kernels.takes_conv(x, weight):
        return kernels.causal_conv1d(x, weight, bias, rows, directions)
    return _vectorised_conv(x, weight, bias, rows, directions)


def _vectorised_conv(x: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: list[int]) -> Tensor:
    return vectorised_conv(x, None, weight, bias, rows, directions)


@_in_its_own_precision
def vectorised_conv(
    x: Tensor, tail: Tensor | None, weight: Tensor, bias: Tensor, rows: int, directions: list[int]
) -> Tensor:
    """(K, B, L, D); `tail` (B, taps - 1, D) is what the first direction met before its first step."""
    dtype = _compute_dtype(x)
    outputs = []
    for k, direction in enumerate(directions):
        ordered = to_order(x[..., : weight.shape[1]].to(dtype), rows, direction)
        before = 0
        if tail is not None and k == 0:
            before = tail.shape[1]
            ordered = torch.cat((tail.to(dtype), ordered), dim=1)
        total = _causal_taps(ordered, weight[k].to(dtype), bias[k].to(dtype))[:, before:]
        outputs.append(from_order(functional.silu(total, inplace=True), rows, direction))
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
    fused = fused_backward.takes_conv(x, weight)
    gradients = fused_backward.conv_gradients if fused else _vectorised_conv_gradients
    return *gradients(grad, x, weight, bias, ctx.rows, ctx.directions), None, None


def _vectorised_conv_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    rows: int,
    directions: list[int],
    tail: Tensor | None = None,
) -> tuple[Tensor, ...]:
    dtype = _compute_dtype(x)
    width, taps = weight.shape[1:]
    grad_x = torch.zeros(x.shape, dtype=dtype, device=x.device)
    grad_weight = torch.zeros(weight.shape, dtype=dtype, device=x.device)
    grad_bias = torch.zeros(bias.shape, dtype=dtype, device=x.device)
    for k, direction in enumerate(directions):
        ordered = to_order(x[..., :width].to(dtype), rows, direction)
        before = 0
        if tail is not None and k == 0:  # constants: gradients stop there
            before = tail.shape[1]
            ordered = torch.cat((tail.to(dtype), ordered), dim=1)
        total = _causal_taps(ordered, weight[k].to(dtype), bias[k].to(dtype))
        gate = torch.sigmoid(total)
        # d silu(t) / dt = s (1 + t (1 - s)) with s = sigmoid(t)
        g = to_order(grad[k].to(dtype), rows, direction)
        if before:
            g = functional.pad(g, (0, 0, before, 0))
        g = g * gate * (1 + total * (1 - gate))
        back = g * weight[k, :, -1].to(dtype)
        grad_weight[k, :, -1] = (g * ordered).sum((0, 1))
        for shift in range(1, min(taps, ordered.shape[1])):
            back[:, :-shift].addcmul_(g[:, shift:], weight[k, :, taps - 1 - shift].to(dtype))
            grad_weight[k, :, taps - 1 - shift] = (g[:, shift:] * ordered[:, :-shift]).sum((0, 1))
        grad_bias[k] = g.sum((0, 1))
        grad_x[..., :width] += from_order(back[:, before:], rows, direction)
    return grad_x.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


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
    return _chunked_scan(xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, rows, directions, mean)


@selective_scan.register_kernel("cuda")
def _selective_scan_cuda(
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
    kernels = library()
    compute = kernels.selective_scan if kernels and kernels.takes_scan(xc, A_log2e, dt_weight) else _chunked_scan
    return compute(xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, rows, directions, mean)


@selective_scan.register_kernel("cpu")
def _selective_scan_cpu(
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
    kernels = cpu_library()
    compute = kernels.selective_scan if kernels and kernels.takes_scan(xc, A_log2e, dt_weight) else _chunked_scan
    return compute(xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, rows, directions, mean)


def _chunked_scan(
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
    return chunked_scan(xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, None, rows, directions, mean)[0]


@_in_its_own_precision
def chunked_scan(
    xc: Tensor,
    dbc: Tensor,
    xz: Tensor | None,
    A_log2e: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    d_skip: Tensor,
    initial: Tensor | None,
    rows: int,
    directions: list[int],
    mean: bool,
) -> tuple[Tensor, Tensor]:
    """y, and the state (B, N, D) of the first direction after its last step; `initial` is that before its first."""
    dtype = _compute_dtype(xc)
    batch, rank, states = xc.shape[1], dt_weight.shape[-1], A_log2e.shape[-1]
    A = A_log2e.to(dtype).transpose(1, 2).repeat_interleave(batch, dim=0)  # (K*B, N, D)
    scan = _Chunks(A, xc.shape[2])
    if initial is not None:
        scan.initial = torch.zeros_like(A)
        scan.initial[:batch] = initial
    for k, direction in enumerate(directions):
        low, b, c = _columns(dbc[k].to(dtype), rows, direction, rank, states)
        pre = functional.linear(low, dt_weight[k].to(dtype), dt_bias[k].to(dtype))  # (B, L, D), dt = softplus(pre)
        u = to_order(xc[min(k, xc.shape[0] - 1)].to(dtype), rows, direction)
        scan.fill(slice(k * batch, (k + 1) * batch), pre, u, b, c, softplus=True)
    y = scan.forward()
    total = torch.zeros(xc.shape[1:], dtype=dtype, device=xc.device)
    for k, direction in enumerate(directions):
        total += from_order(scan.joined(y[:, k * batch : (k + 1) * batch]), rows, direction)
        total.addcmul_(xc[min(k, xc.shape[0] - 1)].to(dtype), d_skip[k].to(dtype))
    if mean:
        total /= len(directions)
    if xz is not None:
        total *= functional.silu(xz[..., -total.shape[-1] :].to(total.dtype))
    return total.to(xc.dtype), scan.final[:batch]


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


def _columns(dbc: Tensor, rows: int, direction: int, rank: int, states: int) -> tuple[Tensor, ...]:
    """(B, L, R + 2N) -> low (B, L, R), B (B, L, N), C (B, L, N), in the order of a direction."""
    return to_order(dbc, rows, direction).split([rank, states, states], dim=-1)


class _Chunks:
    """G sequences cut into M chunks of `steps` steps, all of which advance together. A (G, N, D) is in powers of two.

    Tensors lie step by step, (steps, G, M, X), and states are (G, M, N, D). A chunk that runs past the end is padded
    with dt = 0, which leaves the state as it is. `initial` (G, N, D) is the state before the first step, None for
    zeros; after `forward`, `final` (G, N, D) is the one after the last.
    """

    final: Tensor

    def __init__(self, A: Tensor, length: int, initial: Tensor | None = None) -> None:
        sequences, states, width = A.shape
        self.length, self.A = length, A.contiguous()[:, None]  # (G, 1, N, D)
        self.initial = initial
        wanted = _CHUNKED_STEP // A.numel() if A.numel() < _SMALLEST_STEP else 1
        # Above sqrt(L) the chaining costs more than it saves.
        self.chunks = max(1, min(wanted, math.isqrt(length)))
        self.steps = -(-length // self.chunks)
        self.dt, self.du = (A.new_empty(self.steps, sequences, self.chunks, width) for _ in range(2))
        self.b, self.c = (A.new_empty(self.steps, sequences, self.chunks, states) for _ in range(2))

    def fill(self, sequences: slice, dt: Tensor, u: Tensor, b: Tensor, c: Tensor, softplus: bool = False) -> None:
        """Set some of the sequences: dt (or what its softplus is to be taken of), u (g, L, D) and b, c (g, L, N)."""
        time = self.dt[:, sequences]
        if softplus:
            # Straight to where it belongs: an array between would cost as much as the scan's exponentials.
            torch.ops.aten.softplus.out(self._cut(dt), out=time)
            padding = self.chunks * self.steps - self.length  # in the last chunk alone, as M <= sqrt(L)
            time[self.steps - padding :, :, -1] = 0.0
        else:
            time.copy_(self._cut(dt))
        torch.mul(time, self._cut(u), out=self.du[:, sequences])
        self.b[:, sequences], self.c[:, sequences] = self._cut(b), self._cut(c)

    def _cut(self, x: Tensor) -> Tensor:
        """(g, L, X) -> (steps, g, M, X), a view wherever the chunks fill L exactly."""
        padding = self.chunks * self.steps - self.length
        if padding:
            x = functional.pad(x, (0, 0, 0, padding))
        return x.unflatten(1, (self.chunks, self.steps)).permute(2, 0, 1, 3)

    def joined(self, x: Tensor) -> Tensor:
        """(steps, g, M, X) -> (g, L, X), the padding dropped."""
        return x.permute(1, 2, 0, 3).flatten(1, 2)[:, : self.length]

    def _zeros(self) -> Tensor:
        return self.A.new_zeros(self.A.shape[0], self.chunks, *self.A.shape[2:])

    def _decay(self, step: int, out: Tensor) -> Tensor:
        """exp(dt A) of one step of all chunks, into `out` (G, M, N, D)."""
        return torch.mul(self.dt[step, ..., None, :], self.A, out=out).exp2_()

    def _advance(self, h: Tensor, decay: Tensor, step: int) -> None:
        """h <- decay h + dt u B in place, for all chunks at once."""
        h.mul_(decay).addcmul_(self.du[step, ..., None, :], self.b[step, ..., :, None])

    def _output(self, h: Tensor, step: int, y: Tensor) -> None:
        """y of one step, C h."""
        torch.bmm(self.c[step].flatten(0, 1)[:, None], h.flatten(0, 1), out=y[step].view(-1, 1, y.shape[-1]))

    def initial_states(self, decays: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(G, M, N, D) twice: the state that each chunk starts from, and its total decay.

        `decays` (steps, G, M, N, D), when given, receives every step's exp(dt A).
        """
        last, scratch = self._zeros(), self._zeros()
        for step in range(self.steps if self.chunks > 1 or decays is not None else 0):
            self._advance(last, self._decay(step, scratch if decays is None else decays[step]), step)
        total = (self.dt.sum(0)[..., None, :] * self.A).exp2_()
        return self._chained(last, total, range(1, self.chunks), -1), total

    def _chained(self, last: Tensor, total: Tensor, order: range, back: int) -> Tensor:
        """Each chunk's incoming state, from its neighbour's (`back` away) outgoing one, chunk after chunk."""
        incoming = self._zeros()
        if back < 0 and self.initial is not None:  # adjoint states come from the other end, where nothing comes in
            incoming[:, 0] = self.initial
        for chunk in order:
            before = chunk + back
            torch.addcmul(last[:, before], incoming[:, before], total[:, before], out=incoming[:, chunk])
        return incoming

    def forward(self) -> Tensor:
        """y (steps, G, M, D), without the skip. It takes the place of du, which is gone afterwards."""
        h, _ = self.initial_states()
        decay = torch.empty_like(h)
        for step in range(self.steps):
            self._advance(h, self._decay(step, decay), step)
            self._output(h, step, self.du)
        self.final = h[:, -1].clone()
        return self.du

    def backward(self, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """y again (G, L, D), and for its gradient g those of dt, du (G, L, D), b, c (G, L, N) and A (G, N, D).

        The adjoint state runs backwards, s_l = exp(dt_{l+1} A) s_{l+1} + C_l g_l, chunked like the scan itself.
        """
        g = self._cut(g).contiguous()
        # 1. The states again, kept this time: history[j] is the state before step j.
        decays = self.A.new_empty(self.steps, self.A.shape[0], self.chunks, *self.A.shape[2:])
        h, total = self.initial_states(decays)
        history = h.new_empty(self.steps + 1, *h.shape)
        history[0] = h
        y = torch.empty_like(self.du)
        for step in range(self.steps):
            self._advance(h, decays[step], step)
            history[step + 1] = h
            self._output(h, step, y)
        # 2. What each chunk hands to the one before it, from zero; then chained.
        s = self._zeros()
        for step in range(self.steps - 1 if self.chunks > 1 else -1, -1, -1):
            s.addcmul_(self.c[step, ..., :, None], g[step, ..., None, :]).mul_(decays[step])
        s = self._chained(s, total, range(self.chunks - 2, -1, -1), 1)
        # 3. The gradients, from the true adjoint states.
        grad_dt, grad_du = torch.empty_like(self.du), torch.empty_like(self.du)
        grad_b, grad_c = torch.empty_like(self.b), torch.empty_like(self.c)
        grad_A, work = self._zeros(), self._zeros()
        for step in range(self.steps - 1, -1, -1):
            s.addcmul_(self.c[step, ..., :, None], g[step, ..., None, :])
            grad_c[step] = torch.matmul(history[step + 1], g[step, ..., None])[..., 0]
            grad_b[step] = torch.matmul(s, self.du[step, ..., None])[..., 0]
            grad_du[step] = torch.matmul(self.b[step, ..., None, :], s)[..., 0, :]
            s.mul_(decays[step])
            torch.mul(s, history[step], out=work)  # d/d(dt A ln 2) of this step
            grad_A.addcmul_(work, self.dt[step, ..., None, :])
            grad_dt[step] = work.mul_(self.A).sum(2)
        grad_dt *= _LN2
        joined = [self.joined(t) for t in (y, grad_dt, grad_du, grad_b, grad_c)]
        return joined[0], joined[1], joined[2], joined[3], joined[4], grad_A.sum(1) * _LN2


def _scan_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, rows, directions, mean = inputs
    ctx.save_for_backward(*tensors)
    ctx.rows, ctx.directions, ctx.mean = rows, directions, mean


def _scan_backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    xc, dbc, xz, A_log2e, *rest = ctx.saved_tensors
    fused = fused_backward.takes_scan(xc, A_log2e)
    gradients: Callable[..., Any] = fused_backward.scan_gradients if fused else _chunked_scan_gradients
    found = gradients(grad, xc, dbc, xz, A_log2e, *rest, ctx.rows, ctx.directions, ctx.mean)
    return *found, None, None, None


def _chunked_scan_gradients(
    grad: Tensor,
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
    initial: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    rank, states, width = dt_weight.shape[-1], A_log2e.shape[-1], xc.shape[-1]
    dtype = _compute_dtype(xc)
    wide = [t.to(dtype) for t in (xc, dbc, A_log2e, dt_weight, dt_bias, d_skip)]
    grads = [torch.zeros_like(t) for t in wide]
    x, columns, A_all, w_dt, b_dt, skip = wide
    grad_x, grad_dbc, grad_A, grad_w, grad_b, grad_skip = grads

    g = grad.to(dtype) / len(directions) if mean else grad.to(dtype)
    total, ungated = torch.zeros_like(g), g
    if xz is not None:
        z = xz[..., -width:].to(dtype)
        gate = torch.sigmoid(z)
        g = g * z * gate

    for k, direction in enumerate(directions):
        shared = min(k, x.shape[0] - 1)
        low, b, c = _columns(columns[k], rows, direction, rank, states)
        u, gk = to_order(x[shared], rows, direction), to_order(g, rows, direction)
        pre = functional.linear(low, w_dt[k], b_dt[k])  # (B, L, D)
        dt = functional.softplus(pre)
        incoming = initial.to(dtype) if initial is not None and k == 0 else None
        y, g_dt, gu, gb, gc, gA = _recurrence_gradients(dt, u, b, c, A_all[k], skip[k], incoming, gk)
        grad_A[k] = gA.sum(0).T
        total += from_order(y, rows, direction)
        g_pre = g_dt * torch.sigmoid(pre)  # softplus' = sigmoid
        grad_skip[k] = (gk * u).sum((0, 1))
        grad_b[k] = g_pre.sum((0, 1))
        grad_w[k] = torch.einsum("bld,blr->dr", g_pre, low)
        grad_dbc[k] = from_order(torch.cat((g_pre @ w_dt[k], gb, gc), dim=-1), rows, direction)
        grad_x[shared] += from_order(gu, rows, direction)

    grad_xz = None
    if xz is not None:
        grad_xz = torch.zeros(xz.shape, dtype=xz.dtype, device=xz.device)
        grad_xz[..., -width:] = (ungated * total * gate * (1 + z * (1 - gate))).to(xz.dtype)
    sources = (xc, dbc, A_log2e, dt_weight, dt_bias, d_skip)
    narrow = [t.to(source.dtype) for t, source in zip(grads, sources, strict=True)]
    return narrow[0], narrow[1], grad_xz, *narrow[2:]


def _recurrence_gradients(
    dt: Tensor, u: Tensor, b: Tensor, c: Tensor, A: Tensor, skip: Tensor, initial: Tensor | None, grad: Tensor
) -> tuple[Tensor, ...]:
    """See `CpuLibrary.scan_gradients`; here of any floating type, on any device."""
    states = b.shape[-1]
    fits = dt.device.type == "cpu" and dt.dtype == torch.float32 and fused_backward.is_plain(dt)
    kernels = cpu_library() if fits else None
    if kernels and kernels.takes_gradients(states):
        return kernels.scan_gradients(dt, u, b, c, A, skip, initial, grad)
    y, gu, g_dt = u * skip, grad * skip, torch.empty_like(dt)
    gb, gc, gA = torch.zeros_like(b), torch.zeros_like(c), u.new_empty(u.shape[0], states, u.shape[2])
    for block in _channel_blocks(u.shape[0] * u.shape[1] * states, u.shape[2]):
        incoming = None if initial is None else initial[..., block]
        scan = _Chunks(A[block].T.expand(u.shape[0], -1, -1), u.shape[1], incoming)  # A: (B, N, channels)
        scan.fill(slice(None), dt[..., block], u[..., block], b, c)
        part_y, part_dt, part_du, part_b, part_c, part_A = scan.backward(grad[..., block])
        y[..., block] += part_y
        g_dt[..., block] = part_dt + part_du * u[..., block]
        gu[..., block] += part_du * dt[..., block]
        gA[..., block] = part_A
        gb += part_b
        gc += part_c
    return y, g_dt, gu, gb, gc, gA


def _channel_blocks(history_of_one: int, width: int) -> Iterator[slice]:
    """Slices of the channels, each small enough that its states of all steps fit `_HISTORY_ELEMENTS`."""
    block = min(width, max(8, _HISTORY_ELEMENTS // history_of_one))
    for start in range(0, width, block):
        yield slice(start, min(start + block, width))


selective_scan.register_autograd(_scan_backward, setup_context=_scan_setup)
