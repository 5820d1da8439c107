"""Whether a film goes on, so that a model that remembers forgets at the right moment.

Three things end what can be remembered:

    gap     no frame for longer than a probe is held still: the next one may show anything
    cut     a picture that shares too little with the one before: another film, preset or plane
    frozen  the picture stood still (the scanner's freeze), and moves again: what was between is not known

A duplicate now and then, as in a film of 30 pictures a second stored as 60, is none of these.
"""

from __future__ import annotations

import math
from collections import Counter, deque

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.sources.base import Frame

__all__ = ["REASONS", "Continuity"]

REASONS = ("gap", "cut", "frozen", "size", "key", "connection")

# Seconds, and intervals of the source, without a frame.
_GAP_S, _GAP_INTERVALS = 0.5, 8.0
# So long the same picture, to the last pixel of a thumbnail, is a frozen one.
_FROZEN_S = 0.5
_THUMBNAIL = (32, 24)  # columns and rows: speckle is averaged away, anatomy stays
# Mean difference of thumbnails with mean 0 and variance 1, in which a gain that is turned up changes nothing: 0 for the
# same picture and 1.1 for two that have nothing in common. Neighbours within 12 phantoms are at 0.14 (median) and 0.34
# (most), in a film of VTUS (91 frames) at 0.07 and 0.29; pictures of two phantoms at 0.56 (least) and 1.09 (median).
_CUT = 0.5
# And so many times what is usual in this film, where everything moves fast.
_CUT_RATIO = 2.0


class Continuity:
    """Looks at every frame of a film once, in order.

    Attributes:
        resets: how often it did not go on, by reason.
    """

    def __init__(self, fps: float) -> None:
        self._interval = 1.0 / fps if fps > 0 else 0.04
        self._last: Frame | None = None
        self._thumbnail: npt.NDArray[np.float32] | None = None
        self._still_since = 0.0
        self._usual: deque[float] = deque(maxlen=25)
        self.resets: Counter[str] = Counter()

    def before(self, frame: Frame) -> str:
        """Why the film does not go on with this frame, one of `REASONS`; "" where it does."""
        reason = self._reason(frame)
        if reason:
            self.resets[reason] += 1
            self._usual.clear()
        self._last = frame
        return reason

    def _reason(self, frame: Frame) -> str:
        last, before = self._last, self._thumbnail
        self._thumbnail = now = _thumbnail(frame.image)
        if last is None or before is None:
            self._still_since = frame.time
            return ""
        step, was_still_for = frame.time - last.time, last.time - self._still_since
        difference = float(np.abs(now - before).mean())
        if difference > 0.0:
            self._still_since = frame.time
        if frame.image.shape != last.image.shape:
            return "size"
        if step <= 0.0 or step > max(_GAP_S, _GAP_INTERVALS * self._interval):
            self._still_since = frame.time
            return "gap"
        if difference == 0.0:
            return ""
        if was_still_for >= _FROZEN_S:
            return "frozen"
        usual = float(np.median(self._usual)) if self._usual else 0.0
        if difference > max(_CUT, _CUT_RATIO * usual):
            return "cut"
        self._usual.append(difference)
        return ""


def _thumbnail(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """float32 (24, 32) of mean 0 and variance 1; all zeros of a picture of one level."""
    small = cv2.resize(image, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    small -= small.mean()
    deviation = math.sqrt(float(np.square(small).mean()))
    # Below a level of grey, what is left is noise: a black screen has nothing to compare.
    return small / deviation if deviation > 1.0 else np.zeros_like(small)
