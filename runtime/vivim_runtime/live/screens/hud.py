"""The head-up display: what the viewer has to know, written on the picture.

Top left the rates and ages, top right the classes in their colours, at the bottom what runs; viewers may move the
figures into another corner, and hide what they do not need. Anything but a live picture gets a bar right across at
every level: a viewer must not take an old picture, or one without its mask, for a new one.

Nothing lies on anything else: on a small picture the figures are told in short, and what has no room is left out, the
state last of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2

from vivim_runtime.live.screens.actions import ACTIONS
from vivim_runtime.live.screens.letters import Text, broken, cut, fits, line_height, put, rendered
from vivim_runtime.live.status import HudLevel, State, Status
from vivim_runtime.sessions.base import ClassInfo
from vivim_runtime.sources.base import Image

__all__ = ["LEGIBLE_WIDTH", "NOTICE", "Hud", "legible", "lesion_lines", "marked", "status_lines"]

NOTICE = "RESEARCH USE ONLY"

# Narrower pictures are better enlarged to this before they are given to `Hud`, up to this height.
LEGIBLE_WIDTH, _LEGIBLE_HEIGHT = 640, 1280

_WHITE = (255, 255, 255)
_RED = (229, 57, 53)
_BLUE = (77, 163, 255)
_MOST_LESIONS = 3  # whose sizes are told
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
    State.silent: (150, 90, 0),
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
    if status.held_up:
        lines.append("in step" if short else "picture waits for its mask")
    if latency:
        p95 = f"p95 {latency['p95']:.0f} ms"
        lines.append(p95 if short else f"latency p50 {latency['p50']:.0f} ms, {p95}")
    if threshold is not None:
        lines.append(f"{'>' if short else 'threshold'} {threshold:.2f}")
    return tuple(lines)


def lesion_lines(lesions: Sequence[Mapping[str, Any]], short: bool = False) -> tuple[str, ...]:
    """The sizes of the largest lesions, with their bounds: longest diameter by the one across it.

    Args:
        short: for pictures that are narrow.
    """
    lines = []
    for lesion in lesions[:_MOST_LESIONS]:
        if "longest_mm" in lesion:
            (longest, wrong), (across, wrong_across) = lesion["longest_mm"], lesion["across_mm"]
            size = f"{longest:.1f} x {across:.1f} mm"
            size += "" if short else f" (+-{wrong:.1f}, +-{wrong_across:.1f})"
        else:
            size = f"{lesion['longest_px']:.0f} x {lesion['across_px']:.0f} px"
        lines.append(f"{lesion['lesion']}: {size}")
    return tuple(lines)


def legible(picture: Image) -> Image:
    """A picture (H, W, 3), enlarged where the letters would take too much of it."""
    height, width = picture.shape[:2]
    scale = min(LEGIBLE_WIDTH / width, _LEGIBLE_HEIGHT / height)
    return picture if scale <= 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class _Placed:
    """Something on the picture: letters, or a patch of colour where there are none; left, top, width, height."""

    left: int
    top: int
    width: int
    height: int
    text: Text | None = None
    color: tuple[int, int, int] = _RED
    round: bool = False

    def put_on(self, canvas: Image) -> None:
        if self.text is not None:
            put(canvas, self.text, self.left, self.top)
            return
        opposite = (self.left + self.width - 1, self.top + self.height - 1)
        if self.round:
            middle, radius = (self.left + self.width // 2, self.top + self.height // 2), self.height // 2
            cv2.circle(canvas, middle, radius, (0, 0, 0), -1, cv2.LINE_AA)
            cv2.circle(canvas, middle, radius - 1, self.color, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(canvas, (self.left, self.top), opposite, self.color, -1)
            cv2.rectangle(canvas, (self.left, self.top), opposite, (0, 0, 0), 1)


def _moved(placed: Sequence[_Placed], corner: int, width: int, top: int, bottom: int) -> list[_Placed]:
    """What stands for the figures in the top left corner, for another: 1 top right, 2 bottom right, 3 bottom left."""
    right, low = corner in (1, 2), corner in (2, 3)
    down = max(0, bottom - top - max((item.top + item.height for item in placed), default=bottom)) if low else 0
    return [
        replace(item, left=width - item.left - item.width if right else item.left, top=item.top + down)
        for item in placed
    ]


def marked(picture: Image, text: str) -> Image:
    """A picture (H, W, 3) with a bar right across its top, in a new array: it is not what is seen now."""
    canvas = picture.copy()
    letter = max(_LETTER_LEAST, round(canvas.shape[0] * _LETTER_SHARE))
    large = round(1.6 * letter)
    line = rendered(cut(text, large, canvas.shape[1] - large), large, _WHITE)
    # As high as two of the lines that may be written below it, so that none is left half covered.
    thick = max(line.height + large // 2, letter // 2 + 2 * line_height(letter))
    _shade(canvas[:thick], _BAR_COLORS[State.stale], 0.85)
    put(canvas, line, max(0, (canvas.shape[1] - line.width) // 2), max(0, thick - line.height) // 2)
    return canvas


class Hud:
    """Draws a Status; holds only which classes there are, and whether to say what the picture is for.

    Letters grow with the picture. Measured at 1280x720 on one CPU core: 1.0 ms a picture, 1.5 ms with the bar; half of
    it is the copy.
    """

    def __init__(self, classes: Sequence[ClassInfo], notice: bool = False) -> None:
        self._classes, self._notice = tuple(classes), notice

    def draw(
        self,
        picture: Image,
        status: Status,
        *,
        threshold: float | None = None,
        message: str = "",
        help_panel: bool = False,
        level: HudLevel = HudLevel.full,
        corner: int = 0,
    ) -> Image:
        """The picture with the status on it, uint8 RGB (H, W, 3), in a new array.

        Args:
            threshold: that viewers have chosen; left out when None.
            message: one line for the viewer of this screen ("saved ...").
            help_panel: whether to list the keys, too.
            level: how much of the figures, of the classes and of what runs.
            corner: where the figures stand: 0 top left, 1 top right, 2 bottom right, 3 bottom left.
        """
        canvas = picture.copy()
        _frame(canvas, status)
        letter = max(_LETTER_LEAST, round(canvas.shape[0] * _LETTER_SHARE))
        full = level is HudLevel.full
        bottom = _runs(canvas, _parts(status if full else None, self._notice), letter)
        if status.state is not State.live:
            bottom = _bar(canvas, status, letter, bottom)
        size = (canvas.shape[0], canvas.shape[1])
        classes, free = self._legend(size, letter, status.recording, bottom, full)
        short = size[1] < _NARROW * letter
        lines = () if level is HudLevel.none else status_lines(status, threshold, short)
        lines = (*(lines if full else lines[1:2]), *(lesion_lines(status.lesions, short) if lines else ()))
        figures = _column(size, lines, message, letter, free, bottom)
        for item in _moved([*classes, *figures], corner, size[1], letter // 2, bottom):
            item.put_on(canvas)
        if help_panel:
            _help(canvas, letter)
        return canvas

    def _legend(
        self, size: tuple[int, int], letter: int, recording: bool, bottom: int, full: bool
    ) -> tuple[list[_Placed], tuple[int, int]]:
        """The classes, right-aligned, each with a patch of its colour; above them whether it records.

        Returns:
            all that, and the left column and the row below it, where other lines have to end or may begin.
        """
        rows = [(info.name, info.color) for info in self._classes] if full else []
        if recording:
            rows.insert(0, ("REC", _RED))
        top, right = letter // 2, size[1] - letter // 2
        room = round(size[1] * _LEGEND_SHARE)
        left, placed = right, []
        for name, color in rows:
            text = rendered(cut(name, letter, room - 2 * letter), letter, _WHITE)
            if top + text.height > bottom:
                break
            middle = top + text.height // 2
            records = name == "REC" and recording
            placed.append(_Placed(right - letter, middle - letter // 2, letter, letter, color=color, round=records))
            begin = right - letter - letter // 2 - text.width
            placed.append(_Placed(begin, top, text.width, text.height, text))
            left, top = min(left, begin), top + round(text.height * 1.1)
        return placed, (left, top)


def _frame(canvas: Image, status: Status) -> None:
    """A thin line around what the model sees, just inside of it."""
    if min(status.size) < 1:
        return
    height, width = status.size
    panels = max(1, round(canvas.shape[1] * height / (canvas.shape[0] * width)))  # frames beside each other
    fx, fy = canvas.shape[1] / (width * panels), canvas.shape[0] / height
    for x, y, wide, high in status.regions:
        for left in (x + panel * width for panel in range(panels)):
            first = math.ceil(left * fx), math.ceil(y * fy)
            last = math.floor((left + wide) * fx) - 1, math.floor((y + high) * fy) - 1
            cv2.rectangle(canvas, first, last, _BLUE, 1)


def _column(
    size: tuple[int, int], lines: Sequence[str], message: str, letter: int, corner: tuple[int, int], bottom: int
) -> list[_Placed]:
    """The figures, and a message below them, as far as there is room above `bottom` and beside the legend's corner."""
    margin, pitch = letter // 2, line_height(letter)
    whole, placed = size[1] - 2 * margin, []

    def place(text: str) -> None:
        line = rendered(text, letter, _WHITE)
        placed.append(_Placed(margin, top, line.width, line.height, line))

    top, last = margin, bottom - pitch * (2 if message else 1)
    for line in lines:
        # A number is never cut: it would be another one.
        if top < corner[1] and not fits(line, letter, corner[0] - 2 * margin):
            top = corner[1]
        if top <= last and fits(line, letter, whole):
            place(line)
            top += pitch
    if message and top <= bottom - pitch:
        room = corner[0] - 2 * margin if top < corner[1] else whole
        place(cut(message, letter, room))
    return placed


def _parts(status: Status | None, notice: bool) -> list[str]:
    """What the line at the bottom says, the most important first."""
    runs = (status.source, status.model, status.precision, status.backend, status.device) if status else ()
    return [*([NOTICE] if notice else []), *filter(None, runs)]


def _runs(canvas: Image, parts: list[str], letter: int) -> int:
    """What runs, in a line at the bottom; what is less important is left out first. Returns the line's first row."""
    if not parts:
        return canvas.shape[0] - letter // 4
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
    # What is still too high is set closer: the lines' dark borders may touch, their letters do not.
    pitch = min(pitch, max(letter + 2, (height - letter) // len(rows)))
    high = pitch * len(rows) + letter
    left, top = max(0, (width - wide) // 2), max(0, (height - high) // 2)
    _shade(canvas[top : top + high, left : left + wide], (0, 0, 0), 0.95)
    for row, (key, text) in enumerate(zip(keys, texts, strict=True)):
        put(canvas, key, left + letter, top + letter // 2 + row * pitch)
        put(canvas, text, left + letter + indent, top + letter // 2 + row * pitch)
