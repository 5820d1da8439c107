"""`vivim-bench`: figures are what their names say, models take turns, and each is alone in its process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.runtime.engines import RTX, engine_file
from tests.runtime.models import brightness_model
from vivim_runtime.bench import BenchOptions, ModelResult, bench, layer_profile, markdown_table, measure, record
from vivim_runtime.bench.worker import Memory, ModelRequest, Opened, Worker, runner_of
from vivim_runtime.commands.entry import main
from vivim_runtime.errors import IncompatibleEngineError, MissingExtraError, ModelError, UsageError, VivimError
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.machine import Machine
from vivim_runtime.sessions.onnx import node_times

OPENED = Opened("ONNX Runtime", "cpu", "tiny", "fp16", 5, (32, 48), 2_000_000, 100.0, 20.0, True)
# Shortest measurement: every call that must be, and no second more.
QUICK = BenchOptions(warm_up=1, duration=0, iterations=2, threads=1)


def result(name: str, latencies: list[float], **changes: Any) -> ModelResult:
    return ModelResult(**{**vars(ModelResult(name, 1, latencies, 10_000_000, None, None, OPENED)), **changes})


def test_figures_follow_from_the_latencies() -> None:
    (figures,) = record([result("m.onnx", [float(n) for n in range(1, 102)], batch=2)])
    assert figures["latency_ms"] == {"p50": 51, "p90": 91, "p95": 96, "p99": 100, "max": 101}
    # 101 calls of 2 clips of 5 frames in 5.151 s
    assert figures["clips_per_second"] == pytest.approx(202 / 5.151)
    assert figures["frames_per_second"] == pytest.approx(1010 / 5.151)
    assert figures["calls"] == 101 and figures["gpu_bytes"] is None
    json.dumps(figures)


def test_table_has_a_column_for_each_model_and_a_row_for_each_figure_that_any_has() -> None:
    lines = markdown_table([result("a/x.onnx", [10.0]), result("b/y|z.engine", [2.5], gpu_bytes=3_000_000)])
    rows = [line.strip("| ").split(" | ") for line in lines.splitlines()]
    assert lines.startswith("|  | x.onnx | y\\|z.engine |\n| --- | ---: | ---: |\n")
    assert ["latency p50, ms", "10.0", "2.50"] in rows
    assert ["GPU memory, MB", "", "3.00"] in rows
    assert ["speed, x.onnx = 1", "1.00", "4.00"] in rows
    assert all(line.count(" | ") == 2 for line in lines.splitlines())
    alone = markdown_table([result("x.onnx", [10.0])])
    assert "GPU" not in alone and "speed" not in alone


def test_models_of_one_file_name_are_told_apart_by_their_folders() -> None:
    assert "| a/m.onnx | b/m.onnx |" in markdown_table([result("a/m.onnx", [1.0]), result("b/m.onnx", [1.0])])


def test_layer_profile_has_the_shape_of_trtexec() -> None:
    """{"count"}, then one entry a layer with these keys: what its users' scripts read."""
    runs = [{"conv": 1.0, "norm": 1.0}, {"conv": 2.0, "norm": 1.0}, {"conv": 6.0, "norm": 1.0}]
    assert layer_profile(runs) == [
        {"count": 3},
        {"name": "conv", "timeMs": 9.0, "averageMs": 3.0, "medianMs": 2.0, "percentage": 75.0},
        {"name": "norm", "timeMs": 3.0, "averageMs": 1.0, "medianMs": 1.0, "percentage": 25.0},
    ]
    assert layer_profile([]) == [{"count": 0}]
    assert layer_profile([{"nothing": 0.0}])[1]["percentage"] == 0.0


def event(name: str, start: float, duration: float) -> dict[str, Any]:
    return {"name": name, "ts": start, "dur": duration}


def test_nodes_are_timed_by_run_and_without_what_runs_inside_them() -> None:
    events = [
        event("session_initialization", 0, 50),
        event("model_run", 1000, 900),
        event("scan_kernel_time", 1100, 500),
        event("body_kernel_time", 1100, 200),  # starts with its Scan, and is shorter
        event("body_kernel_time", 1400, 200),
        event("mul_kernel_time", 1600, 300),
        event("mul_fence_before", 1600, 1),
        event("model_run", 100, 800),  # the file is not in the order of time
        event("mul_kernel_time", 500, 200),
        event("scan_kernel_time", 110, 300),
        event("body_kernel_time", 120, 100),
    ]
    assert node_times(events) == [{"scan": 0.3, "mul": 0.2}, {"scan": 0.5, "mul": 0.3}]
    assert [list(run) for run in node_times(events)] == [["scan", "mul"]] * 2  # in order of execution
    assert node_times([]) == []


def test_onnx_runtime_times_every_node_of_a_model(tmp_path: Path) -> None:
    with open_session(brightness_model(tmp_path / "m.onnx"), "cpu", 1) as session:
        runs = session.layer_times(np.zeros((1, 5, 32, 48, 3), np.uint8), 3)  # type: ignore[attr-defined]
    assert len(runs) == 3 and all(run.keys() == runs[0].keys() and len(run) >= 3 for run in runs)
    assert all(0 <= ms < 1000 for run in runs for ms in run.values())
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]  # the profile's own file is gone


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warm_up": -1}, "--warm-up is -1; expected 0 or more"),
        ({"duration": float("nan")}, "--duration is nan"),
        ({"iterations": 0}, "--iterations is 0; expected 1 or more"),
        ({"batch": 0}, "--batch is 0; expected 1 or more"),
        ({"threads": -1}, "--threads is -1"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BenchOptions(**changes)


class FakeWorker:
    """A model whose every call takes a millisecond more; writes down what is asked of it."""

    log: list[tuple[str, str, float, int]]
    requests: list[ModelRequest]

    def __init__(self, request: ModelRequest) -> None:
        self.requests.append(request)
        self._name, self._calls = request.name, 0
        backend, size = ("PyTorch", request.size) if request.name == "tiny" else ("ONNX Runtime", (32, 48))
        values = {**vars(OPENED), "backend": backend, "size": size, "has_layers": backend != "PyTorch"}
        self.opened = Opened(**values)

    def run(self, seconds: float, calls: int) -> list[float]:
        self.log.append(("run", self._name, seconds, calls))
        self._calls += calls
        return [float(self._calls)] * calls

    def memory(self) -> Memory:
        return Memory(7, 8)

    def layer_times(self, runs: int) -> list[dict[str, float]]:
        self.log.append(("layers", self._name, 0.0, runs))
        return [{"conv": 1.0}] * runs

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *error: object) -> None:
        self.log.append(("closed", self._name, 0.0, 0))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    FakeWorker.log, FakeWorker.requests = [], []
    monkeypatch.setattr(measure, "Worker", FakeWorker)
    return FakeWorker


def test_models_take_turns_and_none_always_follows_the_same(fake: type[FakeWorker]) -> None:
    names = ["a.onnx", "b.onnx", "c.onnx"]
    results = bench(names, BenchOptions(warm_up=200, duration=6, iterations=25))
    runs = [entry[1:] for entry in fake.log if entry[0] == "run"]
    # Warm-up: what the first inference (20 ms) left of 200 ms. Then ten rounds, a tenth of the time each.
    assert runs[:3] == [(name, pytest.approx(0.18), 1) for name in names]
    rounds = [runs[i : i + 3] for i in range(3, len(runs), 3)]
    assert [[name for name, *_ in turn] for turn in rounds[:4]] == [
        names,
        ["b.onnx", "c.onnx", "a.onnx"],
        ["c.onnx", "a.onnx", "b.onnx"],
        names,
    ]
    assert len(rounds) == 10 and all(turn[1:] == (pytest.approx(0.6), 3) for all_ in rounds for turn in all_)
    assert [r.name for r in results] == names and all(len(r.latencies_ms) == 30 for r in results)
    assert min(results[0].latencies_ms) > 1  # the call of the warm-up does not count
    assert [entry[:2] for entry in fake.log[-3:]] == [("closed", name) for name in reversed(names)]


def test_few_iterations_make_few_rounds_and_no_warm_up_none(fake: type[FakeWorker]) -> None:
    bench(["a.onnx"], BenchOptions(warm_up=0, duration=1, iterations=2))
    assert [entry for entry in fake.log if entry[0] == "run"] == [("run", "a.onnx", 0.5, 1)] * 2


def test_checkpoint_has_the_size_that_is_asked_for_or_its_own(fake: type[FakeWorker]) -> None:
    bench(["tiny", "a.onnx"], BenchOptions(size=(64, 96), frames=3))
    bench(["tiny", "a.onnx"], QUICK)  # None: what its training says, whatever stands beside it
    assert [(r.size, r.frames) for r in fake.requests] == [((64, 96), 3)] * 2 + [(None, None)] * 2


def test_layers_are_timed_after_everything_else(fake: type[FakeWorker]) -> None:
    (measured,) = bench(["a.onnx"], QUICK, profile=True)
    assert measured.layers == [{"conv": 1.0}] * 2
    assert [entry[0] for entry in fake.log][-2:] == ["layers", "closed"]


def test_layers_of_a_checkpoint_are_refused_before_the_work(fake: type[FakeWorker]) -> None:
    with pytest.raises(UsageError, match="--export-profile.*tiny runs in PyTorch"):
        bench(["tiny"], QUICK, profile=True)
    assert [entry[0] for entry in fake.log] == ["closed"]


# --- processes ------------------------------------------------------------------------------------------------------


def request(name: Path | str, **changes: Any) -> ModelRequest:
    return ModelRequest(**{**vars(ModelRequest(str(name), 1, "cpu", 1, (64, 64), None)), **changes})


def test_model_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    with Worker(request(brightness_model(tmp_path / "m.onnx", batch=None), batch=3)) as worker:
        assert (worker.opened.backend, worker.opened.frames, worker.opened.size) == ("ONNX Runtime", 5, (32, 48))
        assert worker.opened.load_ms > 0 and worker.opened.first_ms > 0
        assert len(worker.run(0.0, 4)) == 4
        times = worker.run(0.2, 1)
        assert sum(times) <= 1000 * 0.2 + max(times) and len(times) > 1  # until the time is over, then no more
        memory = worker.memory()
        assert memory.gpu is None
        if memory.host is not None:  # ONNX Runtime alone is tens of MB, this model nothing
            assert 5e6 < memory.host < 1e9
        assert len(worker.layer_times(2)) == 2
        process = worker._process._process
        assert process.pid != os.getpid()
    assert process.exitcode == 0


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("nothing.onnx", ModelError, "there is no model"),
        ("text.txt", ModelError, "expected a .onnx or .engine file"),
        ("tiny.engine", IncompatibleEngineError, "needs an NVIDIA GPU of compute capability"),
    ],
)
def test_error_of_a_model_is_raised_where_it_was_asked_for(
    name: str, kind: type[VivimError], message: str, tmp_path: Path
) -> None:
    if name == "tiny.engine" and Machine.here(backends=()).gpu is not None:
        pytest.skip("this machine has a GPU")
    (tmp_path / "text.txt").write_text("hello")
    engine_file(tmp_path / "tiny.engine", RTX)
    with pytest.raises(kind, match=message):
        Worker(request(tmp_path / name, device="auto"))


def test_defect_keeps_its_traceback(tmp_path: Path) -> None:
    message = "(?s)m.onnx.*Traceback.*AttributeError.*no_such_method"
    with Worker(request(brightness_model(tmp_path / "m.onnx"))) as worker, pytest.raises(RuntimeError, match=message):
        worker._process.ask("no_such_method")


def test_process_that_is_killed_is_told(tmp_path: Path) -> None:
    message = r"m\.onnx: its process ended with code -9"
    path = brightness_model(tmp_path / "m.onnx")
    with pytest.raises(VivimError, match=message) as caught, Worker(request(path)) as worker:
        os.kill(worker._process._process.pid or 0, signal.SIGKILL)
        worker._process._process.join()
        worker.run(0.0, 1)
    assert caught.value.exit_code == 1


def test_process_ends_with_an_error_beside_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Worker(request(brightness_model(tmp_path / "m.onnx"))) as worker:
        raise ZeroDivisionError
    assert worker._process._process.exitcode is not None


@pytest.mark.parametrize("name", ["tiny", "w.safetensors", "w.pth", "w.PT", "w.ckpt", "w.bin"])
def test_checkpoints_are_opened_by_what_is_registered_for_their_suffix(name: str) -> None:
    runner = runner_of(name)
    assert (runner.__module__, runner.__name__) == ("vivim.session", "open_runner")


def test_checkpoint_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    entries = SimpleNamespace(select=lambda group, name: [SimpleNamespace(load=load)])
    installed = [SimpleNamespace(entry_points=entries)]
    monkeypatch.setattr("vivim_runtime.sessions.distributions", lambda: installed)
    with pytest.raises(MissingExtraError, match=r"running the checkpoint tiny .*vivim-edge\[train\]"):
        runner_of("tiny")


# --- the command ----------------------------------------------------------------------------------------------------


def call(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vivim-bench", *args])
    with pytest.raises(SystemExit) as caught:
        main("vivim-bench", "vivim_runtime.commands.bench")
    return int(caught.value.code or 0)


SHORT = ("--warm-up", "0", "--duration", "0", "--iterations", "2", "--threads", "1")


def test_pytorch_and_onnx_stand_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    brightness_model(tmp_path / "m.onnx", size=(32, 32))
    assert call(monkeypatch, "tiny", "m.onnx", *SHORT, "--imgsz", "32", "--json", "b.json", "--markdown", "b.md") == 0
    captured = capsys.readouterr()
    assert captured.err == "note: tiny: trained at 256x256, used at 32x32\n"
    printed = captured.out.splitlines()
    assert printed[0].split() == ["tiny", "m.onnx"]
    assert printed[1].split() == ["runs", "in", "PyTorch", "ONNX", "Runtime"]
    content = json.loads(Path("b.json").read_text())
    assert [(m["name"], m["backend"], m["size"], m["calls"]) for m in content["models"]] == [
        ("tiny", "PyTorch", [32, 32], 2),
        ("m.onnx", "ONNX Runtime", [32, 32], 2),
    ]
    assert content["options"]["iterations"] == 2 and content["machine"]["processor"]
    assert [m["file_bytes"] for m in content["models"]][1] == Path("m.onnx").stat().st_size
    markdown = Path("b.md").read_text().splitlines()
    assert len(markdown) == len(printed) + 1  # and the line below the head


def test_layers_are_written_as_trtexec_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    brightness_model(tmp_path / "m.onnx")
    assert call(monkeypatch, "m.onnx", *SHORT, "--export-profile", "p.json") == 0
    count, *layers = json.loads(Path("p.json").read_text())
    assert count == {"count": 2} and sum(layer["percentage"] for layer in layers) == pytest.approx(100)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        pytest.param(["nothing.onnx"], 2, "there is no model nothing.onnx", id="missing"),
        pytest.param(["m.onnx", "--batch", "2"], 2, "takes uint8 (1, 5, 32, 48, 3)", id="another batch"),
        pytest.param(["m.onnx", "--batch", "0"], 2, "--batch is 0", id="no batch"),
        pytest.param(["m.onnx", "--duration", "long"], 2, "--duration", id="no number"),
        pytest.param(["m.onnx", "--imgsz", "0x4"], 2, "--imgsz is 0x4", id="no size"),
        pytest.param(["m.onnx", "--device", "tpu"], 2, "expected auto, cpu, cuda", id="device"),
        pytest.param(["m.onnx", "m.onnx", "--export-profile", "p"], 2, "takes one model; there are 2", id="profiles"),
        pytest.param(["m.onnx", "--json", "m.onnx"], 2, "both read and written", id="output is a model"),
        pytest.param(["m.onnx", "--json", "o", "--markdown", "./o"], 2, "named twice", id="one output twice"),
        pytest.param(["m.onnx", "--json", "m.onnx/o"], 2, "cannot create the folder", id="unwritable"),
        pytest.param(["e.engine"], 4, "e.engine has no e.engine.json", id="engine without a record"),
        pytest.param([], 2, "Missing argument", id="no model"),
    ],
)
def test_bad_input_gets_one_line_and_its_exit_code(
    args: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    brightness_model(tmp_path / "m.onnx")
    Path("e.engine").write_bytes(b"engine")
    before = sorted(tmp_path.iterdir())
    assert call(monkeypatch, *args) == code
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert captured.out == "" and sorted(tmp_path.iterdir()) == before


def test_interrupted_bench_says_so_and_leaves_no_process(tmp_path: Path) -> None:
    brightness_model(tmp_path / "m.onnx")
    command = "import sys; from vivim_runtime.commands.entry import bench; bench()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "m.onnx", "--duration", "600", "--threads", "1"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches every process of the terminal's group
    )
    time.sleep(5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error == "vivim-bench: interrupted\n"
    deadline = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):  # multiprocessing's own helper ends a moment later
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
