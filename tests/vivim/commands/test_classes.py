"""Two classes from masks to masks: check, train, evaluate, calibrate, export, compare and run."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.vivim.commands.test_train import Train, train  # noqa: F401
from tests.vivim.shapes import NAMES, VALUES, write_shapes, write_table
from vivim.checkpoint import load_checkpoint, read_training
from vivim.commands.clip_options import ClipOptions
from vivim.commands.fit import _evaluation
from vivim.session import open_runner
from vivim_export.onnx_export import OnnxOptions, export_onnx
from vivim_runtime.datasets import open_dataset
from vivim_runtime.judging import Bootstrap, EvaluationOptions, evaluate, metrics
from vivim_runtime.judging.evaluation import Evaluation
from vivim_runtime.judging.parity import compare
from vivim_runtime.offline import RunOptions, run
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.base import Session
from vivim_runtime.sinks import open_sink
from vivim_runtime.sources import open_source


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    write_shapes(root / "train", 24)
    write_shapes(root / "validation", 3, first=100)
    write_shapes(root / "test", 6, first=200)
    write_table(root)
    return root


def judged(session: Session, data: Path) -> Evaluation:
    options = EvaluationOptions(bootstrap=Bootstrap(50))
    return evaluate(session, open_dataset(str(data), "test", marked=NAMES), options)


@pytest.mark.slow
def test_two_classes_are_learnt_judged_exported_and_written(train: Train, data: Path, tmp_path: Path) -> None:  # noqa: F811
    checked = train("check-data", data, "--frames", 2, "--json", tmp_path / "check.json")
    assert checked.code == 0 and "disc    in 66 masks (100.0%)" in checked.out and "square  in 66" in checked.out
    recipe = {
        "preset": "tiny",
        "imgsz": 64,
        "frames": 2,
        "batch": 6,
        "epochs": 8,
        "lr": 4e-3,
        "optimizer": "adamw",
        "affine": 0,
        "boundary": 0,
        "threads": 1,
        "out": tmp_path / "run",
    }
    done = train("fit", "--data", data, *(part for k, v in recipe.items() for part in (f"--{k}", v)))
    assert done.code == 0, done.err
    assert "from chance, classes disc, square" in done.err and "[disc 0." in done.err
    best = tmp_path / "run" / "best.safetensors"
    assert load_checkpoint(best).config.classes == NAMES
    # Held-out clips; both classes, since the mean over them would forgive a lost one.
    with open_runner(str(best), threads=1) as session:
        torch_side = judged(session, data)
        dice = {e.of: e.overall["all"]["dice"].value for e in torch_side.classes}
        assert min(dice[name] or 0.0 for name in NAMES) > 0.8, dice
    assert train("calibrate-confidence", best, "--data", data, "--out", best).code == 0
    assert read_training(best).confidence is not None
    export_onnx(str(best), tmp_path / "model.onnx", OnnxOptions())
    with open_session(tmp_path / "model.onnx") as session, open_runner(str(best), threads=1) as reference:
        assert [entry.name for entry in session.info.classes] == list(NAMES)
        onnx_side = judged(session, data)
        for a, b in zip(torch_side.classes, onnx_side.classes, strict=True):
            # A pixel whose logit is within float32 rounding of the threshold may change sides: one of 60 of a shape.
            assert b.overall["all"]["dice"].value == pytest.approx(a.overall["all"]["dice"].value, abs=0.01)
        compared = compare(reference, session, [str(data)])
        assert compared.passed and compared.masks.truths == 12 and (compared.masks.truth_b or 0) > 0.8
        for video in (data / "test" / "images").iterdir():
            masks = tmp_path / "masks" / video.name
            with open_source(str(video)) as source, open_sink(f"{masks}/", source, session.info, {}) as sink:
                run(source, session, [sink], RunOptions())
            for index in range(2):
                found = cv2.imread(str(masks / f"{index:06d}.png"), cv2.IMREAD_GRAYSCALE)
                truth = cv2.imread(str(data / "test" / "masks" / video.name / f"{index}.png"), cv2.IMREAD_GRAYSCALE)
                for written, label in enumerate(
                    VALUES, 1
                ):  # 1 + the number of the class; labels of the data are others
                    assert metrics.dice(found == written, truth == label) > 0.6
                assert set(np.unique(found)) == {0, 1, 2}
    record = json.loads((tmp_path / "check.json").read_text())
    assert record["classes"]["disc"]["frames"] == 66


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (
            "disc,square",
            "error: unreadable mask: v000/0.png: the mask of v000/0.png has the values 3, 7, which no class",
        ),
        ("3=disc,3=square", "error: --classes is '3=disc,3=square', where '3' is there twice"),
        ("", "error: --classes is '', where '1' has no name"),
        (None, "error: mask of several classes: v000/0.png: it has areas of the values 3, 7, that is, several classes"),
    ],
)
def test_a_label_without_a_class_and_a_wrong_name_are_one_line_and_exit_code_2(
    train: Train,  # noqa: F811
    tmp_path: Path,
    classes: str | None,
    said: str,
) -> None:
    (write_shapes(tmp_path / "d", 1) / "classes.json").unlink()
    failed = train("check-data", tmp_path / "d", *([] if classes is None else ["--classes", classes]))
    assert failed.code == 2 and said in failed.out + failed.err
    assert failed.err.startswith("error: ") and failed.err.count("\n") == 1


def test_the_command_that_judges_names_the_classes_that_were_named(tmp_path: Path) -> None:
    named = ClipOptions("DATA", classes="3=disc,7=square")
    assert "--classes 3=disc,7=square --split validation" in _evaluation(named, tmp_path, "validation", 1)
    assert "--classes" not in _evaluation(ClipOptions("DATA"), tmp_path, "validation", 1)
