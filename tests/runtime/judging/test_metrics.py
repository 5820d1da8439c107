"""Mask metrics against counting by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.runtime.judging.masks import random_pairs, real_pairs
from vivim_runtime.judging.metrics import FlickerMeter, Masks, dice, flicker, hd95, iou, precision, recall


def box(top: int, left: int, height: int, width: int, size: tuple[int, int] = (16, 20)) -> Masks:
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


EMPTY = box(0, 0, 0, 0)
# 4 x 6 predicted and 4 x 4 true, 4 x 2 of them in common: 24, 16 and 8 pixels.
PREDICTED, TRUTH = box(2, 1, 4, 6), box(2, 5, 4, 4)


@pytest.mark.parametrize(
    ("metric", "expected"), [(dice, 16 / 40), (iou, 8 / 32), (precision, 8 / 24), (recall, 8 / 16)]
)
def test_overlap_counted_by_hand(metric: Callable[[Masks, Masks], np.ndarray], expected: float) -> None:
    # One division of small integers in float64.
    assert float(metric(PREDICTED, TRUTH)) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("metric", "both_empty", "nothing_predicted", "nothing_true"),
    [
        (dice, 1.0, 0.0, 0.0),
        (iou, 1.0, 0.0, 0.0),
        (precision, 1.0, 1.0, 0.0),  # nothing was marked wrongly
        (recall, 1.0, 0.0, 1.0),  # nothing was missed
        (hd95, 0.0, math.inf, math.inf),
    ],
)
def test_empty_masks(
    metric: Callable[[Masks, Masks], np.ndarray], both_empty: float, nothing_predicted: float, nothing_true: float
) -> None:
    assert metric(EMPTY, EMPTY) == both_empty
    assert metric(EMPTY, TRUTH) == nothing_predicted
    assert metric(PREDICTED, EMPTY) == nothing_true


@pytest.mark.parametrize("metric", [dice, iou, precision, recall, hd95])
def test_a_figure_comes_back_for_every_leading_index(metric: Callable[[Masks, Masks], np.ndarray]) -> None:
    predicted = np.stack([[PREDICTED, EMPTY, TRUTH], [TRUTH, TRUTH, EMPTY]])
    truth = np.stack([[TRUTH, TRUTH, TRUTH], [EMPTY, PREDICTED, EMPTY]])
    figures = metric(predicted, truth)
    assert figures.shape == (2, 3) and figures.dtype == np.float64
    assert all(figures[i] == metric(predicted[i], truth[i]) for i in np.ndindex(2, 3))


@pytest.mark.parametrize("metric", [dice, iou, precision, recall, hd95])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param((1, 8, 8), (8, 8), id="would broadcast"),
        pytest.param((8, 8), (8, 9), id="another size"),
        pytest.param((8,), (8,), id="no frames"),
    ],
)
def test_masks_of_other_shapes_are_refused(
    metric: Callable[[Masks, Masks], np.ndarray], a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="expected two"):
        metric(np.ones(a, bool), np.ones(b, bool))


# A square root and an interpolation in float64, of some ten pixels.
TOLERANCE = 1e-14


def test_distance_of_two_pixels_is_euclidean() -> None:
    assert float(hd95(box(2, 3, 1, 1), box(5, 7, 1, 1))) == pytest.approx(5.0, abs=TOLERANCE)


@pytest.mark.parametrize("shift", [1, 3, 6])
def test_distance_of_shifted_squares_is_the_shift(shift: int) -> None:
    # 36 boundary pixels each; the 10 of the outer column are `shift` away, 10 of 36 is more than the 5 % left out.
    a, b = box(1, 2, 10, 10), box(1, 2 + shift, 10, 10)
    assert float(hd95(a, b)) == pytest.approx(shift, abs=TOLERANCE)
    assert hd95(a, b) == hd95(b, a)


def test_distance_counts_both_ways() -> None:
    # All of the small one lies on the boundary of the large one; the large one reaches 12 further.
    large, small = box(1, 1, 1, 16), box(1, 1, 1, 4)
    # Of 16 + 4 distances the four largest are 9 to 12; the 95th percentile lies at 18.05 of 0..19: 11 + 0.05.
    assert float(hd95(large, small)) == pytest.approx(11.05, abs=TOLERANCE)
    assert hd95(large, small) == hd95(small, large)


def test_distance_forgives_one_stray_pixel_in_twenty() -> None:
    square = box(1, 1, 10, 10)
    assert hd95(square, square | box(14, 18, 1, 1)) == 0.0  # one of 73 boundary pixels


def test_distance_is_measured_between_outlines_not_areas() -> None:
    # Every pixel of the hole's mask is inside the full square; their outlines are 3 pixels apart.
    assert float(hd95(box(2, 2, 11, 11), box(5, 5, 5, 5))) == pytest.approx(math.hypot(3, 3), abs=TOLERANCE)


def test_frame_border_is_an_outline() -> None:
    full, centre = box(0, 0, 11, 11, (11, 11)), box(5, 5, 1, 1, (11, 11))
    # 40 border pixels and the centre; the four corners are the last 5 % of 41.
    assert float(hd95(full, centre)) == pytest.approx(math.hypot(5, 5), abs=TOLERANCE)


def test_distance_is_that_of_whole_numbers_wherever_the_masks_lie_in_memory() -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        a, b = (np.zeros((48, 64), bool) for _ in range(2))
        for mask in (a, b):  # pixels that are outlines by themselves
            mask[tuple(generator.integers(0, n, 12) for n in mask.shape)] = True
        points = [np.argwhere(mask) for mask in (a, b)]
        squares = ((points[0][:, None] - points[1]) ** 2).sum(-1)
        nearest = np.concatenate((squares.min(axis=1), squares.min(axis=0)))
        assert float(hd95(a, b)) == np.percentile(np.sqrt(nearest), 95)


def test_flicker_is_change_over_area() -> None:
    still = box(2, 2, 2, 2)
    moved = box(2, 3, 2, 2)  # 2 pixels left, 2 gained
    # Changes 4 and 0, mean 2; area 4.
    assert flicker(np.stack([still, moved, moved])) == 0.5
    assert flicker(np.stack([still, still, still])) == 0.0


def test_flicker_counts_pixels_whose_error_changes() -> None:
    still, moved, larger = box(2, 2, 2, 2), box(2, 3, 2, 2), box(2, 2, 2, 4)
    moving = np.stack([still, moved, still])
    assert flicker(moving, moving) == 0.0
    # Frozen masks are wrong in 4 other pixels from frame to frame, over the reference's area of 4.
    assert flicker(np.stack([still, still, still]), moving) == 1.0
    # Changes of 4 a frame against none, over the reference's area of 8.
    assert flicker(moving, np.stack([larger, larger, larger])) == 0.5


def test_a_frozen_mask_with_speckle_on_a_moving_lesion_is_restless() -> None:
    rng = np.random.default_rng(0)
    truth = np.stack([box(8, 4 + 2 * frame, 16, 12, (32, 48)) for frame in range(8)])
    speckle = rng.random((8, 32, 48)) < 0.02
    frozen = truth[:1] ^ speckle
    changes = (frozen[1:] != frozen[:-1]).sum() - (truth[1:] != truth[:-1]).sum()
    # What was counted before: about as many changes as the lesion has, which is no flicker at all.
    assert abs(changes / 7 / truth.sum((1, 2)).mean()) < 0.1
    assert flicker(frozen, truth) > 0.5
    assert flicker(truth, truth) == 0.0 < flicker(truth ^ speckle, truth) < flicker(frozen, truth)


def test_flicker_of_one_frame_or_of_nothing_is_zero() -> None:
    assert flicker(PREDICTED[None]) == 0.0
    assert flicker(PREDICTED[None][:0]) == 0.0
    assert flicker(np.stack([EMPTY, EMPTY])) == 0.0


def test_meter_that_is_fed_frame_by_frame_equals_flicker() -> None:
    masks = [box(2, 2 + shift, 3, 4) for shift in (0, 1, 1, 4)]
    meter = FlickerMeter()
    values = []
    for mask in masks:
        meter.add(mask)
        values.append(meter.value())
    # Changed pixels: 6, 0 and 18 of area 12.
    assert values[-1] == pytest.approx(8 / 12) and values[0] == 0.0
    assert values[-1] == flicker(np.stack(masks))
    assert meter.value(area=16.0) == 8 / 16


# --- against an independent implementation ---------------------------------------------------------------------------


@pytest.fixture(params=["random", "real"])
def mask_pairs(request: pytest.FixtureRequest) -> list[tuple[Masks, Masks]]:
    """Pairs of masks that both have pixels, and neither all of them."""
    pairs = list(random_pairs()) if request.param == "random" else real_pairs()
    if not pairs:
        pytest.skip("the real video is not there")
    masks = [(values > 0.3, truth) for values, truth in pairs]
    return [(a, b) for a, b in masks if a.any() and b.any() and not (a.all() or b.all())]


def test_overlap_equals_torchmetrics(mask_pairs: list[tuple[Masks, Masks]]) -> None:
    theirs = pytest.importorskip("torchmetrics.functional.classification", reason="torchmetrics is not installed")
    assert len(mask_pairs) >= 8
    for a, b in mask_pairs:
        marked, truth = torch.from_numpy(a), torch.from_numpy(b)
        # torchmetrics divides in float32.
        assert float(dice(a, b)) == pytest.approx(float(theirs.binary_f1_score(marked, truth)), rel=1e-6)
        assert float(iou(a, b)) == pytest.approx(float(theirs.binary_jaccard_index(marked, truth)), rel=1e-6)
        assert float(precision(a, b)) == pytest.approx(float(theirs.binary_precision(marked, truth)), rel=1e-6)
        assert float(recall(a, b)) == pytest.approx(float(theirs.binary_recall(marked, truth)), rel=1e-6)


def test_distance_equals_that_of_the_edges_of_scipy(mask_pairs: list[tuple[Masks, Masks]]) -> None:
    # hd95 of MedPy, which the authors' misc2.py calls: edges by erosion, nearest distances both ways, one percentile.
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is not installed")
    spatial = pytest.importorskip("scipy.spatial", reason="scipy is not installed")
    for a, b in mask_pairs:
        edges = [np.argwhere(mask ^ ndimage.binary_erosion(mask)) for mask in (a, b)]
        trees = [spatial.cKDTree(edge) for edge in edges]
        distances = np.concatenate((trees[1].query(edges[0])[0], trees[0].query(edges[1])[0]))
        assert float(hd95(a, b)) == pytest.approx(np.percentile(distances, 95), abs=TOLERANCE)
