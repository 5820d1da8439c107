"""Gradients of the two operators on a GPU through the fused kernels of causal-conv1d and mamba-ssm.

A gradient computes its operator once more, with the package's function in the place of the convolution or of the
recurrence and ordinary tensor operations around it, and lets autograd go back through that. All K directions go
through one call, side by side as channels (K*D), for mamba-ssm with B and C in K groups.

What the packages' kernels take (csrc/causal_conv1d.cpp of causal-conv1d 1.0 to 1.6, csrc/selective_scan/
selective_scan.cpp of mamba-ssm 1.0 to 2.3) and how it is met:

    data float32, float16 or bfloat16, B and C as u; A, D and the bias float32   all is cast to float32
    the tensors of a scan contiguous along L, those of a convolution along L or channels      laid out so
    channels-last convolution: a multiple of 8 channels; 2 to 4 taps             else the vectorised form
    at most 256 states; offsets of 32 bits in all but the latest                 else the vectorised form

Float32 throughout, although the packages have kernels for 16 bits: the results are then as exact as those of the
vectorised form, in which time steps and sums over directions are float32 too.
"""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter, functional

from vivim.scan.orders import from_order, to_order

__all__ = ["conv_gradients", "is_plain", "scan_gradients", "takes_conv", "takes_scan"]

_DEVICE = "cuda"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MAX_STATES = 256
_MAX_ELEMENTS = 1 << 32  # of (B, K*D, L)
_LN2 = math.log(2.0)


# --- the choice ---------------------------------------------------------------------------------------------------


def takes_conv(x: Tensor, weight: Tensor) -> bool:
    """Whether the gradients of a convolution of x (B, L, >= D) with weight (K, D, taps) are for `conv_gradients`."""
    count, width, taps = weight.shape
    fits = 2 <= taps <= 4 and width % 8 == 0 and x.shape[0] * x.shape[1] * count * width < _MAX_ELEMENTS
    return fits and _suits(x) and _causal_conv1d_fn() is not None


def takes_scan(xc: Tensor, A_log2e: Tensor) -> bool:
    """Whether the gradients of a scan of xc (K or 1, B, L, D) with A_log2e (K, D, N) are for `scan_gradients`."""
    count, width, states = A_log2e.shape
    fits = states <= _MAX_STATES and xc.shape[1] * xc.shape[2] * count * width < _MAX_ELEMENTS
    return fits and _suits(xc) and _selective_scan_fn() is not None


def _suits(x: Tensor) -> bool:
    """Whether x is on a GPU, of a type that the kernels have, and the backward pass a plain one.

    One that must be repeatable is not for them either, since they add up in any order.
    """
    fits = x.device.type == _DEVICE and x.dtype in _DTYPES
    return fits and is_plain(x) and not torch.are_deterministic_algorithms_enabled()


def is_plain(x: Tensor) -> bool:
    """Whether a backward pass that works on x is for compiled kernels.

    Not one that torch.compile traces, with tensors that have no data, and not one that is itself differentiated, since
    they have no second derivative.
    """
    return type(x) in (Tensor, Parameter) and not torch.is_grad_enabled()


@functools.cache
def _causal_conv1d_fn() -> Callable[..., Tensor] | None:
    """causal_conv1d.causal_conv1d_fn, or None where it is not installed."""
    package = _installed("causal-conv1d", "causal_conv1d")
    return None if package is None else package.causal_conv1d_fn


@functools.cache
def _selective_scan_fn() -> Callable[..., Tensor] | None:
    """mamba_ssm's selective_scan_fn, or None where it is not installed."""
    interface = _installed("mamba-ssm", "mamba_ssm.ops.selective_scan_interface")
    if interface is None:
        return None
    # Versions after 2.3.2 leave the extension out unless asked for it; the function then fails only when it is called.
    if getattr(interface, "selective_scan_cuda", None) is None:
        _warn("mamba-ssm", "it was built without selective_scan_cuda (MAMBA_KEEP_CUDA_BUILD=TRUE when it is installed)")
        return None
    return interface.selective_scan_fn


def _installed(package: str, module: str) -> Any:
    """The module; None where there is none, with a warning where there is one that cannot be imported."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # an extension that was built for another torch fails in any way
        if not isinstance(error, ModuleNotFoundError) or error.name != module.partition(".")[0]:
            _warn(package, f"{type(error).__name__}: {error}")
        return None


def _warn(package: str, why: str) -> None:
    message = f"{package} is installed but cannot be used, gradients take the slower PyTorch form: {why}"
    warnings.warn(message, RuntimeWarning, stacklevel=2)


# --- the gradients ------------------------------------------------------------------------------------------------


def conv_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: list[int]
) -> tuple[Tensor, ...]:
    """Of x, weight and bias, each in its own dtype, for a gradient (K, B, L, D) of `causal_conv1d`'s result."""

    def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        fused = _causal_conv1d_fn()
        assert fused is not None
        count, width, _ = weight.shape
        ordered = torch.cat([to_order(x[..., :width], rows, d) for d in directions], dim=-1)  # (B, L, K*D)
        # Channels last: the transposed view is taken as it is.
        out = fused(ordered.contiguous().mT, weight.flatten(0, 1), bias.flatten(), activation="silu").mT
        parts = out.unflatten(-1, (count, width)).unbind(-2)  # K times (B, L, D)
        return torch.stack([from_order(part, rows, d) for part, d in zip(parts, directions, strict=True)])

    x_grad, weight_grad, bias_grad = _gradients(convolve, grad, (x, weight, bias))
    assert x_grad is not None and weight_grad is not None and bias_grad is not None
    return x_grad, weight_grad, bias_grad


def scan_gradients(
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
) -> tuple[Tensor | None, ...]:
    """Of the seven tensors, each in its own dtype (None for no gate), for a gradient (B, L, D) of `selective_scan`."""

    def scan(
        xc: Tensor, dbc: Tensor, xz: Tensor | None, A_log2e: Tensor, dt_weight: Tensor, dt_bias: Tensor, d_skip: Tensor
    ) -> Tensor:
        fused = _selective_scan_fn()
        assert fused is not None
        count, width, states = A_log2e.shape
        u = [to_order(xc[min(k, xc.shape[0] - 1)], rows, d).mT for k, d in enumerate(directions)]  # K times (B, D, L)
        columns = torch.stack([to_order(dbc[k], rows, d).mT for k, d in enumerate(directions)], dim=1)
        low, b, c = columns.split([dt_weight.shape[-1], states, states], dim=2)  # (B, K, R, L), twice (B, K, N, L)
        y = fused(
            torch.cat(u, dim=1),  # (B, K*D, L)
            (dt_weight @ low).flatten(1, 2),  # (B, K*D, L), the bias and softplus are inside
            A_log2e.flatten(0, 1) * _LN2,
            b,
            c,
            d_skip.flatten(),
            delta_bias=dt_bias.flatten(),
            delta_softplus=True,
        )
        parts = y.unflatten(1, (count, width)).unbind(1)  # K times (B, D, L)
        total = sum(from_order(part.mT, rows, d) for part, d in zip(parts, directions, strict=True))
        assert isinstance(total, Tensor)
        if mean:
            total = total / count
        return total if xz is None else total * functional.silu(xz[..., -width:])

    return _gradients(scan, grad, (xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip))


def _gradients(
    function: Callable[..., Tensor], grad: Tensor, inputs: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """Of the inputs, each in its own dtype, where the function takes float32 (float64) copies; None for None."""
    assert inputs[0] is not None
    wide = torch.promote_types(inputs[0].dtype, torch.float32)
    with torch.enable_grad():
        leaves = [None if t is None else t.detach().to(wide).requires_grad_() for t in inputs]
        value = function(*leaves)
    found = iter(torch.autograd.grad(value, [leaf for leaf in leaves if leaf is not None], grad.to(wide)))
    return tuple(None if t is None else next(found).to(t.dtype) for t in inputs)
