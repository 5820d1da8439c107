"""Stand-ins for the compiled packages of Mamba networks, at the binary boundary and nowhere above it.

Every fork's own Python runs as it is. Inside `with stand_ins(folders):` only the leaves that a CUDA compiler makes are
replaced, and all of it is undone at the end:

    selective_scan_cuda, _core, _oflex, _ndstate    extensions: .fwd becomes vivim::s6_scan
    causal_conv1d_cuda                              extension: .causal_conv1d_fwd, whatever its arity
    mamba_ssm.ops.triton.*                          Triton kernels: layer norms and RMS norms in PyTorch
    triton, triton.language                         kernels are decorated and never launched
    causal_conv1d, selective_scan, mamba_ssm        Python packages, where neither folders nor environment have one;
                                                    mamba_ssm with `Mamba`, its names and shapes
    torch.cuda.device                               around a launch that does not happen: nothing, for a CPU device
    packages named as absent                        readers of pictures, loggers, plots: imported by the network's
                                                    file, and refused where one of their names is called

A package that can be imported is left alone, but for Triton's. What is imported from the folders in between is
forgotten at the end too, so that two forks of one package can be loaded one after the other.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # asks for Triton when it is imported: it must not see the stand-in
import torch._inductor.runtime.hints
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._triton import has_triton_package

import vivim.scan.s6

__all__ = ["ScanCall", "Unsupported", "plain_loops", "recorded_scans", "scan", "stand_ins", "without_triton"]


class Unsupported(NotImplementedError):
    """What a stand-in does not compute: an answer to the network's own code, not one of our errors."""


@dataclass(frozen=True)
class ScanCall:
    """One call of a scan, while a network runs.

    Attributes:
        file, line: in the network's own code.
        batch, width, length, groups, states: B, D, L, G, N.
    """

    file: str
    line: int
    batch: int
    width: int
    length: int
    groups: int
    states: int


_loops: ContextVar[bool] = ContextVar("_loops", default=False)
_record: ContextVar[list[ScanCall] | None] = ContextVar("_record", default=None)
_folders: ContextVar[tuple[Path, ...]] = ContextVar("_folders", default=())


@contextmanager
def plain_loops() -> Iterator[None]:
    """Compute scans as mamba_ssm's `selective_scan_ref` does, a step at a time, in the precision of the data."""
    token = _loops.set(True)
    try:
        yield
    finally:
        _loops.reset(token)


@contextmanager
def recorded_scans() -> Iterator[list[ScanCall]]:
    """The calls that are made inside, in order."""
    calls: list[ScanCall] = []
    token = _record.set(calls)
    try:
        yield calls
    finally:
        _record.reset(token)


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """`selective_scan_fn` on vivim::s6_scan; what is no real-valued S6 is refused by name."""
    if A.is_complex():
        raise Unsupported("a complex A (of S4) is not exported")
    if B.dim() == 2 or C.dim() == 2:
        raise Unsupported("B or C that are the same at every step are not exported")
    B = B.unsqueeze(1) if B.dim() == 3 else B
    C = C.unsqueeze(1) if C.dim() == 3 else C
    if B.shape[1] != C.shape[1]:
        raise Unsupported("B and C in different numbers of groups are not exported")
    _note(u, A, B)
    delta, B, C = delta.to(u.dtype), B.to(u.dtype), C.to(u.dtype)
    if _loops.get():
        y = _loop(u, delta, A, B, C, D, delta_bias, bool(delta_softplus))
    else:
        with torch._C.DisableTorchFunction():  # of `vivim_export.foreign.parity.doubled`, which says float32 of float64
            y = vivim.scan.s6.s6_scan(u, delta, A, B, C, D, delta_bias, bool(delta_softplus))
    y = y if out_dtype is None else y.to(out_dtype)
    return y if z is None else y * functional.silu(z)


def _note(u: Tensor, A: Tensor, B: Tensor) -> None:
    calls = _record.get()
    if calls is None:
        return
    file, line = _their_line()
    sizes = (u.shape[0], u.shape[1], u.shape[2], B.shape[1], A.shape[1])
    calls.append(ScanCall(file, line, *(int(size) for size in sizes)))


def _their_line() -> tuple[str, int]:
    """Where the network's own code is, seen from a stand-in: the innermost line of a module, not of an operator."""
    folders = _folders.get()
    best = ("", 0)
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        inside = any(Path(file).is_relative_to(folder) for folder in folders)
        if inside and isinstance(frame.f_locals.get("self"), nn.Module):
            return file, frame.f_lineno
        if inside and not best[0]:
            best = (file, frame.f_lineno)
        frame = frame.f_back
    return best


def _loop(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    """mamba_ssm's `selective_scan_ref` in the precision of the data, without its (B, D, L, N) arrays."""
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    x, dt, a, b, c = (tensor.to(dtype) for tensor in (u, delta, A, B, C))
    dt = dt if bias is None else dt + bias.to(dtype)[:, None]
    dt = functional.softplus(dt) if softplus else dt
    (batch, width, length), groups, states = u.shape, B.shape[1], A.shape[1]
    wide = (batch, groups, width // groups)
    a, dt_g, du = a.view(groups, -1, states), dt.view(*wide, length), (dt * x).view(*wide, length)
    h = x.new_zeros(*wide, states)
    rows = []
    for step in range(length):
        h = torch.exp(dt_g[..., step, None] * a) * h + du[..., step, None] * b[:, :, None, :, step]
        rows.append((h * c[:, :, None, :, step]).sum(-1))
    y = torch.stack(rows, -1).view(batch, width, length)
    y = y if skip is None else y + x * skip.to(dtype)[:, None]
    return y.to(u.dtype)


# --- extensions ---------------------------------------------------------------------------------------------------


def _mamba_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> list[Tensor]:
    out = scan(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
    states = u.new_zeros(u.shape[0], u.shape[1], 1, 2 * A.shape[1])  # of the chunks: read by a backward pass alone
    return [out, states] if z is None else [out, states, out * functional.silu(z)]


def _vmamba_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    nrows: int = 1,
    out_float: bool = False,
) -> list[Tensor]:
    out = scan(u, delta, A, B, C, D, None, delta_bias, delta_softplus, torch.float32 if out_float else None)
    return [out, u.new_zeros(())]


def _conv_fwd(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """x (B, D, L), weight (D, taps), bias, [seq_idx, initial_states, final_states,] silu: the middle came later."""
    if any(item is not None for item in rest[:-1]):
        raise Unsupported("causal_conv1d with seq_idx or states is not exported")
    taps = weight.shape[-1]
    y = functional.conv1d(x, weight.unsqueeze(1), bias, padding=taps - 1, groups=x.shape[1])[..., : x.shape[-1]]
    return functional.silu(y) if rest[-1] else y


# --- Python packages ----------------------------------------------------------------------------------------------


def _causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Any = None,
    initial_states: Any = None,
    return_final_states: bool = False,
    final_states_out: Any = None,
    activation: str | None = None,
) -> Tensor:
    if isinstance(seq_idx, str):  # the order of the first releases: x, weight, bias, activation
        seq_idx, activation = None, seq_idx
    return _conv_fwd(x, weight, bias, seq_idx, initial_states, final_states_out, activation in ("silu", "swish"))


def _selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *_: Any,
    **__: Any,
) -> Tensor:
    if return_last_state:
        raise Unsupported("a scan that returns its last state is not exported")
    return scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)


def _inner_without_projection(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_proj: Tensor,
    dt_proj: Tensor,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    *_: Any,
    **__: Any,
) -> Tensor:
    if not (B is C is B_proj_bias is C_proj_bias is None):
        raise Unsupported("mamba_inner_fn with a B or C of its own is not exported")
    rank, states = dt_proj.shape[1], A.shape[-1]
    x, z = xz.chunk(2, dim=1)
    x = _conv_fwd(x, conv_weight.squeeze(1), conv_bias, True)
    low, b, c = functional.linear(x.transpose(1, 2), x_proj).split([rank, states, states], dim=-1)
    delta = functional.linear(low, dt_proj).transpose(1, 2)
    return scan(x, delta, A, b.transpose(1, 2), c.transpose(1, 2), D, z, delta_bias, delta_softplus)


def _inner(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_proj: Tensor,
    dt_proj: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    A: Tensor,
    *rest: Any,
    **named: Any,
) -> Tensor:
    y = _inner_without_projection(xz, conv_weight, conv_bias, x_proj, dt_proj, A, *rest, **named)
    return functional.linear(y.transpose(1, 2), out_weight, out_bias)


# Of mamba_ssm.Mamba; they change how it starts to be trained, or say how it is computed.
_MAMBA_OPTIONS = {"dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path", "layer_idx", "device"}
_MAMBA_OPTIONS |= {"dtype"}


class _Mamba(nn.Module):
    """mamba_ssm.Mamba with the names and shapes of its parameters, for code without a fork beside it."""

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        conv_bias: bool = True,
        bias: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        known = [
            "dt_min",
            "dt_max",
            "dt_init",
            "dt_scale",
            "dt_init_floor",
            "use_fast_path",
            "layer_idx",
            "device",
            "dtype",
        ]
        if unknown := sorted(set(options) - set(known)):
            raise TypeError(f"Mamba({', '.join(unknown)}) is no option of mamba-ssm; name your fork of it with --path")
        inner, rank = int(expand * d_model), -(-d_model // 16) if dt_rank == "auto" else int(dt_rank)
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=bias)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1, bias=conv_bias)
        self.x_proj, self.dt_proj = nn.Linear(inner, rank + 2 * d_state, bias=False), nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=bias)

    def forward(self, hidden_states: Tensor, inference_params: Any = None, **_: Any) -> Tensor:
        if inference_params is not None:
            raise Unsupported("decoding with a state is not exported")
        return _inner(
            self.in_proj(hidden_states).transpose(1, 2),
            self.conv1d.weight,
            self.conv1d.bias,
            self.x_proj.weight,
            self.dt_proj.weight,
            self.out_proj.weight,
            self.out_proj.bias,
            -torch.exp(self.A_log.float()),
            None,
            None,
            self.D.float(),
            self.dt_proj.bias.float(),
        )


_Mamba.__name__ = _Mamba.__qualname__ = "Mamba"  # what recognisers and printed networks call it


# --- Triton's norms -----------------------------------------------------------------------------------------------


class _RMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float = 1e-5, device: Any = None, dtype: Any = None, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Any:
        return _rms_norm_fn(x, self.weight, None, residual, prenorm, residual_in_fp32, self.eps)


_RMSNorm.__name__ = _RMSNorm.__qualname__ = "RMSNorm"


def _rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
    **_: Any,
) -> Any:
    total = x if residual is None else x + residual
    y = functional.rms_norm(total, (total.shape[-1],), weight, eps)
    y = y if bias is None else y + bias
    return (y, total) if prenorm else y


def _layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    **_: Any,
) -> Any:
    if is_rms_norm:
        return _rms_norm_fn(x, weight, bias, residual, prenorm, residual_in_fp32, eps)
    total = x if residual is None else x + residual
    y = functional.layer_norm(total, (total.shape[-1],), weight, bias, eps)
    return (y, total) if prenorm else y


class _Triton(types.ModuleType):
    """triton, triton.language: an attribute is a decorator that returns what it decorates."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("autotune", "heuristics"):
            return lambda *a, **k: lambda f: f
        if name == "Config":
            return lambda *a, **k: None
        return lambda f=None, *a, **k: f if f is not None else (lambda g: g)


class _Name(type):
    """A name of a package that is absent: it may be imported and inherited from, and not called."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent_name(f"{cls.__module__}.{cls.__qualname__}", name)

    def __call__(cls, *_: Any, **__: Any) -> Any:
        absent = next(base for base in reversed(cls.__mro__[:-1]) if isinstance(base, _Name))
        package = absent.__module__.partition(".")[0]
        raise Unsupported(
            f"{absent.__module__}.{absent.__qualname__} is called, and {package} was said to be absent; install it"
        )


def _absent_name(module: str, name: str) -> Any:
    return _Name(name, (), {"__module__": module})


class _Absent(types.ModuleType):
    """A package that is absent, and every module in it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent_name(self.__name__, name)


class _Absence(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds absent packages, after everything that can be found otherwise."""

    def __init__(self, packages: Iterable[str]) -> None:
        self.packages = frozenset(packages)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] not in self.packages:
            return None
        return importlib.util.spec_from_loader(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """It is empty."""


class _Device(torch.cuda.device):
    def __new__(cls, device: Any) -> Any:
        is_cuda = not isinstance(device, int) and torch.device(device).type != "cuda"
        return contextlib.nullcontext() if is_cuda else torch.cuda.device.__new__(cls)


# --- putting them in, and taking them out -------------------------------------------------------------------------


def _is_missing(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is None
    except (ImportError, ValueError):
        return name not in sys.modules


def _put(module: types.ModuleType, is_package: bool = False, **members: Any) -> None:
    name = module.__name__
    vars(module).update(members)
    module.__spec__ = importlib.util.spec_from_loader(name, loader=None, is_package=is_package)
    if is_package:
        module.__path__ = []
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)


def _module(name: str, **members: Any) -> None:
    _put(types.ModuleType(name), **members)


def _package(name: str, **members: Any) -> None:
    _put(types.ModuleType(name), True, **members)


def _install() -> None:
    for suffix, fwd in (("", _mamba_fwd), ("_core", _vmamba_fwd), ("_oflex", _vmamba_fwd), ("_ndstate", _vmamba_fwd)):
        if _is_missing(f"selective_scan_cuda{suffix}"):
            _module(f"selective_scan_cuda{suffix}", fwd=fwd)
    if _is_missing("causal_conv1d_cuda"):
        _module("causal_conv1d_cuda", causal_conv1d_fwd=_conv_fwd)
    if _is_missing("causal_conv1d"):
        _package("causal_conv1d", causal_conv1d_fn=_causal_conv1d_fn, causal_conv1d_update=None)
    interface: dict[str, Callable[..., Any]] = {
        "selective_scan_fn": _selective_scan_fn,
        "selective_scan_ref": _selective_scan_fn,
    }
    if _is_missing("selective_scan"):
        _package("selective_scan", **interface)
    if _is_missing("triton"):
        for name in ("triton", "triton.language"):
            _put(_Triton(name), True, __version__="0.0.0")
    if _is_missing("mamba_ssm"):
        _package("mamba_ssm", Mamba=_Mamba, __version__="0", **interface)
        _package("mamba_ssm.modules")
        _module("mamba_ssm.modules.mamba_simple", Mamba=_Mamba)
        _package("mamba_ssm.ops")
        _module(
            "mamba_ssm.ops.selective_scan_interface",
            mamba_inner_fn=_inner,
            mamba_inner_fn_no_out_proj=_inner_without_projection,
            **interface,
        )
        _package("mamba_ssm.ops.triton")
    for name in ("layernorm", "layer_norm"):
        _module(
            f"mamba_ssm.ops.triton.{name}", RMSNorm=_RMSNorm, layer_norm_fn=_layer_norm_fn, rms_norm_fn=_rms_norm_fn
        )
    _module("mamba_ssm.ops.triton.selective_state_update", selective_state_update=None)
    # The language models that mamba_ssm imports on its way, and with them transformers.
    _module("mamba_ssm.models.mixer_seq_simple", MambaLMHeadModel=None)
    _module("mamba_ssm.utils.generation", GenerationMixin=object, InferenceParams=None)
    _module("mamba_ssm.utils.hf", load_config_hf=None, load_state_dict_hf=None)


@contextmanager
def stand_ins(folders: Iterable[str | Path] = (), absent: Iterable[str] = ()) -> Iterator[None]:
    """Import and run Mamba networks without their CUDA packages, inside; everything is as it was afterwards.

    Args:
        folders: of the network's code, put in front of the import path.
        absent: packages that its file imports and the network does not compute with; one that is installed is used.
    """
    roots = tuple(Path(folder).resolve() for folder in folders)
    has_triton_package()  # the answer is cached: torch never sees the stand-in
    before, path, device = dict(sys.modules), list(sys.path), torch.cuda.device
    token = _folders.set(roots)
    sys.path[:0] = [str(root) for root in roots]
    absence = _Absence(absent)
    sys.meta_path.append(absence)
    importlib.invalidate_caches()
    try:
        _install()
        torch.cuda.device = _Device  # type: ignore[misc]
        yield
    finally:
        torch.cuda.device = device  # type: ignore[misc]
        sys.path[:] = path
        sys.meta_path.remove(absence)
        _folders.reset(token)
        _forget(before, roots)
        importlib.invalidate_caches()


@contextmanager
def without_triton() -> Iterator[None]:
    """Hide the stand-in for Triton, inside: torch.export asks for Triton itself, and takes the stand-in for one."""
    hidden = {name: module for name, module in sys.modules.items() if isinstance(module, _Triton)}
    for name in hidden:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.modules.update(hidden)


def _forget(before: dict[str, types.ModuleType], roots: tuple[Path, ...]) -> None:
    """Drop the stand-ins, and what came from the folders; what else was imported meanwhile may stay."""
    for name, module in list(sys.modules.items()):
        if before.get(name) is module:
            continue
        spec = getattr(module, "__spec__", None)
        file = getattr(module, "__file__", None)
        places = [file] if file else _search_path(module)
        is_theirs = any(Path(place).resolve().is_relative_to(root) for place in places for root in roots)
        has_no_loader = file is None and spec is not None and spec.loader is None and not places
        is_ours = has_no_loader or isinstance(module, _Absent)
        if name in before:
            sys.modules[name] = before[name]
        elif is_theirs or is_ours:
            del sys.modules[name]


def _search_path(module: types.ModuleType) -> list[str]:
    try:
        return list(getattr(module, "__path__", []))
    except KeyError:  # of a package without __init__.py whose parent is forgotten already
        return [str(path) for path in getattr(getattr(module, "__path__", None), "_path", [])]
