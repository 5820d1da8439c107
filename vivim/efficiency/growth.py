"""How a cost grows with the number of frames: fits by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Growth", "growth"]

_LEAST_POINTS = 4  # one more than a parabola passes through


@dataclass(frozen=True)
class Growth:
    """Fits to costs y over frames x.

    Attributes:
        per_frame: b of y = a + b x.
        linear_r2: R squared of that line. A parabola can have 0.95 here: the next two tell it from a line.
        quadratic_share: of y = a + b x + c x^2, c x^2 / y at the largest x: 0 for a line, 1 for x^2.
        exponent: p of y ~ x^p, a line through the logarithms: 1 for a line through 0, less where a constant part shows.
    """

    per_frame: float
    linear_r2: float
    quadratic_share: float
    exponent: float


def growth(frames: Sequence[int], costs: Sequence[float]) -> Growth | None:
    """The fits; None for too few points to tell a line from a parabola."""
    if len(frames) < _LEAST_POINTS:
        return None
    x, y = np.asarray(frames, np.float64), np.asarray(costs, np.float64)
    per_frame, constant = np.polyfit(x, y, 1)
    residual = np.square(y - (constant + per_frame * x)).sum()
    spread = np.square(y - y.mean()).sum()
    parabola = np.polyfit(x, y, 2)
    last = x.argmax()
    return Growth(
        per_frame=float(per_frame),
        linear_r2=float(1 - residual / spread) if spread else 1.0,
        quadratic_share=float(parabola[0] * x[last] ** 2 / np.polyval(parabola, x[last])),
        exponent=float(np.polyfit(np.log(x), np.log(y), 1)[0]),
    )
