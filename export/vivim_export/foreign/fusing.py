"""Whole modules of others onto the fused operators: recognised by what they hold, and kept only where proven equal.

    SS2D    VMamba, VM-UNet, MedMamba, Swin-UMamba and their heirs: four directions over H x W of one shared input,
            their sum, no gate. Known by dt_projs_bias, A_logs, Ds, out_norm and a method forward_core.
    Mamba   forks of mamba_ssm with one, two (Vim, VideoMamba) or three directions (Vivim, SegMamba), gated. Known by
            the class's name, A_log, conv1d and x_proj.

A proof is two runs of the module and of its fused form: on the input that it gets in the network, and on noise of that
shape. What does not agree to `_EQUAL` stays as it is, on vivim::s6_scan, and the table says why. A file holds one body
of each operator, so that modules of one order of directions are fused, the most frequent; others stay.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vivim.scan.operators import causal_conv1d, selective_scan

__all__ = ["FusedSite", "Variant", "fused_modules"]

# Relative L2 between a module and its fused form in float32: each is within 1e-6 of float64, and another order, another
# sign or a missing term is off by 1e-2 at least.
_EQUAL = 2e-5
_SS2D = ("dt_projs_bias", "A_logs", "Ds", "out_norm")
_MAMBA = ("in_proj", "conv1d", "x_proj", "dt_proj", "A_log", "D", "out_proj")


@dataclass(frozen=True)
class Variant:
    """What an operator's body in a file depends on.

    Attributes:
        taps: of the causal convolution; 0 where there is none.
    """

    directions: tuple[int, ...]
    mean: bool
    gate: bool
    taps: int


@dataclass(frozen=True)
class FusedSite:
    """A module that was recognised.

    Attributes:
        name: in the network.
        kind: SS2D or Mamba.
        variant: that it was fused to; None where it stays as it is.
        error: relative L2 of the proof, or NaN where it could not be made.
        reason: why it stays.
    """

    name: str
    kind: str
    variant: Variant | None
    error: float
    reason: str = ""


@dataclass(frozen=True)
class _Call:
    """How the network calls a method of a module: the tensor that it works on, and what else it is given."""

    x: Tensor
    rest: tuple[Any, ...]
    named: dict[str, Any]


@dataclass(frozen=True)
class _Candidate:
    """A fused form: what replaces the attribute `site` of a module, and how a call of either is compared."""

    variant: Variant
    site: str
    call: Callable[..., Any]


def _log2e(logarithms: Tensor) -> Tensor:
    """A_log -> A in powers of two."""
    return -torch.exp(logarithms.float()) * math.log2(math.e)


def _total(result: Any) -> Tensor:
    """Four directions that a module adds up afterwards, or their sum already."""
    if isinstance(result, tuple | list):
        return torch.stack([part for part in result if part.ndim == result[0].ndim]).sum(0)
    return result


def _ss2d(module: nn.Module) -> Iterator[_Candidate]:
    m: Any = module
    if getattr(m, "x_proj_bias", None) is not None or m.dt_projs_bias is None or m.dt_projs_bias.numel() == 0:
        return
    # Stacked by hand, or a convolution in four groups (VMamba's file of one piece).
    weight, dt_weight = _stacked(m, "x_proj"), _stacked(m, "dt_projs")
    if weight is None or dt_weight is None or m.Ds.numel() % 4 or m.A_logs.shape[0] != m.Ds.numel():
        return
    width = m.Ds.numel() // 4
    if weight.numel() % (4 * width) or dt_weight.numel() % (4 * width):
        return
    weight = weight.reshape(4, -1, width)  # (4, R + 2N, D)
    x_proj = weight.transpose(1, 2).unsqueeze(1).contiguous()  # (4, 1, D, R + 2N)
    A = _log2e(m.A_logs).reshape(4, width, -1)
    dt_weight, dt_bias = dt_weight.reshape(4, width, -1), m.dt_projs_bias.float().reshape(4, width)
    skip = m.Ds.float().reshape(4, width)
    directions = [0, 2, 1, 3]

    def core(x: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, L, D), the sum over the directions."""
        tokens = x.flatten(2).transpose(1, 2).unsqueeze(0)
        columns = torch.matmul(tokens, x_proj.to(tokens.dtype))
        return selective_scan(tokens, columns, None, A, dt_weight, dt_bias, skip, x.shape[2], directions, False)

    def four(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, ...]:
        y = core(x).transpose(1, 2)  # (B, D, L)
        nothing = torch.zeros((), dtype=y.dtype)
        return y, nothing, nothing, nothing

    def normed(channel_first: bool) -> Callable[..., Tensor]:
        def run(x: Tensor, *_: Any, **__: Any) -> Tensor:
            batch, _width, height, columns = x.shape
            y = core(x)
            if channel_first:
                y = y.transpose(1, 2).reshape(batch, -1, height, columns)
            else:
                y = y.reshape(batch, height, columns, -1)
            return m.out_norm(y).to(x.dtype)

        return run

    variant = Variant(tuple(directions), False, False, 0)
    if hasattr(m, "channel_first"):
        yield _Candidate(variant, "forward_core", normed(bool(m.channel_first)))
    else:
        yield _Candidate(variant, "forward_core", four)
        yield _Candidate(variant, "forward_core", normed(False))


def _stacked(module: nn.Module, name: str) -> Tensor | None:
    found = getattr(module, f"{name}_weight", None)
    found = getattr(getattr(module, name, None), "weight", None) if found is None else found
    return found if isinstance(found, Tensor) else None


def _mamba(module: nn.Module) -> Iterator[_Candidate]:
    m: Any = module
    suffixes = [s for s in ("", "_b", "_s") if all(hasattr(m, name) for name in _names(s))]
    kind = getattr(m, "bimamba_type", None)
    if kind == "none" or (kind is None and not getattr(m, "bimamba", False)):
        suffixes = suffixes[:1]
    if kind == "v2":
        suffixes = suffixes[:2]
    if m.conv1d.bias is None or m.dt_proj.bias is None or m.x_proj.bias is not None:
        return

    def stack(pick: Callable[[str], Tensor]) -> Tensor:
        return torch.stack([pick(s) for s in suffixes]).contiguous()

    conv_w = stack(lambda s: getattr(m, f"conv1d{s}").weight.squeeze(1)).float()
    conv_b = stack(lambda s: getattr(m, f"conv1d{s}").bias).float()
    x_proj = stack(lambda s: getattr(m, f"x_proj{s}").weight).transpose(1, 2).unsqueeze(1).contiguous()
    A = stack(lambda s: _log2e(getattr(m, f"A{s}_log")))
    dt_w, dt_b = stack(lambda s: getattr(m, f"dt_proj{s}").weight), stack(lambda s: getattr(m, f"dt_proj{s}").bias)
    skip = stack(lambda s: getattr(m, f"D{s}")).float()
    directions = [0, 1, 2][: len(suffixes)]
    rows = int(getattr(m, "nslices", None) or getattr(m, "nframes", None) or 1) if len(suffixes) > 2 else 1
    divided = bool(getattr(m, "if_divide_out", False) or getattr(m, "if_devide_out", False))
    scale = getattr(m, "gamma", None) if getattr(m, "init_layer_scale", None) is not None else None

    def with_mean(mean: bool) -> Callable[..., Tensor]:
        def run(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
            xz = m.in_proj(hidden_states)
            xc = causal_conv1d(xz, conv_w, conv_b, rows, directions)
            columns = torch.matmul(xc, x_proj.to(xc.dtype))
            y = selective_scan(xc, columns, xz, A, dt_w, dt_b.float(), skip, rows, directions, mean)
            out = m.out_proj(y)
            return out if scale is None else out * scale

        return run

    for mean in (divided, not divided) if len(suffixes) > 1 else (True,):
        yield _Candidate(Variant(tuple(directions), mean, True, conv_w.shape[2]), "forward", with_mean(mean))


def _names(suffix: str) -> tuple[str, ...]:
    return (*(f"{name}{suffix}" for name in ("conv1d", "x_proj", "dt_proj", "D")), f"A{suffix}_log")


def _kind(module: nn.Module) -> tuple[str, Callable[[nn.Module], Iterator[_Candidate]]] | None:
    if all(hasattr(module, name) for name in _SS2D) and callable(getattr(module, "forward_core", None)):
        return "SS2D", _ss2d
    if type(module).__name__ == "Mamba" and all(hasattr(module, name) for name in _MAMBA):
        return "Mamba", _mamba
    return None


@contextmanager
def fused_modules(network: nn.Module, example: Tensor) -> Iterator[list[FusedSite]]:
    """What is recognised runs fused, inside; the network is as it was afterwards.

    Args:
        example: an input of the network.
    """
    sites = {name: (module, *known) for name, module in network.named_modules() if (known := _kind(module))}
    inputs = _inputs(network, example, {name: site[0] for name, site in sites.items()}) if sites else {}
    found: dict[str, tuple[_Candidate, float]] = {}
    report: dict[str, FusedSite] = {}
    for name, (module, kind, candidates) in sites.items():
        if name not in inputs:
            report[name] = FusedSite(name, kind, None, math.nan, "the network does not run it")
            continue
        best: tuple[_Candidate | None, float, str] = (None, math.nan, "it has parts that the fused operators lack")
        with torch.no_grad():
            for candidate in candidates(module):
                error, reason = _proof(module, candidate, inputs[name])
                if best[0] is None or error < best[1] or math.isnan(best[1]):
                    best = (candidate, error, reason)
                if not reason:
                    break
        chosen, error, reason = best
        if chosen is None or reason:
            report[name] = FusedSite(name, kind, None, error, reason)
        else:
            found[name] = (chosen, error)
    usual = Counter(candidate.variant for candidate, _ in found.values()).most_common(1)
    changed: list[tuple[nn.Module, str, Any]] = []
    try:
        for name, (candidate, error) in found.items():
            module, kind, _ = sites[name]
            if candidate.variant != usual[0][0]:
                reason = f"it has directions {list(candidate.variant.directions)}, most others another order"
                report[name] = FusedSite(name, kind, None, error, reason)
                continue
            changed.append((module, candidate.site, vars(module).get(candidate.site)))
            vars(module)[candidate.site] = candidate.call
            report[name] = FusedSite(name, kind, candidate.variant, error)
        yield [report[name] for name in sites]
    finally:
        for module, site, before in changed:
            if before is None:
                del vars(module)[site]
            else:
                vars(module)[site] = before


def _inputs(network: nn.Module, example: Tensor, modules: dict[str, nn.Module]) -> dict[str, _Call]:
    """What each module's method gets in one run of the network, the first time."""
    inputs: dict[str, _Call] = {}
    undo: list[Callable[[], None]] = []

    def watch(name: str, module: nn.Module) -> None:
        if _kind(module) is not None and hasattr(module, "forward_core"):
            before, old = vars(module).get("forward_core"), module.forward_core

            def record(x: Tensor, *rest: Any, **named: Any) -> Any:
                inputs.setdefault(name, _Call(x.detach().clone(), rest, named))
                return old(x, *rest, **named)  # type: ignore[operator]

            vars(module)["forward_core"] = record

            def restore() -> None:
                if before is None:
                    del vars(module)["forward_core"]
                else:
                    vars(module)["forward_core"] = before

            undo.append(restore)
        else:

            def note(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
                key = "hidden_states" if "hidden_states" in named else "x"
                given = positional[0] if positional else named.get(key)
                if isinstance(given, Tensor):
                    others = named if positional else {k: v for k, v in named.items() if k != key}
                    inputs.setdefault(name, _Call(given.detach().clone(), positional[1:], others))

            undo.append(module.register_forward_pre_hook(note, with_kwargs=True).remove)

    for name, module in modules.items():
        watch(name, module)
    try:
        with torch.no_grad():
            network(example)
    finally:
        for restore in undo:
            restore()
    return inputs


def _proof(module: nn.Module, candidate: _Candidate, own: _Call) -> tuple[float, str]:
    """The larger relative L2 of two inputs, and why they are not equal; "" where they are."""
    noise = torch.randn(own.x.shape, generator=torch.Generator().manual_seed(5), dtype=own.x.dtype)
    worst = 0.0
    for x in (own.x, noise):
        of = "itself does not run on its own"
        try:
            expected = _total(getattr(module, candidate.site)(x.clone(), *own.rest, **own.named))
            of = "its fused form does not run"
            result = candidate.call(x.clone(), *own.rest, **own.named)
            value = _total(result[0] if isinstance(result, tuple) else result)
        except Exception as error:  # of a module that is not what it looked like
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            return math.nan, f"{of}: {first}"
        if value.shape != expected.shape:
            return math.nan, f"its fused form gives {tuple(value.shape)}, itself {tuple(expected.shape)}"
        norm = float(expected.double().norm())
        error_here = float((value.double() - expected.double()).norm()) / norm if norm else float(value.norm())
        worst = max(worst, error_here if math.isfinite(error_here) else math.inf)
    return worst, "" if worst <= _EQUAL else f"its fused form differs by {worst:.1e}"
