"""Who runs in a live run, and what lies between them.

    reader ──────► Mailbox (1 frame) ─────► compositor ──► screens (each keeps the newest picture)
      │                                       ▲    └─────► Branch (8 pictures) ──► film.mp4
      └──────────► ClipBuffer (about T) ──► inference ──► Branch (8 clips) ──────► masks/, out.dcm
                                            (newest result)
    every fate of a frame ────────────────────────────────► Branch (4096 lines) ──► ledger.jsonl
    supervisor: replaces a reader that hangs, notices time-outs and ends, tells the terminal

One thread each for reader, compositor, inference and supervisor, and one for each branch. Nothing waits for a slower
neighbour: a mailbox keeps the newest frame, a branch that is full drops, and both count what was lost. All threads are
daemons: one that hangs in a driver or a model is left behind at the end, and never waited for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from vivim_runtime.errors import SinkError

__all__ = ["CLIP_QUEUE", "END_S", "LINE_QUEUE", "PICTURE_QUEUE", "TICK_S", "Branch", "Crew", "Mailbox"]

PICTURE_QUEUE = 8  # pictures: a third of a second at 25 fps, 22 MB at 1280x720
CLIP_QUEUE = 8  # clips, with their logits
LINE_QUEUE = 4096  # lines of the ledger: more than a minute
TICK_S = 0.1  # how often those look up that wait for something
END_S = 1.8  # everything is closed by then, once a run is told to end

_Item = TypeVar("_Item")


class Mailbox(Generic[_Item]):
    """Holds the newest item alone."""

    def __init__(self) -> None:
        self._item: _Item | None = None
        self._changed = threading.Condition()

    def put(self, item: _Item) -> _Item | None:
        """Put an item in; returns the one that it replaces, if that was never taken."""
        with self._changed:
            replaced, self._item = self._item, item
            self._changed.notify()
        return replaced

    def take(self, timeout: float = 0.0) -> _Item | None:
        """Take the item out; None when there is none within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None, timeout)
            item, self._item = self._item, None
        return item

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._item is None


class Branch(Generic[_Item]):
    """A writer of its own pace, in a thread of its own: takes what it can, and counts the rest as dropped.

    A writer that fails (a full disk) ends its branch alone: `error` says why, and what comes later is dropped.

    Args:
        name: of what is written, for people.
        size: items that may wait.
        write: called in the thread for each item; returns how many frames (or lines) it wrote.
        close: called in the thread at the end, with the error that ended it or None.
    """

    def __init__(
        self,
        name: str,
        size: int,
        write: Callable[[_Item], int],
        close: Callable[[Exception | None], None],
    ) -> None:
        self.name, self._size, self._write, self._close = name, size, write, close
        self.written = self.dropped = 0
        self.error: Exception | None = None
        self._items: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._last_call: float | None = None  # when closing: until when items are still written
        self._thread = threading.Thread(target=self._run, name=f"write {name}", daemon=True)
        self._thread.start()

    def offer(self, item: _Item) -> bool:
        """Hand an item over; False, and counted as dropped, when too many wait. Never blocks."""
        with self._changed:
            taken = self.error is None and self._last_call is None and len(self._items) < self._size
            if taken:
                self._items.append(item)
                self._changed.notify()
            else:
                self.dropped += 1
        return taken

    def finish(self, until: float) -> None:
        """Let it write what waits until then (time.monotonic()), and close; returns at once."""
        with self._changed:
            self._last_call = until
            self._changed.notify()

    def join(self, until: float) -> bool:
        """Wait for the end until then; False when it still hangs."""
        self._thread.join(max(0.0, until - time.monotonic()))
        return not self._thread.is_alive()

    def _next(self) -> _Item | None:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._last_call is not None)
            if self._last_call is not None and time.monotonic() > self._last_call:
                return None
            return self._items.popleft() if self._items else None

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            while (item := self._next()) is not None:
                self.written += self._write(item)
        except (SinkError, OSError) as error:
            failure = error
        except Exception as error:  # a defect of a sink ends its branch, and is told; the picture stays
            failure = SinkError(f"{self.name}: {type(error).__name__}: {error}")
        with self._changed:
            self.error = failure
            # The item in hand when it failed, and those that still wait.
            self.dropped += len(self._items) + (failure is not None)
            self._items.clear()
        try:
            self._close(failure)
        except (SinkError, OSError) as error:
            self.error = self.error or error


class Crew:
    """Threads that work together: when one fails, `failed` is called, and the error kept for the main thread."""

    def __init__(self, failed: Callable[[], None]) -> None:
        self._failed = failed
        self._threads: list[threading.Thread] = []
        self.error: BaseException | None = None

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Start a thread that does `work` once."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self.error = self.error or error
                self._failed()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self, until: float) -> list[str]:
        """Wait for all until then (time.monotonic()); the names of those that still run."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]
