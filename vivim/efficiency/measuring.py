"""One case of the study, measured in a process of its own: how much memory it takes, and for how long it runs.

Memory is what the process grows by beyond a first small clip (libraries loaded, their kernels prepared): weights,
activations, and in training gradients and Adam's moments too. On the CPU that is its resident memory at the peak, on
CUDA what PyTorch's allocator gave out. Neither a case that takes too much nor one that takes too long harms the
machine: the first is refused by a limit within the process, the second is ended from outside.
"""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import cast

import torch
from torch.nn import functional

from vivim.config import VivimConfig
from vivim.efficiency.counting import attention_written_out
from vivim.model import Vivim
from vivim_runtime.bench.process import EndedError, MeasuringProcess, proc_bytes
from vivim_runtime.errors import VivimError

__all__ = ["Case", "Limits", "Outcome", "Status", "free_memory", "measure"]

_WARM_UP = (1, 3, 64, 64)
_PATIENCE = 10.0  # seconds
# What PyTorch and Python say when the limit refuses an allocation.
_REFUSALS = ("can't allocate memory", "std::bad_alloc", "Cannot allocate memory", "out of memory")


@dataclass(frozen=True)
class Case:
    """What to measure.

    Attributes:
        config: the network, with random weights.
        frames, size: T and (H, W) of the one clip.
        training: a training step (forward, binary cross-entropy, backward, Adam) instead of a forward pass.
        written_out: attention with its scores in memory (vivim.efficiency.counting).
        device: "cpu", "cuda" or "cuda:<index>".
        threads: of the CPU; 0 leaves the number to PyTorch.
        runs: how many, at most: no further one begins once they have taken 10 s. A training step runs twice at least,
            since Adam's moments are there from the second on.
    """

    config: VivimConfig
    frames: int
    size: tuple[int, int]
    training: bool = False
    written_out: bool = False
    device: str = "cpu"
    threads: int = 1
    runs: int = 3


@dataclass(frozen=True)
class Limits:
    """Bytes that a case may take, and seconds until the last of its runs has to be done."""

    memory: int
    seconds: float


class Status(Enum):
    """How a case ended."""

    MEASURED = "measured"
    NOT_RUN = "not run"
    TOO_LARGE = "its counted memory is over the limit, so it was not run"
    OUT_OF_MEMORY = "out of memory"
    TOO_SLOW = "over the time limit"


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        status: figures are there for MEASURED only.
        peak_bytes: by how much memory grew at most; None where the system does not tell.
        seconds: of the fastest run.
        cpu_seconds: processor time of the run that took least of it, all threads together; None on CUDA. On a machine
            that does other work it says more than `seconds` does.
    """

    status: Status
    peak_bytes: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None


def measure(case: Case, limits: Limits) -> Outcome:
    """Measure a case in a fresh process.

    Raises:
        VivimError: the process failed, for another reason than memory or time.
        InputError, ConfigError: exit code 2, as raised there.
    """
    try:
        with MeasuringProcess(str(case), _Measurement, case, limits.memory) as process:
            return cast(Outcome, process.ask("outcome", seconds=limits.seconds))
    except TimeoutError:
        return Outcome(Status.TOO_SLOW)
    except EndedError as error:
        if error.code == -signal.SIGKILL:  # the system's own way to say that memory ran out
            return Outcome(Status.OUT_OF_MEMORY)
        raise
    except RuntimeError as error:
        raise VivimError(str(error)) from None


def free_memory(device: str) -> int | None:
    """Bytes that a device has free now; None where the system does not tell."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return proc_bytes("meminfo", "MemAvailable")


# --- within the process ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measurement:
    """A case, to be measured in this process within some bytes of memory."""

    case: Case
    memory: int

    def outcome(self) -> Outcome:
        """What came out; refused memory is an outcome too."""
        try:
            return _measured(self.case, self.memory)
        except VivimError:
            raise
        except Exception as error:
            if isinstance(error, MemoryError) or any(text in str(error) for text in _REFUSALS):
                return Outcome(Status.OUT_OF_MEMORY)
            raise


def _measured(case: Case, memory: int) -> Outcome:
    meter = _CudaMeter(case.device) if case.device.startswith("cuda") else _CpuMeter()
    if case.threads:
        torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    small = VivimConfig.preset("tiny", st_module=case.config.st_module)
    _run(_work(replace(case, config=small), _WARM_UP), meter, 2, 2)
    gc.collect()
    meter.start(memory)
    seconds, cpu_seconds = _run(_work(case, (case.frames, 3, *case.size)), meter, 1 + case.training, case.runs)
    return Outcome(Status.MEASURED, meter.peak(), seconds, cpu_seconds)


def _work(case: Case, shape: tuple[int, ...]) -> Callable[[], None]:
    """What a run of a case does, with one clip of noise (T, 3, H, W)."""
    clip = torch.randn(1, *shape, device=case.device)
    model = Vivim(case.config).train(case.training).to(case.device)
    if not case.training:

        def infer() -> None:
            with torch.inference_mode(), attention_written_out(case.written_out):
                model(clip)

        return infer
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    truth = torch.zeros_like(clip[:, :, : len(case.config.classes)])

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with attention_written_out(case.written_out):
            functional.binary_cross_entropy_with_logits(model(clip).logits, truth).backward()
        optimizer.step()

    return step


def _run(work: Callable[[], None], meter: _CpuMeter | _CudaMeter, least: int, most: int) -> tuple[float, float | None]:
    """Fewest wall-clock seconds, and fewest processor seconds, of some runs."""
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    while len(seconds) < least or (len(seconds) < most and sum(seconds) < _PATIENCE):
        start, cpu_start = time.perf_counter(), time.process_time()
        work()
        meter.wait()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return min(seconds), min(cpu_seconds) if meter.has_cpu_time else None


class _CpuMeter:
    """Resident memory of this process (Linux)."""

    has_cpu_time = True

    def start(self, limit: int) -> None:
        """Count from here, and refuse what would take more than `limit` bytes beyond it."""
        with suppress(AttributeError, OSError, TypeError):  # glibc's own
            ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would be used without being seen
        self._before = proc_bytes("self/status", "VmRSS")
        with suppress(OSError):  # otherwise the peak is that since the process began
            Path("/proc/self/clear_refs").write_text("5")
        held = proc_bytes("self/status", "VmData")
        if held is not None and sys.platform == "linux":
            import resource  # there is none on Windows

            resource.setrlimit(resource.RLIMIT_DATA, (held + limit, resource.RLIM_INFINITY))

    def peak(self) -> int | None:
        peak = proc_bytes("self/status", "VmHWM")
        return None if peak is None or self._before is None else peak - self._before

    def wait(self) -> None:
        """Nothing: operations are done when they return."""


class _CudaMeter:
    """What PyTorch's allocator gives out on a GPU."""

    has_cpu_time = False

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)

    def start(self, limit: int) -> None:
        """Count from here, and refuse what would take more than `limit` bytes beyond it."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)
        total = torch.cuda.mem_get_info(self._device)[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, (self._before + limit) / total), self._device)

    def peak(self) -> int | None:
        return int(torch.cuda.max_memory_allocated(self._device)) - self._before

    def wait(self) -> None:
        torch.cuda.synchronize(self._device)
