"""From frames to clips of T and back: which frames the network sees together, and which clip a frame's mask is from.

Clip j holds the T frames from j * hop on. Of each clip, `hop` consecutive masks are used: the newest ones
(`show="newest"`), or those around its middle (`show="centre"`, where the network has seen both sides). So the used
masks tile the video: every frame gets exactly one. The first clip also serves the frames before its share; the last one
is shifted back so that it is full, and serves all that is left. Only a video shorter than T is padded, by repeating its
last frame (never with black), and says so.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from vivim_runtime.errors import UsageError
from vivim_runtime.sessions.base import Logits
from vivim_runtime.sources.base import Frame, Image

__all__ = ["Clip", "Show", "clips", "logits_at", "resized", "threshold_logit"]

Show = Literal["newest", "centre"]


@dataclass(frozen=True, eq=False)
class Clip:
    """T frames to infer together.

    Attributes:
        number: of the clip, from 0.
        frames: T frames, in order; the last one repeated where `padded`.
        used: slice of positions whose masks are used.
        padded: how many frames at the end are repetitions.
    """

    number: int
    frames: tuple[Frame, ...]
    used: slice
    padded: int = 0


def clips(frames: Iterable[Frame], length: int, hop: int, show: Show) -> Iterator[Clip]:
    """Cut a stream of frames into clips of `length`, one every `hop` frames; at most `length` frames are kept.

    A clip is given out when the next frame arrives or the stream ends, since the last clip serves more frames.
    """
    if not 1 <= hop <= length:
        raise UsageError(f"--hop is {hop}; expected 1 to {length}, the frames of a clip")
    first_used = length - hop if show == "newest" else (length - hop) // 2
    window: deque[Frame] = deque(maxlen=length)
    count = number = served = 0  # frames seen, clips given out, frames whose clip is given out
    due = length  # frames seen when the next clip is complete
    for frame in frames:
        if count == due:
            start = count - length
            end = start + first_used + hop
            yield Clip(number, tuple(window), slice(served - start, end - start))
            number, served, due = number + 1, end, due + hop
        window.append(frame)
        count += 1
    if not count:
        return
    padded = max(0, length - count)
    start = max(0, count - length)
    yield Clip(number, (*window, *[window[-1]] * padded), slice(served - start, count - start), padded)


def resized(image: Image, size: tuple[int, int]) -> Image:
    """uint8 (h, w, 3) -> (H, W, 3): averaged over areas when shrinking, else bilinear; the aspect is not kept."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def logits_at(logits: Logits, size: tuple[int, int]) -> Logits:
    """Logits (K, h, w) of one frame -> (K, H, W), bilinear with pixel centres aligned, as the network upsamples."""
    if logits.shape[1:] == size:
        return logits
    height, width = size
    return np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in logits])


def threshold_logit(threshold: float) -> float:
    """The logit whose sigmoid is `threshold`: sigmoid(x) > threshold exactly where x > this."""
    if not 0.0 < threshold < 1.0:
        raise UsageError(f"--threshold is {threshold:g}; expected a probability between 0 and 1, both left out")
    return math.log(threshold / (1.0 - threshold))
