"""Models in turns: each round gives every model a share of its time, so that a drift of the machine hits all alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from vivim_runtime.bench.results import ModelResult
from vivim_runtime.bench.worker import ModelRequest, Worker
from vivim_runtime.errors import UsageError

__all__ = ["BenchOptions", "bench"]

# Shares of a model's time: many, so that all see the same machine; few, since the caches are another's at first.
_ROUNDS = 10


@dataclass(frozen=True)
class BenchOptions:
    """How to measure; the defaults are trtexec's.

    Attributes:
        warm_up: milliseconds of a model before its calls count; at least one call, unless 0.
        duration: seconds of each model, at least.
        iterations: calls of each model, at least.
        batch: clips a call.
        threads: of the CPU; 0 leaves the number to the library.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        size, frames: (H, W) and T of checkpoints; None for those of their training.
    """

    warm_up: float = 200.0
    duration: float = 3.0
    iterations: int = 10
    batch: int = 1
    threads: int = 0
    device: str = "auto"
    size: tuple[int, int] | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("warm_up", 0), ("duration", 0), ("iterations", 1), ("batch", 1), ("threads", 0)):
            if not getattr(self, name) >= least:  # so that a NaN is refused too
                option = name.replace("_", "-")
                raise UsageError(f"--{option} is {getattr(self, name)}; expected {least} or more")


def bench(
    models: list[str],
    options: BenchOptions,
    progress: Callable[[str], None] = lambda text: None,
    profile: bool = False,
    flips: Sequence[bool] = (),
) -> list[ModelResult]:
    """Measure models side by side.

    Args:
        models: .onnx and .engine files, and checkpoints, which run in PyTorch where it is installed.
        options: how.
        progress: called with what happens next.
        profile: time the layers too, after everything else.
        flips: of each model, whether clips go through it twice (vivim_runtime.sessions.flipped); () is no.

    Raises:
        ModelError, UsageError, MissingExtraError: exit code 2.
        IncompatibleEngineError: exit code 4.
    """
    workers: list[Worker] = []
    with ExitStack() as stack:
        for name, flipped in zip(models, flips or [False] * len(models), strict=True):
            progress(f"opening {name}")
            o = options
            request = ModelRequest(name, o.batch, o.device, o.threads, o.size, o.frames, flipped)
            workers.append(stack.enter_context(Worker(request)))
            opened = workers[-1].opened
            if profile and not opened.has_layers:
                raise UsageError(
                    f"--export-profile times the layers of .onnx and .engine files; {name} runs in {opened.backend}"
                )
        latencies = _in_turns(workers, models, options, progress)
        memories = [workers[i].memory() for i in range(len(models))]
        layers: list[list[dict[str, float]] | None] = [None] * len(models)
        if profile:
            for i in range(len(models)):
                progress(f"timing the layers of {models[i]}")
                layers[i] = workers[i].layer_times(options.iterations)
    return [
        ModelResult(
            name=name,
            batch=options.batch,
            latencies_ms=latencies[i],
            host_bytes=memories[i].host,
            gpu_bytes=memories[i].gpu,
            layers=layers[i],
            opened=workers[i].opened,
        )
        for i, name in enumerate(models)
    ]


def _in_turns(
    workers: list[Worker], models: list[str], options: BenchOptions, progress: Callable[[str], None]
) -> list[list[float]]:
    """Milliseconds of every model's calls."""
    if options.warm_up:
        for worker, name in zip(workers, models, strict=True):
            progress(f"warming up {name}")
            worker.run((options.warm_up - worker.opened.first_ms) / 1e3, 1)
    rounds = min(_ROUNDS, options.iterations)
    latencies: list[list[float]] = [[] for _ in workers]
    for number in range(rounds):
        for i in range(len(workers)):
            i = (i + number) % len(workers)  # no one always follows the same
            progress(f"round {number + 1} of {rounds}: {models[i]}")
            latencies[i] += workers[i].run(options.duration / rounds, math.ceil(options.iterations / rounds))
    return latencies
