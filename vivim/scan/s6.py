"""The plain S6 scan as one operator, `vivim::s6_scan`: what other people's Mamba networks call `selective_scan_fn`.

    dt_l = softplus(delta_l + bias)               or delta_l + bias
    h_l  = exp(dt_l A) h_{l-1} + dt_l B_l u_l      h (D, N)
    y_l  = C_l h_l + skip u_l

It is the contract of mamba_ssm's `selective_scan_fn` without the gate: channels first, D = G*E channels in G groups
that share their B and C, time steps already projected, nothing known of directions. Whatever a fork does around it
(flips, windows, four directions stacked as four groups) stays in the fork's own Python. `vivim.scan.operators` has the
fused form for the modules that fit it.

State and recurrence are float32 (float64 for float64 input) whatever the inputs are. It has no gradient: it is made to
export and to judge networks, not to train them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vivim.scan.kernels import CpuLibrary, KernelLibrary, cpu_library, library
from vivim.scan.operators import _Chunks, _in_its_own_precision

__all__ = ["s6_scan", "s6_scan_reference"]

_LOG2E = math.log2(math.e)


@torch.library.custom_op("vivim::s6_scan", mutates_args=())
def s6_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    """The scan over the last axis.

    Args:
        u, delta: (B, D, L) with D = G*E, the channels of a group side by side.
        A: (D, N), real and negative, its powers of e.
        B, C: (B, G, N, L).
        skip: (D,), or None for none; mamba_ssm's D.
        bias: (D,), or None for none; mamba_ssm's delta_bias.
        softplus: take the softplus of delta + bias.

    Returns:
        (B, D, L), dtype of u.
    """
    _check(u, delta, A, B, C, skip, bias)
    return _chunked(u, delta, A, B, C, skip, bias, softplus)


@s6_scan.register_kernel("cuda")
def _s6_scan_cuda(*arguments: Any) -> Tensor:
    return _compiled(library(), *arguments)


@s6_scan.register_kernel("cpu")
def _s6_scan_cpu(*arguments: Any) -> Tensor:
    return _compiled(cpu_library(), *arguments)


def _compiled(
    kernels: KernelLibrary | CpuLibrary | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    """`s6_scan` by the compiled kernels of a device, where there are any that take these tensors."""
    _check(u, delta, A, B, C, skip, bias)
    compute = kernels.s6_scan if kernels and kernels.takes_s6(u, delta, A, B, C) else _chunked
    return compute(u, delta, A, B, C, skip, bias, softplus)


@s6_scan.register_fake
def _s6_scan_fake(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    return u.new_empty(u.shape)


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None, bias: Tensor | None) -> None:
    """ValueError where shapes contradict each other."""
    if u.ndim != 3 or B.ndim != 4 or A.ndim != 2 or A.is_complex():
        raise ValueError(
            f"u is {tuple(u.shape)}, A {tuple(A.shape)} of {A.dtype}, B {tuple(B.shape)}; expected (B, D, L), real "
            "(D, N) and (B, G, N, L)"
        )
    (batch, width, length), states, groups = u.shape, A.shape[1], B.shape[1]
    if groups < 1 or width % groups:
        raise ValueError(f"{width} channels do not divide into {groups} groups")
    columns = (batch, groups, states, length)
    for name, tensor, shape in (
        ("delta", delta, (batch, width, length)),
        ("A", A, (width, states)),
        ("B", B, columns),
        ("C", C, columns),
        ("skip", skip, (width,)),
        ("bias", bias, (width,)),
    ):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}; expected {shape}")


@_in_its_own_precision
def _chunked(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    (batch, width, length), states, groups = u.shape, A.shape[1], B.shape[1]
    if not u.numel():
        return u.new_empty(u.shape)
    inner = width // groups

    def by_group(x: Tensor, channels: int) -> Tensor:
        """(B, G*X, L) or (B, G, X, L) -> (B*G, L, X)."""
        return x.to(dtype).reshape(batch * groups, channels, length).transpose(1, 2)

    time = delta.to(dtype)
    if bias is not None:
        time = time + bias.to(dtype)[:, None]
    if softplus:
        time = functional.softplus(time)
    powers = (A.to(dtype) * _LOG2E).view(groups, inner, states).transpose(1, 2)  # (G, N, E)
    scan = _Chunks(powers.repeat(batch, 1, 1), length)
    scan.fill(slice(None), by_group(time, inner), by_group(u, inner), by_group(B, states), by_group(C, states))
    y = scan.joined(scan.forward()).transpose(1, 2).reshape(batch, width, length)
    if skip is not None:
        y = y + u.to(dtype) * skip.to(dtype)[:, None]
    return y.contiguous().to(u.dtype)


def s6_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    """Float64 twin of `s6_scan`, one loop over the steps; same arguments and result."""
    u, delta, A, B, C = (tensor.double() for tensor in (u, delta, A, B, C))
    (batch, width, length), states, groups = u.shape, A.shape[1], B.shape[1]
    of_channel = torch.arange(width) // (width // groups)
    h = torch.zeros(batch, width, states, dtype=torch.float64)
    y = torch.empty(batch, width, length, dtype=torch.float64)
    for step in range(length):
        dt = delta[:, :, step] + (0.0 if bias is None else bias.double())  # (B, D)
        if softplus:
            dt = dt.clamp(min=0) + torch.log1p(torch.exp(-dt.abs()))
        b, c = B[:, of_channel, :, step], C[:, of_channel, :, step]  # (B, D, N)
        h = torch.exp(dt[..., None] * A) * h + (dt * u[:, :, step])[..., None] * b
        y[:, :, step] = (h * c).sum(-1) + (0.0 if skip is None else skip.double()) * u[:, :, step]
    return y
