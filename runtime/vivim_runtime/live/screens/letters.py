"""Letters on pictures: lines in a colour with a dark outline, cut or broken where they have no room."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.sources.base import Image

__all__ = ["Text", "broken", "cut", "fits", "line_height", "put", "rendered"]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Height in pixels of the letters that FONT_HERSHEY_SIMPLEX draws at scale 1.
_FONT_HEIGHT = 22.0
_CUT = "..."


@dataclass(frozen=True, eq=False)
class Text:
    """A rendered line: new pixel = (old * keep) / 256 + add.

    Attributes:
        keep: uint16 (h, w, 1): how much of the picture stays, 0 to 256.
        add: uint16 (h, w, 3): the letters' light.
    """

    keep: npt.NDArray[np.uint16]
    add: npt.NDArray[np.uint16]

    @property
    def height(self) -> int:
        """Pixels, with the outline."""
        return int(self.keep.shape[0])

    @property
    def width(self) -> int:
        """Pixels, with the outline."""
        return int(self.keep.shape[1])


def _ascii(text: str) -> str:
    """All that OpenCV's built-in letters have."""
    return text.encode("ascii", "replace").decode()


def _stroke(letter: int) -> tuple[float, int, int]:
    """OpenCV's scale and thickness for letters of a height in pixels, and the border around a line."""
    return letter / _FONT_HEIGHT, max(1, round(letter / 14)), max(1, round(letter / 10)) + 1


@lru_cache(maxsize=512)
def rendered(text: str, letter: int, color: tuple[int, int, int]) -> Text:
    """One line of letters in `color` with a black outline, so that they show on white and on black."""
    text = _ascii(text)
    scale, weight, border = _stroke(letter)
    reach = border - 1  # of the outline
    (width, height), below = cv2.getTextSize(text, _FONT, scale, weight)
    inside = np.zeros((height + below + 2 * border, width + 2 * border), np.uint8)
    cv2.putText(inside, text, (border, border + height), _FONT, scale, 255, weight, cv2.LINE_AA)
    round_brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    outline = cv2.GaussianBlur(cv2.dilate(inside, round_brush), (3, 3), 0)
    light = inside.astype(np.uint16)[..., None]
    keep = 256 - np.maximum(outline, inside).astype(np.uint16) * 256 // 255
    return Text(keep[..., None], light * np.array(color, np.uint16) // 255)


def put(canvas: Image, text: Text, left: int, top: int) -> None:
    """Draw a line with its top left corner at (left, top); what does not fit is cut off."""
    rows, columns = slice(max(0, top), top + text.height), slice(max(0, left), left + text.width)
    region = canvas[rows, columns]
    if region.size:
        inner = (
            slice(rows.start - top, rows.start - top + region.shape[0]),
            slice(columns.start - left, columns.start - left + region.shape[1]),
        )
        region[:] = ((region * text.keep[inner]) >> 8) + text.add[inner]


def line_height(letter: int) -> int:
    """Pixels from one line to the next, whatever letters are in it."""
    return rendered("Ag|", letter, (255, 255, 255)).height


@lru_cache(maxsize=512)
def _width(text: str, letter: int) -> int:
    """Of a rendered line, in pixels."""
    scale, weight, border = _stroke(letter)
    return int(cv2.getTextSize(_ascii(text), _FONT, scale, weight)[0][0]) + 2 * border


def fits(text: str, letter: int, width: int) -> bool:
    """Whether a line needs no more than `width` pixels."""
    return _width(text, letter) <= width


def _longest(text: str, letter: int, width: int, end: str) -> int:
    """How many letters of a text fit into `width` pixels together with `end`."""
    few, many = 0, len(text)
    while few < many:
        middle = (few + many + 1) // 2
        few, many = (middle, many) if fits(text[:middle] + end, letter, width) else (few, middle - 1)
    return few


def cut(text: str, letter: int, width: int) -> str:
    """A text as far as `width` pixels go, with dots where something is missing; "" where not even these fit."""
    if fits(text, letter, width):
        return text
    few = _longest(text, letter, width, _CUT)
    return text[:few].rstrip() + _CUT if few else ""


def broken(text: str, letter: int, width: int, most: int) -> list[str]:
    """A text as at most `most` lines of up to `width` pixels, broken between words where that is possible."""
    lines: list[str] = []
    while text and len(lines) < most - 1 and not fits(text, letter, width):
        few = _longest(text, letter, width, "")
        space = text.rfind(" ", 0, few + 1)
        few = space if space > 0 else max(1, few)
        lines.append(text[:few])
        text = text[few:].lstrip()
    last = cut(text, letter, width)
    return [*lines, last] if last and most > 0 else lines
