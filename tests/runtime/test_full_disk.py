"""A disk that fills up while something is recorded or calibrated: said, and nothing cut off is called done.

On a file system of its own (tmpfs) where this user may mount one, else under a limit of the size of files, which fails
as late.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runtime.models import brightness_model
from tests.runtime.test_nothing_lost import small_files, start

_KB = 160


@dataclass(frozen=True)
class Disk:
    """A folder that takes 160 kB; `before` is called in processes that write there."""

    folder: Path
    before: Callable[[], None] | None
    says: str


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={_KB}k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        yield Disk(folder, small_files(_KB << 10), "File too large")
        return
    yield Disk(folder, None, "No space left on device")
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    brightness_model(tmp_path / "model.onnx")
    return tmp_path


def test_a_live_recording_ends_alone_when_its_disk_is_full(work: Path, disk: Disk) -> None:
    """The ledger, on another disk, is complete; the film has no name of a whole one; the exit code says so."""
    source = "phantom:?frames=150&size=240x320"
    process = start(work, source, "disk/o.mp4", "o.jsonl", "--realtime", before=disk.before)
    _, error = process.communicate(timeout=240)
    lines = [json.loads(line) for line in (work / "o.jsonl").read_text().splitlines()]
    assert process.returncode == 2 and "Traceback" not in error and disk.says in error
    assert lines[-1]["type"] == "summary" and lines[-1]["captured"] == 150
    assert not (disk.folder / "o.mp4").exists()


@pytest.mark.parametrize("outputs", [["disk/o.mp4"], ["disk/m"], ["o.jsonl", "disk/o.mp4"]], ids=" ".join)
def test_an_offline_run_ends_when_its_disk_is_full(work: Path, disk: Disk, outputs: list[str]) -> None:
    if disk.before is not None and outputs == ["disk/m"]:
        return  # no mask is as large as a limit of files
    source = "phantom:?frames=150&size=240x320"
    process = start(work, source, *outputs, "-q", before=disk.before)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 2 and error.count("\n") == 1 and disk.says in error
    assert not (disk.folder / "o.mp4").exists() and not (work / "o.jsonl").exists()
    assert all(path.read_bytes()[-8:-4] == b"IEND" for path in disk.folder.glob("m/*.png"))


@pytest.mark.slow
def test_calibration_on_a_full_disk_is_one_line_and_leaves_nothing(work: Path, disk: Disk) -> None:
    made = ["onnx", "--weights", "tiny", "--imgsz", "128", "-o", "tiny.onnx"]
    command = "from vivim_runtime.commands.entry import {0}; {0}()"
    subprocess.run([sys.executable, "-c", command.format("export"), *made], cwd=work, check=True, capture_output=True)
    args = ["tiny.onnx", "--calib-data", "phantom:?frames=10&size=128x128", "--eval-data"]
    args += ["phantom:?frames=5&size=128x128&seed=9", "--max-clips", "2", "--eval-clips", "1", "--runs", "1"]
    args += ["--target", "test", "-o", "disk/o.onnx", "--json", "o.json"]
    (work / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", command.format("calibrate"), *args],
        cwd=work,
        capture_output=True,
        text=True,
        preexec_fn=disk.before,
        env={"TMPDIR": str(work / "temporary"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 2, done.stderr
    assert disk.says in done.stderr and "Traceback" not in done.stderr
    assert list(disk.folder.iterdir()) == [] and list((work / "temporary").iterdir()) == []
