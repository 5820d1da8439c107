"""`vivim-run` as a user calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from tests.runtime.models import brightness_model
from vivim_runtime.commands import run
from vivim_runtime.commands.entry import main
from vivim_runtime.sources import open_source

CINE = str(get_testdata_file("examples_ybr_color.dcm", download=False))


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(brightness_model(tmp_path / "model.onnx"))


def call(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vivim-run", *args])
    with pytest.raises(SystemExit) as caught:
        main("vivim-run", "vivim_runtime.commands.run")
    return int(caught.value.code or 0)


def test_a_cine_loop_becomes_video_masks_and_ledger(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, CINE, "o.mp4", "masks", "l.jsonl", "--model", model, "--json", "s.json") == 0
    with open_source("o.mp4") as source:
        frames = list(source)
    assert len(frames) == 30 and source.size == (240, 320)
    assert frames[-1].time == pytest.approx(29 / 30, abs=2e-3)  # the loop's own frame time
    assert len(list(Path("masks").glob("*.png"))) == 30
    summary = json.loads(Path("s.json").read_text())
    assert summary["frames"] == 30 and summary["clips"] == 6 and summary["outputs"] == ["o.mp4", "masks/", "l.jsonl"]
    text = capsys.readouterr().err
    assert "30 in" in text and "p95" in text and "fps" in text


def test_quiet_says_nothing(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "phantom:?frames=5&size=48x64", "--model", model, "--quiet") == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "phantom-vivim.mp4"}


@pytest.mark.parametrize("exports", [True, False])
def test_an_export_is_told_when_there_is_one(
    exports: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of weights that were exported before, the file is there, and nothing is to be waited for."""

    def made(name: str, say: Callable[[str], None]) -> Path:
        for stage in ("tracing", "comparing") if exports else ():
            say(stage)
        return Path("made.onnx")

    monkeypatch.setattr(run, "model_file", made)
    assert run._exported("tiny", quiet=False) == Path("made.onnx")
    assert capsys.readouterr().err.count("exporting tiny, once") == exports


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(["nothing.mp4"], "there is no file or folder nothing.mp4", id="missing file"),
        pytest.param(["text.mp4"], "text.mp4 is no video that FFmpeg can read", id="text named mp4"),
        pytest.param(["cut.dcm"], "cut.dcm is cut off", id="truncated DICOM"),
        pytest.param(["phantom:", "--model", "text.mp4"], "expected a .onnx or .engine file", id="no model"),
        pytest.param(["phantom:", "--model", "nothing.onnx"], "vivim-export onnx", id="missing model"),
        pytest.param(["phantom:", "--hop", "6"], "expected auto, or 1 to 5", id="hop over T"),
        pytest.param(["phantom:", "--hop", "x"], "expected auto, or 1 to 5", id="hop no number"),
        pytest.param(["phantom:", "--show", "middle"], "newest", id="unknown show"),
        pytest.param(["phantom:", "--device", "tpu"], "expected auto, cpu, cuda", id="device"),
        pytest.param(["phantom:", "--threads", "-1"], "expected 0 (automatic) or more", id="threads"),
        pytest.param(["phantom:", "o.gif"], "expected a name ending in .mp4, .mkv, .avi", id="unknown output"),
        pytest.param(["phantom:", "text.mp4/o.mp4"], "cannot create the folder", id="unwritable output"),
        pytest.param(["phantom:", "o.mp4", "o.mp4"], "named twice", id="one output twice"),
        pytest.param(["phantom:", "o.mp4", "./o.mp4"], "named twice", id="one output under two names"),
        pytest.param(["text.mp4", "./text.mp4"], "text.mp4 is both read and written", id="output is the source"),
        pytest.param([".", "./", "--overwrite"], "both read and written", id="masks into the source's folder"),
        pytest.param(["phantom:", "--json", "text.mp4/s.json"], "cannot create the folder", id="unwritable summary"),
        pytest.param([], "there is no source", id="no source"),
        pytest.param(["phantom:", "--speed", "9"], "No such option", id="unknown option"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    tmp_path: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.mp4").write_text("hello")
    Path("cut.dcm").write_bytes(Path(CINE).read_bytes()[:90_000])
    before = {p.name for p in tmp_path.iterdir()}
    given = args if "--model" in args else [*args, "--model", model]
    assert call(monkeypatch, *given, "--quiet") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1 and error.startswith("error: ")
    assert {p.name for p in tmp_path.iterdir()} == before


def test_a_killed_run_leaves_a_playable_video(tmp_path: Path, model: str) -> None:
    command = "import sys; from vivim_runtime.commands.entry import run; run()"
    args = ["phantom:?frames=100000&size=64x96", "o.mp4", "l.jsonl", "--model", model, "--quiet"]
    process = subprocess.Popen([sys.executable, "-c", command, *args], cwd=tmp_path)
    part = tmp_path / "o.part.mp4"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > 60_000):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l.part.jsonl", "model.onnx", "o.part.mp4"]
    with open_source(str(part)) as source:
        assert len(list(source)) >= 25
    lines = (tmp_path / "l.part.jsonl").read_text().splitlines()
    assert all(json.loads(line)["type"] in ("run", "frame") for line in lines[:-1])


def test_an_interrupted_run_completes_its_outputs_and_says_so(tmp_path: Path, model: str) -> None:
    command = "import sys; from vivim_runtime.commands.entry import run; run()"
    args = ["phantom:?frames=100000&size=64x96", "o.mp4", "masks", "--model", model]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *args], cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "masks/000009.png").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in error and "Traceback" not in error
    with open_source(str(tmp_path / "o.mp4")) as source:
        assert len(list(source)) == len(list((tmp_path / "masks").glob("*.png")))
