"""The authors' arithmetic without CUDA: the selective scan as one loop over all L steps, in the dtype of its input.

It is the loop of `vivim.scan.reference`, vectorised over what does not depend on the order of steps: time steps are
computed for all tokens at once, and the K directions and B clips advance together. (The authors' own CPU path, Mamba's
`selective_scan_ref`, takes the directions one after the other and stores exp(dt A) of all steps: slower, and larger.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from vivim.scan.reference import token_of_step

__all__ = ["sequential_scan"]


def sequential_scan(
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
    """Step-by-step twin of `vivim.scan.operators.selective_scan`; same arguments and result (B, L, D)."""
    count, batch, length, _ = dbc.shape
    width, rank, states = xc.shape[-1], dt_weight.shape[-1], A_log2e.shape[-1]
    tokens = [token_of_step(length, rows, direction) for direction in directions]

    def by_step(x: Tensor) -> Tensor:
        """(K, B, L, X) at token positions -> (L, K*B, X) in the order of each direction."""
        ordered = torch.stack([x[k, :, token] for k, token in enumerate(tokens)])
        return ordered.flatten(0, 1).transpose(0, 1).contiguous()

    x = xc.expand(count, -1, -1, -1)
    low, b, c = torch.split(dbc, [rank, states, states], dim=-1)
    dt = functional.softplus(low @ dt_weight.transpose(1, 2)[:, None] + dt_bias[:, None, None])  # (K, B, L, D)
    du, dt, b, c = by_step(dt * x), by_step(dt), by_step(b), by_step(c)
    A = (A_log2e * math.log(2.0)).repeat_interleave(batch, dim=0)  # (K*B, D, N)

    h = torch.zeros_like(A)
    y = torch.empty_like(dt)  # (L, K*B, D)
    for step in range(length):
        h = torch.exp(dt[step, ..., None] * A) * h + du[step, ..., None] * b[step, :, None]
        y[step] = (h * c[step, :, None]).sum(-1)

    total = torch.zeros_like(x[0])
    for k, token in enumerate(tokens):
        total[:, token] += y[:, k * batch : (k + 1) * batch].transpose(0, 1)
        total += d_skip[k] * x[k]
    if mean:
        total = total / count
    if xz is not None:
        total = total * functional.silu(xz[..., -width:])
    return total
