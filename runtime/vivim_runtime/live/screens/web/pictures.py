"""The newest picture as JPEG: encoded once, in a thread of its own, and only while somebody watches.

Every viewer takes the newest picture when it is ready for one, so a slow viewer sees fewer pictures and holds up
nobody. The run's thread does nothing but leave a reference.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

from vivim_runtime.live.screens.again import LastSeconds, as_old, jpeg
from vivim_runtime.live.screens.hud import Hud
from vivim_runtime.live.screens.views import legibly_drawn
from vivim_runtime.live.status import Controls, Shown

__all__ = ["Pictures"]

# More would cost the CPU that the inference needs.
_SHORTEST_S = 1 / 30
_AFTER_FAILURE_S = 0.5


class Pictures:
    """What the run shows, for any number of viewers up to `limit`.

    Attributes:
        viewers: how many watch now.
        encoded: how many pictures have been encoded, whatever the number of viewers.
        failed: how many could not be; each ended the streams of that moment.
    """

    def __init__(self, hud: Hud, controls: Controls, limit: int) -> None:
        self._hud, self._controls, self._limit = hud, controls, limit
        self._newest: tuple[Shown | None, float] = (None, time.monotonic())
        # Wakes the encoding. Unlike a lock, putting something in never waits for another thread.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._changed = threading.Condition()  # guards what follows
        self._jpeg: bytes | None = None
        self._last = LastSeconds()
        self._closing = False
        self.viewers = self.encoded = self.failed = 0
        self._thread = threading.Thread(target=self._encode, name="web pictures", daemon=True)
        self._thread.start()

    def show(self, shown: Shown) -> None:
        """Take the next picture; returns at once."""
        self._newest = (shown, time.monotonic())
        if self.viewers:
            self._wake.put(None)

    def newest(self) -> tuple[Shown | None, float]:
        """The newest picture, and its age in seconds."""
        shown, since = self._newest
        return shown, time.monotonic() - since

    def _encode(self) -> None:
        while True:
            self._wake.get()
            with suppress(Empty):
                while True:
                    self._wake.get_nowait()
            if self._closing:
                return
            shown, _ = self._newest
            if shown is None:
                continue
            started = time.monotonic()
            try:
                data = jpeg(legibly_drawn(self._hud, shown, self._controls))
            except Exception:
                # A stream that stands still looks like one that runs: it ends, and the page opens a new one.
                with self._changed:
                    self.failed += 1
                    self._jpeg = None
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closing, _AFTER_FAILURE_S)
                continue
            with self._changed:
                self._jpeg, self.encoded = data, self.encoded + 1
                self._last.keep(started, data)
                self._changed.notify_all()
                rest = started + _SHORTEST_S - time.monotonic()
                self._changed.wait_for(lambda: self._closing, max(0.0, rest))

    @contextmanager
    def watch(self, again: bool = False) -> Iterator[Iterator[bytes] | None]:
        """The pictures for one viewer, as JPEG, until `close`; None when there are too many viewers already.

        Args:
            again: those of the last ten seconds, as fast as they came and marked as old, and then no more.
        """
        with self._changed:
            if self.viewers >= self._limit or self._closing:
                admitted = False
            else:
                admitted, self.viewers = True, self.viewers + 1
                if self.viewers == 1:
                    self._jpeg = None  # from when somebody last watched
                    self._wake.put(None)
        try:
            yield None if not admitted else self._once_more() if again else self._stream()
        finally:
            if admitted:
                with self._changed:
                    self.viewers -= 1

    def _stream(self) -> Iterator[bytes]:
        sent: bytes | None = None
        failed = self.failed
        while True:
            with self._changed:
                while not self._closing and self.failed == failed and (self._jpeg is None or self._jpeg is sent):
                    self._changed.wait()
                if self._closing or self._jpeg is None or self.failed != failed:
                    return
                sent = self._jpeg
            yield sent

    def _once_more(self) -> Iterator[bytes]:
        with self._changed:
            kept = self._last.pictures()
        if not kept:
            return
        began, first = time.monotonic(), kept[0][0]
        for taken, data in kept:
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, max(0.0, began + taken - first - time.monotonic())):
                    return
            yield jpeg(as_old(data, time.monotonic() - taken))

    def close(self) -> None:
        """End every viewer's stream and the encoding."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._wake.put(None)
        self._thread.join()
