"""`vivim-run` on live sources, as a user calls it, and as the machine treats it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pydicom
import pytest

from tests.runtime.commands.test_run import call
from tests.runtime.live.rig import Sender, free_port, playable
from tests.runtime.models import brightness_model
from tests.runtime.test_nothing_lost import small_files
from vivim_runtime import open_source

COMMAND = [sys.executable, "-c", "from vivim_runtime.commands.entry import run; run()"]


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(brightness_model(tmp_path / "model.onnx"))


def start(folder: Path, *args: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *args], cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=before)


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)


def grown(path: Path, size: int) -> Callable[[], bool]:
    return lambda: path.exists() and path.stat().st_size > size


def test_a_recorded_source_in_real_time_leaves_whole_files(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["phantom:?frames=30&size=64x96", "o.mp4", "masks", "l.jsonl", "--realtime", "--model", model]
    assert call(monkeypatch, *args, "--json", "s.json") == 0
    summary = json.loads(Path("s.json").read_text())
    counts = summary["counts"]
    assert counts["captured"] == 30 == sum(n for what, n in counts.items() if what != "captured")
    assert summary["live"] and set(summary["recordings"]) == {"o.mp4", "masks/", "l.jsonl"}
    assert playable(Path("o.mp4")) == summary["recordings"]["o.mp4"]["written"] > 10
    assert len(list(Path("masks").glob("*.png"))) == summary["recordings"]["masks/"]["written"] >= 5
    lines = [json.loads(line) for line in Path("l.jsonl").read_text().splitlines()]
    assert len(lines) == 32 and lines[-1]["captured"] == 30
    text = capsys.readouterr().err
    assert "live" in text and "p95" in text and "30 in" in text


def test_a_dicom_loop_that_is_played_live_gets_a_segmentation_of_the_frames_that_were_inferred(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.runtime.test_segmentation import CINE

    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, CINE, "o.dcm", "--realtime", "--model", model, "--json", "s.json", "--quiet") == 0
    written = json.loads(Path("s.json").read_text())["recordings"]["o.dcm"]["written"]
    frames = [
        int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        for frame in pydicom.dcmread("o.dcm").PerFrameFunctionalGroupsSequence
    ]
    assert len(frames) == written >= 5 and frames == sorted(set(frames)) and set(frames) <= set(range(1, 31))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_live_run_within_2_seconds_with_its_files_closed(
    tmp_path: Path, model: str, number: int, code: int
) -> None:
    process = start(
        tmp_path,
        "phantom:?size=64x96",
        "o.mp4",
        "l.jsonl",
        "--realtime",
        "--loop",
        "--model",
        model,
        "--json",
        "s.json",
    )
    wait_for(grown(tmp_path / "o.part.mp4", 20_000), process)
    began = time.monotonic()
    process.send_signal(number)
    process.send_signal(number)  # as timeout(1) does
    _, text = process.communicate(timeout=20)
    # The run itself ends within 2 s; the interpreter that unloads OpenCV and ONNX Runtime adds to it.
    assert time.monotonic() - began < 3.0
    assert process.returncode == code and "Traceback" not in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l.jsonl", "model.onnx", "o.mp4", "s.json"]
    written = json.loads((tmp_path / "s.json").read_text())["recordings"]["o.mp4"]["written"]
    assert playable(tmp_path / "o.mp4") == written


def test_a_killed_live_run_leaves_a_playable_video_and_whole_lines(tmp_path: Path, model: str) -> None:
    process = start(
        tmp_path, "phantom:?size=64x96", "o.mp4", "l.jsonl", "--realtime", "--loop", "--model", model, "--quiet"
    )
    wait_for(grown(tmp_path / "o.part.mp4", 40_000), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (
        playable(tmp_path / "o.part.mp4") >= 15
    )  # a fragment is a second of 25 frames, of which a busy machine drops some
    lines = (tmp_path / "l.part.jsonl").read_text().splitlines()
    assert all(json.loads(line)["type"] in ("run", "frame") for line in lines[:-1])


def test_a_full_disk_ends_with_a_line_and_exit_code_2(tmp_path: Path, model: str) -> None:
    """A limit of the size of files fails writes as a full disk does."""
    process = start(
        tmp_path,
        "phantom:?frames=50&size=64x96",
        "o.mp4",
        "l.jsonl",
        "--realtime",
        "--model",
        model,
        before=small_files(3000),
    )
    _, text = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "File too large" in text and "Traceback" not in text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a tmpfs is refused here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_fills_up_on_the_way_leaves_what_it_took_and_the_run_goes_on(small_disk: Path, model: str) -> None:
    source = "phantom:?frames=100&size=240x320"
    process = start(small_disk.parent, source, "disk/o.mp4", "disk/m", "s.jsonl", "--realtime", "--model", model)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in text
    assert text.count("No space left on device") >= 1 and "cannot go on writing" in text
    with open_source(str(small_disk / "o.part.mp4")) as film:  # whose last second is cut off
        assert sum(1 for _ in film) >= 15  # a second of 25 frames, of which a busy machine drops some
    for mask in (small_disk / "m").glob("*.png"):
        assert cv2.imread(str(mask), cv2.IMREAD_UNCHANGED).shape == (240, 320)
    summary = json.loads((small_disk.parent / "s.jsonl").read_text().splitlines()[-1])
    fates = ("shown", "replaced", "paused", "damaged", "unseen")
    assert summary["captured"] == 100 == sum(summary[fate] for fate in fates)


def test_a_stream_is_recorded_through_an_outage(tmp_path: Path, model: str) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    with Sender(f"{url}?listen=1") as sender:
        process = start(tmp_path, url, "o.mp4", "l.jsonl", "--model", model)
        wait_for(grown(tmp_path / "o.part.mp4", 20_000), process)
        sender.kill()
        time.sleep(2.0)
        sender.start()
        size = (tmp_path / "o.part.mp4").stat().st_size
        wait_for(grown(tmp_path / "o.part.mp4", size + 20_000), process)
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=20)
    assert process.returncode == 143
    assert text.index("live") < text.index("no signal") and "signal lost" in text
    assert playable(tmp_path / "o.mp4") > 25
    summary = json.loads((tmp_path / "l.jsonl").read_text().splitlines()[-1])
    fates = ("shown", "replaced", "paused", "damaged", "unseen")
    assert summary["captured"] == sum(summary[fate] for fate in fates) > 25


def test_a_stream_that_never_comes_is_given_up(tmp_path: Path, model: str) -> None:
    process = start(tmp_path, f"tcp://127.0.0.1:{free_port()}", "o.mp4", "--model", model, "--timeout", "1", "--quiet")
    _, text = process.communicate(timeout=60)
    assert process.returncode == 2 and text.count("\n") == 1
    assert "gave no frame for 1 s" in text and "Connection refused" in text
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(["--camera", "987", "o.mp4"], "there is no camera /dev/video987", id="camera instead of a source"),
        pytest.param(["987"], "there is no camera /dev/video987", id="camera by number"),
        pytest.param(["phantom:", "--resolution", "big"], "expected width x height", id="resolution"),
        pytest.param(["phantom:", "--realtime", "--timeout", "0"], "expected more than 0", id="time-out"),
        pytest.param(["phantom:", "--realtime", "a.jsonl", "b.jsonl"], "has one ledger", id="two ledgers"),
        pytest.param(["phantom:", "--realtime", "--loop", "o.dcm"], "without --loop", id="DICOM of a loop"),
        pytest.param(["udp://127.0.0.1:9", "o.dcm"], "without --loop", id="DICOM of a stream"),
        pytest.param([], "there is no source", id="nothing"),
    ],
)
def test_live_options_that_make_no_sense_get_one_line(
    tmp_path: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *args, "--model", model, "--quiet") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_cameras_are_listed_or_their_absence_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--list-cameras") == 0
    assert "/dev/video" in (text := capsys.readouterr().err) or "there is no camera" in text
