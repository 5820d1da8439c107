"""The part of a picture that a network sees: a scanner's picture within its screen.

A `Region` is a rectangle of whole pixels, and within it an outline where the picture is no rectangle (the sector of a
curved probe). A `RegionRule` says where a region comes from; what is behind `dicom` and `auto` is found elsewhere, by
whoever has the file or the frames. Pure: nothing here opens anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import UsageError

__all__ = ["AUTO", "DICOM", "WHOLE", "Region", "RegionRule", "rectangle_of"]

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
    return Region(*(int(number) for number in match.groups())) if match else None


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
