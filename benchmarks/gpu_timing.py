"""How long a call takes on a GPU, and what clock and bandwidth it has while it works.

Times are medians between CUDA events, in microseconds: cold after writing a buffer of twice the L2 cache, warm after
the call itself. A spinning kernel in front keeps the GPU busy while the CPU prepares the call, so that no launch
latency is counted unless it lasts longer than a millisecond, as in the thousands of launches of PyTorch.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["CudaTimer", "Timer", "copy_bandwidth", "spin_clock_hz"]

# Repeats: up to MOST while a series takes less than SECONDS of GPU time, LEAST always.
LEAST, MOST, SECONDS = 3, 50, 0.2
SPIN_CYCLES = 2_000_000  # about a millisecond


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
