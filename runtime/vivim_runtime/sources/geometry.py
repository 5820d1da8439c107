"""How a stored picture is meant to be seen: turned, mirrored, and with pixels that are not square.

Sources show pictures; masks of data sets and of DICOM Segmentations, which are stored pixel by pixel beside the stored
picture, go the same way, and back.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["AS_STORED", "Geometry", "pixel_aspect", "turn_of_display_matrix", "turn_of_exif"]

# EXIF orientation (TIFF 6.0, tag 274) -> transposed first, then mirrored (left to right), then flipped (upside down).
_EXIF = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
# Pixels further from square than this are no pixels of a camera, scanner or television: a header that is wrong.
_MOST_STRETCHED = 4.0
_HALF = 128


@dataclass(frozen=True)
class Geometry:
    """What is done to a stored picture, in this order: transposed, mirrored, flipped, stretched to square pixels.

    Attributes:
        transposed: rows become columns.
        mirrored: left becomes right.
        flipped: top becomes bottom.
        aspect: width of a stored pixel over its height.
    """

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False
    aspect: float = 1.0

    @property
    def turns(self) -> bool:
        """Whether pixels change their places."""
        return self.transposed or self.mirrored or self.flipped

    def shown_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of what is stored as (H, W): the side that is too short grows, so that no detail is lost."""
        height, width = size
        if self.aspect > 1:
            width = round(width * self.aspect)
        else:
            height = round(height / self.aspect)
        return (width, height) if self.transposed else (height, width)

    def show(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """What is stored, uint8 (H, W) or (H, W, 3), as it is seen."""
        size = self.shown_size((image.shape[0], image.shape[1]))
        if self.turns:
            image = np.ascontiguousarray(self.turned(image))
        return _scaled(image, size, cv2.INTER_LINEAR)

    def show_mask(self, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A mask's values, uint8 (H, W): as `show`, but no value between those that are there."""
        size = self.shown_size((values.shape[0], values.shape[1]))
        if self.turns:
            values = np.ascontiguousarray(self.turned(values))
        if values.shape == size:
            return values
        highest = int(values.max(initial=0))
        white = (values >= (highest + 1) // 2).astype(np.uint8) * np.uint8(255)
        return (_scaled(white, size, cv2.INTER_LINEAR) >= _HALF).astype(np.uint8) * np.uint8(highest)

    def show_planes(self, planes: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Masks, bool (K, H, W), each as `show_mask` has it."""
        return np.stack([self.show_mask(plane.view(np.uint8)) > 0 for plane in planes])

    def store(self, mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """A mask as it is seen, bool (H, W) -> on the stored pixels, (H, W) = `size`; the reverse of `show`."""
        between = size[::-1] if self.transposed else size
        if mask.shape != between:
            white = mask.astype(np.uint8) * np.uint8(255)
            mask = _scaled(white, between, cv2.INTER_AREA) >= _HALF
        mask = mask[::-1] if self.flipped else mask
        mask = mask[:, ::-1] if self.mirrored else mask
        return np.ascontiguousarray(mask.T if self.transposed else mask)

    def turned(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array (H, W, ...) of any type, turned but not stretched; a view."""
        image = image.swapaxes(0, 1) if self.transposed else image
        image = image[:, ::-1] if self.mirrored else image
        return image[::-1] if self.flipped else image

    def describe(self) -> str:
        """For people: what was done to the pictures; "" for nothing."""
        done = []
        if self.turns:
            names = {
                (False, True, True): "turned by 180 degrees",
                (True, True, False): "turned by 90 degrees, clockwise",
                (True, False, True): "turned by 90 degrees, counterclockwise",
                (False, True, False): "mirrored left to right",
                (False, False, True): "mirrored top to bottom",
            }
            done.append(names.get((self.transposed, self.mirrored, self.flipped), "turned by 90 degrees and mirrored"))
        if self.aspect != 1:
            done.append(f"stretched to square pixels (stored ones are {self.aspect:.4g} as wide as high)")
        return " and ".join(done)


AS_STORED = Geometry()


def _scaled(image: npt.NDArray[Any], size: tuple[int, int], interpolation: int) -> npt.NDArray[Any]:
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=interpolation)


def pixel_aspect(width: float, height: float) -> float:
    """Width over height of a pixel, 1 where the numbers say nothing that can be."""
    if not (math.isfinite(width) and math.isfinite(height) and width > 0 and height > 0):
        return 1.0
    aspect = width / height
    return aspect if 1 / _MOST_STRETCHED <= aspect <= _MOST_STRETCHED else 1.0


def turn_of_exif(orientation: int, aspect: float = 1.0) -> Geometry:
    """The geometry of an EXIF orientation, 1 to 8; what is no orientation turns nothing."""
    return Geometry(*_EXIF.get(orientation, (False, False, False)), aspect)


def turn_of_display_matrix(matrix: bytes, aspect: float = 1.0) -> Geometry:
    """The geometry of FFmpeg's display matrix, the nearest one of the eight: 9 int32 in the machine's byte order.

    (x, y) goes to (a x + c y, b x + d y), with a, b, u, c, d, v, ... the numbers and y downwards (as in ISO 14496-12).
    """
    if len(matrix) < 36:
        return Geometry(aspect=aspect)
    a, b, _, c, d = struct.unpack_from("=5i", matrix)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Geometry(True, c < 0, b < 0, aspect)
    return Geometry(False, a < 0, d < 0, aspect)
