"""The head-up display: what the viewer has to know, written on the picture.

Top left the rates and ages, top right the classes in their colours, at the bottom what runs. Anything but a live
picture gets a bar right across: a viewer must not take an old picture, or one without its mask, for a new one.

Nothing lies on anything else: on a small picture the figures are told in short, and what has no room is left out, the
state last of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2

from vivim_runtime.live.screens.actions import ACTIONS
from vivim_runtime.live.screens.letters import broken, cut, fits, line_height, put, rendered
from vivim_runtime.live.status import State, Status
from vivim_runtime.sessions.base import ClassInfo
from vivim_runtime.sources.base import Image

__all__ = ["LEGIBLE_WIDTH", "Hud", "legible", "status_lines"]

# Narrower pictures are better enlarged to this before they are given to `Hud`, up to this height.
LEGIBLE_WIDTH, _LEGIBLE_HEIGHT = 640, 1280

_WHITE = (255, 255, 255)
_RED = (229, 57, 53)
# Letters are 1/45 of the picture's height, as on the screens of scanners; below 12 pixels they would not be readable.
_LETTER_SHARE, _LETTER_LEAST = 1 / 45, 12
# The figures are up to 19 letters' heights wide, and the legend has this share of the picture at most: where it is
# narrower than so many letters' heights, the figures are told in short.
_NARROW, _LEGEND_SHARE = 36, 0.45
# A message has at most so many lines, and the bar so much of the picture's height.
_MESSAGE_LINES, _BAR_SHARE = 3, 0.5
_SMALLEST = 7  # pixels; letters of the state and of the help panel get no smaller, whatever has room
_SEPARATOR = " | "
_BAR_COLORS = {
    State.warming_up: (25, 84, 123),
    State.stale: (150, 90, 0),
    State.no_signal: (160, 20, 20),
    State.stuck: (160, 20, 20),
    State.not_finite: (160, 20, 20),
    State.paused: (25, 84, 123),
    State.ended: (70, 70, 70),
}


def _shade(region: Image, color: tuple[int, int, int], share: float) -> None:
    """Mix `share` of `color` into a part of a picture, in place."""
    if region.size:
        light = tuple(share * value for value in color)
        region[:] = cv2.add(cv2.convertScaleAbs(region, alpha=1 - share), (*light, 0.0))


def status_lines(status: Status, threshold: float | None = None, short: bool = False) -> tuple[str, ...]:
    """The figures, one line each, the most important first; one that is not known yet is left out.

    Args:
        short: for pictures that are narrow.
    """
    fps, age, latency = f"{status.fps:.0f}", status.mask_age_ms, status.latency_ms
    if status.source_fps and round(status.source_fps) != round(status.fps):
        fps += f"{'/' if short else ' fps of '}{status.source_fps:.0f}"
    lines = [fps if " fps" in fps else f"{fps} fps"]
    lines.append("no mask" if age is None else f"mask {'' if short else 'age '}{age:.0f} ms")
    if status.synchronised:
        lines.append("in step" if short else "picture waits for its mask")
    if latency:
        p95 = f"p95 {latency['p95']:.0f} ms"
        lines.append(p95 if short else f"latency p50 {latency['p50']:.0f} ms, {p95}")
    if threshold is not None:
        lines.append(f"{'>' if short else 'threshold'} {threshold:.2f}")
    return tuple(lines)


def legible(picture: Image) -> Image:
    """A picture (H, W, 3), enlarged where the letters would take too much of it."""
    height, width = picture.shape[:2]
    scale = min(LEGIBLE_WIDTH / width, _LEGIBLE_HEIGHT / height)
    return picture if scale <= 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)


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
        bottom = _runs(canvas, status, letter)
        if status.state is not State.live:
            bottom = _bar(canvas, status, letter, bottom)
        corner = self._legend(canvas, letter, status.recording, bottom)
        lines = status_lines(status, threshold, short=canvas.shape[1] < _NARROW * letter)
        _column(canvas, lines, message, letter, corner, bottom)
        if help_panel:
            _help(canvas, letter)
        return canvas

    def _legend(self, canvas: Image, letter: int, recording: bool, bottom: int) -> tuple[int, int]:
        """The classes, right-aligned, each with a patch of its colour; above them whether it records.

        Returns:
            the left column and the row below it, where other lines have to end or may begin.
        """
        rows = [(info.name, info.color) for info in self._classes]
        if recording:
            rows.insert(0, ("REC", _RED))
        top, right = letter // 2, canvas.shape[1] - letter // 2
        room = round(canvas.shape[1] * _LEGEND_SHARE)
        left = right
        for name, color in rows:
            text = rendered(cut(name, letter, room - 2 * letter), letter, _WHITE)
            if top + text.height > bottom:
                break
            middle = top + text.height // 2
            corner, opposite = (right - letter, middle - letter // 2), (right - 1, middle - letter // 2 + letter - 1)
            if name == "REC" and recording:
                cv2.circle(canvas, (right - letter // 2, middle), letter // 2, (0, 0, 0), -1, cv2.LINE_AA)
                cv2.circle(canvas, (right - letter // 2, middle), letter // 2 - 1, color, -1, cv2.LINE_AA)
            else:
                cv2.rectangle(canvas, corner, opposite, color, -1)
                cv2.rectangle(canvas, corner, opposite, (0, 0, 0), 1)
            begin = right - letter - letter // 2 - text.width
            put(canvas, text, begin, top)
            left, top = min(left, begin), top + round(text.height * 1.1)
        return left, top


def _column(
    canvas: Image, lines: Sequence[str], message: str, letter: int, corner: tuple[int, int], bottom: int
) -> None:
    """The figures, and a message below them, as far as there is room above `bottom` and beside the legend's corner."""
    margin, pitch = letter // 2, line_height(letter)
    whole = canvas.shape[1] - 2 * margin
    top, last = margin, bottom - pitch * (2 if message else 1)
    for line in lines:
        # A number is never cut: it would be another one.
        if top < corner[1] and not fits(line, letter, corner[0] - 2 * margin):
            top = corner[1]
        if top <= last and fits(line, letter, whole):
            put(canvas, rendered(line, letter, _WHITE), margin, top)
            top += pitch
    if message and top <= bottom - pitch:
        room = corner[0] - 2 * margin if top < corner[1] else whole
        put(canvas, rendered(cut(message, letter, room), letter, _WHITE), margin, top)


def _runs(canvas: Image, status: Status, letter: int) -> int:
    """What runs, in a line at the bottom; what is less important is left out first. Returns the line's first row."""
    parts = [part for part in (status.source, status.model, status.precision, status.backend, status.device) if part]
    room = canvas.shape[1] - letter
    while len(parts) > 1 and not fits(_SEPARATOR.join(parts), letter, room):
        parts.pop()
    line = rendered(cut(_SEPARATOR.join(parts), letter, room), letter, _WHITE)
    top = canvas.shape[0] - line.height - letter // 4
    put(canvas, line, letter // 2, top)
    return top


def _bar(canvas: Image, status: Status, letter: int, bottom: int) -> int:
    """The state right across the picture; a message below it in smaller letters. Returns the bar's first row."""
    height, width = canvas.shape[:2]
    room = width - letter
    name, large = status.state.value.upper(), round(letter * 1.6)
    while large > _SMALLEST and not fits(name, large, room):
        large -= 1
    texts = [rendered(cut(name, large, room), large, _WHITE)]
    pitch = line_height(letter)
    most = min(_MESSAGE_LINES, max(0, round(height * _BAR_SHARE) - texts[0].height) // pitch)
    texts += [rendered(line, letter, _WHITE) for line in broken(status.message, letter, room, most)]
    thick = sum(text.height for text in texts) + letter // 2
    first = max(0, bottom - letter // 2 - thick)
    _shade(canvas[first : first + thick], _BAR_COLORS[status.state], 0.85)
    top = first + letter // 4
    for text in texts:
        put(canvas, text, max(letter // 2, (width - text.width) // 2), top)
        top += text.height
    return first


def _help(canvas: Image, letter: int) -> None:
    """The keys, in a dark panel in the middle; in smaller letters where the picture is small."""
    height, width = canvas.shape[:2]
    rows = [({" ": "space"}.get(action.key, action.key), action.text) for action in ACTIONS]
    while True:
        keys, texts = ([rendered(text, letter, _WHITE) for text in column] for column in zip(*rows, strict=True))
        pitch, indent = texts[0].height, 5 * letter
        wide, high = indent + max(text.width for text in texts) + 2 * letter, pitch * len(texts) + letter
        if letter <= _SMALLEST or (wide <= width and high <= height):
            break
        letter -= 1
    left, top = max(0, (width - wide) // 2), max(0, (height - high) // 2)
    _shade(canvas[top : top + high, left : left + wide], (0, 0, 0), 0.95)
    for row, (key, text) in enumerate(zip(keys, texts, strict=True)):
        put(canvas, key, left + letter, top + letter // 2 + row * pitch)
        put(canvas, text, left + letter + indent, top + letter // 2 + row * pitch)
