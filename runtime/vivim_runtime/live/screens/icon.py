"""The mark of the window and of the page, drawn here: a lesion's outline in a fan of ultrasound."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["icon"]

_BACK, _FAN, _LINE = (16, 20, 24), (72, 84, 98), (0, 230, 118)
_FINER = 4  # drawn so many times as large and made smaller, for smooth edges


def icon(size: int = 64) -> npt.NDArray[np.uint8]:
    """uint8 RGB (size, size, 3)."""
    large = size * _FINER
    canvas = np.empty((large, large, 3), np.uint8)
    canvas[:] = _BACK
    apex = (large // 2, -large // 8)
    cv2.ellipse(canvas, apex, (large, large), 0, 62, 118, _FAN, -1, cv2.LINE_AA)
    cv2.ellipse(canvas, apex, (large // 4, large // 4), 0, 55, 125, _BACK, -1, cv2.LINE_AA)
    lesion = ((large * 0.5, large * 0.56), (large * 0.42, large * 0.3), -20.0)
    cv2.ellipse(canvas, lesion, _BACK, -1, cv2.LINE_AA)
    cv2.ellipse(canvas, lesion, _LINE, max(1, large // 14), cv2.LINE_AA)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8)
