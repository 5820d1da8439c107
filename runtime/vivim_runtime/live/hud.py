"""The head-up display: what the viewer has to know, written on the picture.

Top left the rates and ages, top right the classes in their colours, at the bottom what runs. Anything but a live
picture gets a bar right across: a viewer must not take an old picture, or one without its mask, for a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.live.actions import ACTIONS
from vivim_runtime.live.status import State, Status
from vivim_runtime.session import ClassInfo
from vivim_runtime.sources.base import Image

__all__ = ["Hud", "status_lines"]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE = (255, 255, 255)
_RED = (229, 57, 53)
# Letters are 1/45 of the picture's height, as on the screens of scanners; below 12 pixels they would not be readable.
_LETTER_SHARE, _LETTER_LEAST = 1 / 45, 12
# Height in pixels of the letters that FONT_HERSHEY_SIMPLEX draws at scale 1.
_FONT_HEIGHT = 22.0
_BAR_COLORS = {
    State.warming_up: (25, 84, 123),
    State.stale: (150, 90, 0),
    State.no_signal: (160, 20, 20),
    State.stuck: (160, 20, 20),
    State.paused: (25, 84, 123),
    State.ended: (70, 70, 70),
}


@dataclass(frozen=True, eq=False)
class _Text:
    """A rendered line: new pixel = (old * keep) / 256 + add.

    Attributes:
        keep: uint16 (h, w, 1): how much of the picture stays, 0 to 256.
        add: uint16 (h, w, 3): the letters' light.
    """

    keep: npt.NDArray[np.uint16]
    add: npt.NDArray[np.uint16]


@lru_cache(maxsize=512)
def _rendered(text: str, letter: int, color: tuple[int, int, int]) -> _Text:
    """One line of letters in `color` with a black outline, so that they show on white and on black."""
    text = text.encode("ascii", "replace").decode()  # all that OpenCV's built-in letters have
    scale, weight = letter / _FONT_HEIGHT, max(1, round(letter / 14))
    reach = max(1, round(letter / 10))  # of the outline
    border = reach + 1
    (width, height), below = cv2.getTextSize(text, _FONT, scale, weight)
    inside = np.zeros((height + below + 2 * border, width + 2 * border), np.uint8)
    cv2.putText(inside, text, (border, border + height), _FONT, scale, 255, weight, cv2.LINE_AA)
    round_brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    outline = cv2.GaussianBlur(cv2.dilate(inside, round_brush), (3, 3), 0)
    light = inside.astype(np.uint16)[..., None]
    keep = 256 - np.maximum(outline, inside).astype(np.uint16) * 256 // 255
    return _Text(keep[..., None], light * np.array(color, np.uint16) // 255)


def _put(canvas: Image, text: _Text, left: int, top: int) -> None:
    """Draw a line with its top left corner at (left, top); what does not fit is cut off."""
    height, width = text.keep.shape[:2]
    rows, columns = slice(max(0, top), top + height), slice(max(0, left), left + width)
    region = canvas[rows, columns]
    if region.size:
        inner = (
            slice(rows.start - top, rows.start - top + region.shape[0]),
            slice(columns.start - left, columns.start - left + region.shape[1]),
        )
        region[:] = ((region * text.keep[inner]) >> 8) + text.add[inner]


def _shade(region: Image, color: tuple[int, int, int], share: float) -> None:
    """Mix `share` of `color` into a part of a picture, in place."""
    if region.size:
        light = tuple(share * value for value in color)
        region[:] = cv2.add(cv2.convertScaleAbs(region, alpha=1 - share), (*light, 0.0))


def status_lines(status: Status, threshold: float | None = None) -> tuple[str, ...]:
    """The figures, one line each; a figure that is not known yet is left out."""
    lines = [f"{status.fps:.0f} fps"]
    if status.source_fps and round(status.source_fps) != round(status.fps):
        lines[0] += f" of {status.source_fps:.0f}"
    if status.latency_ms:
        lines.append(f"latency p50 {status.latency_ms['p50']:.0f} ms, p95 {status.latency_ms['p95']:.0f} ms")
    lines.append("no mask" if status.mask_age_ms is None else f"mask age {status.mask_age_ms:.0f} ms")
    if threshold is not None:
        lines.append(f"threshold {threshold:.2f}")
    return tuple(lines)


class Hud:
    """Draws a Status; holds only which classes there are.

    Letters grow with the picture. Measured at 1280x720 on one CPU core: 1.0 ms a picture, 1.5 ms with the bar; half of
    it is the copy.
    """

    def __init__(self, classes: Sequence[ClassInfo]) -> None:
        self._classes = tuple(classes)

    def draw(
        self,
        picture: Image,
        status: Status,
        *,
        threshold: float | None = None,
        message: str = "",
        help_panel: bool = False,
    ) -> Image:
        """The picture with the status on it, uint8 RGB (H, W, 3), in a new array.

        Args:
            threshold: that viewers have chosen; left out when None.
            message: one line for the viewer of this screen ("saved ...").
            help_panel: whether to list the keys, too.
        """
        canvas = picture.copy()
        letter = max(_LETTER_LEAST, round(canvas.shape[0] * _LETTER_SHARE))
        lines = status_lines(status, threshold)
        _column(canvas, (*lines, message) if message else lines, letter)
        self._legend(canvas, letter, status.recording)
        runs = (status.source, status.model, status.precision, status.backend, status.device)
        line = _rendered(" | ".join(part for part in runs if part), letter, _WHITE)
        _put(canvas, line, letter // 2, canvas.shape[0] - line.keep.shape[0] - letter // 4)
        if status.state is not State.live:
            _bar(canvas, status, letter)
        if help_panel:
            _help(canvas, letter)
        return canvas

    def _legend(self, canvas: Image, letter: int, recording: bool) -> None:
        """The classes, right-aligned, each with a patch of its colour; above them whether it records."""
        rows = [(info.name, info.color) for info in self._classes]
        if recording:
            rows.insert(0, ("REC", _RED))
        top, right = letter // 2, canvas.shape[1] - letter // 2
        for name, color in rows:
            text = _rendered(name, letter, _WHITE)
            height = text.keep.shape[0]
            middle = top + height // 2
            corner, opposite = (right - letter, middle - letter // 2), (right - 1, middle - letter // 2 + letter - 1)
            if name == "REC" and recording:
                cv2.circle(canvas, (right - letter // 2, middle), letter // 2, (0, 0, 0), -1, cv2.LINE_AA)
                cv2.circle(canvas, (right - letter // 2, middle), letter // 2 - 1, color, -1, cv2.LINE_AA)
            else:
                cv2.rectangle(canvas, corner, opposite, color, -1)
                cv2.rectangle(canvas, corner, opposite, (0, 0, 0), 1)
            _put(canvas, text, right - letter - letter // 2 - text.keep.shape[1], top)
            top += round(height * 1.1)


def _column(canvas: Image, lines: Iterable[str], letter: int) -> None:
    top = letter // 2
    for line in lines:
        text = _rendered(line, letter, _WHITE)
        _put(canvas, text, letter // 2, top)
        top += text.keep.shape[0]


def _bar(canvas: Image, status: Status, letter: int) -> None:
    """The state right across the picture, above the line at the bottom; a message below it in smaller letters."""
    state = _rendered(status.state.value.upper(), round(letter * 1.6), _WHITE)
    texts = [state, _rendered(status.message, letter, _WHITE)] if status.message else [state]
    height = sum(text.keep.shape[0] for text in texts) + letter // 2
    top = max(0, canvas.shape[0] - height - 3 * letter)
    _shade(canvas[top : top + height], _BAR_COLORS[status.state], 0.85)
    top += letter // 4
    for text in texts:
        _put(canvas, text, max(letter // 2, (canvas.shape[1] - text.keep.shape[1]) // 2), top)
        top += text.keep.shape[0]


def _help(canvas: Image, letter: int) -> None:
    """The keys, in a dark panel in the middle."""
    keys = [_rendered({" ": "space"}.get(action.key, action.key), letter, _WHITE) for action in ACTIONS]
    texts = [_rendered(action.text, letter, _WHITE) for action in ACTIONS]
    pitch, indent = texts[0].keep.shape[0], 5 * letter
    width, height = indent + max(text.keep.shape[1] for text in texts) + 2 * letter, pitch * len(texts) + letter
    left, top = max(0, (canvas.shape[1] - width) // 2), max(0, (canvas.shape[0] - height) // 2)
    _shade(canvas[top : top + height, left : left + width], (0, 0, 0), 0.75)
    for row, (key, text) in enumerate(zip(keys, texts, strict=True)):
        _put(canvas, key, left + letter, top + letter // 2 + row * pitch)
        _put(canvas, text, left + letter + indent, top + letter // 2 + row * pitch)
