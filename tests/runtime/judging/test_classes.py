"""Several classes in evaluation and comparison: each like a model of its own, and the mean over them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.runtime.judging.sets import KnownSession, MadeVideo, brightness, dataset, moving, nothing, shifted
from vivim_runtime.clips import Clip
from vivim_runtime.datasets.as_source import videos_of
from vivim_runtime.errors import DataError
from vivim_runtime.judging import Bootstrap, EvaluationOptions, Report, evaluate
from vivim_runtime.judging.agreement import AgreementMeter
from vivim_runtime.judging.evaluation import MEAN, Evaluation
from vivim_runtime.judging.figures import FIGURES, ClassUnits, Units, estimate
from vivim_runtime.judging.metrics import Masks
from vivim_runtime.judging.records import csv_text, record
from vivim_runtime.judging.report import with_classes
from vivim_runtime.judging.tables import grids, markdown
from vivim_runtime.sessions.base import Clips, Logits
from vivim_runtime.sources.base import Image

OPTIONS = EvaluationOptions(bootstrap=Bootstrap(200), worst=2)
NAMES = ("a", "b")


@dataclass(frozen=True)
class TwoClasses(MadeVideo):
    """The first class is the video's own; the second lies in the last rows of odd frames. Or one of them alone."""

    only: int | None = None

    def read(self, index: int) -> tuple[Image, Masks]:
        image, mask = super().read(index)
        rows = np.zeros_like(mask)
        rows[20:] = index % 2
        both = np.stack([mask, rows])
        return image, both if self.only is None else both[self.only]


def lower(clips: Clips) -> np.ndarray:
    """Marks the last rows of every frame."""
    found = np.zeros(clips.shape[:-1])
    found[..., 19:, :] = 1.0
    return found


@dataclass
class Both(KnownSession):
    """Answers for the first class with `answer`, for the second with `lower`."""

    def __call__(self, clips: Clips) -> Logits:
        first = super().__call__(clips)[:, :, :1]
        return np.concatenate((first, KnownSession(lower)(clips)), axis=2)


def videos(only: int | None = None) -> list[MadeVideo]:
    return [TwoClasses("e", nothing, 8, only), *(TwoClasses(f"v{i}", moving, 6 + i, only) for i in range(3))]


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return evaluate(Both(shifted, classes=NAMES), dataset(*videos()), OPTIONS)


@pytest.mark.parametrize(("k", "answer"), [(0, shifted), (1, lower)])
def test_each_class_is_judged_as_a_model_that_marks_it_alone(found: Evaluation, k: int, answer: object) -> None:
    alone = evaluate(KnownSession(answer), dataset(*videos(k)), OPTIONS)  # type: ignore[arg-type]
    of_class = found.classes[k]
    assert of_class.of == NAMES[k] and alone.of == ""
    assert of_class.overall == alone.overall and of_class.videos == alone.videos  # with all intervals
    assert np.array_equal(of_class.dice_at, alone.dice_at) and of_class.reliability == alone.reliability
    assert [(w.video, w.frame, w.dice) for w in of_class.worst] == [(w.video, w.frame, w.dice) for w in alone.worst]


def test_what_is_told_of_the_model_is_the_mean_over_its_classes(found: Evaluation) -> None:
    a, b = found.classes
    assert (found.of, found.frames, found.worst) == (MEAN, 8 + 6 + 7 + 8, ())
    assert found.lesion_frames == 4 + 6 + 7 + 8  # with any class: of the first video, its odd frames
    for subset in ("all", "lesion"):
        for figure in FIGURES:
            values = [e.overall[subset][figure.key].value for e in (a, b)]
            known = [value for value in values if value is not None]
            expected = pytest.approx(np.mean(known), abs=1e-12) if known else None  # float64 sums of two
            assert found.overall[subset][figure.key].value == expected
    dice = [e.videos[1].figures["all"]["dice"] for e in (found, a, b)]
    assert dice[0] == pytest.approx(((dice[1] or 0) + (dice[2] or 0)) / 2, abs=1e-12)
    assert found.videos[1].dice.value == dice[0]
    (note,) = (note for note in found.notes if "a frame without a class" in note)
    assert "of 29 frames, a in 21, b in 14:" in note


def test_videos_are_drawn_for_all_classes_at_once(found: Evaluation) -> None:
    """The mean of a class with itself has its very interval; independent draws would give a narrower one."""
    units = found.classes[0].units
    assert isinstance(units, Units)
    for figure in FIGURES[:2]:
        alone = estimate(figure, units, "all", OPTIONS.bootstrap)
        assert estimate(figure, ClassUnits((units, units)), "all", OPTIONS.bootstrap) == alone
        assert alone.low is not None and alone.value is not None and alone.low < alone.value


def made(*evaluations: Evaluation) -> Report:
    names = [f"runs/m{i}.onnx" for i in range(len(evaluations))]
    return Report("made", "test", OPTIONS, *with_classes(names, evaluations, ()))


def test_tables_have_a_row_a_class_and_compare_models_class_by_class(found: Evaluation) -> None:
    better = evaluate(Both(brightness, classes=NAMES), dataset(*videos()), OPTIONS)
    report = made(found, better)
    rows = ("mean over classes", "a", "b")
    assert report.labels == tuple(f"m{i}.onnx, {row}" for i in range(2) for row in rows)
    titles = {grid.title: grid for grid in grids(report)}
    assert "Table I: means over the frames that have the class" in titles
    differences = next(grid for title, grid in titles.items() if title.startswith("Difference to runs/m0.onnx"))
    assert [name for name, _ in differences.rows] == [f"m1.onnx, {row}" for row in rows]
    gain = better.classes[0].overall["all"]["dice"].value - found.classes[0].overall["all"]["dice"].value  # type: ignore[operator]
    assert [cells[0].text for _, cells in differences.rows] == [f"{gain / 2:+.4f}", f"{gain:+.4f}", "+0.0000"]
    assert "with any class" in markdown(report)
    assert not any(title.startswith("Difference") for title in (grid.title for grid in grids(made(found))))


def test_records_name_the_class_of_every_row(found: Evaluation) -> None:
    told = record(made(found))
    json.dumps(told, allow_nan=False)
    assert [(m["name"], m["class"]) for m in told["models"]] == [("runs/m0.onnx", row) for row in (MEAN, *NAMES)]
    assert not any("higher_than_first" in model for model in told["models"])
    assert sum('"runs/m0.onnx, b",' in line for line in csv_text(made(found)).splitlines()) > len(FIGURES)
    alone = evaluate(KnownSession(brightness), dataset(*videos(0)), OPTIONS)
    assert "class" not in record(made(alone))["models"][0]


def test_masks_of_other_classes_than_the_model_marks_are_refused() -> None:
    with pytest.raises(DataError, match=r"known\.onnx marks 1 classes, and the masks of e have 2"):
        evaluate(KnownSession(brightness), dataset(*videos()), OPTIONS)


def test_comparison_knows_the_truth_of_every_class() -> None:
    truth = np.zeros((2, 2, 8, 8), bool)
    truth[:, 0, :4], truth[:, 1, 4:] = True, True
    exact = np.where(truth, 1.0, -1.0).astype(np.float32)
    swapped = exact[:, ::-1].copy()
    meter = AgreementMeter()
    meter.add(Clip(np.zeros((2, 8, 8, 3), np.uint8), truth), exact, swapped)
    masks = meter.value().masks
    assert (masks.truth_a, masks.truth_b, masks.truths) == (1.0, 0.0, 2)
    of_one = AgreementMeter()
    of_one.add(Clip(np.zeros((2, 8, 8, 3), np.uint8), truth[:, 0]), exact, exact)
    assert of_one.value().masks.truths == 0  # nothing says which class it is of


def test_clips_of_a_data_set_with_a_table_have_the_classes_of_the_model(tmp_path: Path) -> None:
    for folder, value in (("images", 90), ("masks", 0)):
        (tmp_path / folder / "v").mkdir(parents=True)
        picture = np.full((8, 8), value, np.uint8)
        picture[:4] = 1
        assert cv2.imwrite(str(tmp_path / folder / "v" / "0.png"), picture)
    (tmp_path / "classes.json").write_text('{"1": "b", "2": "a"}')
    for marked, rows in {("a", "b"): [False, True], ("b",): [True]}.items():
        (opened,) = videos_of([str(tmp_path)], "test", marked=marked).values()
        with opened() as source:
            (frame,) = source
        assert frame.truth is not None
        planes = frame.truth if frame.truth.ndim == 3 else frame.truth[None]
        assert planes[:, 0, 0].tolist() == rows
    with pytest.raises(DataError, match=r"marks lesion, and the data know b, a \(classes\.json\)"):
        videos_of([str(tmp_path)], "test", marked=("lesion",))
