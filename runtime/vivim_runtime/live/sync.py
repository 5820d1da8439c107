"""Every picture with its own mask, late by one inference; when that is asked for; and a state that does not flicker."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from typing import Literal

from vivim_runtime.live.compositor import Captured

__all__ = ["Pairing", "SteadyState", "Sync", "SyncChoice"]

Sync = Literal["auto", "on", "off"]

# A mask that is older lies visibly beside what moves: in 0.25 s a lesion that breathing moves by 10 mm a second is 2.5
# mm on. Below the second number masks are drawn on the newest picture again.
_SYNC_FROM_S, _SYNC_UNTIL_S = 0.25, 0.15
# Neither the choice nor the state changes again before so many seconds have passed.
_STEADY_S = 10.0
# Pictures that wait for their masks; a model takes one of them at a time, and older ones are never shown.
_MOST_WAITING = 64


class SyncChoice:
    """Whether pictures wait for their masks: as asked for, or by what inference takes, changing at most every 10 s."""

    def __init__(self, asked: Sync) -> None:
        self._asked = asked
        self._recent: deque[float] = deque(maxlen=9)
        self._changed = float("-inf")
        self.on = asked == "on"

    def measured(self, seconds: float, now: float | None = None) -> None:
        """What one inference took. `now`: time.monotonic()."""
        now = time.monotonic() if now is None else now
        self._recent.append(seconds)
        if self._asked != "auto" or len(self._recent) < 3 or now - self._changed < _STEADY_S:
            return
        usual = statistics.median(self._recent)
        wanted = usual > (_SYNC_UNTIL_S if self.on else _SYNC_FROM_S)
        if wanted != self.on:
            self.on, self._changed = wanted, now


class Pairing:
    """Pictures that wait for their own masks; safe to use from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Captured] = deque()

    def add(self, captured: Captured) -> list[Captured]:
        """One more picture; gives those that have waited too long, to be shown without."""
        with self._lock:
            self._waiting.append(captured)
            return [self._waiting.popleft()] if len(self._waiting) > _MOST_WAITING else []

    def take(self, index: int) -> tuple[Captured | None, list[Captured]]:
        """The picture whose masks have come, and those before it, for which none will; None where it does not wait."""
        with self._lock:
            if all(captured.frame.index != index for captured in self._waiting):
                return None, []
            dropped = []
            while self._waiting[0].frame.index != index:
                dropped.append(self._waiting.popleft())
            return self._waiting.popleft(), dropped

    def flush(self) -> list[Captured]:
        """All of them, since no masks come."""
        with self._lock:
            everything = list(self._waiting)
            self._waiting.clear()
            return everything


class SteadyState:
    """LIVE or STALE, which never changes twice within ten seconds.

    Masks that are too old are hidden at once whatever this says, and the message says so.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Another state was told: no signal, say. The next one is as it comes."""
        self._stale: bool | None = None
        self._changed = float("-inf")

    def is_stale(self, hidden: bool, now: float) -> bool:
        """What to tell, where the newest masks are hidden or not at `now`, time.monotonic()."""
        if self._stale is None:
            self._stale = hidden
        if hidden != self._stale and now - self._changed >= _STEADY_S:
            self._stale, self._changed = hidden, now
        return self._stale
