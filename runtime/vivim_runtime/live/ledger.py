"""What became of every frame of a live run: counts that sum, and a line for each where a file was asked for."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vivim_runtime.sinks.ledger import JsonLines
from vivim_runtime.sources.base import Frame

__all__ = ["FATES", "LedgerFile", "LiveLedger"]

FATES = {
    "shown": "drawn, and given to the screens",
    "replaced": "a newer frame came before it could be drawn, or was inferred where slow masks are waited for",
    "paused": "came while the picture stood still",
    "damaged": "decoded from incomplete data; never shown, never inferred",
    "unseen": "waited when the run ended",
}
# A clip reaches back by far fewer frames than this.
_REMEMBERED = 4096


class LiveLedger:
    """Counts; safe to use from every thread.

    Every captured frame gets exactly one of FATES, so that at the end captured is their sum; before, some frames wait
    (in the mailbox, or being drawn). Those are counted by themselves: a frame that is lost or gets two fates shows in
    the sum. Beside that, a frame is either part of a clip that was inferred, or not.

    Args:
        write: takes the lines of the file; None without one.
    """

    def __init__(self, write: Callable[[Mapping[str, Any]], object] | None = None) -> None:
        self._lock = threading.Lock()
        self._captured = self._inferred = 0
        self._fates = dict.fromkeys(FATES, 0)
        self._waiting: set[int] = set()
        self._seen: set[int] = set()
        self._order: deque[int] = deque()
        self._write = write
        self._resets: Counter[str] = Counter()

    def captured(self, frame: Frame) -> None:
        """A frame came."""
        with self._lock:
            self._captured += 1
            self._waiting.add(frame.index)

    def fate(self, frame: Frame, what: str, **details: Any) -> None:
        """What became of a frame: one of FATES, and what else its line says."""
        with self._lock:
            self._fates[what] += 1
            self._waiting.discard(frame.index)
        if self._write:
            self._write({"index": frame.index, "time_s": round(frame.time, 6), "fate": what, **details})

    def inferred(self, frames: Iterable[Frame]) -> None:
        """The frames of a clip that was inferred; frames of overlapping clips count once."""
        with self._lock:
            for frame in frames:
                if frame.index not in self._seen:
                    self._inferred += 1
                    self._seen.add(frame.index)
                    self._order.append(frame.index)
            while len(self._order) > _REMEMBERED:
                self._seen.discard(self._order.popleft())

    def reset(self, frame: Frame, reason: str) -> None:
        """A streaming model forgot before this frame."""
        with self._lock:
            self._resets[reason] += 1
        if self._write:
            self._write({"index": frame.index, "time_s": round(frame.time, 6), "reset": reason})

    def resets(self) -> dict[str, int]:
        """How often a streaming model forgot, by reason."""
        with self._lock:
            return dict(self._resets)

    def counts(self) -> dict[str, int]:
        """captured = the sum of FATES + waiting."""
        with self._lock:
            return {"captured": self._captured, **self._fates, "waiting": len(self._waiting)}

    def inference(self) -> dict[str, int]:
        """captured = inferred + not_inferred."""
        with self._lock:
            return {"inferred": self._inferred, "not_inferred": self._captured - self._inferred}


class LedgerFile(JsonLines):
    """`X.jsonl` of a live run: `run`, a `frame` line for each captured frame with its fate, a `reset` line for each
    time that a streaming model forgot, `summary` with the counts.

    Args:
        totals: called at the end, for the summary.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], totals: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__(path, run)
        self._totals = totals

    def summary(self) -> Mapping[str, Any]:
        return self._totals()
