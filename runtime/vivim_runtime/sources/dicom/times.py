"""When the frames of a loop were taken (PS3.3 C.7.6.5), from whatever says so and can be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from vivim_runtime.sources.base import DEFAULT_FPS
from vivim_runtime.sources.dicom.files import numbers

__all__ = ["FrameTimes", "frame_times"]

# What a loop can have; outside lies a header that is wrong.
_SLOWEST, _FASTEST = 0.01, 10_000.0
# Of these, the first that says something: (attribute, whether its unit is milliseconds; else frames a second).
_RATES = (
    ("FrameTime", True),
    ("CineRate", False),
    ("RecommendedDisplayFrameRate", False),
    ("ActualFrameDuration", True),
)


@dataclass(frozen=True)
class FrameTimes:
    """Seconds from the first frame to each, frames a second, and what to say about where they come from.

    `known` is false where the file says nothing, and DEFAULT_FPS is assumed.
    """

    times: list[float]
    fps: float
    known: bool
    notes: tuple[str, ...]


def frame_times(dataset: Any, frames: int, name: str) -> FrameTimes:
    """In the order of trust: FrameTimeVector, FrameTime (both ms), CineRate, RecommendedDisplayFrameRate (both 1/s)."""
    notes: list[str] = []
    vector = numbers(dataset, "FrameTimeVector")
    if vector is not None and frames > 1:
        steps = vector[1:]  # the first one says nothing (C.7.6.5.1.2)
        told = sum(steps)
        if len(vector) != frames:
            notes.append(f"FrameTimeVector of {name} has {len(vector)} values for {frames} frames and is left out")
        elif not all(math.isfinite(step) and step >= 0 for step in steps) or not _possible((frames - 1) * 1000, told):
            notes.append(f"FrameTimeVector of {name} holds values that are no times and is left out")
        else:
            times = [0.0, *(total / 1000.0 for total in accumulate(steps))]
            return FrameTimes(times, (frames - 1) / times[-1], True, tuple(notes))
    for attribute, is_duration in _RATES:
        value = (numbers(dataset, attribute) or [0.0])[0]
        if value == 0:
            continue
        fps = 1000.0 / value if is_duration else value
        if math.isfinite(fps) and _SLOWEST <= fps <= _FASTEST:
            return FrameTimes([index / fps for index in range(frames)], fps, True, tuple(notes))
        if frames > 1:
            notes.append(f"{attribute} of {name} says nothing usable and is left out")
    if frames > 1:
        notes.append(f"{name} does not tell its frame rate; {DEFAULT_FPS:g} fps assumed")
    return FrameTimes([index / DEFAULT_FPS for index in range(frames)], DEFAULT_FPS, False, tuple(notes))


def _possible(frames_ms: float, told_ms: float) -> bool:
    """Whether frames that take `told_ms` altogether have a rate that can be."""
    return told_ms > 0 and _SLOWEST <= frames_ms / told_ms <= _FASTEST
