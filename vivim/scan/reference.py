"""The scan and the convolution as they are defined: one float64 loop over the steps, for tests to compare with.

Numbered as in Mamba (arXiv 2312.00752, Algorithm 2); layouts as in `vivim.scan.operators`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["causal_conv1d_reference", "selective_scan_reference", "streaming_scan_reference", "token_of_step"]


def token_of_step(length: int, rows: int, direction: int) -> Tensor:
    """int64 (L,): the token that step l of a direction visits, on a grid of `rows` rows, row-major.

    0 rows forward, 1 rows backward, 2 columns forward, 3 columns backward.
    """
    step = torch.arange(length)
    if direction % 2:
        step = step.flip(0)
    return step if direction < 2 else (step % rows) * (length // rows) + step // rows


def causal_conv1d_reference(
    x: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: list[int], tail: Tensor | None = None
) -> Tensor:
    """Float64 twin of `vivim.scan.operators.causal_conv1d`; same arguments and result (K, B, L, D).

    With `tail` (B, taps - 1, D), that of `vivim.scan.streaming.streaming_conv1d`.
    """
    batch, length, _ = x.shape
    width, taps = weight.shape[1:]
    x, weight, bias = x[..., :width].double(), weight.double(), bias.double()
    out = torch.empty(len(directions), batch, length, width, dtype=torch.float64)
    for k, direction in enumerate(directions):
        token = token_of_step(length, rows, direction)
        for step in range(length):
            total = bias[k].expand(batch, width).clone()
            for tap in range(taps):
                source = step - (taps - 1) + tap
                if source >= 0:
                    total += weight[k, :, tap] * x[:, token[source]]  # (B, D)
                elif tail is not None and k == 0:
                    total += weight[k, :, tap] * tail[:, source].double()  # source -1 is the last before the start
            out[k, :, token[step]] = total * torch.sigmoid(total)
    return out


def selective_scan_reference(
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
    """Float64 twin of `vivim.scan.operators.selective_scan`; same arguments and result (B, L, D)."""
    return streaming_scan_reference(xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, None, rows, directions, mean)[0]


def streaming_scan_reference(
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
    """Float64 twin of `vivim.scan.streaming.streaming_scan`; same arguments and results (B, L, D), (B, N, D)."""
    xc, dbc, A_log2e = xc.double(), dbc.double(), A_log2e.double()
    dt_weight, dt_bias, d_skip = dt_weight.double(), dt_bias.double(), d_skip.double()
    _, batch, length, width = xc.shape
    states, rank = A_log2e.shape[-1], dt_weight.shape[-1]
    final = torch.zeros(batch, states, width, dtype=torch.float64)
    y = torch.zeros(batch, length, width, dtype=torch.float64)
    for k, direction in enumerate(directions):
        A = A_log2e[k] * math.log(2.0)  # (D, N)
        h = torch.zeros(batch, width, states, dtype=torch.float64)
        if initial is not None and k == 0:
            h = initial.double().transpose(1, 2)
        for token in token_of_step(length, rows, direction):
            u = xc[min(k, xc.shape[0] - 1), :, token]  # (B, D)
            low, b, c = dbc[k, :, token].split([rank, states, states], dim=-1)
            dt = torch.nn.functional.softplus(low @ dt_weight[k].T + dt_bias[k])  # (B, D)
            h = torch.exp(dt[..., None] * A) * h + (dt * u)[..., None] * b[:, None, :]  # (B, D, N)
            y[:, token] += (h * c[:, None, :]).sum(-1) + d_skip[k] * u
        if k == 0:
            final = h.transpose(1, 2)
    if mean:
        y = y / len(directions)
    if xz is not None:
        z = xz[..., -width:].double()
        y = y * z * torch.sigmoid(z)
    return y, final
