#!/usr/bin/env python3
"""`make gpu-check`: build for this machine's GPU, test, benchmark and sanitise the kernels; one JSON file.

    python plugins/tools/gpu_check.py [--out build/gpu-check] [--minutes 8]

Steps run one after the other; each has a time limit, and none is stopped by the failure of another:

    environment   driver, GPU, nvcc, CMake, torch
    build         libvivim_kernels.so and the TensorRT plugin for this GPU alone; without either it fails
    tests         pytest -m gpu: every B3 shape, type and tactic, and the plugin's enqueue on device memory
    benchmark     benchmarks/scan_gpu.py
    plain-scan    benchmarks/plain_scan_gpu.py
    engines       plugins/tools/engine_check.py: build, precision read back, parity, latency; skipped without TensorRT
    memcheck      compute-sanitizer on small shapes; skipped where it is missing or refuses the device
    racecheck     likewise

OUT/gpu_check.json is rewritten before and after each step: its status (not run, running, passed, failed, skipped),
seconds, command, end of output, and the benchmark's figures as far as it came. The whole output of a step is in
OUT/<step>.log. What must run comes first, so that a slow machine loses the sanitizers and not the figures. On a
Jetson without PyTorch the steps that need it are skipped.
Exit code 0: every step passed, or was skipped for a reason that the file gives. 1: something failed or did not run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cuda_tools import compute_capability, find_tool, is_jetson

__all__ = ["Check", "Outcome", "Step", "main", "steps"]

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
LIBRARY = PLUGINS / "build" / "gpu" / "libvivim_kernels.so"
PLUGIN = "libvivim_trt.so"
TAIL = 4000  # characters of output that the file keeps of a step
NOTHING_TO_DO = 77  # exit code of engine_check.py
LEAST_SECONDS = 10.0  # a step that has less left is not begun


@dataclass
class Outcome:
    """What the file says about a step."""

    status: str = "not run"  # running, passed, failed, skipped
    seconds: float = 0.0
    command: list[str] = field(default_factory=list)
    reason: str = ""  # why it failed, was skipped or did not run
    output: str = ""  # its end
    details: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: of the entry and the log.
        limit: seconds.
        command: makes the command line when the step begins; Missing where something it needs is not there.
        judge: given the exit code and the output, changes the outcome where the exit code does not say it all.
        results: a JSON file that the step writes as it goes on, kept in the whole's file.
    """

    name: str
    limit: float
    command: Callable[[], list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    judge: Callable[[Outcome, str], None] | None = None
    results: Path | None = None


class Missing(Exception):
    """A step cannot begin; `optional`: it may be skipped, and the check still pass."""

    def __init__(self, reason: str, optional: bool = False) -> None:
        super().__init__(reason)
        self.optional = optional


class Check:
    """Runs steps until a deadline and keeps the file up to date."""

    def __init__(self, out: Path, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.out, self.clock = out, clock
        self.began = clock()
        self.deadline = self.began + seconds
        self.outcomes: dict[str, Outcome] = {}
        self.results: dict[str, object] = {}
        self.started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    @property
    def file(self) -> Path:
        return self.out / "gpu_check.json"

    @property
    def passed(self) -> bool:
        return bool(self.outcomes) and all(o.status in ("passed", "skipped") for o in self.outcomes.values())

    def run(self, steps: list[Step]) -> bool:
        """Run all of them; whether the check passed."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.outcomes = {step.name: Outcome() for step in steps}
        for step in steps:
            if step.results:
                step.results.unlink(missing_ok=True)  # of an earlier check
        self.write()
        for step in steps:
            self._run(step)
            self.write()
            outcome = self.outcomes[step.name]
            print(f"{step.name:<12} {outcome.status:<8} {outcome.seconds:6.1f} s  {outcome.reason}", flush=True)
        return self.passed

    def _run(self, step: Step) -> None:
        outcome = self.outcomes[step.name]
        left = self.deadline - self.clock()
        if left < LEAST_SECONDS:
            outcome.reason = f"{max(0.0, left):.0f} s were left of the whole check"
            return
        outcome.status, began = "running", self.clock()
        self.write()
        try:
            outcome.command = step.command()
            self._execute(step, outcome, min(step.limit, left))
        except Missing as missing:
            outcome.status, outcome.reason = "skipped" if missing.optional else "failed", str(missing)
        except Exception as error:  # a broken step must not stop the others
            outcome.status, outcome.reason = "failed", f"{type(error).__name__}: {error}"
        finally:
            outcome.seconds = round(self.clock() - began, 2)
            self._keep_results(step)

    def _execute(self, step: Step, outcome: Outcome, limit: float) -> None:
        log = self.out / f"{step.name}.log"
        code = None
        with log.open("wb") as stream:
            # A session of its own: what the command starts ends with it.
            process = subprocess.Popen(
                outcome.command,
                cwd=ROOT,
                env={**os.environ, **step.environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                pass
            finally:
                if code is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        text = log.read_text(errors="replace")
        outcome.output = text[-TAIL:]
        if code is None:
            outcome.status, outcome.reason = "failed", f"stopped after its time limit of {limit:.0f} s"
            return
        outcome.status, outcome.reason = ("passed", "") if code == 0 else ("failed", f"exit code {code}")
        if step.judge:
            step.judge(outcome, text)

    def _keep_results(self, step: Step) -> None:
        if step.results and step.results.is_file():
            try:
                self.results[step.name] = json.loads(step.results.read_text())
            except ValueError as error:
                self.outcomes[step.name].details["results"] = f"{step.results.name} is no JSON: {error}"

    def write(self) -> None:
        """The whole file at once, so that it is whole whenever this is killed."""
        content = {
            "passed": self.passed,
            "started": self.started,
            "seconds": round(self.clock() - self.began, 2),
            "steps": {name: asdict(outcome) for name, outcome in self.outcomes.items()},
            "results": self.results,
        }
        made = self.file.with_name(self.file.name + ".part")
        made.write_text(json.dumps(content, indent=2) + "\n")
        made.replace(self.file)


# --- the steps ----------------------------------------------------------------------------------------------------

# Prints what it can and fails only without a GPU that torch can use: the rest needs one. A Jetson may have no torch.
ENVIRONMENT = """
import platform, subprocess, sys
print("python", platform.python_version(), sys.executable)
print("machine", platform.platform())
for command in (
    ["nvidia-smi"],
    ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap,clocks.max.sm,clocks.max.memory", "--format=csv"],
    [{nvcc!r}, "--version"],
    ["cmake", "--version"],
    ["compute-sanitizer", "--version"],
):
    try:
        print("$", *command, flush=True)
        subprocess.run(command, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        print(error)
for name in ("pytest", "mamba_ssm", "numpy"):
    try:
        print(name, getattr(__import__(name), "__version__", "?"))
    except Exception as error:
        print(name, "cannot be imported:", error)
print("compute capability, of the driver", {capability!r})
try:
    import torch
except ModuleNotFoundError:
    # On a Jetson it is the user's choice, and the steps that need it are skipped.
    sys.exit(None if {jetson!r} and {capability!r} else "torch is not installed")
print("torch", torch.__version__, "CUDA", torch.version.cuda)
if not torch.cuda.is_available():
    sys.exit("torch finds no CUDA GPU")
print(torch.cuda.get_device_properties(0))
"""


def architecture() -> str:
    """Of this machine's GPU, as VIVIM_ARCHITECTURES takes it: 87 for compute capability 8.7.

    Raises:
        Missing: the driver finds no GPU.
    """
    capability = compute_capability()
    if capability is None:
        raise Missing("the NVIDIA driver (libcuda.so.1) finds no GPU")
    return f"{capability[0]}{capability[1]}"


def needs_torch(command: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """A command that a Jetson may do without: JetPack has no torch, and NVIDIA's wheels of it are the user's choice."""

    def checked() -> list[str]:
        if is_jetson() and importlib.util.find_spec("torch") is None:
            raise Missing("this Jetson has no PyTorch, which compares and measures; engines need none", optional=True)
        return command()

    return checked


def interfaces() -> list[str]:
    """Options of CMake: TensorRT's headers where they are, else the declarations for the TensorRT that is installed."""
    named = ("VIVIM_TENSORRT_INCLUDE", "TENSORRT_ROOT", "VIVIM_TENSORRT_MAJOR")
    folders = ("", f"{platform.machine()}-linux-gnu/")
    if any(os.environ.get(name) for name in named) or any(
        Path(f"/usr/include/{f}NvInfer.h").is_file() for f in folders
    ):
        return []
    for distribution in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return [f"-DVIVIM_TENSORRT_MAJOR={importlib.metadata.version(distribution).partition('.')[0]}"]
    return ["-DVIVIM_TENSORRT_MAJOR=11"]


def build_command() -> list[str]:
    """Configure by the preset for this GPU alone and compile, in one shell so that it is one step.

    The library of an earlier build goes first: no later step may take it for this one.
    """
    LIBRARY.unlink(missing_ok=True)
    LIBRARY.with_name(PLUGIN).unlink(missing_ok=True)
    # A wheel puts cmake beside its Python, which need not be on PATH.
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if cmake is None or shutil.which("c++") is None:
        raise Missing(f"{'cmake' if cmake is None else 'c++'} not found: install CMake 3.21 and a C++17 compiler")
    nvcc = find_tool("nvcc")
    if nvcc is None:
        raise Missing("nvcc not found: install a CUDA toolkit, or pip install -e '.[cuda-build]'")
    script = 'cmake=$1 jobs=$2 library=$3; shift 3; "$cmake" --preset gpu "$@"'
    script += ' && "$cmake" --build --preset gpu --parallel "$jobs" && test -f "$library"'
    options = [f"-DVIVIM_NVCC={nvcc}", f"-DVIVIM_ARCHITECTURES={architecture()}", *interfaces()]
    return ["sh", "-c", f"cd plugins && {script}", "build", cmake, str(os.cpu_count() or 2), str(LIBRARY), *options]


def judge_build(outcome: Outcome, text: str) -> None:
    """CMake leaves the plugin out where it has nothing to build it with: the kernels alone are no success."""
    left_out = re.search(r"vivim_trt: not built,[^.]*\.", " ".join(text.split()))
    if outcome.status == "passed" and not LIBRARY.with_name(PLUGIN).is_file():
        outcome.status = "failed"
        outcome.reason = f"the TensorRT plugin was left out; {left_out[0] if left_out else PLUGIN + ' is not there'}"


def gpu_test_files() -> list[str]:
    """Test files with tests of the GPU; naming them spares the others' imports."""
    files = (path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text())
    return [str(path.relative_to(ROOT)) for path in files]


def judge_tests(report: Path) -> Callable[[Outcome, str], None]:
    """pytest ends with 0 where every test was skipped, too: count them in its JUnit report."""

    def judge(outcome: Outcome, text: str) -> None:
        if "No module named pytest" in text:
            outcome.reason = "pytest is not installed for this Python: pip install pytest"
            return
        if not report.is_file():
            outcome.status, outcome.reason = "failed", outcome.reason or "pytest wrote no report"
            return
        cases = list(ElementTree.parse(report).iter("testcase"))
        skips = [case.find("skipped") for case in cases]
        reasons = sorted({skip.get("message", "") for skip in skips if skip is not None})
        failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
        skipped = sum(skip is not None for skip in skips)
        passed = len(cases) - failed - skipped
        outcome.details = {"passed": passed, "failed": failed, "skipped": skipped, "why skipped": reasons}
        outcome.reason = outcome.reason or f"{passed} passed, {skipped} skipped"
        kernels = [
            case for case in cases if case.get("classname", "").endswith("test_gpu") and case.find("skipped") is None
        ]
        if outcome.status == "passed" and not kernels:
            outcome.status, outcome.reason = "failed", f"no test of the kernels ran on a GPU: {'; '.join(reasons)}"

    return judge


def judge_engines(outcome: Outcome, text: str) -> None:
    """engine_check.py ends with 77 where neither library can build here."""
    lines = [line for line in text.splitlines() if " skipped " in line]
    if outcome.reason == f"exit code {NOTHING_TO_DO}":
        outcome.status, outcome.reason = "skipped", "; ".join(lines)


def sanitizer_command(tool: str) -> list[str]:
    found = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer"
    )
    if found is None:
        raise Missing("compute-sanitizer not found: it comes with the CUDA toolkit", optional=True)
    if not LIBRARY.is_file():
        raise Missing(f"{LIBRARY} is not there: the build failed")
    options = ["--tool", tool, "--error-exitcode", "9", "--kernel-regex", "kns=vivim"]  # our kernels, not torch's
    script = [sys.executable, "plugins/tools/small_shapes.py", "--library", str(LIBRARY)]
    return [found, *options, *script]


def judge_sanitizer(outcome: Outcome, text: str) -> None:
    """A virtual GPU that debuggers may not attach to is no fault of the kernels."""
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", text)
    if summary:
        outcome.details["summary"] = summary[-1]
    refused = re.search(r"Device not supported|not supported on this (?:device|system)|Debugger.*not.*permitted", text)
    if outcome.status == "failed" and refused:
        outcome.status, outcome.reason = "skipped", f"compute-sanitizer cannot work here: {refused[0]}"
    elif outcome.status == "passed" and not summary:
        outcome.status, outcome.reason = "failed", "compute-sanitizer gave no summary"


def steps(out: Path) -> list[Step]:
    """What `make gpu-check` does. The limits of the first four add up to less than the 8 minutes."""
    kernels = {"VIVIM_KERNELS": str(LIBRARY), "PYTHONPATH": _python_path(), "PYTHONUNBUFFERED": "1"}
    # Each tensor in memory of its own: inside torch's pool the sanitizer would not see the end of one.
    alone = {**kernels, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    facts = {"nvcc": find_tool("nvcc") or "nvcc", "capability": compute_capability(), "jetson": is_jetson()}
    environment = ENVIRONMENT
    for name, value in facts.items():
        environment = environment.replace(f"{{{name}!r}}", repr(value))
    report, figures, engines = out / "tests.xml", out / "scan_gpu.json", out / "engines.json"
    plain = out / "plain_scan_gpu.json"

    def test_command() -> list[str]:
        report.unlink(missing_ok=True)
        files = gpu_test_files()
        if not files:
            raise Missing("no test is marked gpu")
        return [sys.executable, "-m", "pytest", "-m", "gpu", "-q", f"--junitxml={report}", *files]

    def benchmark_command() -> list[str]:
        return [sys.executable, "benchmarks/scan_gpu.py", "--json", str(figures)]

    def plain_command() -> list[str]:
        return [sys.executable, "benchmarks/plain_scan_gpu.py", "--json", str(plain)]

    def engine_command() -> list[str]:
        return [sys.executable, "plugins/tools/engine_check.py", "--json", str(engines)]

    return [
        Step("environment", 30, lambda: [sys.executable, "-c", environment]),
        Step("build", 170, build_command, judge=judge_build),
        Step("tests", 140, needs_torch(test_command), kernels, judge_tests(report)),
        Step("benchmark", 110, needs_torch(benchmark_command), kernels, results=figures),
        Step("plain-scan", 40, needs_torch(plain_command), kernels, results=plain),
        Step("engines", 120, needs_torch(engine_command), kernels, judge_engines, results=engines),
        Step("memcheck", 60, needs_torch(lambda: sanitizer_command("memcheck")), alone, judge_sanitizer),
        Step("racecheck", 60, needs_torch(lambda: sanitizer_command("racecheck")), alone, judge_sanitizer),
    ]


def _python_path() -> str:
    """The repository first: on a machine without .venv, vivim is not installed."""
    folders = [str(ROOT), *(str(ROOT / name) for name in ("export", "runtime", "calibration"))]
    return os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="build, test, benchmark and sanitise the kernels on this GPU")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check", metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=8.0, help="of the whole check, default 8")
    given = parser.parse_args(arguments)
    # As Ctrl-C does: ends the running step, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    out = given.out.resolve()
    check = Check(out, 60 * given.minutes - 5)  # 5 s: to stop what runs and to write
    print(f"{platform.node()}: {check.file}", flush=True)
    passed = check.run(steps(out))
    print("passed" if passed else "FAILED", check.file)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
