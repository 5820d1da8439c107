"""How well an edge head marks outlines: average precision and Dice over all pixels, from counts of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.clips import Masks
from vivim_runtime.judging.figures import Bootstrap, Estimate, drawn_estimate
from vivim_runtime.sessions.base import Logits

__all__ = ["EDGE_FIGURES", "EdgeScores", "EdgeTally", "edge_estimates", "outline_of"]

EDGE_FIGURES = {"edge_ap": "edge AP", "edge_dice": "edge Dice"}  # key of records: title of tables

# Logits are counted in bins of 1/100 between -12 and 12 (probabilities of 6e-6 to 1 - 6e-6), and what lies beyond in
# the outermost ones; a threshold within a bin changes the average precision by less than what the bin holds.
_REACH, _FINENESS = 12, 100
_BINS = 2 * _REACH * _FINENESS


@dataclass(frozen=True)
class EdgeScores:
    """Of an edge head against outlines two pixels wide (Sobel), without any tolerance.

    Attributes:
        ap: average precision over all pixels of all frames, that is sum (R_k - R_{k-1}) P_k over falling thresholds;
            chance has the share of outline pixels, about 0.01.
        dice: of the pixels above probability 0.5, over all frames together.
    """

    ap: float
    dice: float


class EdgeTally:
    """Counts of pixels by logit, on outlines and off them."""

    def __init__(self, counts: npt.NDArray[np.int64] | None = None) -> None:
        self.counts = np.zeros((2, _BINS), np.int64) if counts is None else counts  # off outlines, on them

    def add(self, logits: Logits, truth: Masks) -> None:
        """A frame: logits of outlines (H, W), and the true mask (H, W), of several classes (K, H, W)."""
        outline = outline_of(truth)
        bins = np.clip((logits + _REACH) * _FINENESS, 0, _BINS - 1).astype(np.int64)
        self.counts[0] += np.bincount(bins[~outline], minlength=_BINS)
        self.counts[1] += np.bincount(bins[outline], minlength=_BINS)

    def scores(self) -> EdgeScores | None:
        """None where no frame has an outline."""
        ap, dice = _scores(self.counts[None].astype(np.float64))[0].tolist()
        return None if np.isnan(ap) else EdgeScores(ap, dice)


def outline_of(mask: Masks) -> Masks:
    """Where Sobel's operator sees a change of a mask (H, W), two pixels wide; its border is no outline.

    Of several classes (K, H, W), the outlines of each, also where one touches another, in one picture (H, W). The same
    as vivim.training.losses.sobel_edges, which trains the head.
    """
    if mask.ndim == 3:
        return np.any([outline_of(plane) for plane in mask], axis=0)
    values = mask.astype(np.uint8)
    across, down = (cv2.Sobel(values, cv2.CV_16S, *d, borderType=cv2.BORDER_REPLICATE) for d in ((1, 0), (0, 1)))
    return (across != 0) | (down != 0)


def edge_estimates(tallies: Sequence[EdgeTally], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Figures over all frames of all videos, by key, with intervals over videos; without an outline they are None.

    Args:
        tallies: one a video.
    """
    counts = np.stack([tally.counts for tally in tallies]).astype(np.float64)  # (V, 2, bins)
    values = _scores(counts.sum(0)[None])[0]
    weights = bootstrap.weights(len(tallies))  # (draws, V)
    drawn = np.concatenate([_scores(np.tensordot(part, counts, 1)) for part in np.array_split(weights, 20)])
    outlined = int(np.count_nonzero(counts[:, 1].any(-1)))
    pairs = zip(EDGE_FIGURES, values.tolist(), drawn.T, strict=True)
    return {key: drawn_estimate(value, of_draws, outlined) for key, value, of_draws in pairs}


def _scores(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Counts (N, 2, bins) -> average precision and Dice (N, 2); NaN where there is no outline."""
    off, on = counts[:, :, ::-1].cumsum(2).transpose(1, 0, 2)  # marked at falling thresholds
    marked, outlines = off + on, on[:, -1]
    hits = np.diff(on, prepend=0.0) * on / np.maximum(marked, 1)
    half = _BINS // 2 - 1  # the bins of logits of at least 0
    shares = np.stack((hits.sum(1), 2 * on[:, half]))
    wholes = np.stack((outlines, marked[:, half] + outlines))
    return np.divide(shares, wholes, out=np.full_like(shares, np.nan), where=outlines > 0).T
