"""Cross-validation by patient: who tests where, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.runtime.datasets.trees import write_vtus
from vivim.training.folds import folds, patients_by_pattern, patients_by_table
from vivim_runtime.commands.entry import main
from vivim_runtime.errors import DataError, UsageError

VIDEOS = {f"p{number // 2:02d}_{number % 2}": 4 + number for number in range(24)}  # two videos of each of 12 patients


def test_every_video_tests_once_and_no_patient_is_on_two_sides() -> None:
    patients = patients_by_pattern(list(VIDEOS), "^(p[0-9]+)_")
    found = folds(patients, VIDEOS, 5, seed=3)
    assert sorted(video for split in found for video in split["test"]) == sorted(VIDEOS)
    for split in found:
        sides = [{patients[video] for video in members} for members in split.values()]
        assert all(side for side in sides)
        assert sum(map(len, sides)) == len(set.union(*sides)) == 12
    # 372 frames in all, dealt in portions of at most 53: no fold is further from 74 than half of one.
    sizes = [sum(VIDEOS[video] for video in split["test"]) for split in found]
    assert max(sizes) - min(sizes) < 53
    assert found == folds(patients, VIDEOS, 5, seed=3) != folds(patients, VIDEOS, 5, seed=4)


def test_patients_are_told_by_a_pattern_or_a_table(tmp_path: Path) -> None:
    assert patients_by_pattern(["a-1", "a-2"], "^[a-z]") == {"a-1": "a", "a-2": "a"}
    table = tmp_path / "patients.csv"
    table.write_text("video,age,patient\na-1,40,Q\na-2,41,R\n")
    assert patients_by_table(["a-2", "a-1"], table) == {"a-2": "R", "a-1": "Q"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,patient\na,1\n", "names no patient for b"),
        ("name,who\na,1\n", "columns video and patient"),
        ("", "columns"),
    ],
)
def test_tables_that_do_not_serve_are_refused(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "patients.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=message):
        patients_by_table(["a", "b"], table)


def test_patterns_and_numbers_that_do_not_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no regular expression"):
        patients_by_pattern(["a"], "(")
    with pytest.raises(DataError, match=re.escape("finds no patient in b1")):
        patients_by_pattern(["a1", "b1"], "^a")
    with pytest.raises(DataError, match="cannot read the table"):
        patients_by_table(["a"], tmp_path / "none.csv")
    for count in (1, 4):
        with pytest.raises(UsageError, match=f"--folds is {count}; expected 2 to 3"):
            folds({"a": "1", "b": "2", "c": "3"}, {"a": 1, "b": 1, "c": 1}, count, 0)


def test_command_writes_split_files_that_train_and_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_vtus(tmp_path / "data", {"a_1": 2, "a_2": 2, "b_1": 3}, {"c_1": 2})
    arguments = ["folds", str(data), "--folds", "2", "--patient", "^[a-z]", "--classes", "nodule"]
    arguments += ["--out", str(tmp_path / "folds")]
    monkeypatch.setattr(sys, "argv", ["vivim-train", *arguments])
    with pytest.raises(SystemExit) as exit:
        main("vivim-train", "vivim.commands.train")
    out = capsys.readouterr().out
    assert exit.value.code == 0 and "4 videos of 3 patients" in out
    first, second = (json.loads((tmp_path / "folds" / f"fold-{n}.json").read_text()) for n in (1, 2))
    assert sorted(first["test"] + second["test"]) == ["a_1", "a_2", "b_1", "c_1"]
    assert f"vivim-train fit --data {data} --split-file {tmp_path / 'folds' / 'fold-2.json'} --classes nodule" in out
