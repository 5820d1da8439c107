"""What the benchmarks measure with: fresh processes, peak memory, and a line about the machine. Linux only."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar, cast

from vivim_runtime.bench.process import MeasuringProcess, proc_bytes

__all__ = ["in_fresh_process", "machine", "peak_mb", "relative_l2", "reset_peak", "resident_mb"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Call:
    function: Callable[..., object]

    def result(self, *arguments: object) -> object:
        return self.function(*arguments)


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a module's function in a new interpreter, which ends afterwards."""
    with MeasuringProcess(function.__name__, _Call, function) as process:
        return cast(Result, process.ask("result", *arguments))


def _status_mb(name: str) -> float:
    found = proc_bytes("self/status", name)
    if found is None:
        raise OSError(f"/proc/self/status has no {name}; these benchmarks measure memory on Linux only")
    return found / 2**20


def resident_mb() -> float:
    """Memory of this process now, MiB."""
    return _status_mb("VmRSS")


def peak_mb() -> float:
    """The most memory this process has had, since its start or the last `reset_peak`, MiB."""
    return _status_mb("VmHWM")


def reset_peak() -> None:
    """Let `peak_mb` count from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def relative_l2(a, b) -> float:  # type: ignore[no-untyped-def]
    """|a - b| / |b| of two float32 arrays or tensors, in float64."""
    a, b = (x.double() if hasattr(x, "double") else x.astype("float64") for x in (a, b))
    return float((((a - b) ** 2).sum() / (b**2).sum()) ** 0.5)


def _busy_share(seconds: float = 1.0) -> float:
    """What other processes take of all cores, measured for a moment."""

    def ticks() -> tuple[int, int]:
        values = [int(part) for part in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(values), values[3] + values[4]  # all, idle and waiting for a disk

    total, idle = ticks()
    time.sleep(seconds)
    total_after, idle_after = ticks()
    return 1.0 - (idle_after - idle) / max(1, total_after - total)


def machine() -> dict[str, str]:
    """Processor, cores, other load and versions: what figures depend on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].split(":", 1)[1].strip() if names else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "busy before": f"{_busy_share():.0%}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "onnxruntime", "numpy")},
    }
