from __future__ import annotations

import numpy as np
import pytest

from vivim_calibration.histogram import BINS, LEVELS, METHODS, Histogram, range_of


def filled(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part.astype(np.float32))
    return histogram


def rounding_error(values: np.ndarray, reach: float) -> float:
    """Mean square error of the numbers themselves, not of a histogram."""
    scale = reach / LEVELS
    return float(np.mean((np.clip(np.round(values / scale), -LEVELS, LEVELS) * scale - values) ** 2))


NORMAL = np.random.default_rng(0).normal(size=200_000)
# One value lies 30 deviations out: what an outlier does to a scale that the whole tensor shares.
HEAVY = np.append(NORMAL, 30.0)


def test_order_of_the_clips_does_not_matter() -> None:
    parts = [NORMAL[:1000] * scale for scale in (0.01, 1.0, 37.0)]
    one, other = filled(*parts), filled(*reversed(parts))
    assert one.limit == other.limit
    np.testing.assert_array_equal(one.counts, other.counts)


def test_every_value_is_counted_in_its_bin() -> None:
    histogram = filled(NORMAL)
    edges = np.arange(BINS + 1) * histogram.limit / BINS
    expected, _ = np.histogram(np.abs(NORMAL.astype(np.float32)), edges)
    np.testing.assert_array_equal(histogram.counts, expected)


def test_memory_does_not_grow_with_the_numbers() -> None:
    histogram = Histogram()
    sizes = set()
    for step in range(50):
        histogram.add((NORMAL[:1000] * 2.0**step).astype(np.float32))
        sizes.add(histogram.counts.nbytes)
    assert len(sizes) == 1 and histogram.counts.sum() == 50_000


def test_minmax_covers_everything() -> None:
    assert range_of(filled(-HEAVY), "minmax") == 30.0


def test_percentile_leaves_out_one_value_in_ten_thousand() -> None:
    # The 99.99 % quantile of |x|, and a bin more at most, since the range ends at the upper edge of its bin.
    histogram = filled(HEAVY)
    quantile = np.quantile(np.abs(HEAVY), 0.9999)
    assert quantile <= range_of(histogram, "percentile") <= quantile + 2 * histogram.limit / BINS


def test_mse_is_the_best_range_for_the_numbers_themselves() -> None:
    # Of one value clipped from 30 and the others rounded finer, worked out by hand: half of what 30 costs.
    # 1 %: the histogram has 16 bins or more a level, so that what it says of an error is right to (1/16)^2 of it.
    tried = [rounding_error(HEAVY, 30.0 * share) for share in np.linspace(1 / 8, 1, 113)]
    assert rounding_error(HEAVY, range_of(filled(HEAVY), "mse")) <= 1.01 * min(tried)
    assert rounding_error(HEAVY, range_of(filled(HEAVY), "mse")) < 0.6 * rounding_error(HEAVY, 30.0)


def test_entropy_cuts_off_a_few_values_far_out() -> None:
    assert 3.0 < range_of(filled(HEAVY), "entropy") < 15.0


@pytest.mark.parametrize("method", METHODS)
def test_ranges_scale_with_the_numbers(method: str) -> None:
    # Exact for a power of two, which the bins are scaled by.
    assert range_of(filled(8 * HEAVY), method) == pytest.approx(8 * range_of(filled(HEAVY), method), rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [np.zeros(10), np.full(10, 3.0), np.array([1e-38, 1.0, 3e38])])
def test_strange_tensors_have_a_range(method: str, values: np.ndarray) -> None:
    histogram = filled(values)
    assert 0.0 <= range_of(histogram, method) <= histogram.largest
    assert (range_of(histogram, method) == 0.0) == (not values.any())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        filled(np.array([1.0, bad]))
