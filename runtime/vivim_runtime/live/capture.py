"""Frames out of a source, for as long as it takes: connections that are lost are made again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from vivim_runtime.errors import SourceError
from vivim_runtime.live.threads import Crew
from vivim_runtime.sources.base import Frame, LiveSource

__all__ = ["Capture"]

# Waits between attempts to connect: doubled from the first to the longest, which bounds how late a source that is back
# is noticed.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 2.0
# A reader that has shown no sign of life for this long, beyond the source's own patience, hangs in a driver.
_GRACE_S = 3.0
# Readers left behind at most; each may hold a device and a thread.
_MOST_ABANDONED = 4


class Capture:
    """Reads a source in a thread, connects again with growing waits, and replaces a reader that hangs.

    Frames are numbered over all connections, and `Frame.time` is the seconds since the run began, by `Frame.taken`,
    which never goes back.

    Args:
        deliver: takes each frame, when it arrived (time.monotonic()), and whether it is the first of a connection; in
            the reader's thread.

    Attributes:
        began: when it was started, by time.monotonic(); None before.
        connected: whether frames come.
        message: why not, in one line; "" when they do.
        last: when the last frame came, by time.monotonic(); None before the first.
        ended: no frame will come any more.
        error: what ended it, where that was no ordinary end.
        reconnects: how often frames came again after they had stopped.
    """

    def __init__(
        self,
        source: LiveSource,
        crew: Crew,
        deliver: Callable[[Frame, float, bool], None],
        max_frames: int | None = None,
    ) -> None:
        self._source, self._crew, self._deliver, self._max_frames = source, crew, deliver, max_frames
        self._stop = threading.Event()
        self._reader = 0  # the number of the one whose frames count
        self._sign_of_life = time.monotonic()
        self.began: float | None = None
        self._last_taken = -1.0
        self._count = 0
        self.connected, self.message, self.ended = False, "connecting", False
        self.last: float | None = None
        self.error: SourceError | None = None
        self.reconnects = 0

    def start(self) -> None:
        """Begin to read."""
        self.began = time.monotonic()
        self._start_reader()

    def stop(self) -> None:
        """Take no more frames; returns at once."""
        self._stop.set()
        self._reader += 1

    def replace_hanging_reader(self) -> None:
        """To be called now and then: a reader that hangs is left behind, and a new one connects."""
        if (
            self.began is None
            or self.ended
            or self._stop.is_set()
            or not self._source.reconnects
            or self._reader >= _MOST_ABANDONED
        ):
            return
        if time.monotonic() - self._sign_of_life > self._source.patience + _GRACE_S:
            self.connected, self.message = False, "the source hangs; trying a new connection"
            self._reader += 1
            self._start_reader()

    def _start_reader(self) -> None:
        number = self._reader
        self._sign_of_life = time.monotonic()
        self._crew.start(f"read {self._source.name}", lambda: self._read(number))

    def _read(self, number: int) -> None:
        wait = _FIRST_WAIT_S
        while self._reader == number:
            frames = iter(self._source)
            try:
                for frame in frames:
                    if self._reader != number:
                        return
                    wait = _FIRST_WAIT_S
                    self._take(frame)
                    if self._count == self._max_frames:
                        self.ended = True
                        return
                self.connected, self.message = False, f"{self._source.name} gives no more frames"
                if not self._source.reconnects:
                    self.ended = True
                    return
            except SourceError as error:
                if self._reader != number:
                    return
                self.connected, self.message = False, str(error)
                if not self._source.reconnects:
                    self.error, self.ended = error, True
                    return
            finally:
                close = getattr(frames, "close", None)
                if close:
                    close()
            self._stop.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)
            self._sign_of_life = time.monotonic()

    def _take(self, frame: Frame) -> None:
        now = time.monotonic()
        first = not self.connected
        if first:
            self.reconnects += self.last is not None
            self.connected, self.message = True, ""
        taken = now if frame.taken is None else frame.taken
        # A clock that is set anew may step back; time does not.
        taken = max(taken, self._last_taken + 1e-4)
        self._last_taken = taken
        self._sign_of_life = self.last = now
        self._deliver(replace(frame, index=self._count, time=taken - (self.began or taken), taken=taken), now, first)
        self._count += 1
