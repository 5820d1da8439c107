"""Masks that are calm over time: an exponential mean of logits, frame after frame.

Each frame counts 2 / (N + 1), the mean before it the rest, so that the mean is about N frames long and its centre lies
(N - 1) / 2 frames back: that is what calm costs in delay. What it costs in Dice is measured by benchmarks/smoothing.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import UsageError

__all__ = ["Smoother"]

Logits = npt.NDArray[np.float32]
_MOST_FRAMES = 100
# Beyond +-8 a network is certain (0.9997); one frame that is more certain still must not outweigh all others.
_CERTAIN = 8.0


class Smoother:
    """The mean over about `frames` frames; 1 changes nothing, not even a bit.

    Raises:
        UsageError: a number of frames that is out of range.
    """

    def __init__(self, frames: int) -> None:
        if not 1 <= frames <= _MOST_FRAMES:
            raise UsageError(f"--smooth is {frames}; expected 1 (off) to {_MOST_FRAMES} frames")
        self._share = 2.0 / (frames + 1)
        self._mean: Logits | None = None

    @property
    def delay(self) -> float:
        """Frames by which the mean lies back."""
        return 1.0 / self._share - 1.0

    def forget(self) -> None:
        """Begin anew with the next frame."""
        self._mean = None

    def __call__(self, logits: Logits) -> Logits:
        """The mean up to the next frame, whose logits are given, of any shape that stays the same."""
        if self._share == 1.0:
            return logits
        certain = np.clip(logits, -_CERTAIN, _CERTAIN)
        if self._mean is None or self._mean.shape != logits.shape:
            self._mean = certain
        else:
            self._mean = self._mean + np.float32(self._share) * (certain - self._mean)
        # What is not finite is no mask, and must be seen.
        return np.where(np.isfinite(logits), self._mean, logits)
