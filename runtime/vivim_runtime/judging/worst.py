"""The frames that a model does worst on, kept while the video goes by, and drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vivim_runtime.framing import mask_at, resized
from vivim_runtime.judging.metrics import Masks
from vivim_runtime.overlay import drawn
from vivim_runtime.sessions.base import ClassInfo
from vivim_runtime.sources.base import Image

__all__ = ["MASK_COLOR", "TRUTH_COLOR", "WorstFrame", "WorstFrames", "drawn_errors"]

TRUTH_COLOR, MASK_COLOR = (0, 230, 118), (255, 64, 196)

# Of neighbouring frames, which look alike, one is shown.
_NEIGHBOURS = 16
_HIGHEST = 320  # pixels of a drawn frame


@dataclass(frozen=True, eq=False)
class WorstFrame:
    """A frame and how far its mask is from the truth.

    Attributes:
        video, frame: where it is; frames count from 0.
        dice: of its mask.
        wrong: pixels that are marked and should not be, or the other way round.
        image: uint8 RGB (H, W, 3).
        mask, truth: bool (H, W).
    """

    video: str
    frame: int
    dice: float
    wrong: int
    image: Image = field(repr=False)
    mask: Masks = field(repr=False)
    truth: Masks = field(repr=False)


class WorstFrames:
    """At most `most` frames, of each stretch of a video the worst one: lowest Dice, then most wrong pixels."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[tuple[str, int], WorstFrame] = {}

    def add(self, video: str, frame: int, dice: float, image: Image, mask: Masks, truth: Masks) -> None:
        """The next frame; its arrays are kept only where it is among the worst."""
        if dice == 1.0:
            return
        key, wrong = (video, frame // _NEIGHBOURS), int(np.count_nonzero(mask != truth))
        if key in self._kept and _badness(self._kept[key]) >= (1.0 - dice, wrong):
            return
        # Copies: a view would keep the whole video that it is of.
        self._kept[key] = WorstFrame(video, frame, dice, wrong, image.copy(), mask.copy(), truth.copy())
        if len(self._kept) > self._most:
            del self._kept[min(self._kept, key=lambda k: _badness(self._kept[k]))]

    def ranked(self) -> tuple[WorstFrame, ...]:
        """The worst first."""
        return tuple(sorted(self._kept.values(), key=_badness, reverse=True))


def _badness(frame: WorstFrame) -> tuple[float, int]:
    return 1.0 - frame.dice, frame.wrong


def drawn_errors(frame: WorstFrame) -> Image:
    """Side by side: the frame; both outlines on it; what was missed and what was marked wrongly, filled."""
    scale = min(1.0, _HIGHEST / frame.image.shape[0])
    size = round(frame.image.shape[0] * scale), round(frame.image.shape[1] * scale)
    image = resized(frame.image, size)
    truth, mask = mask_at(frame.truth, size), mask_at(frame.mask, size)
    classes = ClassInfo("truth", TRUTH_COLOR), ClassInfo("mask", MASK_COLOR)
    outlines = drawn(image, np.stack((truth, mask)), classes, ("contour",), 1.0)
    errors = drawn(image, np.stack((truth & ~mask, mask & ~truth)), classes, ("overlay",), 0.7)
    gap = np.full((size[0], 6, 3), 255, np.uint8)
    return np.concatenate((image, gap, outlines, gap, errors), axis=1)
