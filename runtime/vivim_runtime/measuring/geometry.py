"""Area, longest diameter, the one across it, and centroid of a mask, each with a bound on its error.

A pixel is set where its centre is marked. Of a smooth outline the outermost of many centres lie close to it, in the
mean a quarter of a pixel within (by ellipses of known axes, tests/runtime/measuring/test_geometry.py; half a pixel, as
for straight edges, would make them half a pixel too long). So diameters are those of the convex hull of diamonds around
the centres. Everything is computed in millimetres, so that pixels need not be square.

Error bounds have two parts. The grid: half a pixel of the network at either end of a diameter (`grain`, since a mask
is no finer than that), which the grid alone exceeds in fewer than one case in twenty. The network: how far the measure
moves when the threshold moves within a band of probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Bounded", "Measures", "measured"]

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]

_BEYOND = 0.25 * np.array([(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])


@dataclass(frozen=True)
class Bounded:
    """A measure, and by how much it may be wrong, in the same unit."""

    value: float
    error: float


@dataclass(frozen=True)
class Measures:
    """Of one lesion.

    Attributes:
        area: mm2.
        longest: mm, the largest distance between two points of the outline.
        across: mm, the extent at a right angle to that.
        centroid: (x, y) in pixels of the picture.
        ends: (x, y) in pixels of the two ends of the longest diameter.
    """

    area: Bounded
    longest: Bounded
    across: Bounded
    centroid: tuple[float, float]
    ends: tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class _Plain:
    area: float
    longest: float
    across: float
    ends: Points


def measured(
    mask: Mask,
    pixel: tuple[float, float] = (1.0, 1.0),
    *,
    corner: tuple[int, int] = (0, 0),
    grain: float = 1.0,
    smaller: Mask | None = None,
    larger: Mask | None = None,
) -> Measures:
    """The measures of the marked pixels of a mask, of which there must be one.

    Args:
        mask: bool (h, w), of a lesion alone.
        pixel: millimetres a pixel across and down; (1, 1) measures in pixels.
        corner: (x, y) of the mask's first pixel in the picture.
        grain: side of a pixel of the network, in pixels of the mask.
        smaller, larger: the same lesion at the upper and the lower end of the band of probability.
    """
    own = _plain(mask, pixel)
    middle_y, middle_x = (_middle(np.count_nonzero(mask, axis=axis)) for axis in (1, 0))
    grid = grain * max(pixel)
    errors = {"area": 0.5 * grid * _perimeter(mask, pixel), "longest": grid, "across": grid}
    moved = dict.fromkeys(errors, 0.0)
    for other in (smaller, larger):
        if other is not None:
            found = _plain(other, pixel) if other.any() else _Plain(0.0, 0.0, 0.0, own.ends)
            for name, before in moved.items():
                moved[name] = max(before, abs(getattr(found, name) - getattr(own, name)))
    errors = {name: error + moved[name] for name, error in errors.items()}
    first, second = ((float(x / pixel[0] + corner[0]), float(y / pixel[1] + corner[1])) for x, y in own.ends)
    return Measures(
        Bounded(own.area, errors["area"]),
        Bounded(own.longest, errors["longest"]),
        Bounded(own.across, errors["across"]),
        (middle_x + corner[0], middle_y + corner[1]),
        (first, second),
    )


def _middle(counts: npt.NDArray[np.intp]) -> float:
    """Mean of the indices of the pixels that are counted: sums of whole numbers, and so exact."""
    return int(counts @ np.arange(len(counts))) / int(counts.sum())


def _plain(mask: Mask, pixel: tuple[float, float]) -> _Plain:
    area = float(np.count_nonzero(mask)) * pixel[0] * pixel[1]
    hull = _hull(mask) * np.array(pixel)  # (N, 2), mm
    distances = ((hull[:, None] - hull[None]) ** 2).sum(-1)
    i, j = np.unravel_index(int(distances.argmax()), distances.shape)
    along = hull[j] - hull[i]
    longest = float(np.hypot(*along))
    normal = np.array((-along[1], along[0])) / longest
    heights = hull @ normal
    return _Plain(area, longest, float(heights.max() - heights.min()), hull[[i, j]])


def _hull(mask: Mask) -> Points:
    """Corners (N, 2) of the convex hull of the diamonds of the marked pixels, in pixels."""
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    centres = np.concatenate(contours)[:, 0].astype(np.float64)
    diamonds = (centres[:, None] + _BEYOND).reshape(-1, 2).astype(np.float32)
    return cv2.convexHull(diamonds)[:, 0].astype(np.float64)


def _perimeter(mask: Mask, pixel: tuple[float, float]) -> float:
    """Length of the outline, mm; along the pixels' centres, holes left out."""
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    total = 2.0 * (pixel[0] + pixel[1])  # half a pixel further out, all around
    for contour in contours:
        points = contour[:, 0].astype(np.float64) * np.array(pixel)
        total += float(np.hypot(*(points - np.roll(points, 1, axis=0)).T).sum())
    return total
