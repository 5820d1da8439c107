"""The kernels on a GPU: every tactic's time against the GPU's floors, mamba-ssm's scan and plain PyTorch.

    python benchmarks/scan_gpu.py [--stages 1,2,3,4] [--frames 5,32] [--dtypes fp16] [--json FILE]

Shapes are those of the four stages of preset b3 at 256x256, three directions. The library is the one that VIVIM_KERNELS
names, or the installed one; where vivim is not installed, set PYTHONPATH=. as well. Rows of the table, and of the JSON
file, which is rewritten after each:

    every tactic        SelectiveScan: dt_proj, softplus, recurrence, skip, mean and gate of all directions in one call
    causal_conv1d       the convolution before it
    mamba-ssm           where it is installed: three selective_scan_fn with the authors' flips and permutes and the
                        dt_proj that our kernel contains; and the three bare scans, everything prepared
    PyTorch             the same three scans, flips and permutes, with the vectorised scan of vivim.operators

Times are medians between CUDA events, in microseconds: cold after writing a buffer of twice the L2 cache, warm after
the call itself. A spinning kernel in front keeps the GPU busy while the CPU prepares the call, so that no launch
latency is counted unless it lasts longer than a millisecond, as in the thousands of launches of PyTorch.

Floors, from the device's own properties: exponentials (K B L D N for a scan, K B L D for the SiLU of the convolution)
at 16 a clock and multiprocessor, and bytes (each input read once, the output written once) at the memory's bandwidth.
The floor of the aim is the one of exponentials. Accuracy is relative L2 to the float64 loop on a shape cut to fewer
columns. Exit code 1 when a kernel fails or is not accurate, 2 without GPU or library; a missed aim is only reported.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from measuring import relative_l2
from scan_cpu import DIRECTIONS, SHAPES, STATES, TAPS, scan_inputs
from scan_cpu import FRAMES as FRAMES_OF_SHAPES
from torch import Tensor

from vivim.errors import KernelError
from vivim.kernels import KernelLibrary, library
from vivim.operators import _chunked_scan, _from_order, _to_order
from vivim.reference import causal_conv1d_reference, selective_scan_reference

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Relative L2. 16 bits: as in tests/plugins/test_kernels.py. float32: ex2.approx may be 2^-22 off, and were it so always
# to one side, the slow states of stage 1 would end 2.3e-6 off (simulated in float64); at random, 1e-7.
TOLERANCES = {"fp32": 2.5e-6, "fp16": 5e-4, "bf16": 4e-3}
CUT_STEPS = 512  # of the shapes that are compared with the float64 loop on the CPU

# Of issue 3, at stage 1 and 5 frames in fp16, both by the cold times of the fastest tactic.
AIM_STAGE, AIM_FRAMES, AIM_DTYPE = 1, 5, "fp16"
AIM_FLOOR = 2.0
AIM_SPEEDUP = 3.0

# ex2 a clock and multiprocessor. CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions", row of
# base-2 exponential: 16 for the capabilities from 7.5 on that we build for. Blackwell Ultra has twice that (NVIDIA,
# developer.nvidia.com/blog/making-softmax-more-efficient-with-nvidia-blackwell-ultra).
EXPONENTIALS_PER_CLOCK = 16
OTHER_EXPONENTIALS_PER_CLOCK = {(10, 3): 32}

MAMBA, MAMBA_BARE, PYTORCH = "mamba-ssm, flips and permutes", "mamba-ssm, three bare scans", "PyTorch, three scans"

# Repeats: up to MOST while a series takes less than SECONDS of GPU time, LEAST always.
LEAST, MOST, SECONDS = 3, 50, 0.2
SPIN_CYCLES = 2_000_000  # about a millisecond


# --- the device and its floors ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """What the floors follow from, and where each figure is from."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    clock_hz: float  # the highest of the multiprocessors, without which there is no floor of exponentials
    bandwidth: float  # bytes/s of the memory
    l2_bytes: int
    sources: dict[str, str]

    @property
    def exponentials_per_s(self) -> float:
        per_clock = OTHER_EXPONENTIALS_PER_CLOCK.get(self.capability, EXPONENTIALS_PER_CLOCK)
        return self.multiprocessors * self.clock_hz * per_clock


def device_from(properties: Any, query: Callable[[str], float | None], copy_bandwidth: Callable[[], float]) -> Device:
    """From torch's properties; what this torch does not expose, from nvidia-smi; bandwidth at last by measuring.

    Args:
        properties: of `torch.cuda.get_device_properties`.
        query: a field of nvidia-smi --query-gpu (MHz), None where it has none.
        copy_bandwidth: bytes/s of a copy, read and written.
    """
    sources = {}

    def clock(attribute: str, field: str) -> float:
        kilohertz = getattr(properties, attribute, 0)
        if kilohertz:
            sources[attribute] = "torch"
            return 1e3 * float(kilohertz)
        megahertz = query(field)
        sources[attribute] = f"nvidia-smi {field}" if megahertz else "unknown"
        return 1e6 * (megahertz or 0.0)

    clock_hz = clock("clock_rate", "clocks.max.sm")
    memory_hz = clock("memory_clock_rate", "clocks.max.memory")
    bus_bits = getattr(properties, "memory_bus_width", 0)
    if memory_hz and bus_bits:
        bandwidth = 2 * memory_hz * bus_bits / 8  # two transfers a clock
        sources["bandwidth"] = f"memory clock x 2 x {bus_bits} bit"
    else:
        bandwidth = copy_bandwidth()
        sources["bandwidth"] = "measured: a copy, bytes read and written"
    return Device(
        name=properties.name,
        capability=(properties.major, properties.minor),
        multiprocessors=properties.multi_processor_count,
        clock_hz=clock_hz,
        bandwidth=bandwidth,
        l2_bytes=getattr(properties, "L2_cache_size", 0) or 128 << 20,
        sources=sources,
    )


def nvidia_smi(field: str) -> float | None:
    """A number that nvidia-smi knows of the GPU; None where there is no nvidia-smi or no such number (Jetson)."""
    try:
        command = ["nvidia-smi", "--id=0", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return float(done.stdout.splitlines()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


@dataclass(frozen=True)
class Work:
    """What one call must do at least."""

    exponentials: int
    bytes: int

    def floors_us(self, device: Device) -> tuple[float, float]:
        """Of the exponentials (0 where the clock is unknown) and of the bytes."""
        rate = device.exponentials_per_s
        return 1e6 * self.exponentials / rate if rate else 0.0, 1e6 * self.bytes / device.bandwidth


def scan_work(length: int, width: int, rank: int, size: int, count: int = len(DIRECTIONS)) -> Work:
    """xc, dbc, gate and the parameters read once, y written once; B = 1; `size` bytes an element."""
    data = count * length * width + count * length * (rank + 2 * STATES) + 2 * length * width
    parameters = count * width * (STATES + rank + 2)
    return Work(count * length * width * STATES, size * data + 4 * parameters)


def conv_work(length: int, width: int, size: int, count: int = len(DIRECTIONS)) -> Work:
    """x read once, xc written once for every direction; one exponential for each SiLU."""
    return Work(count * length * width, size * (1 + count) * length * width + 4 * count * width * (TAPS + 1))


# --- timing -------------------------------------------------------------------------------------------------------


class Timer(Protocol):
    """Times a call on a device."""

    def microseconds(self, function: Callable[[], Tensor]) -> tuple[float, float, int]:
        """Median cold, median warm, repeats of each."""


class CudaTimer:
    """CUDA events around the call, with the L2 cache flushed (cold) and not (warm)."""

    def __init__(self, l2_bytes: int) -> None:
        self._flush = torch.empty(2 * l2_bytes, dtype=torch.uint8, device="cuda")

    def microseconds(self, function: Callable[[], Tensor]) -> tuple[float, float, int]:
        function()  # loads modules, fills the allocator's pool
        once = self._series(function, 1, flush=False)[0]
        repeats = max(LEAST, min(MOST, int(1e6 * SECONDS / max(once, 1.0))))
        cold = self._series(function, repeats, flush=True)
        return statistics.median(cold), statistics.median(self._series(function, repeats, flush=False)), repeats

    def _series(self, function: Callable[[], Tensor], repeats: int, flush: bool) -> list[float]:
        pairs = [tuple(_event() for _ in range(2)) for _ in range(repeats)]
        for start, end in pairs:
            torch.cuda._sleep(SPIN_CYCLES)  # type: ignore[no-untyped-call]
            if flush:
                self._flush.fill_(1)
            start.record()
            function()
            end.record()
        torch.cuda.synchronize()
        return [1e3 * start.elapsed_time(end) for start, end in pairs]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def spin_clock_hz() -> float:
    """The clock of the multiprocessors while one of them counts cycles: below the highest where power is short."""
    start, end = _event(), _event()
    for cycles in (100 * SPIN_CYCLES, 10 * SPIN_CYCLES):  # the first wakes the GPU
        start.record()
        torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
        end.record()
        torch.cuda.synchronize()
    return 10 * SPIN_CYCLES / (1e-3 * float(start.elapsed_time(end)))


def copy_bandwidth() -> float:
    """Bytes/s read and written by a copy of 256 MiB on the GPU."""
    source = torch.zeros(256 << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    cold, _, _ = CudaTimer(1 << 20).microseconds(lambda: target.copy_(source))
    return 2 * source.numel() / (1e-6 * cold)


# --- what is timed ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """One stage of B3 at a number of frames, and the type of its data."""

    stage: int
    frames: int
    dtype: str
    columns: int  # 0: of the stage

    @property
    def length(self) -> int:
        return self.frames * (self.columns or SHAPES[self.stage][0] // FRAMES_OF_SHAPES)

    @property
    def width(self) -> int:
        return SHAPES[self.stage][1]

    @property
    def rank(self) -> int:
        return SHAPES[self.stage][2]

    def inputs(self, device: str) -> tuple[Tensor, ...]:
        """xc, dbc, xz in the type of the data; A_log2e, dt_weight, dt_bias, d_skip in float32."""
        tensors = scan_inputs(self.length, self.width, self.rank)
        return tuple(t.to(device, DTYPES[self.dtype] if i < 3 else None) for i, t in enumerate(tensors))


Scan = Callable[[], Tensor]  # -> y (1, L, D)


def tactic_call(kernels: KernelLibrary, tactic: int, inputs: tuple[Tensor, ...], frames: int) -> Scan:
    scan: Callable[..., Tensor] = kernels.selective_scan
    return lambda: scan(*inputs, frames, DIRECTIONS, True, tactic)


def pytorch_call(inputs: tuple[Tensor, ...], frames: int) -> Scan:
    """The authors' order of work on the vectorised scan: order xc and the gate, scan, order back, average.

    B, C and dt_low come in the order of the scan, as the authors' x_proj computes them.
    """
    xc, dbc, xz, *parameters = inputs
    scan: Callable[..., Tensor] = _chunked_scan
    columns = [_to_order(dbc[k], frames, direction)[None] for k, direction in enumerate(DIRECTIONS)]

    def call() -> Tensor:
        total = None
        for k, direction in enumerate(DIRECTIONS):
            u, gate = _to_order(xc[k], frames, direction), _to_order(xz, frames, direction)
            own = [parameter[k : k + 1] for parameter in parameters]
            y = _from_order(scan(u[None], columns[k], gate, *own, 1, [0], False), frames, direction)
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
        parts = torch.split(_to_order(dbc[k], frames, direction).transpose(1, 2), [rank, STATES, STATES], dim=1)
        for target, part in zip((low, b, c), parts, strict=True):
            target.append(part.contiguous())
    A, weight = A_log2e * math.log(2.0), dt_weight.to(xc.dtype)

    def scan(k: int, both: Tensor, delta: Tensor) -> Tensor:
        u, z = both.chunk(2, dim=1)
        return selective_scan_fn(u, delta, A[k], b[k], c[k], d_skip[k], z=z, delta_bias=dt_bias[k], delta_softplus=True)

    def with_flips() -> Tensor:
        total = None
        for k, direction in enumerate(DIRECTIONS):
            y = scan(k, _channels_first(uz[k], frames, direction, True), weight[k] @ low[k])
            y = _channels_first(y, frames, direction, False)
            total = y if total is None else total + y
        assert total is not None
        return (total / len(DIRECTIONS)).transpose(1, 2)

    ready = [_channels_first(uz[k], frames, d, True).contiguous() for k, d in enumerate(DIRECTIONS)]
    deltas = [(weight[k] @ low[k]).contiguous() for k in range(len(DIRECTIONS))]

    def bare() -> Tensor:
        return [scan(k, ready[k], deltas[k]) for k in range(len(DIRECTIONS))][-1].transpose(1, 2)

    return with_flips, bare


def _channels_first(x: Tensor, rows: int, direction: int, forth: bool) -> Tensor:
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


# --- rows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One thing timed at one shape; `error` says why there are no figures."""

    stage: int
    frames: int
    dtype: str
    what: str
    length: int
    width: int
    rank: int
    exponentials: int
    bytes: int
    exponentials_floor_us: float
    bytes_floor_us: float
    ours: bool
    cold_us: float | None = None
    warm_us: float | None = None
    repeats: int = 0
    rel_l2: float | None = None
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether a kernel of ours gave an error or wrong numbers; NaN is wrong."""
        accurate = self.rel_l2 is not None and self.rel_l2 <= TOLERANCES[self.dtype]
        return self.ours and (self.error is not None or not accurate)

    def figures(self) -> dict[str, object]:
        rates = {}
        for state, took in (("cold", self.cold_us), ("warm", self.warm_us)):
            if took:
                rates[f"{state}_exponentials_per_s"] = 1e6 * self.exponentials / took
                rates[f"{state}_bytes_per_s"] = 1e6 * self.bytes / took
                if self.exponentials_floor_us:
                    rates[f"{state}_to_exponentials_floor"] = took / self.exponentials_floor_us
                rates[f"{state}_to_bytes_floor"] = took / self.bytes_floor_us
        return {**asdict(self), **rates}


def rows_of(shape: Shape, kernels: KernelLibrary, about: Device, timer: Timer, device: str) -> Iterator[Row]:
    """Everything at one shape, as it is measured."""
    size = DTYPES[shape.dtype].itemsize
    scan, conv = scan_work(shape.length, shape.width, shape.rank, size), conv_work(shape.length, shape.width, size)
    cut = replace(shape, columns=max(1, min(CUT_STEPS, shape.length) // shape.frames))
    inputs, small = shape.inputs(device), cut.inputs(device)
    reference: Callable[..., Tensor] = selective_scan_reference
    expected = reference(*(t.cpu() for t in small), shape.frames, DIRECTIONS, True)

    def row(what: str, work: Work, ours: bool, **figures: Any) -> Row:
        named = (shape.stage, shape.frames, shape.dtype, what, shape.length, shape.width, shape.rank)
        return Row(*named, work.exponentials, work.bytes, *work.floors_us(about), ours, **figures)

    def measured(what: str, work: Work, make: Callable[..., Scan], truth: Tensor | None, ours: bool) -> Row:
        try:
            error = None if truth is None else relative_l2(make(small)().cpu(), truth)
            cold, warm, repeats = timer.microseconds(make(inputs))
        except (KernelError, RuntimeError, AssertionError) as problem:
            return row(what, work, ours, error=f"{type(problem).__name__}: {problem}")
        return row(what, work, ours, cold_us=cold, warm_us=warm, repeats=repeats, rel_l2=error)

    for tactic, name in enumerate(kernels.tactics):
        yield measured(name, scan, lambda i, t=tactic: tactic_call(kernels, t, i, shape.frames), expected, True)

    generator = torch.Generator().manual_seed(1)
    weight = (torch.randn(len(DIRECTIONS), shape.width, TAPS, generator=generator) * 0.5).to(device)
    bias = (torch.randn(len(DIRECTIONS), shape.width, generator=generator) * 0.1).to(device)
    convolved = causal_conv1d_reference(small[2].cpu(), weight.cpu(), bias.cpu(), shape.frames, DIRECTIONS)

    def conv_call(given: tuple[Tensor, ...]) -> Scan:
        return lambda: kernels.causal_conv1d(given[2], weight, bias, shape.frames, DIRECTIONS)

    yield measured("causal_conv1d", conv, conv_call, convolved, True)

    found = mamba_ssm()
    if isinstance(found, str):
        yield row(MAMBA, scan, False, error=found)
    else:
        yield measured(MAMBA, scan, lambda i: mamba_calls(found, i, shape.frames)[0], expected, False)
        yield measured(MAMBA_BARE, scan, lambda i: mamba_calls(found, i, shape.frames)[1], None, False)
    yield measured(PYTORCH, scan, lambda i: pytorch_call(i, shape.frames), expected, False)


# --- aims, table, file --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aim:
    """An aim of the issue; `value` and `met` are None where this run cannot tell, and `note` says why."""

    what: str
    limit: float
    value: float | None
    met: bool | None
    note: str


def aims(rows: list[Row]) -> list[Aim]:
    """At stage 1, 5 frames, fp16, by the fastest tactic, cold."""
    floor = f"scan at most {AIM_FLOOR:.0f}x the floor of exponentials"
    speed = f"scan at least {AIM_SPEEDUP:.0f}x faster than three mamba-ssm scans with their flips"
    here = [r for r in rows if (r.stage, r.frames, r.dtype) == (AIM_STAGE, AIM_FRAMES, AIM_DTYPE)]
    tactics = [r for r in here if r.ours and r.cold_us and not r.failed and r.what != "causal_conv1d"]
    if not tactics:
        note = f"no tactic has passed at stage {AIM_STAGE}, {AIM_FRAMES} frames, {AIM_DTYPE} in this run"
        return [Aim(floor, AIM_FLOOR, None, None, note), Aim(speed, AIM_SPEEDUP, None, None, note)]
    best = min(tactics, key=lambda r: r.cold_us or 0.0)
    took = best.cold_us or 0.0
    if best.exponentials_floor_us:
        ratio = took / best.exponentials_floor_us
        first = Aim(floor, AIM_FLOOR, ratio, ratio <= AIM_FLOOR, f"{best.what}, cold")
    else:
        first = Aim(floor, AIM_FLOOR, None, None, "the clock of this GPU is unknown")
    theirs = next((r for r in here if r.what == MAMBA), None)
    if theirs is not None and theirs.cold_us:
        ratio = theirs.cold_us / took
        return [first, Aim(speed, AIM_SPEEDUP, ratio, ratio >= AIM_SPEEDUP, f"{best.what}, cold")]
    why = "not measured yet" if theirs is None else theirs.error or "no time"
    return [first, Aim(speed, AIM_SPEEDUP, None, None, f"no mamba-ssm to compare with: {why}")]


def write(path: Path | None, about: dict[str, object], rows: list[Row], complete: bool) -> None:
    """The whole file at once, so that a reader or a kill at any time finds one that is whole."""
    if path is None:
        return
    content = {
        "complete": complete,
        "machine": about,
        "aims": [asdict(aim) for aim in aims(rows)],
        "rows": [row.figures() for row in rows],
    }
    made = path.with_name(path.name + ".part")
    made.write_text(json.dumps(content, indent=2) + "\n")
    made.replace(path)


def _print_row(row: Row) -> None:
    head = f"{row.frames:>2} {row.stage:>5} {row.dtype:>5}  {row.what:<30}"
    if row.error is not None:
        print(f"{head} {row.error.splitlines()[0][:100]}", flush=True)
        return
    cold, warm = row.cold_us or 0.0, row.warm_us or 0.0
    floors = [
        f"{cold / floor:>7.2f}" if floor else f"{'-':>7}" for floor in (row.exponentials_floor_us, row.bytes_floor_us)
    ]
    accuracy = f"{row.rel_l2:>8.1e}" if row.rel_l2 is not None else f"{'-':>8}"
    rates = [f"{1e-6 * amount / cold:>7.2f}" if cold else f"{'-':>7}" for amount in (row.exponentials, row.bytes)]
    print(f"{head} {cold:>10.1f} {warm:>10.1f} {floors[0]} {floors[1]} {rates[0]} {rates[1]} {accuracy}", flush=True)


def _print_aims(rows: list[Row]) -> None:
    print(f"\naims at stage {AIM_STAGE}, {AIM_FRAMES} frames, {AIM_DTYPE}:")
    for aim in aims(rows):
        verdict = "cannot be told" if aim.met is None else "met" if aim.met else "NOT met"
        value = "" if aim.value is None else f"{aim.value:.2f}x, "
        print(f"  {aim.what}: {verdict} ({value}{aim.note})")


def measure(
    shapes: list[Shape],
    kernels: KernelLibrary,
    about: Device,
    timer: Timer,
    device: str,
    machine: dict[str, object],
    json_file: Path | None,
) -> list[Row]:
    """All rows, each printed and written when it is there."""
    rows: list[Row] = []
    write(json_file, machine, rows, complete=False)
    for shape in shapes:
        for row in rows_of(shape, kernels, about, timer, device):
            rows.append(row)
            _print_row(row)
            write(json_file, machine, rows, complete=False)
    write(json_file, machine, rows, complete=True)
    return rows


def _list_of(allowed: list[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        values = text.split(",")
        if any(value not in allowed for value in values):
            raise argparse.ArgumentTypeError(f"{text!r}: expected some of {', '.join(allowed)}")
        return values

    return parse


def _frames(text: str) -> list[int]:
    values = [int(part) if part.isdigit() else 0 for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers of frames, 1 or more")
    return values


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the kernels on a GPU against its floors, mamba-ssm and PyTorch")
    stages = [str(stage) for stage in SHAPES]
    parser.add_argument("--stages", type=_list_of(stages), default=stages, help="default 1,2,3,4")
    parser.add_argument("--frames", type=_frames, default=[5, 32], help="default 5,32")
    parser.add_argument("--dtypes", type=_list_of(list(DTYPES)), default=["fp16"], help="fp16 (default), fp32, bf16")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, after every row")
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse()
    if not torch.cuda.is_available():
        print(f"no CUDA GPU that torch {torch.__version__} can use; this benchmark needs one", file=sys.stderr)
        return 2
    try:
        kernels = library()
    except KernelError as error:
        print(error, file=sys.stderr)
        return 2
    if kernels is None:
        print("no libvivim_kernels.so: run make plugins and set VIVIM_KERNELS to the file", file=sys.stderr)
        return 2
    about = device_from(torch.cuda.get_device_properties(0), nvidia_smi, copy_bandwidth)
    machine: dict[str, object] = {
        **asdict(about),
        "exponentials_per_s": about.exponentials_per_s,
        "copy_bandwidth": copy_bandwidth(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "spin_clock_hz": spin_clock_hz(),
        "library": os.environ.get("VIVIM_KERNELS", "installed"),
        "revision": kernels.revision,
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(
        "\n T stage dtype  what                            cold us    warm us    xexp  xbytes  Texp/s    TB/s   rel-L2"
    )
    shapes = [
        Shape(int(stage), frames, dtype, 0)
        for frames in arguments.frames
        for dtype in arguments.dtypes
        for stage in arguments.stages
    ]
    with torch.inference_mode():
        rows = measure(shapes, kernels, about, CudaTimer(about.l2_bytes), "cuda", machine, arguments.json)
    _print_aims(rows)
    failed = [row for row in rows if row.failed]
    for row in failed:
        why = row.error or f"relative L2 {row.rel_l2:.1e}, allowed {TOLERANCES[row.dtype]:.1e}"
        print(f"T {row.frames}, stage {row.stage}, {row.dtype}, {row.what}: {why}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
