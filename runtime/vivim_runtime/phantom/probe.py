"""What a probe shows: the shape of its picture, and the beams that it listens along.

Lengths are in units of the imaging depth: from the probe's face to the end of a beam is 1. A picture's origin is the
upper left corner of the rectangle around it. Along a beam counts `depth`, 0 to 1, from beam to beam `lateral`, -1 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Beams", "Probe"]

Field = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Beams:
    """A grid to compute echoes on: rows along the beams, columns from beam to beam.

    Attributes:
        scale: rows a unit of length; in the middle of the depth also about the columns a unit.
        y, x: (rows, columns), where each cell lies in the picture, in units.
        deep: (rows, 1), how deep.
        across: (rows, columns), which beam, 0 to columns / rows.
        extent: height and width of the picture, in units.
        probe: whose beams they are; None where the grid is the picture itself.
    """

    scale: float
    y: Field
    x: Field
    deep: Field
    across: Field
    extent: tuple[float, float]
    probe: Probe | None = None

    @classmethod
    def of_picture(cls, height: int, width: int) -> Beams:
        """The pixels of a picture: straight beams, one a column."""
        y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
        return cls(height, y, x, y[:, :1], x, (1.0, width / height))


@dataclass(frozen=True)
class Probe:
    """The shape of a picture.

    Attributes:
        kind: `linear` (a rectangle), `trapezoid` (a flat face, beams that diverge), `convex` (a fan from a curved face)
            or `sector` (a fan from a point, or nearly).
        width: of the face, in units of depth: linear and trapezoid.
        radius: of the face, in units of depth: fans.
        half_angle: of the outermost beams, radians.
        shown: share of the fan's width that the screen has room for; the rest is cut off at both sides.
        flat: whether a screen cuts off a fan's lower end where its outermost beams end.
    """

    kind: str
    width: float = 1.0
    radius: float = 0.0
    half_angle: float = 0.0
    shown: float = 1.0
    flat: bool = False

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width of the picture, in units."""
        if self.kind == "linear":
            return 1.0, self.width
        if self.kind == "trapezoid":
            return 1.0, self.shown * (self.width + 2 * float(np.sin(self.half_angle)))
        bottom = (1 + self.radius) * (float(np.cos(min(self.half_angle, 1.2))) if self.flat else 1.0)
        bottom = max(bottom, 0.92 * (1 + self.radius))
        widest = float(np.sin(min(self.half_angle, np.pi / 2)))
        return bottom - self._top, self.shown * 2 * (1 + self.radius) * widest

    @property
    def _top(self) -> float:
        """How far below a fan's centre its picture begins, in units."""
        return self.radius * float(np.cos(self.half_angle))

    @property
    def _behind(self) -> float:
        """How far behind a trapezoid's face its beams would meet, in units."""
        return self.width / 2 / float(np.tan(self.half_angle))

    def beams(self, scale: int) -> Beams:
        """The beams, `scale` cells along each."""
        if self.kind == "linear":
            breadth = self.width
        elif self.kind == "trapezoid":
            breadth = self.width + float(np.sin(self.half_angle))
        else:
            breadth = 2 * self.half_angle * (self.radius + 0.5)
        columns = max(32, round(scale * breadth))
        deep = ((np.arange(scale, dtype=np.float32) + np.float32(0.5)) / np.float32(scale))[:, None]
        lateral = (2 * (np.arange(columns, dtype=np.float32) + np.float32(0.5)) / np.float32(columns) - 1)[None]
        y, x = self.place(deep, lateral)
        across = np.broadcast_to((lateral + 1) / 2 * np.float32(columns / scale), y.shape)
        return Beams(scale, y, x, deep, across, self.extent, self)

    def place(self, deep: Field, lateral: Field) -> tuple[Field, Field]:
        """Where in the picture something lies at a depth along a beam."""
        middle = self.extent[1] / 2
        if self.kind == "linear":
            y, x = deep + 0 * lateral, middle + lateral * self.width / 2 + 0 * deep
        elif self.kind == "trapezoid":
            angle = np.arctan(lateral * np.tan(self.half_angle))
            reach = self._behind / np.cos(angle) + deep
            y, x = reach * np.cos(angle) - self._behind, middle + reach * np.sin(angle)
        else:
            angle, reach = lateral * self.half_angle, self.radius + deep
            y, x = reach * np.cos(angle) - self._top, middle + reach * np.sin(angle)
        return y.astype(np.float32), x.astype(np.float32)

    def beam_of(self, y: Field, x: Field) -> tuple[Field, Field]:
        """Depth and beam of what lies at a place in the picture; beyond their ranges where nothing is shown."""
        x = x - np.float32(self.extent[1] / 2)
        if self.kind == "linear":
            return y, x / np.float32(self.width / 2)
        if self.kind == "trapezoid":
            y = y + np.float32(self._behind)
            slope = x / np.maximum(y, 1e-6)
            return np.hypot(x, y) - self._behind * np.hypot(1, slope), slope / np.float32(np.tan(self.half_angle))
        y = y + np.float32(self._top)
        return np.hypot(x, y) - np.float32(self.radius), np.arctan2(x, y) / np.float32(self.half_angle)

    def shows(self, y: Field, x: Field) -> Mask:
        """Whether the picture has something at a place."""
        height, width = self.extent
        deep, lateral = self.beam_of(y, x)
        within = (y >= 0) & (y <= height) & (x >= 0) & (x <= width)
        return within & (deep >= 0) & (deep <= 1) & (np.abs(lateral) <= 1)

    def layered(self, y: Field, x: Field) -> Field:
        """The depth that layers of tissue lie at: a curved face presses skin and what is below it into its shape."""
        return self.beam_of(y, x)[0] if self.kind == "convex" else y
