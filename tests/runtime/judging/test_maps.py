"""Figures of probability maps, against independent implementations and against counting by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.runtime.judging.masks import random_pairs, real_pairs
from vivim_runtime.judging.maps import (
    THRESHOLDS,
    adaptive_e_measure,
    counts_above,
    counts_at_least,
    e_measure,
    mean_absolute_error,
    probabilities,
    s_measure,
    stretched,
)
from vivim_runtime.judging.metrics import Figures, Masks

RANDOM = list(random_pairs())
EMPTY, FULL = np.zeros((24, 32), bool), np.ones((24, 32), bool)
NOISE = np.random.default_rng(3).uniform(0, 1, (24, 32))
PAIRS = [
    *(pytest.param(*pair, id=f"random {i}") for i, pair in enumerate(RANDOM)),
    pytest.param(NOISE, EMPTY, id="no object"),
    pytest.param(NOISE, FULL, id="nothing but the object"),
    pytest.param(np.zeros((24, 32)), RANDOM[0][1][:1, :1] | EMPTY, id="constant map"),
    pytest.param(NOISE, NOISE > 0.5, id="noise of its own"),
    pytest.param((NOISE > 0.5).astype(float), NOISE > 0.5, id="perfect"),
    pytest.param((NOISE <= 0.5).astype(float), NOISE > 0.5, id="inverted"),
]
# Sums of some thousand float64 values in another order.
SAME = {"rel": 1e-11, "abs": 1e-12}


@pytest.fixture(params=["made", "real"])
def pairs(request: pytest.FixtureRequest) -> list[tuple[Figures, Masks]]:
    if request.param == "made":
        return [(case.values[0], case.values[1]) for case in PAIRS]  # type: ignore[misc]
    if not (real := real_pairs()):
        pytest.skip("the real video is not there")
    return real


@pytest.fixture
def sod() -> Any:
    return pytest.importorskip("py_sod_metrics", reason="pysodmetrics is not installed")


def at(threshold: int) -> float:
    return float(THRESHOLDS[threshold])


def test_s_measure_and_mae_equal_pysodmetrics(pairs: list[tuple[Figures, Masks]], sod: Any) -> None:
    for values, truth in pairs:
        if truth.sum() == 1:
            continue  # it divides by zero there
        map_, structure, error = stretched(values), sod.Smeasure(), sod.MAE()
        structure.step(map_, truth, normalize=False)
        error.step(map_, truth, normalize=False)
        assert s_measure(map_, truth) == pytest.approx(structure.get_results()["sm"], **SAME)
        assert mean_absolute_error(map_, truth) == pytest.approx(error.get_results()["mae"], **SAME)


def test_e_measures_equal_pysodmetrics_at_every_threshold(pairs: list[tuple[Figures, Masks]], sod: Any) -> None:
    for values, truth in pairs:
        map_, alignment = stretched(values), sod.Emeasure()
        alignment.step(map_, truth, normalize=False)
        theirs = alignment.get_results()["em"]
        ours = e_measure(counts_at_least(map_, truth))
        assert ours[::-1] == pytest.approx(theirs["curve"], **SAME)  # theirs begin with the highest threshold
        assert adaptive_e_measure(map_, truth) == pytest.approx(theirs["adp"], **SAME)


def test_overlap_equals_pysodmetrics_at_every_threshold(pairs: list[tuple[Figures, Masks]], sod: Any) -> None:
    handlers = {
        "dice": sod.DICEHandler(True, False),
        "iou": sod.IOUHandler(True, False),
        "precision": sod.PrecisionHandler(True, False),
        "recall": sod.RecallHandler(True, False),
        "specificity": sod.SpecificityHandler(True, False),
    }
    for values, truth in pairs:
        measure = sod.FmeasureV2(handlers)
        measure.step(stretched(values), truth, normalize=False)
        counts = counts_at_least(stretched(values), truth)
        for name, handler in handlers.items():
            # Theirs is 0 where there is nothing to divide by.
            assert getattr(counts, name)(nothing=0.0)[::-1] == pytest.approx(handler.dynamic_results.pop(), **SAME), (
                name
            )


@pytest.mark.parametrize("threshold", [0, 1, 77, 128, 254, 255])
def test_overlap_above_a_threshold_equals_torchmetrics(pairs: list[tuple[Figures, Masks]], threshold: int) -> None:
    theirs_all = pytest.importorskip("torchmetrics.functional.classification", reason="torchmetrics is not installed")
    for values, truth in pairs:
        counts = counts_above(values, truth)
        if counts.marked[threshold] == 0 or not truth.any() or truth.all():
            continue  # where nothing is divided by nothing, each has its own convention
        marked, object_ = torch.from_numpy(values > at(threshold)), torch.from_numpy(truth)
        for ours, theirs in (
            (counts.dice, theirs_all.binary_f1_score),
            (counts.iou, theirs_all.binary_jaccard_index),
            (counts.precision, theirs_all.binary_precision),
            (counts.recall, theirs_all.binary_recall),
            (counts.specificity, theirs_all.binary_specificity),
        ):
            # torchmetrics divides in float32.
            assert ours(nothing=0.0)[threshold] == pytest.approx(float(theirs(marked, object_)), rel=1e-6, abs=1e-7)


def test_every_pixel_is_counted_at_the_thresholds_that_it_passes() -> None:
    values = np.array([[0.0, at(3), at(3) + 1e-9], [0.5, at(255), at(254)]])
    truth = np.array([[False, True, False], [True, True, False]])
    at_least, above = counts_at_least(values, truth), counts_above(values, truth)
    for threshold, value in enumerate(THRESHOLDS):
        assert at_least.true[threshold] == np.count_nonzero((values >= value) & truth)
        assert at_least.false[threshold] == np.count_nonzero((values >= value) & ~truth)
        assert above.true[threshold] == np.count_nonzero((values > value) & truth)
        assert above.false[threshold] == np.count_nonzero((values > value) & ~truth)
    assert (at_least.foreground, at_least.background) == (3, 3)


def test_dividing_nothing_by_nothing_gives_what_was_asked_for() -> None:
    silent = counts_above(np.zeros((2, 3)), np.zeros((2, 3), bool))
    for figure in (silent.dice, silent.iou, silent.precision, silent.recall):
        assert (figure(nothing=1.0) == 1.0).all() and (figure(nothing=0.0) == 0.0).all()
    assert (silent.specificity(nothing=0.0) == 1.0).all()
    everywhere = counts_above(np.zeros((2, 3)), np.ones((2, 3), bool))
    assert (everywhere.specificity(nothing=0.25) == 0.25).all()
    assert (everywhere.dice(nothing=1.0) == 0.0).all()


def test_an_object_of_one_pixel_or_in_the_last_corner_has_an_s_measure() -> None:
    # Where pysodmetrics gives NaN: the deviation of one value, the mean of a part without pixels. Both count as none.
    truth = np.zeros((6, 8), bool)
    truth[5, 7] = True
    # The toolbox adds an epsilon of 2e-16 to products of 1e-5 and more: 1e-11.
    assert s_measure(truth.astype(float), truth) == pytest.approx(1.0, abs=1e-11)
    assert s_measure(np.zeros((6, 8)), truth) == pytest.approx(0.5 * 47 / 48, abs=1e-11)  # even background, no object


def test_a_perfect_mask_has_the_e_measure_of_the_toolbox() -> None:
    truth = RANDOM[0][1]
    perfect = e_measure(counts_at_least(truth.astype(float), truth))
    assert perfect[255] == pytest.approx(truth.size / (truth.size - 1), rel=1e-12)


def test_a_map_is_stretched_to_its_own_range_unless_it_is_constant() -> None:
    assert stretched(np.array([[0.2, 0.3], [0.6, 0.4]])).ravel() == pytest.approx([0, 0.25, 1, 0.5])
    assert (stretched(np.full((2, 2), 0.3)) == 0.3).all()


def test_probabilities_are_the_sigmoid_and_never_overflow() -> None:
    logits = np.array([-1000, -5, 0, 2, 1000], np.float32)
    assert probabilities(logits) == pytest.approx([0, 1 / (1 + np.exp(5)), 0.5, 1 / (1 + np.exp(-2)), 1], abs=1e-15)
