"""The compiled kernels for PyTorch, through ctypes: those for CUDA (`plugins/include/vivim_kernels.h`), on torch's
current stream, and those for the CPU (`plugins/ort/vivim_ort.h`), on as many threads as torch has.

The first library is found by the environment variable VIVIM_KERNELS (a path), or as `lib/libvivim_kernels.so` inside
this package; the second as `vivim_runtime.sessions.native` says. Without them, tensors take vectorised PyTorch code.
"""

from __future__ import annotations

import ctypes
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from vivim_runtime.errors import KernelError
from vivim_runtime.sessions.native import NativeLibrary, native_library

__all__ = ["CpuLibrary", "KernelLibrary", "cpu_library", "library"]

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_MAX_DIRECTIONS = 4
_MAX_STATES, _MAX_RANK, _TAPS = 16, 64, 4
# xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip of `vivim.scan.operators.selective_scan`.
_ScanTensors: TypeAlias = tuple[Tensor, Tensor, "Tensor | None", Tensor, Tensor, Tensor, Tensor]
_S6_MAX_STATES = 256  # of the plain scan, wherever it is computed
# Of the kernels for the CPU.
_CPU_MAX_STATES, _CPU_MAX_RANK, _CPU_MAX_TAPS = 256, 1024, 8


class _ConvDesc(ctypes.Structure):
    """vivim_conv_desc."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("batch", "length", "width", "rows", "x_width", "direction_count")),
        ("directions", ctypes.c_int32 * _MAX_DIRECTIONS),
        ("dtype", ctypes.c_int32),
    ]


class _ScanDesc(ctypes.Structure):
    """vivim_scan_desc."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("batch", "length", "width", "rows", "rank", "states", "direction_count")),
        ("directions", ctypes.c_int32 * _MAX_DIRECTIONS),
        *((name, ctypes.c_int32) for name in ("shared_input", "mean", "gate_width", "dtype")),
    ]


class _S6Desc(ctypes.Structure):
    """vivim_s6_desc."""

    _fields_ = [
        (name, ctypes.c_int32) for name in ("batch", "length", "width", "groups", "states", "softplus", "dtype")
    ]


class _GradientsDesc(ctypes.Structure):
    """vivim_gradients_desc."""

    _fields_ = [(name, ctypes.c_int32) for name in ("sequences", "length", "width", "states")]


@functools.cache
def library() -> KernelLibrary | None:
    """The library that is installed, loaded once; None where there is none.

    Raises:
        KernelError: VIVIM_KERNELS names a file that is missing or no such library.
    """
    given = os.environ.get("VIVIM_KERNELS")
    path = Path(given) if given else Path(__file__).parents[1] / "lib" / "libvivim_kernels.so"
    return KernelLibrary(path) if given or path.is_file() else None


class _Convolutions(ABC):
    """The two convolutions of a library, which are one with a tail and without."""

    def causal_conv1d(self, x: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: Sequence[int]) -> Tensor:
        """See `vivim.scan.operators.causal_conv1d`; x is float32, float16 or bfloat16."""
        return self._convolution(x, None, weight, bias, rows, directions)

    def streaming_conv1d(
        self, x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor, rows: int, directions: Sequence[int]
    ) -> Tensor:
        """See `vivim.scan.streaming.streaming_conv1d`; x as for `causal_conv1d`."""
        return self._convolution(x, tail, weight, bias, rows, directions)

    @abstractmethod
    def _convolution(
        self, x: Tensor, tail: Tensor | None, weight: Tensor, bias: Tensor, rows: int, directions: Sequence[int]
    ) -> Tensor: ...


class KernelLibrary(_Convolutions):
    """A loaded `libvivim_kernels.so`. Tensors must lie where it computes: on a GPU, or on the CPU if it is emulated."""

    def __init__(self, path: str | Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
            self._library.vivim_kernels_error.restype = ctypes.c_char_p
            self._library.vivim_kernels_revision.restype = ctypes.c_char_p
            self._library.vivim_scan_tactic_name.restype = ctypes.c_char_p
            self._library.vivim_scan_workspace.restype = ctypes.c_size_t
        except (OSError, AttributeError) as error:
            raise KernelError(
                f"{path} is no library of Vivim's kernels ({error}); build it with: make plugins"
            ) from None
        self.revision = self._library.vivim_kernels_revision().decode()
        self.streams = hasattr(self._library, "vivim_streaming_scan")  # the first releases have none
        names = [self._library.vivim_scan_tactic_name(i) for i in range(self._library.vivim_scan_tactic_count())]
        self.tactics = tuple(name.decode() for name in names)
        self.s6_tactics = self._s6_tactics()

    def _s6_tactics(self) -> tuple[str, ...]:
        """The ways to compute a plain scan; none in a library of before."""
        if not hasattr(self._library, "vivim_s6_scan"):
            return ()
        self._library.vivim_s6_tactic_name.restype = ctypes.c_char_p
        self._library.vivim_s6_workspace.restype = ctypes.c_size_t
        names = [self._library.vivim_s6_tactic_name(i) for i in range(self._library.vivim_s6_tactic_count())]
        return tuple(name.decode() for name in names)

    @staticmethod
    def takes_conv(x: Tensor, weight: Tensor) -> bool:
        """Whether the kernels can compute a convolution with these tensors."""
        return x.dtype in _DTYPES and weight.shape[1] % 8 == 0 and weight.shape[2] == _TAPS

    @staticmethod
    def takes_scan(xc: Tensor, A_log2e: Tensor, dt_weight: Tensor) -> bool:
        """Whether the kernels can compute a scan with these tensors."""
        fits = A_log2e.shape[2] <= _MAX_STATES and dt_weight.shape[2] <= _MAX_RANK
        return xc.dtype in _DTYPES and xc.shape[3] % 8 == 0 and fits

    def _convolution(
        self, x: Tensor, tail: Tensor | None, weight: Tensor, bias: Tensor, rows: int, directions: Sequence[int]
    ) -> Tensor:
        x, (weight, bias) = x.contiguous(), _parameters(weight, bias)
        if weight.shape[2] != _TAPS:
            raise KernelError(f"the convolution has {weight.shape[2]} taps; the kernels take {_TAPS}")
        desc = _describe_conv(x, weight, rows, directions)
        xc = x.new_empty(len(directions), *x.shape[:2], weight.shape[1])
        if tail is None:
            run, tensors = self._library.vivim_causal_conv1d, [x, weight, bias, xc]
        else:
            run, tensors = self._library.vivim_streaming_conv1d, [x, _tail(tail, x, weight), weight, bias, xc]
        self._check(run(ctypes.byref(desc), *map(_pointer, tensors), _stream(x)))
        return xc

    def selective_scan(
        self,
        xc: Tensor,
        dbc: Tensor,
        xz: Tensor | None,
        A_log2e: Tensor,
        dt_weight: Tensor,
        dt_bias: Tensor,
        d_skip: Tensor,
        rows: int,
        directions: Sequence[int],
        mean: bool,
        tactic: int | None = None,
    ) -> Tensor:
        """See `operators.selective_scan`; `tactic` indexes `tactics`, None takes the library's own choice."""
        given = (xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip)
        return self._scan(given, None, rows, directions, mean, tactic)[0]

    def streaming_scan(
        self,
        xc: Tensor,
        dbc: Tensor,
        xz: Tensor | None,
        A_log2e: Tensor,
        dt_weight: Tensor,
        dt_bias: Tensor,
        d_skip: Tensor,
        initial: Tensor,
        rows: int,
        directions: Sequence[int],
        mean: bool,
        tactic: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `streaming.streaming_scan`; `tactic` as for `selective_scan`."""
        given = (xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip)
        y, final = self._scan(given, initial, rows, directions, mean, tactic)
        return y, final

    def _scan(
        self,
        given: _ScanTensors,
        initial: Tensor | None,
        rows: int,
        directions: Sequence[int],
        mean: bool,
        tactic: int | None,
    ) -> tuple[Tensor, ...]:
        xc = given[0]
        desc, inputs = _scan_inputs(given, rows, directions, mean)
        reference = ctypes.byref(desc)
        default = self._library.vivim_scan_default_tactic(reference)
        if default < 0:
            self._check(default)
        tactic = default if tactic is None else tactic
        size = self._library.vivim_scan_workspace(reference, tactic)
        workspace = torch.empty(size, dtype=torch.uint8, device=xc.device)
        y = xc.new_empty(xc.shape[1:])
        states = _states(given, initial)
        run = self._library.vivim_streaming_scan if states else self._library.vivim_selective_scan
        tensors = (*inputs, *states[:1], y, *states[1:], workspace)
        self._check(run(reference, tactic, *map(_pointer, tensors), ctypes.c_size_t(size), _stream(xc)))
        return y, *states[1:]

    def takes_s6(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> bool:
        """Whether the kernels can compute a plain scan with these tensors; a library of before has none."""
        return bool(self.s6_tactics) and _takes_s6(u, delta, A, B, C)

    def s6_scan(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        skip: Tensor | None,
        bias: Tensor | None,
        softplus: bool,
        tactic: int | None = None,
    ) -> Tensor:
        """See `vivim.scan.s6.s6_scan`; `tactic` indexes `s6_tactics`, None takes the library's own choice."""
        desc, tensors = _s6_inputs(u, delta, A, B, C, skip, bias, softplus)
        reference = ctypes.byref(desc)
        default = self._library.vivim_s6_default_tactic(reference)
        if default < 0:
            self._check(default)
        tactic = default if tactic is None else tactic
        size = self._library.vivim_s6_workspace(reference, tactic)
        workspace = torch.empty(size, dtype=torch.uint8, device=u.device)
        y = u.new_empty(u.shape)
        pointers = map(_pointer, (*tensors, y, workspace))
        self._check(self._library.vivim_s6_scan(reference, tactic, *pointers, ctypes.c_size_t(size), _stream(u)))
        return y

    def _check(self, status: int) -> None:
        if status:
            raise KernelError(self._library.vivim_kernels_error().decode())


@functools.cache
def cpu_library() -> CpuLibrary | None:
    """The kernels for the CPU that are installed, loaded once; None where there are none."""
    native = native_library()
    return None if native is None else CpuLibrary(native)


class CpuLibrary(_Convolutions):
    """A loaded `libvivim_ort.so`. Results do not depend on the number of threads."""

    def __init__(self, native: NativeLibrary) -> None:
        self._library = native.load()
        self._library.vivim_cpu_error.restype = ctypes.c_char_p
        self.streams = hasattr(self._library, "vivim_cpu_streaming_scan")  # the first releases have none

    @staticmethod
    def takes_conv(x: Tensor, weight: Tensor) -> bool:
        """Whether the kernels can compute a convolution with these tensors."""
        return x.dtype in _DTYPES and weight.shape[2] <= _CPU_MAX_TAPS and x.shape[0] > 0

    @staticmethod
    def takes_scan(xc: Tensor, A_log2e: Tensor, dt_weight: Tensor) -> bool:
        """Whether the kernels can compute a scan with these tensors."""
        fits = A_log2e.shape[2] <= _CPU_MAX_STATES and dt_weight.shape[2] <= _CPU_MAX_RANK
        return xc.dtype in _DTYPES and fits and xc.shape[1] > 0

    def _convolution(
        self, x: Tensor, tail: Tensor | None, weight: Tensor, bias: Tensor, rows: int, directions: Sequence[int]
    ) -> Tensor:
        x, (weight, bias) = x.contiguous(), _parameters(weight, bias)
        desc = _describe_conv(x, weight, rows, directions)
        xc = x.new_empty(len(directions), *x.shape[:2], weight.shape[1])
        if tail is None:
            run, tensors = self._library.vivim_cpu_causal_conv1d, [x, weight, bias, xc]
        else:
            run, tensors = self._library.vivim_cpu_streaming_conv1d, [x, _tail(tail, x, weight), weight, bias, xc]
        self._check(run(ctypes.byref(desc), weight.shape[2], *map(_pointer, tensors), torch.get_num_threads()))
        return xc

    def selective_scan(
        self,
        xc: Tensor,
        dbc: Tensor,
        xz: Tensor | None,
        A_log2e: Tensor,
        dt_weight: Tensor,
        dt_bias: Tensor,
        d_skip: Tensor,
        rows: int,
        directions: Sequence[int],
        mean: bool,
    ) -> Tensor:
        """See `vivim.scan.operators.selective_scan`."""
        given = (xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip)
        return self._scan(given, None, rows, directions, mean)[0]

    def streaming_scan(
        self,
        xc: Tensor,
        dbc: Tensor,
        xz: Tensor | None,
        A_log2e: Tensor,
        dt_weight: Tensor,
        dt_bias: Tensor,
        d_skip: Tensor,
        initial: Tensor,
        rows: int,
        directions: Sequence[int],
        mean: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `vivim.scan.streaming.streaming_scan`."""
        given = (xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip)
        y, final = self._scan(given, initial, rows, directions, mean)
        return y, final

    def _scan(
        self,
        given: _ScanTensors,
        initial: Tensor | None,
        rows: int,
        directions: Sequence[int],
        mean: bool,
    ) -> tuple[Tensor, ...]:
        xc = given[0]
        desc, inputs = _scan_inputs(given, rows, directions, mean)
        y = xc.new_empty(xc.shape[1:])
        states = _states(given, initial)
        run = self._library.vivim_cpu_streaming_scan if states else self._library.vivim_cpu_selective_scan
        tensors = (*inputs, *states[:1], y, *states[1:])
        self._check(run(ctypes.byref(desc), *map(_pointer, tensors), torch.get_num_threads()))
        return y, *states[1:]

    def takes_gradients(self, states: int) -> bool:
        """Whether the kernels have the gradients of a recurrence of that many states; a library of before has none."""
        return hasattr(self._library, "vivim_cpu_scan_gradients") and states <= _CPU_MAX_STATES

    def scan_gradients(
        self,
        dt: Tensor,
        u: Tensor,
        b: Tensor,
        c: Tensor,
        A_log2e: Tensor,
        d_skip: Tensor,
        initial: Tensor | None,
        grad: Tensor,
    ) -> tuple[Tensor, ...]:
        """Of h_l = exp2(dt_l A) h_{l-1} + dt_l u_l b_l, y_l = c_l h_l + skip u_l, in the order of a direction, float32.

        Args:
            dt, u: (S, L, D).
            b, c: (S, L, N).
            A_log2e, d_skip: (D, N) and (D).
            initial: (S, N, D), the state before the first step; None for zeros.
            grad: (S, L, D), of y.

        Returns:
            y, and the gradients of dt, u, b, c and, for each sequence, of A_log2e (S, N, D).
        """
        inputs = [None if t is None else t.contiguous() for t in (dt, u, b, c, A_log2e, d_skip, initial, grad)]
        sequences, length, width = dt.shape
        desc = _GradientsDesc(sequences, length, width, b.shape[2])
        found = [dt.new_empty(t.shape) for t in (dt, dt, u, b, c)]
        found.append(dt.new_empty(sequences, b.shape[2], width))
        pointers = map(_pointer, (*inputs, *found))
        self._check(self._library.vivim_cpu_scan_gradients(ctypes.byref(desc), *pointers, torch.get_num_threads()))
        return tuple(found)

    def takes_s6(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> bool:
        """Whether the kernels can compute a plain scan with these tensors; a library of before has none."""
        return hasattr(self._library, "vivim_cpu_s6_scan") and _takes_s6(u, delta, A, B, C)

    def s6_scan(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        skip: Tensor | None,
        bias: Tensor | None,
        softplus: bool,
    ) -> Tensor:
        """See `vivim.scan.s6.s6_scan`."""
        desc, tensors = _s6_inputs(u, delta, A, B, C, skip, bias, softplus)
        y = u.new_empty(u.shape)
        pointers = map(_pointer, (*tensors, y))
        self._check(self._library.vivim_cpu_s6_scan(ctypes.byref(desc), *pointers, torch.get_num_threads()))
        return y

    def _check(self, status: int) -> None:
        if status:
            raise KernelError(self._library.vivim_cpu_error().decode())


def _parameters(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.float().contiguous() for tensor in tensors)


def _tail(tail: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """(B, taps - 1, D) as the kernels read it."""
    if tail.shape != (x.shape[0], weight.shape[2] - 1, weight.shape[1]):
        raise KernelError(f"the tail has shape {tuple(tail.shape)}; expected (B, taps - 1, D)")
    return tail.to(x.dtype).contiguous()


def _scan_inputs(
    given: _ScanTensors, rows: int, directions: Sequence[int], mean: bool
) -> tuple[_ScanDesc, list[Tensor | None]]:
    """The scan's description, and its tensors as the kernels read them."""
    xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip = given
    data = [xc.contiguous(), dbc.contiguous(), None if xz is None else xz.contiguous()]
    desc = _describe_scan(xc, xz, A_log2e, dt_weight, rows, directions, mean)
    return desc, [*data, *_parameters(A_log2e, dt_weight, dt_bias, d_skip)]


def _states(given: _ScanTensors, initial: Tensor | None) -> tuple[Tensor, ...]:
    """(B, N, D) that comes in, as the kernels read it, and memory for the one that goes out; () for a scan without."""
    if initial is None:
        return ()
    xc, A_log2e = given[0], given[3]
    if initial.shape != (xc.shape[1], A_log2e.shape[2], xc.shape[3]):
        raise KernelError(f"the initial state has shape {tuple(initial.shape)}; expected (B, N, D)")
    state = initial.float().contiguous()
    return state, torch.empty_like(state)


def _takes_s6(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> bool:
    same = all(tensor.dtype == u.dtype for tensor in (delta, B, C))
    return same and u.dtype in _DTYPES and A.shape[1] <= _S6_MAX_STATES and u.numel() > 0


def _s6_inputs(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> tuple[_S6Desc, list[Tensor | None]]:
    """The plain scan's description, and its tensors as the kernels read them."""
    data = [tensor.contiguous() for tensor in (u, delta, B, C)]
    desc = _S6Desc(*u.shape[::2], u.shape[1], B.shape[1], A.shape[1], int(softplus), _dtype(u))
    vectors = [None if tensor is None else _parameters(tensor)[0] for tensor in (skip, bias)]
    return desc, [*data, *_parameters(A), *vectors]


def _describe_conv(x: Tensor, weight: Tensor, rows: int, directions: Sequence[int]) -> _ConvDesc:
    batch, length, x_width = x.shape
    return _ConvDesc(batch, length, weight.shape[1], rows, x_width, len(directions), _codes(directions), _dtype(x))


def _describe_scan(
    xc: Tensor,
    xz: Tensor | None,
    A_log2e: Tensor,
    dt_weight: Tensor,
    rows: int,
    directions: Sequence[int],
    mean: bool,
) -> _ScanDesc:
    _, batch, length, width = xc.shape
    return _ScanDesc(
        batch,
        length,
        width,
        rows,
        dt_weight.shape[2],
        A_log2e.shape[2],
        len(directions),
        _codes(directions),
        int(xc.shape[0] == 1 and len(directions) > 1),
        int(mean),
        0 if xz is None else xz.shape[-1],
        _dtype(xc),
    )


def _codes(directions: Sequence[int]) -> ctypes.Array[ctypes.c_int32]:
    if len(directions) > _MAX_DIRECTIONS:
        raise KernelError(f"there are {len(directions)} directions; the kernels take up to {_MAX_DIRECTIONS}")
    return (ctypes.c_int32 * _MAX_DIRECTIONS)(*directions)


def _dtype(x: Tensor) -> int:
    if x.dtype not in _DTYPES:
        raise KernelError(f"the data is {x.dtype}; the kernels take float32, float16 and bfloat16")
    return _DTYPES[x.dtype]


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _stream(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else None)
