"""How well an edge head marks outlines: average precision and Dice over all pixels, from counts of bounded size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vivim.training.losses import sobel_edges
from vivim_runtime.clips import Masks
from vivim_runtime.sessions.base import Logits

__all__ = ["EdgeScores", "EdgeTally"]

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
        """A frame: logits of outlines and the true mask, both (H, W)."""
        outline = sobel_edges(torch.from_numpy(truth)[None, None].float())[0, 0].numpy() > 0
        bins = np.clip((logits + _REACH) * _FINENESS, 0, _BINS - 1).astype(np.int64)
        self.counts[0] += np.bincount(bins[~outline], minlength=_BINS)
        self.counts[1] += np.bincount(bins[outline], minlength=_BINS)

    def scores(self) -> EdgeScores | None:
        """None where no frame has an outline."""
        off, on = self.counts[:, ::-1].cumsum(1)  # marked at falling thresholds
        if not on[-1]:
            return None
        marked = off + on
        precision = on / np.maximum(marked, 1)
        ap = float((np.diff(on, prepend=0) * precision).sum() / on[-1])
        half = _BINS // 2 - 1  # the bins of logits of at least 0
        return EdgeScores(ap, float(2 * on[half] / (marked[half] + on[-1])))
