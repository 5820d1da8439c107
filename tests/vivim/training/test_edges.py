"""Average precision and Dice of edge heads, against sorting all pixels by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from vivim.training.edges import EdgeTally
from vivim.training.losses import sobel_edges

ROWS, COLUMNS = np.indices((20, 24))
DISC = (ROWS - 9) ** 2 + (COLUMNS - 12) ** 2 < 30


def outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return sobel_edges(torch.from_numpy(mask)[None, None].float())[0, 0].numpy() > 0


def average_precision(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> float:
    """The mean, over outline pixels, of the share of outlines among what is marked at least as surely."""
    scores = logits.ravel()
    shares = [truth.ravel()[scores >= score].mean() for score in scores[truth.ravel()]]
    return float(np.mean(shares))


def test_figures_are_those_of_all_pixels_sorted() -> None:
    rng = np.random.default_rng(0)
    frames = [np.roll(DISC, 2, 1), DISC]
    # Logits on the middles of bins, so that counting loses nothing.
    logits = [((np.round(rng.normal(0, 2, DISC.shape) * 100) + 0.5) / 100).astype(np.float32) for _ in frames]
    tally = EdgeTally()
    for plane, mask in zip(logits, frames, strict=True):
        tally.add(plane, mask)
    found = tally.scores()
    truth, all_logits = np.stack([outline(mask) for mask in frames]), np.stack(logits)
    assert found is not None
    # Sums of some hundred quotients in float64.
    assert found.ap == pytest.approx(average_precision(all_logits, truth), rel=1e-12)
    marked = all_logits > 0
    assert found.dice == pytest.approx(2 * (marked & truth).sum() / (marked.sum() + truth.sum()), rel=1e-12)


def test_a_perfect_head_has_one_and_a_blank_one_the_share_of_outlines() -> None:
    perfect, blank = EdgeTally(), EdgeTally()
    perfect.add(np.where(outline(DISC), 30.0, -30.0).astype(np.float32), DISC)
    blank.add(np.full(DISC.shape, -4.0, np.float32), DISC)
    assert (perfect.scores().ap, perfect.scores().dice) == (1.0, 1.0)  # type: ignore[union-attr]
    assert blank.scores().ap == pytest.approx(outline(DISC).mean())  # type: ignore[union-attr]
    assert blank.scores().dice == 0.0  # type: ignore[union-attr]


def test_frames_without_outlines_have_no_figures_and_count_as_false_alarms_beside_others() -> None:
    tally = EdgeTally()
    tally.add(np.full(DISC.shape, 3.0, np.float32), np.zeros_like(DISC))
    assert tally.scores() is None
    tally.add(np.where(outline(DISC), 3.0, -3.0).astype(np.float32), DISC)
    found, lines = tally.scores(), outline(DISC).sum()
    assert found is not None and found.dice == pytest.approx(2 * lines / (2 * lines + DISC.size))
