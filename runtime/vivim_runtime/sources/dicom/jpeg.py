"""JPEG in DICOM (baseline): three components are RGB or YCbCr, whatever the data set around them says.

A file may say RGB of pictures that its encoder has turned into YCbCr, and the reverse. What the coded picture says of
itself counts first (JFIF, Adobe's marker, the names of its components, colours at half the resolution); where it says
nothing, the data set does, unless the picture makes no sense so: black and shade would be coloured.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["components_of", "is_ycbcr", "rgb_of"]

_DARK = 40  # of the first component: shade, in either meaning
_ENOUGH = 0.002  # share of a picture
_STARTS_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2})


def components_of(data: bytes) -> tuple[npt.NDArray[np.uint8], bool | None]:
    """The three components as they are coded, uint8 (H, W, 3), and whether they are YCbCr; None: it does not say.

    Raises:
        Whatever Pillow raises of a damaged picture.
    """
    from PIL import Image

    told, ids, subsampled = _what_it_says(data)
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        # libjpeg turns YCbCr into RGB where it believes to find it; for "YCbCr" it leaves the components alone.
        believes = _libjpeg_believes(image.info, ids)
        if believes:
            image.draft("YCbCr", image.size)
        components = np.asarray(image)
    if components.ndim != 3 or components.shape[2] != 3:
        raise ValueError(f"a picture of {components.shape[2:] or 1} components")
    return components, True if told is None and subsampled else told


def _what_it_says(data: bytes) -> tuple[bool | None, bytes, bool]:
    """Whether the components are YCbCr, None where no marker tells; their names; and whether colours are subsampled."""
    told: bool | None = None
    ids, factors = b"", b""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        (length,) = struct.unpack_from(">H", data, place + 2)
        content = data[place + 4 : place + 2 + length]
        if marker == 0xE0 and content.startswith(b"JFIF\0"):
            told = True
        elif marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            told = content[11] != 0
        elif marker in _STARTS_OF_FRAME and len(content) >= 6:
            ids, factors = content[6::3], content[7::3]
        elif marker == 0xDA:
            break
        place += 2 + length
    if told is None and ids[:3] == b"RGB":
        told = False
    return told, ids[:3], len(set(factors[:3])) > 1


def _libjpeg_believes(info: Any, ids: bytes) -> bool:
    """Whether libjpeg takes three components for YCbCr (jdapimin.c, default_decompress_parms)."""
    if "jfif" in info:
        return True
    if "adobe_transform" in info:
        return bool(info["adobe_transform"] != 0)
    return ids != b"RGB"


def is_ycbcr(components: npt.NDArray[np.uint8], declared: bool) -> bool:
    """Whether components that say nothing of themselves are YCbCr, given what the data set declares.

    Where a picture is dark, YCbCr has 128 for both colours, and RGB has hardly anything.
    """
    values = components.reshape(-1, 3).astype(np.int32)
    dark = values[values[:, 0] < _DARK]
    if len(dark) < max(16, _ENOUGH * len(values)):
        return declared
    from_grey = float(np.abs(dark[:, 1:] - 128).mean())
    from_black = float(dark[:, 1:].mean())
    other = from_black if declared else from_grey
    ours = from_grey if declared else from_black
    return not declared if other < 0.5 * ours else declared


def rgb_of(components: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """YCbCr of full range (BT.601, as JFIF has it) -> RGB."""
    from pydicom.pixels import convert_color_space

    return np.asarray(convert_color_space(components, "YBR_FULL", "RGB"), np.uint8)
