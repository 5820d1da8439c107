"""A recorded source, played at its own speed as if it were live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, cycle
from types import TracebackType

from vivim_runtime.sources.base import Frame, LiveSource, Source, lost_frames

__all__ = ["Paced"]

# Longer than any wait between two frames that makes sense; a broken time stamp does not stop the show.
_LONGEST_WAIT_S = 2.0
# A loop that fits is kept, and played forwards and backwards, so that nothing jumps where it turns.
_MEMORY = 256 << 20


class Paced(LiveSource):
    """Each frame of `recorded` when its time has come; later when making it takes longer, and none is left out.

    Args:
        loop: play it again and again. A loop of up to 256 MB goes forwards and backwards.
    """

    reconnects = False

    def __init__(self, recorded: Source, loop: bool = False) -> None:
        super().__init__(recorded.name, recorded.fps)
        self.recorded, self.size, self._loop = recorded, recorded.size, loop
        self.frame_count = None if loop else recorded.frame_count
        self.notes = recorded.notes  # which grow while it is read

    @property
    def lost(self) -> int:
        """Frames of one pass that cannot be decoded, as far as it has been read."""
        return lost_frames(self.recorded)

    def __iter__(self) -> Iterator[Frame]:
        due = time.monotonic()
        for index, (frame, wait) in enumerate(self._played()):
            due += min(max(wait, 0.0), _LONGEST_WAIT_S)
            early = due - time.monotonic()
            if early > 0:
                time.sleep(early)
            else:
                due -= early  # it was not ready in time: go on from here, without a rush to catch up
            yield replace(frame, index=index, taken=due)

    def _played(self) -> Iterator[tuple[Frame, float]]:
        """Frames, and the seconds from the frame before."""
        kept: list[tuple[Frame, float]] | None = [] if self._loop else None
        interval = 1.0 / self.fps
        for _ in count():
            last: float | None = None
            for frame in self.recorded:
                pair = (frame, interval if last is None else frame.time - last)
                last = frame.time
                if kept is not None:
                    kept.append(pair)
                    if len(kept) * frame.image.nbytes > _MEMORY:
                        kept = None
                yield pair
            if not self._loop or last is None:
                return
            if kept:
                # The turning points come once. Backwards, a frame is as far from the next as it was forwards.
                times = zip(kept[-2::-1], kept[:0:-1], strict=True)
                backwards = [(frame, wait) for (frame, _), (_, wait) in times]
                yield from cycle([*backwards, *kept[1:]] or kept)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.recorded.__exit__(kind, error, trace)
