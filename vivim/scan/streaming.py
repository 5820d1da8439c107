"""The two operators for a film that comes in pieces: the first direction goes on where the piece before ended.

    streaming_conv1d   as causal_conv1d; before its first step the first direction meets the tail of the piece before
    streaming_scan     as selective_scan; h of the first direction starts from `initial`, and h after its last step is a
                       second result

The other directions stay within the piece. All are computed in one call, as without a state: two calls would read the
inputs twice. Over the pieces of a film, in order, the first direction gives what one call for the whole film gives.
States are constants for the gradient, which stops there (truncated backpropagation through time).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vivim.scan.kernels import cpu_library, library
from vivim.scan.operators import (
    _check_grid,
    _chunked_scan_gradients,
    _vectorised_conv_gradients,
    chunked_scan,
    vectorised_conv,
)

__all__ = ["streaming_conv1d", "streaming_scan", "tail_after"]


def tail_after(tail: Tensor, x: Tensor) -> Tensor:
    """(B, taps - 1, D) before x (B, L, >= D) -> the last taps - 1 tokens of both, which come before the next piece."""
    count, width = tail.shape[1:]
    return torch.cat((tail, x[:, -count:, :width]), dim=1)[:, -count:] if count else tail


# --- causal convolution -----------------------------------------------------------------------------------------


@torch.library.custom_op("vivim::streaming_conv1d", mutates_args=())
def streaming_conv1d(x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: list[int]) -> Tensor:
    """`vivim.scan.operators.causal_conv1d` whose first direction goes on from `tail`.

    Args:
        x, weight, bias, rows, directions: as there.
        tail: (B, taps - 1, D), the inputs that the first direction met last, in its order; zeros at first.

    Returns:
        (K, B, L, D) at natural token positions, dtype of x.
    """
    return vectorised_conv(x, tail, weight, bias, rows, directions)


@streaming_conv1d.register_kernel("cuda")
def _streaming_conv1d_cuda(
    x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: list[int]
) -> Tensor:
    kernels = library()
    if kernels and kernels.takes_conv(x, weight) and kernels.streams:
        return kernels.streaming_conv1d(x, tail, weight, bias, rows, directions)
    return vectorised_conv(x, tail, weight, bias, rows, directions)


@streaming_conv1d.register_kernel("cpu")
def _streaming_conv1d_cpu(
    x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: list[int]
) -> Tensor:
    kernels = cpu_library()
    if kernels and kernels.takes_conv(x, weight) and kernels.streams:
        return kernels.streaming_conv1d(x, tail, weight, bias, rows, directions)
    return vectorised_conv(x, tail, weight, bias, rows, directions)


@streaming_conv1d.register_fake
def _streaming_conv1d_fake(
    x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: list[int]
) -> Tensor:
    _check_grid(x.shape[1], rows, directions)
    if tail.shape != (x.shape[0], weight.shape[2] - 1, weight.shape[1]):
        raise ValueError(f"the tail has shape {tuple(tail.shape)}; expected (B, taps - 1, D)")
    return x.new_empty(len(directions), x.shape[0], x.shape[1], weight.shape[1])


def _conv_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, tail, weight, bias, rows, directions = inputs
    ctx.save_for_backward(x, tail, weight, bias)
    ctx.rows, ctx.directions = rows, directions


def _conv_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, tail, weight, bias = ctx.saved_tensors
    g_x, g_weight, g_bias = _vectorised_conv_gradients(grad, x, weight, bias, ctx.rows, ctx.directions, tail)
    return g_x, None, g_weight, g_bias, None, None


streaming_conv1d.register_autograd(_conv_backward, setup_context=_conv_setup)


# --- selective scan ---------------------------------------------------------------------------------------------


@torch.library.custom_op("vivim::streaming_scan", mutates_args=())
def streaming_scan(
    xc: Tensor,
    dbc: Tensor,
    xz: Tensor | None,
    A_log2e: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    d_skip: Tensor,
    initial: Tensor,
    rows: int,
    directions: list[int],
    mean: bool,
) -> tuple[Tensor, Tensor]:
    """`vivim.scan.operators.selective_scan` whose first direction goes on from a state.

    Args:
        xc, ..., mean: as there.
        initial: (B, N, D) float32 (float64 for float64 data), h of the first direction before its first step; zeros at
            the start of a film.

    Returns:
        y (B, L, D) at token positions, dtype of xc; and h of the first direction after its last step, as `initial`.
    """
    return chunked_scan(xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, initial, rows, directions, mean)


@streaming_scan.register_kernel("cuda")
def _streaming_scan_cuda(
    xc: Tensor,
    dbc: Tensor,
    xz: Tensor | None,
    A_log2e: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    d_skip: Tensor,
    initial: Tensor,
    rows: int,
    directions: list[int],
    mean: bool,
) -> tuple[Tensor, Tensor]:
    kernels = library()
    fits = kernels and kernels.takes_scan(xc, A_log2e, dt_weight) and kernels.streams
    compute = kernels.streaming_scan if kernels and fits else chunked_scan
    return compute(xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, initial, rows, directions, mean)


@streaming_scan.register_kernel("cpu")
def _streaming_scan_cpu(
    xc: Tensor,
    dbc: Tensor,
    xz: Tensor | None,
    A_log2e: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    d_skip: Tensor,
    initial: Tensor,
    rows: int,
    directions: list[int],
    mean: bool,
) -> tuple[Tensor, Tensor]:
    kernels = cpu_library()
    fits = kernels and kernels.takes_scan(xc, A_log2e, dt_weight) and kernels.streams
    compute = kernels.streaming_scan if kernels and fits else chunked_scan
    return compute(xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, initial, rows, directions, mean)


@streaming_scan.register_fake
def _streaming_scan_fake(
    xc: Tensor,
    dbc: Tensor,
    xz: Tensor | None,
    A_log2e: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    d_skip: Tensor,
    initial: Tensor,
    rows: int,
    directions: list[int],
    mean: bool,
) -> tuple[Tensor, Tensor]:
    _check_grid(xc.shape[2], rows, directions)
    if initial.shape != (xc.shape[1], A_log2e.shape[2], xc.shape[3]):
        raise ValueError(f"the initial state has shape {tuple(initial.shape)}; expected (B, N, D)")
    return xc.new_empty(xc.shape[1:]), torch.empty_like(initial)


def _scan_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, rows, directions, mean = inputs
    ctx.save_for_backward(*tensors)
    ctx.rows, ctx.directions, ctx.mean = rows, directions, mean
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _scan_backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, initial = ctx.saved_tensors
    if grad is None:
        return (None,) * 11
    found = _chunked_scan_gradients(
        grad, xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, ctx.rows, ctx.directions, ctx.mean, initial
    )
    return *found, None, None, None, None


streaming_scan.register_autograd(_scan_backward, setup_context=_scan_setup)
