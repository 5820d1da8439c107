"""Whether the masks of a video lie on what their frames show, or would only after a turn.

An annotator who worked on pictures that were turned (by EXIF, a display matrix, another program) leaves masks of the
right size in the wrong place. The outline of an object runs along edges of the picture: where it does so only when all
masks of a video are turned in one way, they are probably meant so.
"""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.datasets.videos import Mask
from vivim_runtime.sources.base import Image
from vivim_runtime.sources.geometry import AS_STORED, Geometry

__all__ = ["Alignment"]

_SIDE = 128  # pixels of the longer side, at which outlines are compared
_TURNS = tuple(Geometry(t, m, f) for t in (False, True) for m in (False, True) for f in (False, True))
# Objects smaller or larger than this share of the frame have no outline to speak of.
_SMALLEST, _LARGEST = 0.003, 0.6
# A turn is suspected where it fits so much better than the masks as they are, in so many of at least so many frames.
_BETTER, _SHARE, _LEAST_FRAMES = 1.3, 0.8, 3
# Edges along the masks as they are, over edges anywhere: from here on they fit.
_FITS = 1.2


class Alignment:
    """Gathers how well the outlines of a video's masks run along edges, as they are and turned."""

    def __init__(self) -> None:
        self._scores: dict[Geometry, float] = dict.fromkeys(_TURNS, 0.0)
        self._best: Counter[Geometry] = Counter()
        self._frames = 0

    def add(self, image: Image, mask: Mask) -> None:
        """One frame, uint8 RGB (H, W, 3), and its mask, bool (H, W)."""
        if not _SMALLEST <= float(mask.mean()) <= _LARGEST:
            return
        share = min(1.0, _SIDE / max(mask.shape))
        size = (max(8, round(mask.shape[1] * share)), max(8, round(mask.shape[0] * share)))
        edges = _edges(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        outline = _outline(cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) >= 128)
        if not outline.any() or not edges.any():
            return
        scores: dict[Geometry, float] = {}
        for turn in _TURNS:
            turned = turn.turned(outline)
            if turned.shape == edges.shape:
                scores[turn] = float(edges[turned].mean() / edges.mean())
        for turn, score in scores.items():
            self._scores[turn] += score
        self._best[max(scores, key=lambda turn: scores[turn])] += 1
        self._frames += 1

    def suspected(self) -> str | None:
        """What the masks would have to be so that they fit their frames; None where they fit, or nothing is clear."""
        if self._frames < _LEAST_FRAMES:
            return None
        turn = max(self._scores, key=lambda turn: self._scores[turn])
        ours, theirs = self._scores[AS_STORED] / self._frames, self._scores[turn] / self._frames
        clear = theirs > _BETTER * ours and ours < _FITS and self._best[turn] >= _SHARE * self._frames
        return turn.describe() if turn != AS_STORED and clear else None


def _edges(image: Image) -> npt.NDArray[np.float32]:
    """The steepness of the brightness, (H, W)."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.5)
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def _outline(mask: Mask) -> Mask:
    """The pixels along the border of an object, bool (H, W); not along the border of the frame."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inside = mask.astype(np.uint8)
    return (cv2.dilate(inside, cross) > cv2.erode(inside, cross)).astype(bool)
