"""`vivim-train check-data`, and training that refuses data with errors before it begins."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from vivim.commands.clip_options import ClipOptions
from vivim_runtime.commands.entry import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vivim-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        main("vivim-train", "vivim.commands.train")
    assert isinstance(exit.value.code, int)
    return exit.value.code


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A VTUS-like folder: two cases to train on and one to test with, six frames of 64 x 64 each."""
    root = tmp_path / "set"
    rng = np.random.default_rng(0)
    for part, case in (("Train", "0001"), ("Train", "0002"), ("Test", "0003")):
        for number in range(6):
            mask = np.zeros((64, 64), np.uint8)
            mask[20:40, 10 + number : 40 + number] = 255
            for folder, name, picture in (
                (part, f"{number:04}.jpg", rng.integers(0, 255, (64, 64, 3), np.uint8)),
                (f"{part}_GT", f"{number:04}.png", mask),
            ):
                path = root / folder / case / name
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture)
    return root


def test_sound_data_is_counted_and_shown(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, figures = tmp_path / "sheet.png", tmp_path / "check.json"
    assert run(monkeypatch, "check-data", tree, "--frames", 3, "--sheet", sheet, "--json", figures) == 0
    out = capsys.readouterr().out
    assert "3 videos, 18 frames, 6 clips of 3" in out and "0 errors" in out
    assert json.loads(figures.read_text())["frames"] == 18
    picture = cv2.imread(str(sheet))
    assert picture is not None and picture.shape[1] > 600


def test_every_error_is_listed_and_the_exit_code_is_two(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "Train_GT" / "0001" / "0002.png").unlink()
    (tree / "Train" / "0002" / "0004.jpg").write_bytes(b"no picture")
    cv2.imwrite(str(tree / "Train_GT" / "0002" / "0001.png"), np.zeros((32, 64), np.uint8))
    assert run(monkeypatch, "check-data", tree) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.out.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert all(any(part in line for line in errors) for part in ("0001/0002", "0002/0004", "0002/0001"))
    assert captured.err.splitlines()[-1].startswith("error: 3 errors in ")


def test_training_lists_every_error_of_its_data_and_does_not_begin(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "Train_GT" / "0001" / "0002.png").unlink()
    (tree / "Test" / "0003" / "0004.jpg").write_bytes(b"no picture")
    out = tmp_path / "run"
    code = run(
        monkeypatch,
        *("fit", "--data", tree, "--validation-split", "test", "--out", out, "--preset", "tiny", "--imgsz", 64),
        *("--frames", 2, "--batch", 2, "--epochs", 1, "--threads", 1),
    )
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and lines[-1].startswith("error: 2 errors in the data")
    errors = [line for line in lines[:-1] if line.startswith("error: ")]
    assert len(errors) == 2 and "0001/0002" in errors[0] + errors[1] and "0003/0004" in errors[0] + errors[1]
    assert not out.exists()


def test_a_sheet_of_another_kind_is_refused_before_anything_is_read(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "check-data", tree, "--sheet", "sheet.gif") == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "error: --sheet is sheet.gif; expected a name ending in .png\n"


def test_data_without_a_validation_split_gives_a_part_of_what_it_would_train_on(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    code = run(
        monkeypatch,
        *("fit", "--data", tree, "--out", out, "--preset", "tiny", "--imgsz", 64),
        *("--frames", 2, "--batch", 2, "--epochs", 1, "--hop", 3, "--threads", 1),
    )
    err = capsys.readouterr().err
    assert code == 0, err
    (note,) = [line for line in err.splitlines() if "no validation split" in line]
    (held_out,) = [name for name in ("0001", "0002") if name in note]
    (epoch,) = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert epoch["scores"]["frames"] == 6  # of the one video that was held out, of two
    options = ClipOptions(str(tree), frames=2)
    assert [video.name for video in options.dataset("validation").videos] == [held_out]
    assert held_out not in [video.name for video in options.dataset("train").videos]
    assert [video.name for video in options.dataset("test").videos] == ["0003"]
