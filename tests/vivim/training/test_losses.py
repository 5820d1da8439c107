"""The segmentation and boundary losses against loops and figures by hand, and what they ask of a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vivim.training.losses import boundary_loss, flicker_loss, segmentation_loss, sobel_edges, structure_weight
from vivim_runtime.judging.metrics import flicker

HALF = 15  # of the 31 x 31 window, without its centre


def masks(batch: int = 2, frames: int = 2, classes: int = 2, height: int = 40, width: int = 36) -> Tensor:
    """float64 truths with rectangles of several sizes; the last one is empty."""
    truth = torch.zeros(batch, frames, classes, height, width, dtype=torch.float64)
    for index, mask in enumerate(truth.flatten(0, 2)[:-1]):
        mask[3 + index : 20 + 2 * index, 5 : 12 + 2 * index] = 1
    return truth


def straightforward_weight(truth: np.ndarray) -> np.ndarray:
    """1 + 5 |mean - truth| for one mask (H, W), pixel by pixel; outside the frame counts as 0."""
    padded = np.pad(truth, HALF)
    weight = np.empty_like(truth)
    for y, x in np.ndindex(*truth.shape):
        weight[y, x] = 1 + 5 * abs(padded[y : y + 2 * HALF + 1, x : x + 2 * HALF + 1].mean() - truth[y, x])
    return weight


def straightforward_loss(logits: np.ndarray, truth: np.ndarray) -> float:
    """The loss of the paper for one mask (H, W)."""
    weight, p = straightforward_weight(truth), 1 / (1 + np.exp(-logits))
    bce = -(truth * np.log(p) + (1 - truth) * np.log(1 - p))
    both, either = (weight * p * truth).sum(), (weight * (p + truth - p * truth)).sum()
    return float((weight * bce).sum() / weight.sum() + 1 - (both + 1) / (either + 1))


def test_loss_equals_a_straightforward_computation() -> None:
    truth = masks()
    logits = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = zip(logits.flatten(0, 2).numpy(), truth.flatten(0, 2).numpy(), strict=True)
    expected = np.mean([straightforward_loss(*pair) for pair in pairs])
    # Both in float64: sums of some 1440 terms of one sign, each good to 1e-16.
    assert segmentation_loss(logits, truth).item() == pytest.approx(expected, rel=1e-12)


def test_loss_is_a_scalar_of_the_dtype_of_the_logits() -> None:
    truth = masks().float()
    loss = segmentation_loss(torch.zeros_like(truth), truth)
    assert loss.shape == () and loss.dtype == torch.float32


def test_weight_is_one_far_from_outlines_and_almost_six_at_a_lone_pixel() -> None:
    truth = torch.zeros(1, 1, 80, 80, dtype=torch.float64)
    truth[0, 0, 40, 40] = 1
    weight = structure_weight(truth)[0, 0]
    assert weight[40, 40].item() == pytest.approx(1 + 5 * (1 - 1 / 31**2))
    assert weight[40, 40 + HALF].item() == pytest.approx(1 + 5 / 31**2)
    assert weight[40, 40 + HALF + 1].item() == 1.0
    assert weight.min().item() == 1.0


def test_a_wrong_pixel_near_the_outline_costs_more_than_one_far_from_it() -> None:
    truth = torch.zeros(1, 1, 1, 80, 80, dtype=torch.float64)
    truth[..., :20] = 1
    right = (truth * 2 - 1) * 8

    def loss_with_a_false_alarm_in(column: int) -> float:
        logits = right.clone()
        logits[..., 40, column] = 8
        return segmentation_loss(logits, truth).item()

    assert loss_with_a_false_alarm_in(21) > loss_with_a_false_alarm_in(60) > segmentation_loss(right, truth).item()


def test_perfect_prediction_costs_nothing_and_its_opposite_a_lot() -> None:
    truth = masks()
    right = (truth * 2 - 1) * 40
    # exp(-40) = 4e-18 is left of every pixel, times a weight of at most 6, over 1440 pixels.
    assert segmentation_loss(right, truth).item() <= 1e-13
    # The cross-entropy of a logit that is wrong by 40 is 40; no overlap adds almost 1 where there is a lesion.
    assert segmentation_loss(-right, truth).item() > 40.5


def test_gradient_raises_logits_inside_the_truth_and_lowers_them_outside() -> None:
    truth = masks()
    logits = torch.zeros_like(truth, requires_grad=True)
    segmentation_loss(logits, truth).backward()
    gradient = logits.grad
    assert gradient is not None
    assert (gradient[truth == 1] < 0).all() and (gradient[truth == 0] > 0).all()


def test_every_frame_and_class_counts_the_same() -> None:
    truth = masks()
    logits = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = [
        segmentation_loss(logits[b : b + 1, t : t + 1, k : k + 1], truth[b : b + 1, t : t + 1, k : k + 1])
        for b, t, k in np.ndindex(*truth.shape[:3])
    ]
    # float64, a mean of eight: some ulp.
    assert segmentation_loss(logits, truth).item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-13)


def test_huge_logits_stay_finite() -> None:
    truth = masks().float()
    logits = ((truth - 0.5) * -1e5).requires_grad_()
    loss = segmentation_loss(logits, truth)
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_authors_weighting_averages_the_cross_entropy_and_keeps_the_weighted_iou() -> None:
    truth = masks()
    logits = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = []
    for z, t in zip(logits.flatten(0, 2).numpy(), truth.flatten(0, 2).numpy(), strict=True):
        weight, p = straightforward_weight(t), 1 / (1 + np.exp(-z))
        both, either = (weight * p * t).sum(), (weight * (p + t - p * t)).sum()
        bce = -(t * np.log(p) + (1 - t) * np.log(1 - p))
        expected.append(bce.mean() + 1 - (both + 1) / (either + 1))
    # float64, as above; all masks have one size, so the mean of means is the mean.
    value = segmentation_loss(logits, truth, "authors").item()
    assert value == pytest.approx(np.mean(expected), rel=1e-12)
    assert value != pytest.approx(segmentation_loss(logits, truth).item(), rel=1e-3)


def test_outline_of_a_rectangle_is_two_pixels_wide() -> None:
    mask = torch.zeros(1, 1, 12, 14)
    mask[..., 3:9, 4:10] = 1
    expected = torch.zeros(1, 1, 12, 14)
    expected[..., 2:10, 3:11] = 1  # one pixel outside
    expected[..., 4:8, 5:9] = 0  # and one inside
    assert torch.equal(sobel_edges(mask), expected)


def test_border_of_the_frame_is_no_outline() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1  # reaches three borders
    edges = sobel_edges(mask)[0, 0]
    columns = torch.arange(8)
    assert torch.equal(edges, ((columns == 3) | (columns == 4)).float().expand(8, 8))
    assert sobel_edges(torch.ones(1, 1, 8, 8)).sum() == 0


def test_boundary_loss_weighs_outlines_by_the_share_of_the_rest() -> None:
    edges = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    bce = torch.nn.functional.softplus(torch.where(edges > 0, -logits, logits))  # -log p, -log(1 - p)
    weighted = (0.75 * bce[0] + 0.25 * bce[1:].sum()) / 4
    assert boundary_loss(logits, edges, balanced=True).item() == pytest.approx(weighted.item(), rel=1e-12)
    assert boundary_loss(logits, edges).item() == pytest.approx(bce.mean().item(), rel=1e-12)  # the paper's text


def films() -> Tensor:
    """float64 truths (2, 4, 2, 40, 36) with a rectangle that moves a pixel a frame, each of another size."""
    truth = torch.zeros(2, 4, 2, 40, 36, dtype=torch.float64)
    for clip, frame, k in np.ndindex(2, 4, 2):
        truth[clip, frame, k, 5 + frame : 20 + frame + clip, 6 : 16 + 4 * k] = 1
    return truth


def test_flicker_of_sharp_masks_is_what_evaluation_counts() -> None:
    truth = films()
    marked = (torch.rand(truth.shape, generator=torch.Generator().manual_seed(3)) < 0.02) ^ (truth > 0)
    counted = [
        flicker(marked[b, :, k].numpy(), truth[b, :, k].numpy() > 0) for b, k in np.ndindex(2, 2)
    ]  # whole counts; exp(-40) is below the last bit of 1
    assert flicker_loss((marked.double() - 0.5) * 80, truth).item() == pytest.approx(np.mean(counted), rel=1e-12)


def test_flicker_knows_no_error_that_stays() -> None:
    truth = films()
    wrong = truth.clone()
    wrong[..., 30:, 30:] = 1  # in every frame
    speck = truth.clone()
    speck[:, 1::2, :, 30:, 30:] = 1  # in every other one
    follows, stays, flickers = (flicker_loss((mask - 0.5) * 80, truth).item() for mask in (truth, wrong, speck))
    assert follows < 1e-12 and stays < 1e-12 and flickers > 0.2


def test_flicker_without_a_lesion_is_a_share_of_a_hundredth_of_the_picture() -> None:
    marked = torch.full((1, 2, 1, 20, 20), -40.0, dtype=torch.float64)
    marked[0, 1, 0, 3, 4:6] = 40  # two of 400 pixels, a hundredth is four
    assert flicker_loss(marked, torch.zeros_like(marked)).item() == pytest.approx(0.5, rel=1e-12)
