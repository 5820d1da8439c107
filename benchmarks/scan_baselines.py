"""The scans that the kernels are compared with: mamba-ssm's and plain PyTorch's, in the authors' order of work.

A baseline is made of the inputs (xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip) of `selective_scan` and returns a
call without arguments, which is what is timed, of its result (1, L, D).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scan_cpu import DIRECTIONS, STATES
from torch import Tensor

from vivim.scan.operators import _chunked_scan
from vivim.scan.orders import from_order, to_order

__all__ = ["Scan", "channels_first", "mamba_calls", "mamba_ssm", "pytorch_call"]

Scan = Callable[[], Tensor]  # -> y (1, L, D)


def pytorch_call(inputs: tuple[Tensor, ...], frames: int) -> Scan:
    """The authors' order of work on the vectorised scan: order xc and the gate, scan, order back, average.

    B, C and dt_low come in the order of the scan, as the authors' x_proj computes them.
    """
    xc, dbc, xz, *parameters = inputs
    scan: Callable[..., Tensor] = _chunked_scan
    columns = [to_order(dbc[k], frames, direction)[None] for k, direction in enumerate(DIRECTIONS)]

    def call() -> Tensor:
        total = None
        for k, direction in enumerate(DIRECTIONS):
            u, gate = to_order(xc[k], frames, direction), to_order(xz, frames, direction)
            own = [parameter[k : k + 1] for parameter in parameters]
            y = from_order(scan(u[None], columns[k], gate, *own, 1, [0], False), frames, direction)
            total = y if total is None else total + y
        assert total is not None
        return total / len(DIRECTIONS)

    return call


def mamba_calls(selective_scan_fn: Callable[..., Tensor], inputs: tuple[Tensor, ...], frames: int) -> tuple[Scan, Scan]:
    """With the authors' flips and permutes and dt_proj; and the three bare scans, which return the last y alone.

    Channels first, (B, D, L), as mamba-ssm wants them. u and z of a direction lie in one tensor (B, 2D, L), the
    counterpart of the authors' xz, which they flip or permute as a whole.
    """
    xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip = inputs
    width, rank = xc.shape[-1], dt_weight.shape[-1]
    gate = xz[..., -width:]
    uz: list[Tensor] = []
    low: list[Tensor] = []
    b: list[Tensor] = []
    c: list[Tensor] = []
    for k, direction in enumerate(DIRECTIONS):
        uz.append(torch.cat((xc[k], gate), dim=-1).transpose(1, 2).contiguous())
        parts = torch.split(to_order(dbc[k], frames, direction).transpose(1, 2), [rank, STATES, STATES], dim=1)
        for target, part in zip((low, b, c), parts, strict=True):
            target.append(part.contiguous())
    A, weight = A_log2e * math.log(2.0), dt_weight.to(xc.dtype)

    def scan(k: int, both: Tensor, delta: Tensor) -> Tensor:
        u, z = both.chunk(2, dim=1)
        return selective_scan_fn(u, delta, A[k], b[k], c[k], d_skip[k], z=z, delta_bias=dt_bias[k], delta_softplus=True)

    def with_flips() -> Tensor:
        total = None
        for k, direction in enumerate(DIRECTIONS):
            y = scan(k, channels_first(uz[k], frames, direction, True), weight[k] @ low[k])
            y = channels_first(y, frames, direction, False)
            total = y if total is None else total + y
        assert total is not None
        return (total / len(DIRECTIONS)).transpose(1, 2)

    ready = [channels_first(uz[k], frames, d, True).contiguous() for k, d in enumerate(DIRECTIONS)]
    deltas = [(weight[k] @ low[k]).contiguous() for k in range(len(DIRECTIONS))]

    def bare() -> Tensor:
        return [scan(k, ready[k], deltas[k]) for k in range(len(DIRECTIONS))][-1].transpose(1, 2)

    return with_flips, bare


def channels_first(x: Tensor, rows: int, direction: int, forth: bool) -> Tensor:
    """(B, X, L) into the order of a direction, or back, by the authors' flip and permute."""
    if direction % 2 and not forth:
        x = x.flip(-1)
    if direction >= 2:
        grid = (rows, -1) if forth else (-1, rows)
        x = x.reshape(*x.shape[:-1], *grid).transpose(-1, -2).flatten(-2)
    return x.flip(-1) if direction % 2 and forth else x


def mamba_ssm() -> Callable[..., Tensor] | str:
    """selective_scan_fn, or why it is not there."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except Exception as error:  # its extension may fail in any way where it was built for another torch
        return f"{type(error).__name__}: {error}"
    return selective_scan_fn  # type: ignore[no-any-return]
