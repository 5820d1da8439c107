"""How far a tensor's values reach, in memory that does not grow, and the range that INT8 should cover of it.

Only magnitudes count, since the quantisation is symmetric: q = round(x / s) in [-127, 127], s = range / 127. They are
counted in BINS bins over [0, 2^k); when a larger one arrives, k grows and neighbouring bins are added up. So the bins
depend on the largest value alone, never on the order of the clips, and no second pass over them is needed.

    minmax       the largest magnitude
    percentile   covers a share of the values (99.99 %)
    entropy      least Kullback-Leibler divergence between the histogram cut off at the range and the same in 128 levels
                 (Migacz, "8-bit inference with TensorRT", GTC 2017)
    mse          least mean square of what rounding and clipping change
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "LEVELS", "METHODS", "Histogram", "range_of"]

# 16 to 32 bins a level of int8: rounding within a bin is far below rounding to a level.
BINS = 4096
LEVELS = 127
_PERCENTILE = 0.9999
# Ranges that entropy and mse try: from 1/8 of the largest magnitude to all of it.
_CANDIDATES = 113
# Numbers that are counted at once: keeps the scratch memory to tens of megabytes.
_BLOCK = 1 << 22

# Bins of a smaller range would leave float32; whatever lies below is as good as zero.
_LOWEST_EXPONENT = -96

Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


class Histogram:
    """Magnitudes of a stream of numbers.

    Attributes:
        counts: (BINS,) how many lie in each bin of [0, limit).
        limit: a power of two, above every magnitude; 0 before the first one that is not zero.
        largest: the largest magnitude.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS, np.int64)
        self.limit = 0.0
        self.largest = 0.0

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Count more values.

        Raises:
            ValueError: one of them is not finite.
        """
        flat = values.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            self._add(np.abs(flat[start : start + _BLOCK]))

    def _add(self, magnitudes: npt.NDArray[np.float32]) -> None:
        largest = float(magnitudes.max())  # NaN where there is one
        if not math.isfinite(largest):
            raise ValueError("a value that is not finite")
        self.largest = max(self.largest, largest)
        self._reach(largest)
        if self.limit == 0.0:
            self.counts[0] += magnitudes.size
            return
        bins = (magnitudes * np.float32(BINS / self.limit)).astype(np.int32)  # exact: a power of two
        self.counts += np.bincount(bins, minlength=BINS)

    def _reach(self, largest: float) -> None:
        if largest == 0.0 or largest < self.limit:
            return
        limit = math.ldexp(1.0, max(math.frexp(largest)[1], _LOWEST_EXPONENT))  # the power of two above it
        if self.limit:
            factor = min(round(limit / self.limit), BINS)
            merged = self.counts.reshape(-1, factor).sum(axis=1)
            self.counts = np.concatenate((merged, np.zeros(BINS - merged.size, np.int64)))
        self.limit = limit

    @property
    def centres(self) -> Numbers:
        """(BINS,) magnitudes in the middle of the bins."""
        return (np.arange(BINS, dtype=np.float64) + 0.5) * np.float64(self.limit / BINS)


def range_of(histogram: Histogram, method: str) -> float:
    """The range that a method covers, at most the largest magnitude; 0 for a tensor that is always zero."""
    return METHODS[method](histogram) if histogram.largest > 0 else 0.0


def _minmax(histogram: Histogram) -> float:
    return histogram.largest


def _percentile(histogram: Histogram) -> float:
    covered = np.cumsum(histogram.counts)
    position = int(np.searchsorted(covered, _PERCENTILE * covered[-1]))
    return min((position + 1) * histogram.limit / BINS, histogram.largest)


def _candidates(histogram: Histogram) -> Numbers:
    return histogram.largest * np.linspace(1 / 8, 1.0, _CANDIDATES)


def _mse(histogram: Histogram) -> float:
    used = np.flatnonzero(histogram.counts)
    centres, counts = histogram.centres[used], histogram.counts[used]
    candidates = _candidates(histogram)
    scales = candidates[:, None] / LEVELS
    errors = np.minimum(np.round(centres / scales), LEVELS) * scales - centres  # (candidates, bins)
    return float(candidates[np.argmin((errors**2 * counts).sum(axis=1))])


def _entropy(histogram: Histogram) -> float:
    candidates = _candidates(histogram)
    return float(candidates[np.argmin([_divergence(histogram, value) for value in candidates])])


def _divergence(histogram: Histogram, value: float) -> float:
    """Of the magnitudes clipped at `value` from the same spread evenly over the bins that each level holds."""
    end = max(LEVELS + 1, math.ceil(value / histogram.limit * BINS))
    kept = histogram.counts[:end].astype(np.float64)
    # Exact zeros are exact in int8 too and would otherwise hide the rest (ReLU, padding).
    kept[0] = kept[1]
    clipped = kept.copy()
    clipped[-1] += histogram.counts[end:].sum()
    level = np.arange(end) * (LEVELS + 1) // end
    occupied = kept > 0
    sums = np.bincount(level, weights=kept, minlength=LEVELS + 1)
    members = np.bincount(level, weights=occupied, minlength=LEVELS + 1)
    spread = np.where(occupied, sums[level] / np.maximum(members[level], 1), 0.0)
    if not clipped.sum() or not spread.sum():
        return math.inf
    p, q = clipped / clipped.sum(), spread / spread.sum()
    # A clipped value where int8 has none: what makes a small range expensive.
    both = p > 0
    return float(np.sum(p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))))


METHODS: dict[str, Callable[[Histogram], float]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
