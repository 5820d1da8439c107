"""What a GPU can do at best: its properties, what a scan or a convolution must do at least, and the time of that.

Floors: exponentials (K B L D N for a scan, K B L D for the SiLU of the convolution) at 16 a clock and multiprocessor,
and bytes (each input read once, the output written once) at the memory's bandwidth.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scan_cpu import DIRECTIONS, STATES, TAPS

__all__ = ["Device", "Work", "conv_work", "device_from", "nvidia_smi", "scan_work"]

# ex2 a clock and multiprocessor. CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions", row of
# base-2 exponential: 16 for the capabilities from 7.5 on that we build for. Blackwell Ultra has twice that (NVIDIA,
# developer.nvidia.com/blog/making-softmax-more-efficient-with-nvidia-blackwell-ultra).
EXPONENTIALS_PER_CLOCK = 16
OTHER_EXPONENTIALS_PER_CLOCK = {(10, 3): 32}


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
