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
_SLOW_FROM_S, _SLOW_UNTIL_S = 0.25, 0.15
# Shares of the interval between pictures. A picture that does not wait has the mask of the one before, an interval old;
# one that waits has its own, as old as it took to make: less, wherever masks come faster than pictures. It waits until
# the next picture comes at most, so that none is lost; those whose masks take longer are late for nothing. Below 0.7 of
# an interval masks may take half as long again as usual; above 0.9 many are late. Between the two lies more than a
# median of nine moves while nothing changes.
_QUICK_FROM, _QUICK_UNTIL = 0.7, 0.9
# Neither the choice nor the state changes again before so many seconds have passed.
_STEADY_S = 10.0
# Masks that are looked back on; a choice for slow ones is made after three.
_RECENT, _ENOUGH = 9, 3
# Pictures that wait for their masks; a model takes one of them at a time, and older ones are never shown.
_MOST_WAITING = 64


class SyncChoice:
    """Whether pictures wait for their masks: as asked for, or by what masks take, changing at most every 10 s.

    Attributes:
        on: whether they do.
        quick: that they do since it costs nothing: a picture gets its mask before the next one comes, or is shown
            then without. It is the newest picture all the same, and nobody need be told that it waits.
    """

    def __init__(self, asked: Sync) -> None:
        self._asked = asked
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._changed = float("-inf")
        self.on, self.quick = asked == "on", False

    @property
    def is_slow(self) -> bool:
        """Whether pictures wait so that people have to be told: it was asked for, or masks are slow."""
        return self.on and not self.quick

    @property
    def patience_s(self) -> float:
        """How long a call of the session may take until pictures go on without: where nobody is told that they wait,
        no longer than a mask may be old without that."""
        return _SLOW_FROM_S if self.quick else float("inf")

    def measured(self, seconds: float, interval: float, every: bool, now: float | None = None) -> None:
        """What the masks of one picture took.

        Args:
            interval: seconds from one picture to the next.
            every: whether each picture gets masks of its own, as far as is known: with a longer hop most do not.
            now: time.monotonic().
        """
        now = time.monotonic() if now is None else now
        self._recent.append(seconds)
        if self._asked != "auto" or len(self._recent) < _ENOUGH or now - self._changed < _STEADY_S:
            return
        usual = statistics.median(self._recent)
        slow = usual > (_SLOW_UNTIL_S if self.is_slow else _SLOW_FROM_S)
        share = _QUICK_UNTIL if self.quick else _QUICK_FROM
        quick = not slow and every and len(self._recent) == _RECENT and usual < share * interval
        if (slow or quick, quick) != (self.on, self.quick):
            self.on, self.quick, self._changed = slow or quick, quick, now


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
