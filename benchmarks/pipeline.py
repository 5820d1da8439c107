"""The live pipeline: what it adds to every frame, without the model (a null session) and with one.

    python benchmarks/pipeline.py                          # every size, without a model
    python benchmarks/pipeline.py --model model.onnx       # and with this one
    python benchmarks/pipeline.py --soak 100000            # memory over so many frames, as fast as they go

A null session answers at once with an ellipse that moves, so that every frame gets a new mask to be drawn: the worst
case for drawing. Frames come from memory at the rate of a camera; "added" is from a frame being dequeued to its picture
being composited, waiting for the threads included. Sizes run in a process of their own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import in_fresh_process, machine, resident_mb

from vivim_runtime.live.run import LiveOptions, Outputs, run_live
from vivim_runtime.live.status import Controls, Shown
from vivim_runtime.offline import RunOptions
from vivim_runtime.overlay import Layer
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.base import ClassInfo, ModelInfo, Session
from vivim_runtime.sources import Frame, LiveSource

SIZES = ((480, 640), (720, 1280), (1080, 1920))
LAYERS: tuple[Layer, ...] = ("overlay", "contour")


class Rolling(LiveSource):
    """Four pictures again and again, at a rate, or (`fps` 0) as soon as the last one was taken from the screen."""

    reconnects = False

    def __init__(self, size: tuple[int, int], fps: float, count: int, screen: Nobody) -> None:
        super().__init__("rolling", fps or 1000.0)
        self.size, self._rate, self._count, self._screen = size, fps, count, screen
        self._images = [image for image, _ in phantom_frames(PhantomSpec(seed=3, frames=4, size=size))]

    def __iter__(self) -> Iterator[Frame]:
        began = time.monotonic()
        for index in range(self._count):
            if self._rate:
                time.sleep(max(0.0, began + index / self._rate - time.monotonic()))
            else:
                self._screen.taken.wait(1.0)
                self._screen.taken.clear()
            # A camera hands over new pixels every time.
            yield Frame(index, index / self.fps, self._images[index % 4].copy(), taken=time.monotonic())


class Ellipses:
    """A session that answers at once; its mask covers about a tenth of the frame, and moves."""

    backend, device = "null", "cpu"
    info = ModelInfo(
        path=Path("null.onnx"),
        preset="null",
        frames=5,
        size=(256, 256),
        classes=(ClassInfo("lesion", (0, 230, 118)),),
        precision="fp32",
        input="uint8",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        batch=1,
        weights_sha256="",
        metadata={},
    )

    def __init__(self) -> None:
        y, x = np.mgrid[0:256, 0:256].astype(np.float32)
        self._answers = [
            np.broadcast_to(45.0 - np.hypot((y - 128) * 1.3, x - 108 - 8 * step), (1, 5, 1, 256, 256)).astype(
                np.float32
            )
            for step in range(6)
        ]
        self._calls = 0

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self._calls += 1
        return self._answers[self._calls % 6]

    def warm_up(self) -> None:
        pass

    def __enter__(self) -> Ellipses:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Nobody:
    """A screen that only counts; `taken` is set for every picture."""

    name, needs_main_thread = "nobody", False

    def __init__(self) -> None:
        self.taken = threading.Event()
        self.taken.set()
        self.seen: list[tuple[float, ...]] = []  # frames, and what `look` says; every `watch` frames
        self.watch = 0
        self.look: Callable[[], tuple[float, ...]] = tuple

    def show(self, shown: Shown) -> None:
        captured = shown.status.counts["captured"]
        if self.watch and captured // self.watch > len(self.seen):
            self.seen.append((captured, *self.look()))
        self.taken.set()

    def run_main(self) -> None:
        pass

    def __enter__(self) -> Nobody:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _run(source: LiveSource, session: Session, screen: Nobody) -> Any:
    controls = Controls(LAYERS, 0.5, 0.45)
    # A null session is so fast that pictures would wait for it: it stands for none, beside which pictures go on.
    options = LiveOptions(RunOptions(), sync="off" if isinstance(session, Ellipses) else "auto")
    return run_live(source, session, controls, options, Outputs([screen]))


def measure(size: tuple[int, int], fps: float, seconds: float, model: str | None, threads: int) -> dict[str, Any]:
    """One run: latencies, counts and CPU."""
    screen = Nobody()
    source = Rolling(size, fps, int(fps * seconds), screen)
    session: Session = open_session(model, "cpu", threads) if model else Ellipses()
    cpu = time.process_time()
    report = _run(source, session, screen)
    cpu = time.process_time() - cpu
    return {
        "size": f"{size[1]}x{size[0]}",
        "stages_ms": report.stages_ms,
        "counts": dict(report.counts),
        "inferred": report.inference["inferred"],
        "hop": report.hop,
        "cpu": cpu / report.seconds,
    }


def transient(size: tuple[int, int]) -> float:
    """MiB allocated and given back while one frame passes (the most that is alive, over what stays)."""
    screen = Nobody()
    source = Rolling(size, 10.0, 30, screen)
    tracemalloc.start()
    base = tracemalloc.get_traced_memory()[0]
    _run(source, Ellipses(), screen)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (most - base) / 2**20


def allocations(size: tuple[int, int]) -> tuple[float, float]:
    """Calls of the C library's allocator a frame, and MiB asked for; needs allocations.c preloaded."""
    library = ctypes.CDLL(None)
    library.allocation_calls.restype = library.allocation_bytes.restype = ctypes.c_longlong
    screen = Nobody()
    screen.watch = 50
    screen.look = lambda: (library.allocation_calls(), library.allocation_bytes())
    _run(Rolling(size, 30.0, 260, screen), Ellipses(), screen)
    frames, calls, total = np.subtract(screen.seen[-1], screen.seen[0])
    return calls / frames, total / frames / 2**20


def _counted(size: tuple[int, int]) -> str:
    """What `allocations` says, in words, where there is a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return "allocations were not counted: there is no C compiler"
    with tempfile.TemporaryDirectory() as folder:
        library = str(Path(folder) / "allocations.so")
        source = str(Path(__file__).with_name("allocations.c"))
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        os.environ["LD_PRELOAD"] = library
        try:
            calls, asked = in_fresh_process(allocations, size)
        finally:
            del os.environ["LD_PRELOAD"]
    return f"{calls:.0f} allocations of {asked:.1f} MiB together a frame"


class _MallInfo(ctypes.Structure):
    """struct mallinfo2 of glibc 2.33."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    )


def memory() -> tuple[float, float]:
    """MiB: resident, and what the C library's allocator has given out (a leak grows in it, fragmentation does not)."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _MallInfo
    told = mallinfo2()
    return resident_mb(), (told.uordblks + told.hblkhd) / 2**20


def soak(size: tuple[int, int], frames: int) -> list[tuple[float, ...]]:
    """Frames, and `memory` then, along `frames` frames as fast as they go."""
    screen = Nobody()
    screen.watch, screen.look = max(1, frames // 100), memory
    _run(Rolling(size, 0.0, frames, screen), Ellipses(), screen)
    return screen.seen


def _soak(frames: int) -> None:
    began = time.monotonic()
    taken, *kinds = np.array(in_fresh_process(soak, (480, 640), frames)).T
    print(
        f"{frames} frames of 640x480 in {time.monotonic() - began:.0f} s; a leak of one of them each is 0.9 MiB a frame"
    )
    for kind, values in zip(("resident", "given out by the allocator"), kinds, strict=True):
        for name, since in (("behind a tenth", len(taken) // 10), ("second half", len(taken) // 2)):
            (slope, _), covariance = np.polyfit(taken[since:], values[since:], 1, cov=True)
            error = 1e6 * covariance[0][0] ** 0.5
            first, last, most = values[since], values[-1], values[since:].max()
            print(f"{kind}, {name}: {first:.1f} to {last:.1f} MiB, at most {most:.1f}; ", end="")
            print(f"{1e6 * slope:+.1f} +- {error:.1f} MiB a million frames")


def _row(result: dict[str, Any], name: str) -> str:
    def cells(stage: str) -> str:
        figures = result["stages_ms"].get(stage) or {}
        return " | ".join(f"{figures[key]:.1f}" if figures else "" for key in ("p50", "p95", "p99", "max"))

    return f"| {result['size']} | {name} | {cells('compose')} | {result['cpu']:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model of vivim-export, to run the same with it")
    parser.add_argument("--threads", type=int, default=0, help="of the model")
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each size")
    parser.add_argument("--soak", type=int, help="measure memory over so many frames instead")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(json.dumps(machine()))
    if args.soak:
        _soak(args.soak)
        return
    print("| size | session | added p50 | p95 | p99 | max ms | CPU of one core |")
    results = []
    for model in (None, args.model) if args.model else (None,):
        for size in SIZES:
            result = in_fresh_process(measure, size, args.fps, args.seconds, model, args.threads)
            results.append(result)
            print(_row(result, "null" if model is None else Path(model).name), flush=True)
            if model:
                age = result["stages_ms"]["mask age"]
                counts = result["counts"]
                dropped = counts["captured"] - counts["shown"]
                print(
                    f"  {counts['captured']} captured, {dropped} dropped, {result['inferred']} inferred, "
                    f"hop {result['hop']}, mask age p50 {age['p50']:.0f} p95 {age['p95']:.0f} max {age['max']:.0f} ms"
                )
    for size in SIZES:
        peak = in_fresh_process(transient, size)
        print(f"{size[1]}x{size[0]}: {peak:.1f} MiB of frames, masks and pictures alive at once at most", end="; ")
        print(_counted(size), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
