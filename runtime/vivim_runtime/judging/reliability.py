"""How far a model's probabilities are true: of the pixels that are given 80 %, what share is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vivim_runtime.framing import OUTSIDE_LOGIT

__all__ = ["Reliability", "ReliabilityTally"]

_BINS = 15  # of the probability of what is said, from one half on


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: of the pixels whose confidence falls in a bin, what share is right.

    Attributes:
        confidence, accuracy, share: of each bin that has pixels.
        error: expected calibration error, the mean difference of the two.
    """

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    share: tuple[float, ...]
    error: float


class ReliabilityTally:
    """Adds up pixels by the probability of what is said of them, lesion or not.

    Args:
        temperature: that logits are divided by; 1 where nobody has calibrated the model.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature
        self._sums = np.zeros((3, _BINS))  # pixels, their confidence, and those that are right

    def add(self, logits: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> None:
        """Pixels of any one shape; those that no model has seen do not count."""
        seen = logits != OUTSIDE_LOGIT
        z, true = logits[seen].astype(np.float64), truth[seen]
        sure = 1 / (1 + np.exp(-np.minimum(np.abs(z) / self.temperature, 60)))
        bins = np.minimum(((sure - 0.5) * 2 * _BINS).astype(np.intp), _BINS - 1)
        right = ((z > 0) == true).astype(np.float64)
        for row, weights in zip(self._sums, (None, sure, right), strict=True):
            row += np.bincount(bins, weights, _BINS)

    def reliability(self) -> Reliability:
        """Of all pixels so far, of which there must be one."""
        count, sure, right = self._sums[:, self._sums[0] > 0]
        confidence, accuracy, share = sure / count, right / count, count / count.sum()
        error = float((share * np.abs(confidence - accuracy)).sum())
        return Reliability(tuple(confidence.tolist()), tuple(accuracy.tolist()), tuple(share.tolist()), error)
