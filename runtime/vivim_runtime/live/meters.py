"""Durations and rates: of the last seconds for the screens, and of a whole run in constant memory."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping

import numpy as np

__all__ = ["Durations", "Recent"]

_PERCENTS = {"p50": 50.0, "p95": 95.0, "p99": 99.0}


class Durations:
    """Quantiles of any number of durations in milliseconds, to 2 %, in constant memory: counts in bins of 2 %."""

    _LOWEST_MS, _BINS_PER_E = 0.001, 50
    _BINS = 1 + math.ceil(math.log(1e9) * _BINS_PER_E)  # up to 1e6 ms

    def __init__(self) -> None:
        self._counts = np.zeros(self._BINS, np.int64)
        self._most = 0.0
        self._lock = threading.Lock()

    def add(self, milliseconds: float) -> None:
        """One more duration."""
        ratio = max(milliseconds, self._LOWEST_MS) / self._LOWEST_MS
        with self._lock:
            self._counts[min(self._BINS - 1, int(math.log(ratio) * self._BINS_PER_E))] += 1
            self._most = max(self._most, milliseconds)

    def quantiles(self) -> dict[str, float]:
        """p50, p95, p99 and max in milliseconds; empty without durations."""
        with self._lock:
            cumulated = np.cumsum(self._counts)
            most = self._most
        total = int(cumulated[-1])
        if not total:
            return {}
        bins = {key: int(np.searchsorted(cumulated, math.ceil(total * p / 100))) for key, p in _PERCENTS.items()}
        middles = {key: self._LOWEST_MS * math.exp((index + 0.5) / self._BINS_PER_E) for key, index in bins.items()}
        return {**{key: round(min(value, most), 3) for key, value in middles.items()}, "max": round(most, 3)}


class Recent:
    """Durations, or just events, of the last seconds."""

    def __init__(self, seconds: float = 5.0, at_most: int = 1024) -> None:
        self._seconds = seconds
        self._items: deque[tuple[float, float]] = deque(maxlen=at_most)
        self._lock = threading.Lock()

    def add(self, milliseconds: float = 0.0) -> None:
        """An event now, with its duration."""
        with self._lock:
            self._items.append((time.monotonic(), milliseconds))

    def _fresh(self) -> list[tuple[float, float]]:
        since = time.monotonic() - self._seconds
        with self._lock:
            while self._items and self._items[0][0] < since:
                self._items.popleft()
            return list(self._items)

    def rate(self) -> float:
        """Events a second."""
        times = [time for time, _ in self._fresh()]
        if len(times) < 2 or times[-1] == times[0]:
            return 0.0
        # Up to now, so that the rate falls as soon as events stay away.
        interval = (times[-1] - times[0]) / (len(times) - 1)
        return (len(times) - 1) / max(times[-1] - times[0], time.monotonic() - times[0] - interval)

    def quantiles(self) -> Mapping[str, float]:
        """p50, p95, p99 and max of the durations; empty without any."""
        values = [value for _, value in self._fresh()]
        if not values:
            return {}
        p50, p95, p99, most = np.percentile(values, (50, 95, 99, 100)).tolist()
        return {"p50": p50, "p95": p95, "p99": p99, "max": most}
