"""`make gpu-check` and its benchmark without a GPU: what they write, when they stop, and what they call a success."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.plugins import test_gpu
from tests.plugins.kernel_library import PLUGINS, build, load_script, load_tool
from vivim.scan.kernels import KernelLibrary
from vivim.scan.orders import to_order
from vivim.scan.s6 import s6_scan_reference

ROOT = PLUGINS.parent
PYTHON = sys.executable


CHECK = load_tool("gpu_check")
BASELINES = load_script(ROOT / "benchmarks" / "scan_baselines.py")
BENCHMARK = load_script(ROOT / "benchmarks" / "scan_gpu.py")
PLAIN = load_script(ROOT / "benchmarks" / "plain_scan_gpu.py")


# --- the steps ----------------------------------------------------------------------------------------------------


def step(name: str, code: str, limit: float = 30, **rest: object) -> object:
    return CHECK.Step(name, limit, lambda: [PYTHON, "-c", code], **rest)


def written(out: Path) -> dict[str, dict[str, dict[str, object]]]:
    content: dict[str, dict[str, dict[str, object]]] = json.loads((out / "gpu_check.json").read_text())
    return content


def test_a_failing_step_does_not_stop_the_next(tmp_path: Path) -> None:
    check = CHECK.Check(tmp_path, 60)
    assert not check.run([step("first", "print('why'); raise SystemExit(3)"), step("second", "print('well')")])
    first, second = written(tmp_path)["steps"].values()
    assert (first["status"], first["reason"], first["output"]) == ("failed", "exit code 3", "why\n")
    assert (second["status"], second["output"]) == ("passed", "well\n")
    assert second["command"] == [PYTHON, "-c", "print('well')"]
    assert written(tmp_path)["passed"] is False


def test_all_steps_passed_is_a_success(tmp_path: Path) -> None:
    assert CHECK.Check(tmp_path, 60).run([step("one", ""), step("two", "")])
    assert written(tmp_path)["passed"] is True


def test_the_file_is_whole_while_a_step_runs(tmp_path: Path) -> None:
    look = f"import json; print(json.load(open({str(tmp_path / 'gpu_check.json')!r}))['steps'])"
    CHECK.Check(tmp_path, 60).run([step("before", ""), step("now", look), step("later", "")])
    seen = str(written(tmp_path)["steps"]["now"]["output"])
    assert [seen.count(f"'status': '{s}'") for s in ("passed", "running", "not run")] == [1, 1, 1]


def test_a_step_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    child = "import time; time.sleep(2.5); open('LATE', 'w')".replace("LATE", str(tmp_path / "late"))
    code = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    check = CHECK.Check(tmp_path, 60)
    check.run([step("slow", code, limit=1.5), step("next", "import time; time.sleep(1.5)")])
    slow, after = check.outcomes.values()
    assert slow.status == "failed" and "time limit" in slow.reason and slow.output == "begun\n"
    assert after.status == "passed" and not (tmp_path / "late").exists()


def test_steps_after_the_deadline_are_not_run(tmp_path: Path) -> None:
    now = [0.0]

    def lose() -> list[str]:
        now[0] += 95.0
        return [PYTHON, "-c", ""]

    check = CHECK.Check(tmp_path, 100, clock=lambda: now[0])
    assert not check.run([CHECK.Step("slow", 200, lose), step("late", "")])
    assert written(tmp_path)["steps"]["slow"]["status"] == "passed"
    late = written(tmp_path)["steps"]["late"]
    assert (late["status"], late["reason"]) == ("not run", "5 s were left of the whole check")


@pytest.mark.parametrize(("optional", "status"), [(True, "skipped"), (False, "failed")])
def test_a_missing_tool_fails_the_check_unless_it_is_optional(tmp_path: Path, optional: bool, status: str) -> None:
    def command() -> list[str]:
        raise CHECK.Missing("no such tool", optional)

    assert CHECK.Check(tmp_path, 60).run([CHECK.Step("tool", 9, command), step("other", "")]) is optional
    tool = written(tmp_path)["steps"]["tool"]
    assert (tool["status"], tool["reason"]) == (status, "no such tool")


def test_a_program_that_is_not_there_is_a_failed_step(tmp_path: Path) -> None:
    check = CHECK.Check(tmp_path, 60)
    assert not check.run([CHECK.Step("gone", 9, lambda: ["/nowhere/nothing"])])
    assert "FileNotFoundError" in check.outcomes["gone"].reason


def test_figures_of_a_step_that_was_stopped_are_kept(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    figures.write_text('{"rows": ["of an earlier check"]}')
    code = f"open({str(figures)!r}, 'w').write('{{\"rows\": [1]}}'); import time; time.sleep(30)"
    slow = step("benchmark", code, limit=2, results=figures)
    CHECK.Check(tmp_path, 60).run([slow])
    assert written(tmp_path)["results"] == {"benchmark": {"rows": [1]}}
    CHECK.Check(tmp_path, 60).run([step("benchmark", "raise SystemExit(1)", results=figures)])
    assert written(tmp_path)["results"] == {}


def judged(report: str, tmp_path: Path, status: str = "passed") -> object:
    (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite>{report}</testsuite></testsuites>")
    outcome = CHECK.Outcome(status)
    CHECK.judge_tests(tmp_path / "tests.xml")(outcome, "")
    return outcome


def test_tests_that_were_all_skipped_are_a_failure(tmp_path: Path) -> None:
    kernels, plugin = 'classname="tests.plugins.test_gpu"', 'classname="tests.plugins.test_trt_plugin"'
    skip = '<skipped message="no GPU"/>'
    nothing = judged(f"<testcase {kernels}>{skip}</testcase>", tmp_path)
    assert (nothing.status, nothing.reason) == ("failed", "no test of the kernels ran on a GPU: no GPU")
    well = judged(f"<testcase {kernels}/><testcase {plugin}>{skip}</testcase>", tmp_path)
    assert (well.status, well.reason) == ("passed", "1 passed, 1 skipped")
    assert well.details["why skipped"] == ["no GPU"]
    bad = judged(f"<testcase {kernels}><failure/></testcase>", tmp_path, "failed")
    assert bad.status == "failed" and bad.details["failed"] == 1


def test_missing_pytest_is_said(tmp_path: Path) -> None:
    outcome = CHECK.Outcome("failed")
    CHECK.judge_tests(tmp_path / "tests.xml")(outcome, "python: No module named pytest\n")
    assert outcome.status == "failed" and "pip install pytest" in outcome.reason


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        ("passed", "========= ERROR SUMMARY: 0 errors\n", "passed"),
        ("failed", "========= RACECHECK SUMMARY: 2 hazards displayed\n", "failed"),
        ("failed", "========= Error: Device not supported.\n", "skipped"),
        ("passed", "10 tactics are right\n", "failed"),  # the sanitizer did not watch
    ],
)
def test_sanitizers_are_judged_by_their_summary(status: str, text: str, expected: str) -> None:
    outcome = CHECK.Outcome(status)
    CHECK.judge_sanitizer(outcome, text)
    assert outcome.status == expected


def test_sanitizer_that_is_missing_is_skipped_and_build_without_nvcc_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(CHECK.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(CHECK, "LIBRARY", tmp_path / "none.so")
    with pytest.raises(CHECK.Missing, match="CUDA toolkit") as missing:
        CHECK.sanitizer_command("memcheck")
    assert missing.value.optional
    with pytest.raises(CHECK.Missing, match="cmake not found") as missing:
        CHECK.build_command()
    assert not missing.value.optional


def test_build_is_for_this_gpu_alone_and_forgets_an_earlier_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "old.so").touch()
    monkeypatch.setattr(CHECK, "LIBRARY", tmp_path / "old.so")
    monkeypatch.setattr(CHECK.shutil, "which", lambda name, **_: f"/bin/{name}")
    monkeypatch.setattr(CHECK, "find_tool", lambda name: f"/cuda/bin/{name}")
    monkeypatch.setattr(CHECK, "compute_capability", lambda: (8, 7))
    command = CHECK.build_command()
    assert "-DVIVIM_ARCHITECTURES=87" in command and "-DVIVIM_NVCC=/cuda/bin/nvcc" in command
    assert not (tmp_path / "old.so").exists()


DRIVER = """
int cuInit(unsigned flags) { return STATUS; }
int cuDeviceGet(int* handle, int number) { *handle = 40 + number; return number; }
int cuDeviceGetAttribute(int* value, int attribute, int handle)
{
    *value = attribute == 75 ? 8 : 7;
    return handle != 40;
}
"""


@pytest.mark.parametrize(("status", "answer"), [(0, "(8, 7)"), (100, "None"), (None, "None")])
def test_compute_capability_is_that_of_the_driver(status: int | None, answer: str, tmp_path: Path) -> None:
    if status is not None:
        (tmp_path / "driver.c").write_text(DRIVER.replace("STATUS", str(status)))
        library = tmp_path / "libcuda.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    elif CHECK.compute_capability() is not None:
        pytest.skip("this machine has a GPU")
    code = "from cuda_tools import compute_capability; print(compute_capability())"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(PLUGINS / "tools")}
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == answer


def test_jetson_without_torch_skips_what_needs_it_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = CHECK.importlib.util.find_spec
    monkeypatch.setattr(CHECK.importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    monkeypatch.setattr(CHECK, "compute_capability", lambda: (8, 7))
    skipped = {}
    for jetson in (True, False):
        monkeypatch.setattr(CHECK, "is_jetson", lambda jetson=jetson: jetson)
        for planned in CHECK.steps(tmp_path)[2:6]:
            try:
                skipped[jetson, planned.name] = planned.command() == []
            except CHECK.Missing as missing:
                assert missing.optional and "no PyTorch" in str(missing)
                skipped[jetson, planned.name] = True
    without = [name for (jetson, name), value in skipped.items() if value]
    assert without == ["tests", "benchmark", "plain-scan", "engines"]
    assert all(jetson for (jetson, _), value in skipped.items() if value)


@pytest.mark.parametrize(("jetson", "code"), [(True, 0), (False, 1)])
def test_environment_of_a_jetson_needs_no_torch(
    jetson: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CHECK, "compute_capability", lambda: (8, 7))
    monkeypatch.setattr(CHECK, "is_jetson", lambda: jetson)
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = CHECK.Check(tmp_path / "out", 60)
    assert check.run(CHECK.steps(tmp_path / "out")[:1]) is (code == 0)
    assert "compute capability, of the driver (8, 7)" in check.outcomes["environment"].output


def test_build_without_the_plugin_is_no_success_and_its_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CHECK, "LIBRARY", tmp_path / "libvivim_kernels.so")
    said = "-- vivim_trt: not built, TensorRT's headers were not found. Set VIVIM_TENSORRT_MAJOR"
    planned = step("build", f"print({said!r})", judge=CHECK.judge_build)
    assert not CHECK.Check(tmp_path, 60).run([planned])
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("build") and "failed" in first
    assert "the TensorRT plugin was left out; vivim_trt: not built, TensorRT's headers were not found." in first
    (tmp_path / "libvivim_trt.so").touch()
    assert CHECK.Check(tmp_path, 60).run([planned])


def test_plugin_is_built_for_the_tensorrt_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIVIM_TENSORRT_INCLUDE", "TENSORRT_ROOT", "VIVIM_TENSORRT_MAJOR"):
        monkeypatch.delenv(name, raising=False)
    if not Path("/usr/include/NvInfer.h").exists():
        versions = {"tensorrt-cu12": "10.3.0"}

        def version(name: str) -> str:
            if name not in versions:
                raise CHECK.importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(CHECK.importlib.metadata, "version", version)
        assert CHECK.interfaces() == ["-DVIVIM_TENSORRT_MAJOR=10"]
        versions.clear()
        assert CHECK.interfaces() == ["-DVIVIM_TENSORRT_MAJOR=11"]
    monkeypatch.setenv("TENSORRT_ROOT", "/opt/TensorRT")
    assert CHECK.interfaces() == []


def test_what_must_run_fits_into_the_time(tmp_path: Path) -> None:
    planned = CHECK.steps(tmp_path)
    names = ["environment", "build", "tests", "benchmark", "plain-scan", "engines", "memcheck", "racecheck"]
    assert [s.name for s in planned] == names
    assert sum(s.limit for s in planned[:4]) <= 8 * 60 - 5
    assert "tests/plugins/test_gpu.py" in CHECK.gpu_test_files()
    assert planned[2].environment["VIVIM_KERNELS"] == str(CHECK.LIBRARY)


def test_environment_step_needs_no_tool_and_fails_without_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    check = CHECK.Check(tmp_path, 60)
    assert not check.run([CHECK.steps(tmp_path)[0]])
    assert "torch finds no CUDA GPU" in check.outcomes["environment"].output
    assert f"torch {torch.__version__}" in check.outcomes["environment"].output


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_exit_code_says_whether_it_passed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, passed: bool, code: int
) -> None:
    planned = [step("only", "" if passed else "raise SystemExit(7)")]
    monkeypatch.setattr(CHECK, "steps", lambda _: planned)
    monkeypatch.setattr(CHECK.signal, "signal", lambda *_: None)
    assert CHECK.main(["--out", str(tmp_path / "new")]) == code
    assert written(tmp_path / "new")["passed"] is passed


# --- floors -------------------------------------------------------------------------------------------------------

ORIN = SimpleNamespace(name="Orin", major=8, minor=7, multi_processor_count=16)


def device(**properties: object) -> object:
    known = SimpleNamespace(**{**vars(ORIN), **properties})
    return BENCHMARK.device_from(known, lambda field: {"clocks.max.sm": 1300.0}.get(field), lambda: 190e9)


def test_floors_are_those_of_the_design() -> None:
    """488 M exponentials a clip of 5 x 256 x 256 (DESIGN 7): 1.47 ms on AGX Orin, 0.094 on a 4090, 0.117 on an H200."""
    shapes = [(4096, 128, 4), (1024, 256, 8), (256, 640, 20), (64, 1024, 32)]
    work = [BENCHMARK.scan_work(5 * columns, width, rank, 2) for columns, width, rank in shapes]
    assert 2 * sum(w.exponentials for w in work) == 487_587_840
    for count, megahertz, expected in [(16, 1300, 1.47), (128, 2520, 0.094), (132, 1980, 0.117)]:
        about = device(multi_processor_count=count, clock_rate=1000 * megahertz)
        floor = 2e-3 * sum(w.floors_us(about)[0] for w in work)
        assert floor == pytest.approx(expected, rel=0.01)


def test_bytes_of_a_scan_are_its_tensors_once() -> None:
    shape = BENCHMARK.Shape(2, 5, "fp16", 8)
    xc, dbc, xz, *parameters = shape.inputs("cpu")
    tensors = [xc, dbc, xz, *parameters]  # xz holds x and z: the half that is not read stands for y
    work = BENCHMARK.scan_work(shape.length, shape.width, shape.rank, 2)
    assert work.bytes == sum(t.numel() * t.element_size() for t in tensors)
    conv = BENCHMARK.conv_work(shape.length, shape.width, 2)
    assert conv.bytes == (xz.numel() // 2 + xc.numel()) * 2 + 4 * 3 * shape.width * 5


def test_device_figures_come_from_torch_then_nvidia_smi_then_a_measurement() -> None:
    full = device(clock_rate=1_980_000, memory_clock_rate=2_619_000, memory_bus_width=5120, L2_cache_size=50 << 20)
    assert full.clock_hz == 1.98e9 and full.l2_bytes == 50 << 20
    assert full.bandwidth == pytest.approx(3.352e12, rel=1e-3)  # an H100's 3.35 TB/s
    bare = device()
    assert bare.clock_hz == 1.3e9 and bare.sources["clock_rate"] == "nvidia-smi clocks.max.sm"
    assert bare.bandwidth == 190e9 and bare.sources["bandwidth"].startswith("measured")
    unknown = BENCHMARK.device_from(ORIN, lambda _: None, lambda: 190e9)
    assert BENCHMARK.scan_work(100, 8, 4, 2).floors_us(unknown)[0] == 0.0


def test_exponentials_of_a_clock_follow_the_capability() -> None:
    for capability, expected in [((7, 5), 16), ((8, 7), 16), ((9, 0), 16), ((10, 3), 32), ((12, 0), 16)]:
        about = device(major=capability[0], minor=capability[1], clock_rate=1_000_000, multi_processor_count=1)
        assert about.exponentials_per_s == expected * 1e9


# --- the benchmark ------------------------------------------------------------------------------------------------


class FixedTimer:
    """Runs the call once and says that it took as long as told."""

    def __init__(self, microseconds: float = 100.0) -> None:
        self.time = microseconds

    def microseconds(self, function: Callable[[], Tensor]) -> tuple[float, float, int]:
        function()
        return self.time, self.time / 2, 3


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    delta_softplus: bool,
) -> Tensor:
    """mamba-ssm's function, as its documentation defines it: (B, D, L)."""
    assert delta_softplus
    dt = functional.softplus(delta.float() + delta_bias[:, None])
    h, out = torch.zeros(u.shape[0], *A.shape), []
    for i in range(u.shape[2]):
        h = torch.exp(dt[:, :, i, None] * A) * h + (dt * u)[:, :, i, None] * B[:, None, :, i]
        out.append((h * C[:, None, :, i]).sum(-1) + D * u[:, :, i])
    return torch.stack(out, dim=-1) * functional.silu(z)


def selective_scan_of_groups(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: None, bias: Tensor, softplus: bool
) -> Tensor:
    """mamba-ssm's function with groups and without a gate."""
    assert z is None
    return s6_scan_reference(u, delta, A, B, C, D, bias, softplus)


@pytest.fixture(scope="module")
def emulated() -> KernelLibrary:
    return KernelLibrary(build())


def run_benchmark(emulated: KernelLibrary, file: Path, timer: object, stage: int = 1) -> list[object]:
    shapes = [BENCHMARK.Shape(stage, 5, "fp16", 6)]
    about = device(clock_rate=1_300_000)
    rows: list[object] = BENCHMARK.measure(shapes, emulated, about, timer, "cpu", {"name": "none"}, file)
    return rows


def test_benchmark_writes_every_row_with_its_figures(emulated: KernelLibrary, tmp_path: Path) -> None:
    rows = run_benchmark(emulated, tmp_path / "scan.json", FixedTimer())
    content = json.loads((tmp_path / "scan.json").read_text())
    assert content["complete"] and len(content["rows"]) == len(rows)
    assert {r["what"] for r in content["rows"]} >= {*emulated.tactics, "causal_conv1d", BENCHMARK.PYTORCH}
    assert not [row for row in rows if row.failed]
    first = content["rows"][0]
    assert first["exponentials"] == 3 * 30 * 128 * 16
    assert first["cold_exponentials_per_s"] == pytest.approx(first["exponentials"] / 100e-6)
    assert first["warm_bytes_per_s"] == pytest.approx(first["bytes"] / 50e-6)
    assert first["cold_to_exponentials_floor"] == pytest.approx(100 / (first["exponentials"] / (16 * 1.3e9 * 16) * 1e6))


def test_benchmark_of_the_plain_scan_writes_every_row(
    emulated: KernelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PLAIN, "NETWORKS", {"small": (2, 3, 4, 40)})
    monkeypatch.setattr(PLAIN, "mamba_ssm", lambda: selective_scan_of_groups)
    file = tmp_path / "plain.json"
    rows = PLAIN.measure(["small"], [2], ["fp32"], emulated, device(clock_rate=1_300_000), FixedTimer(), "cpu", file)
    assert [row.what for row in rows] == [*emulated.s6_tactics, PLAIN.MAMBA, PLAIN.PYTORCH]
    assert all(row.error is None and row.rel_l2 <= 2e-6 and not row.failed for row in rows)
    written_rows = json.loads(file.read_text())["rows"]
    assert len(written_rows) == len(rows) and written_rows[0]["cold_us"] == 100.0
    # 2 pictures, 6 channels, 40 steps: 4 states and one softplus
    assert rows[0].exponentials_floor_us == pytest.approx(1e6 * 2 * 6 * 40 * 5 / (16 * 1.3e9 * 16))
    wrong = replace(rows[0], rel_l2=float("nan"))
    assert wrong.failed and not replace(wrong, ours=False).failed


def test_baselines_compute_the_same_scan(
    emulated: KernelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BENCHMARK, "mamba_ssm", lambda: selective_scan_fn)
    monkeypatch.setattr(BENCHMARK, "CUT_STEPS", 30)
    monkeypatch.setitem(BENCHMARK.DTYPES, "fp16", torch.float32)
    rows = {row.what: row for row in run_benchmark(emulated, tmp_path / "scan.json", FixedTimer())}
    for name in (BENCHMARK.PYTORCH, BENCHMARK.MAMBA):
        assert rows[name].error is None and rows[name].rel_l2 < 2e-6  # float32 in another order
    assert rows[BENCHMARK.MAMBA_BARE].cold_us == 100.0


def test_orders_of_the_authors_are_ours() -> None:
    x = torch.randn(2, 3, 12)
    for direction in range(4):
        there = BASELINES.channels_first(x, 3, direction, True)
        assert there.equal(to_order(x.transpose(1, 2), 3, direction).transpose(1, 2))
        assert BASELINES.channels_first(there, 3, direction, False).equal(x)


def test_rows_before_a_failure_are_kept_and_the_others_still_run(emulated: KernelLibrary, tmp_path: Path) -> None:
    class Failing(FixedTimer):
        calls = 0

        def microseconds(self, function: Callable[[], Tensor]) -> tuple[float, float, int]:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("CUDA error: out of memory")
            if self.calls == 4:
                raise KeyboardInterrupt
            return super().microseconds(function)

    with pytest.raises(KeyboardInterrupt):
        run_benchmark(emulated, tmp_path / "scan.json", Failing(), stage=4)
    content = json.loads((tmp_path / "scan.json").read_text())
    assert content["complete"] is False and len(content["rows"]) == 3
    assert [r["error"] for r in content["rows"]] == [None, "RuntimeError: CUDA error: out of memory", None]


def timed(what: str, cold: float, ours: bool = True, floor: float = 30.0, rel_l2: float | None = 1e-4) -> object:
    return BENCHMARK.Row(1, 5, "fp16", what, 1, 1, 1, 1, 1, floor, 9.0, ours, cold, cold, 3, rel_l2)


def test_aims_are_judged_by_the_fastest_tactic_that_is_right() -> None:
    wrong = timed("fast and wrong", 1.0, rel_l2=0.1)
    rows = [
        timed("a", 59.0),
        timed("b", 70.0),
        wrong,
        timed("causal_conv1d", 5.0),
        timed(BENCHMARK.MAMBA, 178.0, False),
    ]
    floor, speed = BENCHMARK.aims(rows)
    assert (floor.met, floor.note) == (True, "a, cold") and floor.value == pytest.approx(59 / 30)
    assert speed.met is True and speed.value == pytest.approx(178 / 59)
    floor, speed = BENCHMARK.aims([timed("a", 61.0), timed(BENCHMARK.MAMBA, 180.0, False)])
    assert floor.met is False and speed.met is False


def test_aims_are_not_guessed() -> None:
    assert [aim.met for aim in BENCHMARK.aims([])] == [None, None]
    without = [timed("a", 59.0, floor=0.0), BENCHMARK.Row(1, 5, "fp16", BENCHMARK.MAMBA, 1, 1, 1, 1, 1, 0, 9, False)]
    assert [aim.met for aim in BENCHMARK.aims(without)] == [None, None]


def test_a_wrong_or_missing_result_of_ours_fails() -> None:
    assert not timed("a", 1.0).failed
    assert all(timed("a", 1.0, rel_l2=value).failed for value in (None, 1e-3, float("nan")))
    assert not timed(BENCHMARK.MAMBA, 1.0, ours=False, rel_l2=None).failed


def test_arguments_are_lists() -> None:
    given = BENCHMARK.parse(["--stages", "1,4", "--frames", "8", "--dtypes", "fp32,bf16", "--json", "x.json"])
    assert (given.stages, given.frames, given.dtypes, given.json) == (["1", "4"], [8], ["fp32", "bf16"], Path("x.json"))
    assert BENCHMARK.parse([]).frames == [5, 32] and BENCHMARK.parse([]).dtypes == ["fp16"]
    for wrong in (["--stages", "5"], ["--frames", "0"], ["--frames", "a"], ["--dtypes", "fp8"]):
        with pytest.raises(SystemExit):
            BENCHMARK.parse(wrong)


def test_benchmark_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["scan_gpu.py"])
    monkeypatch.setattr(BENCHMARK, "torch", types.SimpleNamespace(**{**vars(torch), "cuda": NoCuda}))
    assert BENCHMARK.main() == 2
    assert "no CUDA GPU" in capsys.readouterr().err


class NoCuda:
    @staticmethod
    def is_available() -> bool:
        return False


# --- what the GPU will run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", test_gpu.TOLERANCES, ids=str)
def test_tests_of_the_gpu_are_right_on_the_emulator(emulated: KernelLibrary, dtype: torch.dtype) -> None:
    inputs = test_gpu.scan_inputs(9, 24, 4, 5, dtype, "cpu")
    distances = test_gpu.scan_distances(emulated, inputs, 5)
    assert len(distances) == len(emulated.tactics)
    assert max(distances.values()) <= test_gpu.TOLERANCES[dtype]
    assert test_gpu.conv_distance(emulated, inputs[2], 5) <= test_gpu.TOLERANCES[dtype]


def test_small_shapes_are_right_on_the_emulator(emulated: KernelLibrary) -> None:
    assert load_tool("small_shapes").check(emulated, "cpu") == []


def test_engines_are_skipped_with_the_reasons_where_nothing_can_be_built(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PLUGINS / "tools" / "engine_check.py"), "--json", str(tmp_path / "e.json")],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        timeout=120,
    )
    content = json.loads((tmp_path / "e.json").read_text())
    assert done.returncode == CHECK.NOTHING_TO_DO, done.stdout + done.stderr
    assert {o["status"] for o in content["engines"].values()} == {"skipped"}
    outcome = CHECK.Outcome("failed", reason=f"exit code {CHECK.NOTHING_TO_DO}")
    CHECK.judge_engines(outcome, done.stdout)
    assert outcome.status == "skipped" and "tensorrt skipped no GPU" in outcome.reason


def test_an_engine_that_fails_is_a_failure() -> None:
    outcome = CHECK.Outcome("failed", reason="exit code 1")
    CHECK.judge_engines(outcome, "tensorrt fp16 failed ParityError: mask Dice\nrtx skipped no GPU\n")
    assert (outcome.status, outcome.reason) == ("failed", "exit code 1")
