"""What people saw in the last ten seconds, to be looked at once more: JPEG, bounded in seconds and in bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import cv2
import numpy as np

from vivim_runtime.live.screens.hud import marked
from vivim_runtime.sources.base import Image

__all__ = ["KEPT_S", "LastSeconds", "Replay", "as_old", "jpeg"]

_QUALITY = 85
KEPT_S = 10.0
_KEPT_BYTES = 64 << 20


def jpeg(picture: Image, quality: int = _QUALITY) -> bytes:
    """uint8 RGB (H, W, 3) -> the bytes of a JPEG file."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done  # of an array in memory this cannot fail
    return data.tobytes()


def as_old(data: bytes, age_s: float) -> Image:
    """A picture (H, W, 3) that was shown before, with a bar that says how long ago."""
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return marked(picture.astype(np.uint8), f"AGAIN: {age_s:.1f} s ago")


class LastSeconds:
    """Encoded pictures, each with its time.monotonic(); what is older than ten seconds is forgotten."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, bytes]] = deque()
        self._bytes = 0

    def keep(self, now: float, data: bytes) -> None:
        """Keep what is shown now."""
        self._kept.append((now, data))
        self._bytes += len(data)
        while self._kept and (now - self._kept[0][0] > KEPT_S or self._bytes > _KEPT_BYTES):
            self._bytes -= len(self._kept.popleft()[1])

    def pictures(self) -> list[tuple[float, bytes]]:
        """All that is kept, the oldest first."""
        return list(self._kept)


class Replay:
    """Pictures once more, as fast as they came.

    Args:
        pictures: at least one, with their times.
        began: when the first of them is shown again.
    """

    def __init__(self, pictures: Sequence[tuple[float, bytes]], began: float) -> None:
        self._pictures, self._late_s = pictures, began - pictures[0][0]

    def at(self, now: float) -> tuple[float, bytes] | None:
        """The picture that is seen at a time, with the time at which it was taken; None when all have been."""
        then = now - self._late_s
        if then > self._pictures[-1][0]:
            return None
        return next((each for each in reversed(self._pictures) if each[0] <= then), self._pictures[0])
