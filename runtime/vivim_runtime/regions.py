"""The part of a picture that a network sees: a scanner's picture within its screen.

A `Region` is a rectangle of whole pixels, and within it an outline where the picture is no rectangle (the sector of a
curved probe). A `RegionRule` says where a region comes from; what is behind `dicom` and `auto` is found elsewhere, by
whoever has the file or the frames. Pure: nothing here opens anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import UsageError

__all__ = ["AUTO", "DICOM", "WHOLE", "Region", "RegionRule", "UltrasoundRegion", "rectangle_of", "tissue_regions"]

Mask = npt.NDArray[np.bool_]
Corners = tuple[tuple[int, int], ...]

WHOLE, DICOM, AUTO = "whole", "dicom", "auto"
# A network's smallest picture is larger than that; what is smaller is a mistake of whoever draws it.
_LEAST_SIDE = 8
_MOST_CORNERS = 4096


@dataclass(frozen=True)
class Region:
    """A part of a picture.

    Attributes:
        x, y: column and row of its left upper pixel, from 0.
        width, height: in pixels.
        outline: corners (x, y) of a polygon within the rectangle, in pixels of the whole picture, pixel centres at
            whole numbers, the corners included; () where the whole rectangle is meant.
    """

    x: int
    y: int
    width: int
    height: int
    outline: Corners = ()

    def __post_init__(self) -> None:
        numbers = (self.x, self.y, self.width, self.height)
        if not all(type(number) is int for number in numbers) or min(self.x, self.y) < 0:
            raise UsageError(f"a region of {self}; expected whole numbers X,Y,WIDTH,HEIGHT, X and Y at least 0")
        if min(self.width, self.height) < 1:
            raise UsageError(f"a region of {self}; expected a width and a height of at least 1")
        if self.outline and not 3 <= len(self.outline) <= _MOST_CORNERS:
            raise UsageError(f"a region whose outline has {len(self.outline)} corners; expected 3 to {_MOST_CORNERS}")

    @classmethod
    def of(cls, size: tuple[int, int]) -> Region:
        """All of a picture (H, W)."""
        return cls(0, 0, size[1], size[0])

    def __str__(self) -> str:
        """As `--region` takes it."""
        return f"{self.x},{self.y},{self.width},{self.height}"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def fits(self, size: tuple[int, int]) -> bool:
        """Whether it lies within a picture (H, W)."""
        return self.y + self.height <= size[0] and self.x + self.width <= size[1]

    def check(self, size: tuple[int, int], origin: str) -> Region:
        """Itself; UsageError, which begins with `origin`, where it lies not within a picture (H, W), or is tiny."""
        if not self.fits(size):
            raise UsageError(
                f"{origin}: the region {self} (x, y, width, height) reaches beyond the picture of {size[1]}x{size[0]}; "
                "give one within it, or --region whole"
            )
        if min(self.size) < _LEAST_SIDE:
            raise UsageError(f"{origin}: the region {self} is too small; expected at least {_LEAST_SIDE}x{_LEAST_SIDE}")
        return self

    def cut(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The rectangle of an array (H, W, ...); a view."""
        return image[self.slices]

    @property
    def inside(self) -> Mask | None:
        """Which pixels of the rectangle belong to it, bool (height, width); None where all do."""
        return _inside(self) if self.outline else None

    def mask(self, size: tuple[int, int]) -> Mask:
        """Which pixels of a picture (H, W) belong to it."""
        result = np.zeros(size, np.bool_)
        result[self.slices] = True if self.inside is None else self.inside
        return result


@lru_cache(maxsize=16)
def _inside(region: Region) -> Mask:
    canvas = np.zeros(region.size, np.uint8)
    corners = np.array(region.outline, np.int32) - np.array([region.x, region.y], np.int32)
    cv2.fillPoly(canvas, [corners], 1)
    inside = canvas.astype(np.bool_)
    inside.flags.writeable = False
    return inside


def rectangle_of(text: str) -> Region | None:
    """The region of `X,Y,WIDTH,HEIGHT`; None of anything else. UsageError where the numbers make no region."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", text, re.ASCII)
    if match is None:
        return None
    x, y, width, height = map(int, match.groups())
    return Region(x, y, width, height)


@dataclass(frozen=True)
class RegionRule:
    """Where the region of a picture comes from.

    Attributes:
        kind: `whole` (all of the picture), `dicom` (the Sequence of Ultrasound Regions of a DICOM file), `auto` (found
            in the pictures), or `given`.
        region: of `given`.
    """

    kind: str = WHOLE
    region: Region | None = None

    @classmethod
    def parse(cls, text: str, option: str = "--region") -> RegionRule:
        """The rule of `whole`, `dicom`, `auto` or `X,Y,WIDTH,HEIGHT`; UsageError of anything else."""
        word = text.strip().lower()
        if word in (WHOLE, DICOM, AUTO):
            return cls(word)
        region = rectangle_of(text)
        if region is None:
            raise UsageError(f"{option} is {text!r}; expected whole, dicom, auto, or X,Y,WIDTH,HEIGHT in pixels")
        return cls("given", region)

    def __str__(self) -> str:
        """As `parse` takes it."""
        return self.kind if self.region is None else str(self.region)

    def describe(self) -> str:
        """For people: of what a network sees, such as "whole pictures"."""
        names = {WHOLE: "whole pictures", DICOM: "the ultrasound region of DICOM files", AUTO: "the region found"}
        return names.get(self.kind, f"the region {self.region}")


# Region Spatial Format and Region Data Type (PS3.3 C.8.5.5.1.1 and .2), as far as a network may look at them.
_PLANE = 1
_TISSUE, _COLOUR_FLOW = 1, 2


@dataclass(frozen=True)
class UltrasoundRegion:
    """An item of the Sequence of Ultrasound Regions (PS3.3 C.8.5.5), as it stands in the file.

    Attributes:
        format, data: Region Spatial Format and Region Data Type.
        x0, y0, x1, y1: first and last column and row, in stored pixels.
        units: Physical Units X and Y Direction; 3 is cm.
        delta: Physical Delta X and Y, in those units a stored pixel; None where there is none.
    """

    format: int
    data: int
    x0: int
    y0: int
    x1: int
    y1: int
    units: tuple[int, int] = (0, 0)
    delta: tuple[float, float] | None = None

    @property
    def is_tissue(self) -> bool:
        """Whether it shows a plane of tissue, with or without coloured flow; never a spectrum, an M-mode or a curve."""
        return self.format == _PLANE and self.data in (_TISSUE, _COLOUR_FLOW)

    def contradiction(self, size: tuple[int, int]) -> str:
        """Why it cannot be of a picture stored as (H, W); "" where it can.

        Writers count the last column and row in two ways, so one pixel more is none too many.
        """
        if not (0 <= self.x0 < self.x1 <= size[1] and 0 <= self.y0 < self.y1 <= size[0]):
            return (
                f"its ultrasound region spans ({self.x0},{self.y0})-({self.x1},{self.y1}), "
                f"its picture is {size[1]}x{size[0]}"
            )
        return ""

    def shown(self, stored: tuple[int, int], shown: tuple[int, int]) -> Region:
        """Where it lies in a picture that is stored as (H, W) and shown as another size."""
        fx, fy = shown[1] / stored[1], shown[0] / stored[0]
        left, top = math.floor(self.x0 * fx + 0.5), math.floor(self.y0 * fy + 0.5)
        right = min(shown[1], math.floor((self.x1 + 1) * fx + 0.5))
        bottom = min(shown[0], math.floor((self.y1 + 1) * fy + 0.5))
        return Region(left, top, right - left, bottom - top)


def tissue_regions(
    regions: Sequence[UltrasoundRegion], stored: tuple[int, int], shown: tuple[int, int], name: str
) -> tuple[Region, ...]:
    """The regions that a network may look at, in the picture as it is shown.

    A colour box within a tissue region shows the same tissue, and is left out.

    Args:
        stored, shown: (H, W) of the picture as it is stored, in whose pixels the regions are, and as it is shown.
        name: for messages.

    Raises:
        UsageError: there is none, or one lies beyond the picture.
    """
    advice = "give --region X,Y,W,H, auto or whole"
    tissue = [region for region in regions if region.is_tissue]
    if not tissue:
        what = f"{len(regions)} ultrasound regions, none of them of tissue" if regions else "no ultrasound regions"
        raise UsageError(f"{name} has {what}; {advice}")
    for region in tissue:
        if reason := region.contradiction(stored):
            raise UsageError(f"{name} contradicts itself: {reason}; {advice}")
    found = [region.shown(stored, shown).check(shown, name) for region in tissue]
    unique = list(dict.fromkeys(found))
    return tuple(r for r in unique if not any(r is not other and _holds(other, r) for other in unique))


def _holds(outer: Region, inner: Region) -> bool:
    return (
        outer.x <= inner.x
        and outer.y <= inner.y
        and inner.x + inner.width <= outer.x + outer.width
        and inner.y + inner.height <= outer.y + outer.height
    )
