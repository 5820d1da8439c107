"""Clips of T frames: cut from sources at a model's size, and the windows of frames that a run infers together.

A `Clip` holds pixels and true masks at one size: what models learn from and are judged on. A `Window` holds frames as
they came, of any size: window j has the T frames from j * hop on. Of each window, `hop` consecutive masks are used: the
newest ones (`show="newest"`), or those around its middle (`show="centre"`, where the network has seen both sides). So
the used masks tile the video: every frame gets exactly one. The first window also serves the frames before its share;
the last one is shifted back so that it is full, and serves all that is left. Only a video shorter than T is padded, by
repeating its last frame (never with black), and says so.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import DataError, UsageError
from vivim_runtime.framing import Framing
from vivim_runtime.locating import located
from vivim_runtime.regions import WHOLE
from vivim_runtime.sources.base import Frame, Image, Source

__all__ = [
    "Clip",
    "Masks",
    "Show",
    "Window",
    "cut_clips",
    "threshold_logit",
    "windows",
]

Masks = npt.NDArray[np.bool_]
Show = Literal["newest", "centre"]
_Frame = TypeVar("_Frame")  # a frame, or its number


@dataclass(frozen=True, eq=False)
class Clip:
    """T frames of one size, and what is true of them.

    Attributes:
        pixels: uint8 RGB (T, H, W, 3).
        truth: true masks, bool (T, H, W), of several classes (T, K, H, W); None where no frame has one.
        annotated: which frames have a true mask, bool (T,); the others are blank in `truth`. None: all or none of them.
        source, start: where the clip is from, and the number of its first frame there.
    """

    pixels: Image = field(repr=False)
    truth: Masks | None = field(default=None, repr=False)
    annotated: npt.NDArray[np.bool_] | None = None
    source: str = ""
    start: int = 0

    def __len__(self) -> int:
        """T."""
        return len(self.pixels)

    @property
    def label(self) -> str:
        """How messages call the clip."""
        return f"frames {self.start} to {self.start + len(self) - 1} of {self.source or 'a clip'}"

    def true_mask(self, index: int) -> Masks | None:
        """What is true of one frame, bool (H, W) or (K, H, W); None where that is not known."""
        if self.truth is None or (self.annotated is not None and not self.annotated[index]):
            return None
        return self.truth[index]

    @property
    def masks(self) -> Masks:
        """The true masks of all frames; DataError where one has none."""
        if self.truth is None or (self.annotated is not None and not self.annotated.all()):
            raise DataError(f"{self.label} have not all a true mask; expected one for every frame")
        return self.truth

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()


def cut_clips(source: Source, length: int, framing: Framing, wanted: Collection[int] | None = None) -> Iterator[Clip]:
    """The whole clips of a source, one behind the other, as a model takes them; what is left at the end is dropped.

    Args:
        length: T.
        framing: how frames become pictures; where it has no region yet, that is found by the rule of its contract. Of
            several regions, clips show the largest.
        wanted: numbers of the clips to give, in order; None is all. Frames of the others are read and let go.
    """
    frames, number = iter(source), 0
    if framing.region is None and framing.contract.rule.kind != WHOLE:
        regions, frames = located(framing.contract.rule, source, frames)
        framing = framing.at(regions)
    last = max(wanted, default=-1) if wanted is not None else math.inf
    while number <= last and len(clip := list(islice(frames, length))) == length:
        if wanted is None or number in wanted:
            yield _clip(clip, framing, source.name, number * length)
        number += 1


def _clip(frames: list[Frame], framing: Framing, source: str, start: int) -> Clip:
    pixels = np.stack([framing.picture(frame.image) for frame in frames])
    known = np.array([frame.truth is not None for frame in frames])
    if not known.any():
        return Clip(pixels, source=source, start=start)
    found = {index: framing.truth(frame.truth) for index, frame in enumerate(frames) if frame.truth is not None}
    truth = np.zeros((len(frames), *next(iter(found.values())).shape), np.bool_)
    for index, mask in found.items():
        truth[index] = mask
    return Clip(pixels, truth, None if known.all() else known, source, start)


@dataclass(frozen=True, eq=False)
class Window(Generic[_Frame]):
    """T frames to infer together.

    Attributes:
        number: of the window, from 0.
        frames: T frames, in order; the last one repeated where `padded`.
        used: slice of positions whose masks are used.
        padded: how many frames at the end are repetitions.
    """

    number: int
    frames: tuple[_Frame, ...]
    used: slice
    padded: int = 0


def windows(frames: Iterable[_Frame], length: int, hop: int, show: Show) -> Iterator[Window[_Frame]]:
    """A stream of frames in windows of `length`, one every `hop` frames; at most `length` frames are kept.

    A window is given out when the next frame arrives or the stream ends, since the last one serves more frames.
    """
    if not 1 <= hop <= length:
        raise UsageError(f"--hop is {hop}; expected 1 to {length}, the frames of a clip")
    first_used = length - hop if show == "newest" else (length - hop) // 2
    kept: deque[_Frame] = deque(maxlen=length)
    count = number = served = 0  # frames seen, windows given out, frames whose window is given out
    due = length  # frames seen when the next window is complete
    for frame in frames:
        if count == due:
            start = count - length
            end = start + first_used + hop
            yield Window(number, tuple(kept), slice(served - start, end - start))
            number, served, due = number + 1, end, due + hop
        kept.append(frame)
        count += 1
    if not count:
        return
    padded = max(0, length - count)
    start = max(0, count - length)
    yield Window(number, (*kept, *[kept[-1]] * padded), slice(served - start, count - start), padded)


def threshold_logit(threshold: float) -> float:
    """The logit whose sigmoid is `threshold`: sigmoid(x) > threshold exactly where x > this."""
    if not 0.0 < threshold < 1.0:
        raise UsageError(f"--threshold is {threshold:g}; expected a probability between 0 and 1, both left out")
    return math.log(threshold / (1.0 - threshold))
