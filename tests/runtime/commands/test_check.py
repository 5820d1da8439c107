"""`vivim-check` as a user calls it, on machines that have neither torch nor onnx."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import onnx
import pytest
from onnx import numpy_helper

from tests.runtime.models import brightness_model
from vivim_runtime.commands.entry import main
from vivim_runtime.phantom import PhantomSpec, phantom_frames

# Run at the start of every interpreter that has its folder in PYTHONPATH, also of those that a command starts.
_WITHOUT = """
import sys

class Finder:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent} else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Finder, sys.meta_path)
"""


def run_without(folder: Path, absent: set[str], command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process in which some modules are not installed."""
    (folder / "sitecustomize.py").write_text(_WITHOUT.format(absent=sorted(absent)))
    start = f"from vivim_runtime.commands.entry import {command}; {command}()"
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", start, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def film(path: Path) -> Path:
    """Ten frames of a phantom as MP4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for image, _ in phantom_frames(PhantomSpec(seed=1, frames=10, size=(64, 96))):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def shifted(source: Path, target: Path, threshold: float) -> Path:
    """The brightness model with another threshold than 128 grey levels."""
    model = onnx.load(source)
    (offset,) = [tensor for tensor in model.graph.initializer if tensor.name == "offset"]
    offset.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(offset) * 0 + threshold, "offset"))
    onnx.save(model, target)
    return target


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return brightness_model(tmp_path / "a.onnx")


def call(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vivim-check", *map(str, args)])
    with pytest.raises(SystemExit) as caught:
        main("vivim-check", "vivim_runtime.commands.check")
    return int(caught.value.code or 0)


def test_two_files_are_compared_on_a_film_where_neither_torch_nor_onnx_is_installed(a: Path, tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.mp4")
    absent = {"torch", "onnx", "onnxscript", "safetensors", "vivim", "vivim_export", "vivim_calibration"}
    b = shifted(a, tmp_path / "b.onnx", 128.0001)
    report, page = tmp_path / "report.json", tmp_path / "r.html"
    done = run_without(tmp_path, absent, "check", a, b, "--clips", clip, "--json", report, "--html", page)
    assert done.returncode == 0, done.stderr
    assert "within budget" in done.stdout
    found = json.loads(report.read_text())
    assert found["passed"] and (found["masks"]["frames"], found["masks"]["empty"]) == (10, 0)
    assert page.read_text().count("data:image/png;base64,") == 4

    other = run_without(tmp_path, absent, "check", a, shifted(a, tmp_path / "c.onnx", 100.0), "--clips", clip)
    assert other.returncode == 3 and "c.onnx does not stand for" in other.stderr and "relative L2" in other.stderr


def test_a_checkpoint_needs_torch_and_the_extra_is_named(a: Path, tmp_path: Path) -> None:
    done = run_without(tmp_path, {"torch"}, "check", "tiny", a)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "needs the extra 'train'" in done.stderr


@pytest.mark.slow
def test_weights_are_evaluated_and_compared_with_themselves_where_onnx_is_not_installed(tmp_path: Path) -> None:
    absent = {"onnx", "onnxruntime", "onnxscript"}
    small = ("--imgsz", "64", "--frames", "2", "--threads", "1")
    data = "phantom:clips=2,frames=2,size=64"
    done = run_without(tmp_path, absent, "evaluate", "tiny", "--data", data, *small)
    assert done.returncode == 0, done.stderr
    # FPS is measured in a process of its own, which has no onnx either.
    assert "Dice" in done.stdout and "FPS" in done.stdout
    clips = "phantom:seed=21,frames=2,size=128"  # one with a lesion
    same = run_without(tmp_path, absent, "check", "tiny", "tiny", "--clips", clips, "--imgsz", 128, "--frames", 2)
    assert same.returncode == 0, same.stderr


def test_a_comparison_that_proves_nothing_is_refused_and_still_reported(
    a: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dark = shifted(a, tmp_path / "dark.onnx", 300.0)
    report = tmp_path / "r.json"
    assert call(monkeypatch, dark, dark, "--clips", "phantom:seed=1,frames=5", "--json", report) == 3
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "neither side marks anything in any of 5 frames" in captured.err
    assert "REFUSED" in captured.out and json.loads(report.read_text())["passed"] is False


def test_clips_of_an_annotated_data_set_are_compared_with_the_truth(
    a: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "r.json"
    assert call(monkeypatch, a, a, "--clips", "phantom:clips=2,frames=5,size=64", "--json", report) == 0
    found = json.loads(report.read_text())["masks"]
    assert (found["frames"], found["truths"]) == (10, 10)
    assert found["truth_a"] == found["truth_b"] is not None


@pytest.mark.parametrize(
    ("clips", "text"),
    [("nowhere.mp4", "there is no file"), ("rtsp://camera", "is live"), ("phantom:frames=3", "fewer than 5 frames")],
)
def test_clips_that_cannot_be_compared_on_are_refused_in_one_line(
    a: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: str, text: str
) -> None:
    assert call(monkeypatch, a, a, "--clips", clips) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1
