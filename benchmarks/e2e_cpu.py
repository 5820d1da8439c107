"""Whole clips on the CPU, pixels in and logits out: the authors' arithmetic, our PyTorch, our ONNX files, OpenVINO.

    python benchmarks/e2e_cpu.py [--presets tiny,b3] [--threads 2] [--rounds 5] [--openvino-python PYTHON] [--json FILE]

    authors   Vivim in PyTorch with the scan as a loop over all steps (benchmarks/sequential.py), decoder unfolded
    torch     Vivim in PyTorch, with the scan in chunks
    compiled  the same with the compiled operators (make native)
    bodies    the file that vivim-export writes, in ONNX Runtime through vivim_runtime; its bodies compute the scan
    library   the same file with the compiled operators
    cpu       the file of vivim-export onnx --cpu, with the compiled operators: what a user without a GPU runs
    openvino  the file of vivim-export onnx --form lowered in OpenVINO, float32, where --openvino-python names a Python
              of this version whose environment has it (python -m venv V; V/bin/pip install openvino)

One clip of 5 frames of 256x256, random weights (seed 0; speed does not depend on them). Each side lives in a process of
its own, and they take turns clip by clip, so that other load on the machine meets all. Still, wait for an idle machine:
where another process holds a core, PyTorch's threads wait for it in every small operation and slow down tenfold. Peak
memory is that of the whole process: interpreter, libraries, weights and activations, loading included. Exit code 1 when
the sides disagree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from measuring import in_fresh_process, machine, peak_mb, relative_l2, resident_mb

from vivim_runtime.bench.process import MeasuringProcess
from vivim_runtime.sessions.native import native_library

# Nothing heavier at the top: every side's process imports this file, and its memory should be its own.

FRAMES, SIZE = 5, (256, 256)
SIDES = {
    "authors": "authors' arithmetic, PyTorch",
    "torch": "Vivim, PyTorch",
    "compiled": "Vivim, PyTorch, operators",
    "bodies": "ONNX Runtime, bodies",
    "library": "ONNX Runtime, operators",
    "cpu": "ONNX Runtime, operators, --cpu",
    "openvino": "OpenVINO, float32, lowered",
}
# How many times faster the ONNX file for CPUs is to be, by network.
AIMS = {
    "b3": {"cpu over torch": 2.5, "cpu over authors": 4.5},
    "tiny": {"cpu over authors": 10.0},
}
# What each side's file is exported with.
FILES = {"bodies": {}, "library": {}, "cpu": {"cpu": True}, "openvino": {"form": "lowered"}}
TOLERANCE = 1e-4  # rel-L2 of the logits, means removed
# A side sits out further rounds once its clips have taken this long, seconds.
PATIENCE = 25.0
TOP = 6

Clip = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Memory:
    """MiB of a side's process: after its imports, with the network loaded, and the most it ever had."""

    imported: float
    loaded: float
    peak: float


@dataclass(frozen=True)
class Cost:
    """What one kind of operation costs in a clip; `inside` says within which loop, when in one."""

    operation: str
    ms: float
    calls: int
    inside: str | None = None


# --- the sides: in their own processes ------------------------------------------------------------------------------


class Side(Protocol):
    """One way to run the network."""

    imported_mb: float

    def __call__(self, clip: Clip) -> Logits: ...

    def costs(self, clip: Clip) -> list[Cost]: ...


def _network(preset: str) -> Any:
    """The same random network in every process."""
    import torch

    from vivim import Vivim, VivimConfig

    torch.manual_seed(0)
    return Vivim(VivimConfig.preset(preset, frames=FRAMES)).eval()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what C++ writes to stderr: torch's profiler announces itself there, whatever its log level."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class TorchSide:
    """The PyTorch network, with the scan that `sequential` says."""

    def __init__(self, preset: str, threads: int, sequential: bool) -> None:
        import torch

        import vivim.mamba
        from vivim.config import MEAN, STD

        self.imported_mb = resident_mb()
        if sequential:
            from sequential import sequential_scan

            vivim.mamba.selective_scan = sequential_scan  # type: ignore[assignment, attr-defined]
        torch.set_num_threads(threads)
        self._mean, self._std = torch.tensor(MEAN), torch.tensor(STD)
        self._model = _network(preset)
        self(np.zeros((1, FRAMES, 64, 64, 3), np.uint8))  # warm-up, small: the loop takes seconds at full size

    def __call__(self, clip: Clip) -> Logits:
        import torch

        with torch.inference_mode():
            x = (torch.from_numpy(clip).float() / 255.0 - self._mean) / self._std
            logits: Logits = self._model(x.permute(0, 1, 4, 2, 3)).logits.numpy()
        return logits

    def costs(self, clip: Clip) -> list[Cost]:
        from torch.profiler import ProfilerActivity, profile

        with _silent_stderr(), profile(activities=[ProfilerActivity.CPU]) as profiler:
            self(clip)
        return [Cost(e.key, e.self_cpu_time_total / 1e3, e.count) for e in profiler.key_averages()]


class OnnxSide:
    """The ONNX file in ONNX Runtime."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime  # noqa: F401  (a session imports it late; its memory belongs to the imports)

        from vivim_runtime.sessions.onnx import OnnxSession

        self.imported_mb = resident_mb()
        self._path, self._threads = path, threads
        self._session = OnnxSession(path, "cpu", threads)
        self._session.warm_up()

    def __call__(self, clip: Clip) -> Logits:
        return self._session(clip)

    def costs(self, clip: Clip) -> list[Cost]:
        from vivim_runtime.sessions.onnx import OnnxSession

        with OnnxSession(self._path, "cpu", self._threads, profile=self._path.with_suffix("")) as session:
            for _ in range(2):  # the first is a warm-up
                session(clip)
            events = json.loads(session.end_profiling().read_text())
        return _costs_of_events(events)


class OpenVinoSide:
    """The lowered file in OpenVINO, out of another environment."""

    def __init__(self, path: Path, threads: int, packages: str) -> None:
        sys.path.append(packages)  # behind ours: of what both have, ours is taken
        import openvino  # noqa: F401

        from vivim_runtime.sessions.openvino import OpenVinoSession

        self.imported_mb = resident_mb()
        self._session = OpenVinoSession(path, threads=threads)
        self._session.warm_up()

    def __call__(self, clip: Clip) -> Logits:
        return self._session(clip)

    def costs(self, clip: Clip) -> list[Cost]:
        return []


def _costs_of_events(events: list[dict[str, Any]]) -> list[Cost]:
    """Costs by operator in the last run of an ONNX Runtime profile; what runs inside a Scan is listed apart."""
    last = max((e for e in events if e["name"] == "model_run"), key=lambda e: e["ts"])
    nodes = [e for e in events if e["name"].endswith("_kernel_time") and e["ts"] >= last["ts"]]
    totals: defaultdict[tuple[str, str | None], list[float]] = defaultdict(lambda: [0.0, 0.0])
    scan_end = 0.0
    for event in sorted(nodes, key=lambda e: (e["ts"], -e["dur"])):
        operator = event["args"]["op_name"]
        total = totals[operator, "Scan" if event["ts"] < scan_end else None]
        total[0] += event["dur"] / 1e3
        total[1] += 1
        if operator == "Scan":
            scan_end = event["ts"] + event["dur"]
    return [Cost(operator, ms, int(calls), inside) for (operator, inside), (ms, calls) in totals.items()]


class Measured:
    """A side on one clip of noise, in a process of its own."""

    def __init__(self, name: str, preset: str, threads: int, folder: Path, packages: str) -> None:
        if name not in ("compiled", "library", "cpu"):
            os.environ["VIVIM_ORT"] = "bodies"  # of this process; what computes is chosen by the first call
        elif native_library() is None:
            raise SystemExit("the compiled operators are not there; build them: make native")
        self._side: Side
        if name == "openvino":
            self._side = OpenVinoSide(_file(folder, preset, name), threads, packages)
        elif name in FILES:
            self._side = OnnxSide(_file(folder, preset, name), threads)
        else:
            self._side = TorchSide(preset, threads, name == "authors")
        self._loaded = resident_mb()
        self._clip = np.random.default_rng(0).integers(0, 256, (1, FRAMES, *SIZE, 3), np.uint8)

    def run(self) -> tuple[float, float, Logits]:
        """Seconds of a clip, of the processor for it, and its logits."""
        start, worked = time.perf_counter(), time.process_time()
        logits = self._side(self._clip)
        return time.perf_counter() - start, time.process_time() - worked, logits

    def memory(self) -> Memory:
        """After the imports, loaded, and at most, MiB."""
        return Memory(self._side.imported_mb, self._loaded, peak_mb())

    def costs(self) -> list[Cost]:
        """Where the time of a clip goes."""
        return self._side.costs(self._clip)


def export(preset: str, name: str, path: Path) -> tuple[float, float]:
    """Write a side's ONNX file; seconds and peak MiB. To be called in a fresh process."""
    from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx

    start = time.perf_counter()
    save_onnx(onnx_from_model(_network(preset), OnnxOptions(size=SIZE, **FILES[name])), path)
    return time.perf_counter() - start, peak_mb()


def _file(folder: Path, preset: str, name: str) -> Path:
    """Of a side; those with the same options share one."""
    first = next(other for other, options in FILES.items() if options == FILES[name])
    return folder / f"{preset}.{first}.onnx"


def openvino_packages(python: str | None) -> str | None:
    """Where the packages of an environment with OpenVINO are; None, and a line, where there is no such."""
    if python is None:
        print("OpenVINO is left out: --openvino-python names a Python that has it")
        return None
    program = "import sys, sysconfig, openvino; print(*sys.version_info[:2], sysconfig.get_path('platlib'))"
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True)
    except OSError as error:
        print(f"OpenVINO is left out: {python} does not run: {error.strerror}")
        return None
    *version, packages = done.stdout.split() or [""]
    if done.returncode or version != [str(part) for part in sys.version_info[:2]]:
        print(f"OpenVINO is left out: {python} has no openvino, or is of another version than {sys.version.split()[0]}")
        return None
    return packages


# --- the comparison -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a side did: seconds of each clip, of the processor too, its memory, its logits, and where the time went."""

    seconds: list[float]
    worked: list[float]
    memory: Memory
    logits: Logits
    costs: list[Cost]

    @property
    def median_ms(self) -> float:
        return 1e3 * statistics.median(self.seconds)

    @property
    def processor_ms(self) -> float:
        return 1e3 * statistics.median(self.worked)

    @property
    def best_ms(self) -> float:
        return 1e3 * min(self.seconds)


def compare(preset: str, threads: int, rounds: int, folder: Path, packages: str | None) -> dict[str, Result]:
    """Run the sides in turns, then profile ours."""
    sides = [name for name in SIDES if name != "openvino" or packages]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    worked: dict[str, list[float]] = {name: [] for name in sides}
    logits: dict[str, Logits] = {}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(MeasuringProcess(name, Measured, name, preset, threads, folder, packages or ""))
            for name in sides
        }
        for _ in range(rounds):
            for name, worker in workers.items():
                if sum(seconds[name]) < PATIENCE:
                    took, busy, logits[name] = worker.ask("run")
                    seconds[name].append(took)
                    worked[name].append(busy)
        memory = {name: worker.ask("memory") for name, worker in workers.items()}
        # The loop's hundreds of thousands of calls would measure the profiler.
        costs = {name: [] if name == "authors" else worker.ask("costs") for name, worker in workers.items()}
    return {name: Result(seconds[name], worked[name], memory[name], logits[name], costs[name]) for name in sides}


def disagreement(results: dict[str, Result]) -> dict[str, float]:
    """rel-L2 of the logits, means removed, against our PyTorch."""
    expected = results["torch"].logits
    mean = expected.mean()
    others = [name for name in results if name != "torch"]
    return {name: relative_l2(results[name].logits - mean, expected - mean) for name in others}


def _print_sides(results: dict[str, Result]) -> None:
    print(f"{'':<30}{'ms/clip':>9}{'(best)':>9}{'cpu ms':>9}{'fps':>8}{'clips':>7}   peak MB (after imports, loaded)")
    for name, result in results.items():
        memory, best = result.memory, f"({result.best_ms:.0f})"
        print(
            f"{SIDES[name]:<30}{result.median_ms:>9.0f}{best:>9}{result.processor_ms:>9.0f}"
            f"{1e3 * FRAMES / result.median_ms:>8.2f}{len(result.seconds):>7}   "
            f"{memory.peak:>7.0f} ({memory.imported:.0f}, {memory.loaded:.0f})"
        )


def _ratios(ms: dict[str, float]) -> dict[str, float]:
    """How many times faster, from a clip's ms by side: the file for CPUs first, then each against those before it."""
    order = list(SIDES).index
    pairs = [(a, b) for a in ("library", "bodies", "compiled", "torch") for b in ms if order(b) < order(a)]
    pairs = [*(("cpu", b) for b in ms if b != "cpu"), *pairs]
    return {f"{a} over {b}": ms[b] / ms[a] for a, b in pairs}


def _print_ratios(results: dict[str, Result], preset: str) -> None:
    ratios = _ratios({name: result.median_ms for name, result in results.items()})
    bests = _ratios({name: result.best_ms for name, result in results.items()})
    for pair, ratio in ratios.items():
        faster, slower = pair.split(" over ")
        text = f"{ratio:.2f}x as fast (best clips {bests[pair]:.2f}x): {SIDES[faster]} against {SIDES[slower]}"
        if aim := AIMS.get(preset, {}).get(pair):
            text += f"; aim {aim:.1f}x: {'met' if ratio >= aim else 'NOT met'}"
        print(text)


def _print_costs(title: str, costs: list[Cost], median_ms: float) -> None:
    """The most expensive operations, as a share of the profiled clip."""
    outside = [cost for cost in costs if cost.inside is None]
    total = sum(cost.ms for cost in outside)
    print(f"{title}: {total:.0f} ms under the profiler, {median_ms:.0f} without")
    for cost in _top(outside):
        print(_cost_line(cost, total))
        if cost.operation == "Scan":
            for part in _top(part for part in costs if part.inside == "Scan"):
                print(_cost_line(part, total, indent="    in it: "))


def _top(costs: Iterable[Cost]) -> list[Cost]:
    return sorted(costs, key=lambda cost: -cost.ms)[:TOP]


def _cost_line(cost: Cost, total: float, indent: str = "  ") -> str:
    return f"{indent + cost.operation:<38}{cost.ms:>9.1f} ms {100 * cost.ms / total:>5.1f} % {cost.calls:>8} calls"


def _report(
    preset: str, arguments: argparse.Namespace, folder: Path, packages: str | None
) -> tuple[dict[str, Any], bool]:
    """Measure and print one preset; its figures, and whether the sides agree."""
    for name in ("cpu", "openvino")[: 2 if packages else 1]:
        in_fresh_process(export, preset, name, _file(folder, preset, name))
    path = _file(folder, preset, "library")
    took, memory = in_fresh_process(export, preset, "library", path)
    size = path.stat().st_size / 2**20
    print(f"\n== {preset} == exported in {took:.0f} s with a peak of {memory:.0f} MB; the file has {size:.1f} MB")
    results = compare(preset, arguments.threads, arguments.rounds, folder, packages)
    _print_sides(results)
    _print_ratios(results, preset)
    wrong = disagreement(results)
    agree = all(value <= TOLERANCE for value in wrong.values())
    figures = ", ".join(f"{SIDES[name]} {value:.1e}" for name, value in wrong.items())
    print(
        f"logits against {SIDES['torch']}, rel-L2: {figures} (allowed {TOLERANCE:.0e}: {'met' if agree else 'NOT met'})"
    )
    for name in ("torch", "bodies", "library", "cpu"):
        _print_costs(f"where the time goes, {SIDES[name]}", results[name].costs, results[name].median_ms)
    sides = {
        name: {
            "seconds": result.seconds,
            "median_ms": result.median_ms,
            "best_ms": result.best_ms,
            "processor_ms": result.processor_ms,
            "fps": 1e3 * FRAMES / result.median_ms,
            "memory_mb": asdict(result.memory),
            "costs": [asdict(cost) for cost in _top(result.costs)],
        }
        for name, result in results.items()
    }
    ratios = _ratios({name: result.median_ms for name, result in results.items()})
    exported = {"seconds": took, "peak_mb": memory, "file_mb": size}
    return {"export": exported, "sides": sides, "ratios": ratios, "rel_l2": wrong}, agree


def main() -> int:
    parser = argparse.ArgumentParser(description="whole clips on the CPU: authors' arithmetic, our PyTorch, our ONNX")
    parser.add_argument("--presets", default="tiny,b3", help="default tiny,b3")
    parser.add_argument("--threads", type=int, default=2, help="of every side; default 2")
    parser.add_argument("--rounds", type=int, default=5, help="clips of a side, at most; default 5")
    parser.add_argument("--openvino-python", metavar="PYTHON", help="of an environment that has openvino")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    if arguments.threads < 1 or arguments.rounds < 1:
        parser.error("--threads and --rounds take 1 or more")

    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{FRAMES} frames of {SIZE[0]}x{SIZE[1]}, threads: {arguments.threads}; medians of clips taken in turns")
    packages = openvino_packages(arguments.openvino_python)
    presets, agree = {}, True
    with tempfile.TemporaryDirectory() as folder:
        for preset in arguments.presets.split(","):
            presets[preset], agrees = _report(preset, arguments, Path(folder), packages)
            agree &= agrees
    if arguments.json:
        content = {"machine": about, "threads": arguments.threads, "presets": presets}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
