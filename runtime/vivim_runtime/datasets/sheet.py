"""Frames of a data set on one picture, with the outlines of their masks, to look at before training."""

from __future__ import annotations

import cv2
import numpy as np

from vivim_runtime.datasets.videos import AnnotatedVideo, Dataset
from vivim_runtime.errors import DataError
from vivim_runtime.framing import mask_at, planes_of, resized
from vivim_runtime.overlay import drawn
from vivim_runtime.sessions.base import ClassInfo
from vivim_runtime.sources.base import Image

__all__ = ["contact_sheet"]

# By class, in turns; distinct on grey.
_COLOURS = ((0, 230, 118), (255, 145, 0), (41, 182, 246), (255, 64, 196), (255, 234, 0), (124, 77, 255))
_CAPTION = 16  # pixels below a frame
_GAP = 4
_INK, _WRONG, _PAPER = (230, 230, 230), (255, 90, 90), (24, 24, 24)


def contact_sheet(dataset: Dataset, frames: int = 24, columns: int = 6, width: int = 220) -> Image:
    """A picture uint8 RGB (H, W, 3): frames evenly over all there are, each with its mask's outline and its name.

    Frames keep their shape; one that cannot be used shows a cross (the check says why). A data set without frames gives
    an empty sheet.

    Args:
        frames: at most so many.
        columns: side by side.
        width: of a frame, in pixels.
    """
    cells = [_cell(video, index, width) for video, index in _chosen(dataset, frames)]
    rows = [_row(cells[start : start + columns], columns, width) for start in range(0, len(cells), columns)]
    blank = np.full((_GAP, columns * (width + _GAP) + _GAP, 3), _PAPER, np.uint8)
    return np.concatenate([blank, *rows])


def _chosen(dataset: Dataset, most: int) -> list[tuple[AnnotatedVideo, int]]:
    """Frames at even distances, from the middle of their stretch; a video that cannot be opened gives its first."""
    places = [(video, index) for video in dataset.videos for index in range(_length(video))]
    count = min(most, len(places))
    return [places[(2 * i + 1) * len(places) // (2 * count)] for i in range(count)]


def _length(video: AnnotatedVideo) -> int:
    try:
        return len(video)
    except DataError:
        return 1


def _cell(video: AnnotatedVideo, index: int, width: int) -> Image:
    """A frame of this width over its name."""
    try:
        image, mask = video.read(index)
    except DataError:
        return _captioned(_crossed(width), video.label(index), _WRONG)
    size = (max(1, round(width * image.shape[0] / image.shape[1])), width)
    planes = mask_at(planes_of(mask), size)
    outlines = [ClassInfo(f"class {k}", _COLOURS[k % len(_COLOURS)]) for k in range(len(planes))]
    small = drawn(resized(image, size), planes, outlines, ("contour",), 0.0)
    return _captioned(small, video.label(index), _INK)


def _crossed(width: int) -> Image:
    cell = np.full((width * 3 // 4, width, 3), _PAPER, np.uint8)
    for ends in (((0, 0), (width, cell.shape[0])), ((0, cell.shape[0]), (width, 0))):
        cv2.line(cell, *ends, _WRONG, 1, cv2.LINE_AA)
    return cell


def _captioned(cell: Image, text: str, ink: tuple[int, int, int]) -> Image:
    """The cell with a line of text below, the end of it cut off where it is too long."""
    line = np.full((_CAPTION, cell.shape[1], 3), _PAPER, np.uint8)
    printable = "".join(character if " " <= character <= "~" else "?" for character in text)  # all that the font has
    cv2.putText(line, printable, (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, ink, 1, cv2.LINE_AA)
    return np.concatenate([cell, line])


def _row(cells: list[Image], columns: int, width: int) -> Image:
    """Cells side by side, on paper as high as the highest."""
    height = max(cell.shape[0] for cell in cells)
    row = np.full((height + _GAP, columns * (width + _GAP) + _GAP, 3), _PAPER, np.uint8)
    for column, cell in enumerate(cells):
        left = _GAP + column * (width + _GAP)
        row[: cell.shape[0], left : left + width] = cell
    return row
