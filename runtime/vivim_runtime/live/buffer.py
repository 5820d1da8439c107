"""The clip that ends now: T frames, evenly spaced in time, out of what the source gave."""

from __future__ import annotations

import statistics
import threading
from collections import deque

import numpy as np

from vivim_runtime.sources.base import Frame

__all__ = ["ClipBuffer"]

# A hole of more than this many frame intervals, and of more than this many seconds, ends what can be one clip.
_GAP_INTERVALS, _GAP_S = 4.0, 0.15
# Frames kept for each frame of a clip, at most, where the source is faster than the model wants.
_DENSITY = 4


class ClipBuffer:
    """Keeps the frames that the next clip may need. `add` comes from one thread, `newest` from another.

    The T moments of a clip are `interval` apart, the last one being the newest frame's; each is served by the frame
    nearest to it. Behind a gap, a change of size, or a step back in time, everything old is forgotten: a clip is never
    made of two scenes, nor filled up with black.

    Args:
        length: T.
        interval: seconds between the frames of a clip, as the model was trained; None is the source's own interval.
        fps: of the source, until its true interval is known from its frames.
    """

    def __init__(self, length: int, interval: float | None, fps: float) -> None:
        self._length, self._fixed = length, interval
        self._steps: deque[float] = deque([1.0 / fps], maxlen=31)
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self.resets = 0

    @property
    def interval(self) -> float:
        """Seconds between the frames of a clip."""
        return self._fixed or statistics.median(self._steps)

    @property
    def source_interval(self) -> float:
        """Seconds from one frame of the source to the next, lately."""
        with self._changed:
            return statistics.median(self._steps)

    @property
    def complete(self) -> bool:
        """Whether a clip can end with the newest frame: else it gets no masks as such."""
        with self._changed:
            return self._ready(-1, 0)

    def reset(self) -> None:
        """Forget all frames: what comes is another scene."""
        with self._changed:
            self.resets += bool(self._frames)
            self._frames.clear()

    def add(self, frame: Frame) -> None:
        """The next frame; its `time` in seconds counts."""
        with self._changed:
            if self._frames:
                last = self._frames[-1]
                step = frame.time - last.time
                source_interval = statistics.median(self._steps)
                gap = max(_GAP_INTERVALS * max(source_interval, self.interval), _GAP_S)
                if step <= 0 or step > gap or frame.image.shape != last.image.shape:
                    self.reset()
                if step > 0:
                    # Gaps too: a camera in the dark gives a fifth of the rate that it tells.
                    self._steps.append(step)
            self._thin()
            self._frames.append(frame)
            oldest = frame.time - (self._length - 0.5) * self.interval
            while len(self._frames) > 1 and self._frames[1].time <= oldest:
                self._frames.popleft()
            self._changed.notify()

    def _thin(self) -> None:
        """Forget the newest frame, before the next one comes, where it lies too close behind the one before it."""
        if len(self._frames) > 1 and self._frames[-1].time - self._frames[-2].time < self.interval / _DENSITY:
            self._frames.pop()

    def newest(self, after: int, hop: int, timeout: float) -> tuple[Frame, ...] | None:
        """The T frames of the clip that ends with the newest frame.

        Args:
            after: index of the last frame of the clip before (-1: none).
            hop: frames that must have come since.
            timeout: seconds to wait for that; then None.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._ready(after, hop), timeout):
                return None
            times = np.array([frame.time for frame in self._frames])
            wanted = times[-1] - self.interval * np.arange(self._length - 1, -1, -1)
            right = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
            if len(times) == 1:
                return (self._frames[0],) * self._length
            nearest = np.where(wanted - times[right - 1] < times[right] - wanted, right - 1, right)
            return tuple(self._frames[index] for index in nearest)

    def _ready(self, after: int, hop: int) -> bool:
        if not self._frames or self._frames[-1].index < after + hop:
            return False
        # Half an interval of tolerance: time stamps jitter.
        return self._frames[-1].time - self._frames[0].time >= (self._length - 1.5) * self.interval
