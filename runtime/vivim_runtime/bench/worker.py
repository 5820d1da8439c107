"""One model in a process of its own, so that its memory, its libraries and its threads are its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, cast, runtime_checkable

import numpy as np

from vivim_runtime.bench.process import MeasuringProcess, proc_bytes
from vivim_runtime.contract import InputContract
from vivim_runtime.errors import CudaError, MissingExtraError
from vivim_runtime.sessions import runner_of
from vivim_runtime.sessions.base import Clips, Session
from vivim_runtime.sessions.cuda import Cuda
from vivim_runtime.sessions.flipped import FlippedSession
from vivim_runtime.text import parse_number

__all__ = ["Memory", "ModelRequest", "Opened", "Worker"]


@dataclass(frozen=True)
class ModelRequest:
    """What to open, and what to feed it with.

    Attributes:
        name: a model file, or a checkpoint.
        batch: clips a call.
        device, threads: as for vivim_runtime.open_session.
        size, frames: (H, W) and T for a checkpoint, None for those of its training; a model file has its own.
        flips: whether every clip goes through it twice (vivim_runtime.sessions.flipped).
    """

    name: str
    batch: int
    device: str
    threads: int
    size: tuple[int, int] | None
    frames: int | None
    flips: bool = False


@dataclass(frozen=True)
class Opened:
    """What a model is, and what the start cost.

    Attributes:
        backend, device: what runs it, and where.
        preset, precision: of the network.
        frames, size: T and (H, W) of a clip.
        file_bytes: of its file.
        load_ms: from a fresh interpreter to a model that is ready, its libraries included.
        first_ms: the first inference.
        has_layers: whether `Worker.layer_times` can be asked for.
        departures: in what clips differ from those of the training.
        contract: how frames become what it takes.
    """

    backend: str
    device: str
    preset: str
    precision: str
    frames: int
    size: tuple[int, int]
    file_bytes: int
    load_ms: float
    first_ms: float
    has_layers: bool
    departures: tuple[str, ...] = ()
    contract: InputContract | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes: by how much this process grew at most, and what the model took of the GPU; None where it is unknown."""

    host: int | None
    gpu: int | None


class Worker:
    """The process of one model; a context manager. Errors of the model are raised here."""

    def __init__(self, request: ModelRequest) -> None:
        self._process = MeasuringProcess(request.name, _Model, request)
        try:
            self.opened: Opened = self._process.ask("describe")
        except BaseException:
            self._process.close(in_order=False)
            raise

    def run(self, seconds: float, calls: int) -> list[float]:
        """Call the model until both have passed; milliseconds of every call."""
        return cast("list[float]", self._process.ask("run", seconds, calls))

    def memory(self) -> Memory:
        """What the model takes."""
        return cast(Memory, self._process.ask("memory"))

    def layer_times(self, runs: int) -> list[dict[str, float]]:
        """Milliseconds of every layer in each of some runs, where `opened.has_layers`."""
        return cast("list[dict[str, float]]", self._process.ask("layer_times", runs))

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.close(in_order=kind is None)


# --- within the process ---------------------------------------------------------------------------------------------


@runtime_checkable
class _Layered(Protocol):
    """A session whose layers can be timed."""

    def layer_times(self, clips: Clips, runs: int) -> list[dict[str, float]]: ...


class _Model:
    """The model itself."""

    def __init__(self, request: ModelRequest) -> None:
        self._gpu = _gpu(request)
        self._host_before, self._gpu_before = proc_bytes("self/status", "VmRSS"), self._gpu_free()
        start = time.perf_counter()
        opened = runner_of(request.name)(request.name, request.size, request.frames, request.device, request.threads)
        self.session: Session = FlippedSession(opened) if request.flips else opened
        loaded = time.perf_counter()
        info = self.session.info
        # Noise: what an inference costs does not depend on what is seen.
        shape = (request.batch, info.frames, *info.size, 3)
        self._clips = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self._opened = Opened(
            backend=self.session.backend,
            device=self.session.device,
            preset=info.preset,
            precision=info.precision,
            frames=info.frames,
            size=info.size,
            file_bytes=info.path.stat().st_size,
            load_ms=1e3 * (loaded - start),
            first_ms=self.run(0.0, 1)[0],
            has_layers=isinstance(self.session, _Layered),
            departures=info.departures,
            contract=info.takes,
        )

    def describe(self) -> Opened:
        """See Worker.opened."""
        return self._opened

    def close(self) -> None:
        """Let go of the session."""
        self.session.__exit__(None, None, None)

    def run(self, seconds: float, calls: int) -> list[float]:
        """See Worker.run."""
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < calls or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            self.session(self._clips)
            times.append(1e3 * (time.perf_counter() - start))
        return times

    def memory(self) -> Memory:
        """See Worker.memory."""
        peak, free = proc_bytes("self/status", "VmHWM"), self._gpu_free()
        return Memory(
            host=None if peak is None or self._host_before is None else peak - self._host_before,
            gpu=None if free is None or self._gpu_before is None else self._gpu_before - free,
        )

    def layer_times(self, runs: int) -> list[dict[str, float]]:
        """See Worker.layer_times."""
        assert isinstance(self.session, _Layered)
        return self.session.layer_times(self._clips, runs)

    def _gpu_free(self) -> int | None:
        return self._gpu.memory()[0] if self._gpu else None


def _gpu(request: ModelRequest) -> Cuda | None:
    """The GPU that the model may take memory of; None where there is none, or nothing to ask it with."""
    kind, _, index = request.device.partition(":")
    if kind == "cpu" or (number := parse_number(index or "0")) is None:
        return None
    try:
        return Cuda(number)
    except (CudaError, MissingExtraError):
        return None
