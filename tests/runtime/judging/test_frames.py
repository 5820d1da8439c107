"""What is measured of a frame: against loops over thresholds, against judging.metrics, and frame by frame."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.runtime.judging.masks import blob, map_of
from vivim_runtime.clips import threshold_logit
from vivim_runtime.judging import metrics
from vivim_runtime.judging.frames import CURVES, SCALARS, WIDTH, FrameJudge, columns
from vivim_runtime.judging.maps import (
    THRESHOLDS,
    adaptive_e_measure,
    counts_at_least,
    e_measure,
    mean_absolute_error,
    s_measure,
    stretched,
)
from vivim_runtime.judging.metrics import Figures, Masks

EMPTY = np.zeros((20, 24), bool)


def logits_of(probability: Figures) -> np.ndarray:
    inside = np.clip(probability, 1e-4, 1 - 1e-4)
    return np.log(inside / (1 - inside)).astype(np.float32)


def probability_of(logits: np.ndarray) -> Figures:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def pair(seed: int) -> tuple[np.ndarray, Masks]:
    rng = np.random.default_rng(seed)
    truth = blob(rng, EMPTY.shape)
    return logits_of(map_of(truth, rng)), truth


def box(left: int, width: int = 6) -> Masks:
    mask = EMPTY.copy()
    mask[5:15, left : left + width] = True
    return mask


def sure(mask: Masks) -> np.ndarray:
    return np.where(mask, 8.0, -8.0).astype(np.float32)


def row_of(logits: np.ndarray, truth: Masks, threshold: float = 0.5) -> Figures:
    """The figures of the second of three frames."""
    judge = FrameJudge(3, threshold_logit(threshold))
    judge.row(logits, truth)
    return judge.row(logits, truth)


def scalar(row: Figures, name: str) -> float:
    (value,) = row[columns(name)]
    return float(value)


def test_every_column_of_a_row_belongs_to_one_figure() -> None:
    used = np.zeros(WIDTH, int)
    for name in (*SCALARS, *CURVES):
        used[columns(name)] += 1
    assert (used == 1).all()
    assert columns("dice") == slice(0, 1) and columns("dice_at").stop - columns("dice_at").start == 256


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.8])
def test_masks_are_those_of_a_run_at_its_threshold(threshold: float) -> None:
    logits, truth = pair(1)
    row, mask = row_of(logits, truth, threshold), logits > threshold_logit(threshold)
    for name in ("dice", "iou", "precision", "recall"):
        assert scalar(row, name) == getattr(metrics, name)(mask, truth)
    # The distance transform of OpenCV is float32, and not the same to the last bit every time.
    assert scalar(row, "hd95") == pytest.approx(float(metrics.hd95(mask, truth)), abs=1e-5)


def test_a_threshold_is_chosen_by_the_dice_that_a_run_would_have() -> None:
    logits, truth = pair(2)
    curve = row_of(logits, truth)[columns("dice_at")]
    for k in (0, 30, 128, 200, 255):
        assert curve[k] == metrics.dice(probability_of(logits) > k / 255, truth)
    assert (row_of(sure(EMPTY), EMPTY)[columns("dice_at")][1:] == 1.0).all()  # two empty masks agree


def authors_means(probability: Figures, truth: Masks) -> dict[str, float]:
    """on_validation_epoch_end of the authors' train_pl_polyp.py with misc2.py: 0 for what cannot be divided."""

    def over(part: int, whole: int) -> float:
        return part / whole if whole else 0.0

    sums = dict.fromkeys(("dice", "iou", "precision", "recall", "specificity"), 0.0)
    for threshold in np.linspace(1, 0, 256):
        marked = probability > threshold
        tp, fp = int((marked & truth).sum()), int((marked & ~truth).sum())
        fn, tn = int((~marked & truth).sum()), int((~marked & ~truth).sum())
        sums["dice"] += over(2 * tp, 2 * tp + fp + fn)
        sums["iou"] += over(tp, tp + fp + fn)
        sums["precision"] += over(tp, tp + fp)
        sums["recall"] += over(tp, tp + fn)
        sums["specificity"] += over(tn, tn + fp)
    return {name: value / 256 for name, value in sums.items()}


@pytest.mark.parametrize("truth", [pair(3)[1], EMPTY, ~EMPTY], ids=["lesion", "none", "everywhere"])
def test_averages_are_those_of_the_authors_training_code(truth: Masks) -> None:
    logits = pair(3)[0]
    row = row_of(logits, truth)
    for name, value in authors_means(probability_of(logits), truth).items():
        # 256 sums of float64.
        assert scalar(row, f"averaged_{name}") == pytest.approx(value, rel=1e-12, abs=1e-15), name


def test_no_pixel_is_above_the_threshold_of_one_and_a_sure_one_is_above_all_others() -> None:
    row = row_of(np.where(box(4), 1000.0, -1000.0).astype(np.float32), box(4))
    assert scalar(row, "averaged_dice") == 255 / 256
    assert row[columns("dice_at")].tolist() == [1.0] * 255 + [0.0]
    assert (row[columns("toolbox_dice")][1:] == 1.0).all()  # at least 1


def test_table_two_is_computed_on_the_stretched_map() -> None:
    logits, truth = pair(4)
    row, map_ = row_of(logits, truth), stretched(0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float64)))
    assert scalar(row, "s_measure") == s_measure(map_, truth)
    assert scalar(row, "mae") == mean_absolute_error(map_, truth)
    assert scalar(row, "e_adaptive") == adaptive_e_measure(map_, truth)
    assert (row[columns("toolbox_e")] == e_measure(counts_at_least(map_, truth))).all()
    for k in (0, 1, 100, 200):  # with true positives
        marked = map_ >= THRESHOLDS[k]
        assert row[columns("toolbox_dice")][k] == metrics.dice(marked, truth)
        assert row[columns("toolbox_iou")][k] == metrics.iou(marked, truth)
        specificity = np.count_nonzero(~marked & ~truth) / np.count_nonzero(~truth)
        assert row[columns("toolbox_specificity")][k] == pytest.approx(specificity, rel=1e-15)


def test_without_a_true_positive_the_toolbox_gives_nothing_for_specificity_either() -> None:
    row = row_of(sure(box(2)), box(14))
    first = row[columns("toolbox_specificity")]
    # At the lowest threshold all is marked, so there are true positives, and no true negative.
    assert (first == 0.0).all()
    assert (row[columns("toolbox_dice")][1:] == 0.0).all() and row[columns("toolbox_dice")][0] > 0
    assert (row_of(sure(EMPTY), EMPTY)[columns("toolbox_dice")] == 0.0).all()


def test_first_and_last_frame_do_not_count_for_table_two() -> None:
    logits, truth = pair(5)
    judge = FrameJudge(4, 0.0)
    counted = [not np.isnan(judge.row(logits, truth)[columns("toolbox_dice")]).any() for _ in range(4)]
    assert counted == [False, True, True, False]
    judge = FrameJudge(2, 0.0)
    assert [math.isnan(scalar(judge.row(logits, truth), "mae")) for _ in range(2)] == [False, False]


def test_a_distance_counts_only_between_two_outlines() -> None:
    assert scalar(row_of(sure(box(4)), box(7)), "hd95") == pytest.approx(3.0, abs=1e-5)
    for mask, truth in ((EMPTY, box(4)), (box(4), EMPTY), (EMPTY, EMPTY)):
        assert math.isnan(scalar(row_of(sure(mask), truth), "hd95"))


def test_misses_and_false_alarms_are_told_apart() -> None:
    def found(mask: Masks, truth: Masks) -> tuple[float, float]:
        row = row_of(sure(mask), truth)
        return scalar(row, "missed"), scalar(row, "false_alarm")

    assert found(EMPTY, box(4)) == pytest.approx((1.0, math.nan), nan_ok=True)
    assert found(box(14), box(2)) == pytest.approx((0.0, math.nan), nan_ok=True)  # marked, if elsewhere
    assert found(box(4), EMPTY) == pytest.approx((math.nan, 1.0), nan_ok=True)
    assert found(EMPTY, EMPTY) == pytest.approx((math.nan, 0.0), nan_ok=True)


def test_changes_and_areas_make_the_flicker_of_the_metrics() -> None:
    masks = np.stack([box(left) for left in (2, 3, 3, 6, 5)])
    truth = np.stack([box(left, 5) for left in (2, 2, 4, 4, 4)])
    judge = FrameJudge(5, 0.0)
    rows = np.stack([judge.row(sure(m), t) for m, t in zip(masks, truth, strict=True)])
    assert np.isnan(rows[0, columns("changes")]).all()
    flicker = rows[1:, columns("changes")].mean() / rows[:, columns("area")].mean()
    assert flicker == pytest.approx(metrics.flicker(masks, truth), rel=1e-12)


def test_frames_of_two_sizes_do_not_flicker() -> None:
    judge = FrameJudge(3, 0.0)
    judge.row(sure(box(2)), box(2))
    assert math.isnan(scalar(judge.row(sure(box(2)[:-1]), box(2)[:-1]), "changes"))
    assert scalar(judge.row(sure(box(3)[:-1]), box(2)[:-1]), "changes") == 20.0
