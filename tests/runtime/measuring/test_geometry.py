"""Sizes of ellipses whose axes are known: turned, small, of pixels that are not square."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vivim_runtime.measuring import measured


def ellipse(
    long_mm: float, short_mm: float, degrees: float, pixel: tuple[float, float], size: int = 160
) -> tuple[np.ndarray, tuple[float, float]]:
    """A mask set where a pixel's centre lies within, and the centre in pixels, off the grid by a random share."""
    rng = np.random.default_rng([round(100 * long_mm), round(degrees)])
    centre = size / 2 + rng.uniform(-0.5, 0.5), size / 2 + rng.uniform(-0.5, 0.5)
    rows, columns = np.mgrid[:size, :size]
    x, y = (columns - centre[0]) * pixel[0], (rows - centre[1]) * pixel[1]
    angle = math.radians(degrees)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return (along / (long_mm / 2)) ** 2 + (across / (short_mm / 2)) ** 2 <= 1, centre


@pytest.mark.parametrize("pixel", [(0.1, 0.1), (0.2, 0.12), (0.08, 0.2)])
@pytest.mark.parametrize(("long_mm", "short_mm"), [(8.0, 5.0), (3.0, 2.0), (9.0, 3.0)])
def test_axes_of_turned_ellipses_are_found_within_the_bound(
    long_mm: float, short_mm: float, pixel: tuple[float, float]
) -> None:
    wrong_long, wrong_short, covered = [], [], []
    for degrees in range(0, 180, 7):
        mask, centre = ellipse(long_mm, short_mm, degrees, pixel)
        found = measured(mask, pixel)
        wrong_long.append(abs(found.longest.value - long_mm))
        wrong_short.append(abs(found.across.value - short_mm))
        covered.append(wrong_long[-1] <= found.longest.error and wrong_short[-1] <= found.across.error)
        area = math.pi / 4 * long_mm * short_mm
        assert abs(found.area.value - area) <= found.area.error
        # Pixels are set by their centres, so that their mean is the centre but for the grid's noise at the edge.
        assert math.dist(found.centroid, centre) <= 0.4  # of the longer side of a pixel, where they are 1 to 2.5
    # A tip that lies between two rows of pixels loses up to 0.75 of one, at either end; in the median far less.
    assert max(wrong_long) <= 1.5 * max(pixel) and max(wrong_short) <= max(pixel)
    assert float(np.median(wrong_long)) <= 0.5 * max(pixel) and float(np.median(wrong_short)) <= 0.5 * max(pixel)
    assert np.mean(covered) >= 0.95


def test_the_longest_diameter_is_that_in_millimetres() -> None:
    """Ten pixels of 0.1 mm across, five of 0.3 mm down: down is longer."""
    mask = np.zeros((20, 20), np.bool_)
    mask[5:10, 5:15] = True
    found = measured(mask, (0.1, 0.3))
    (x0, y0), (x1, y1) = found.ends
    assert abs(y1 - y0) >= 4 and found.longest.value > found.across.value
    # Between the outermost centres and the outermost corners: 0.9 to 1.0 mm across, 1.2 to 1.5 down.
    assert math.hypot(0.9, 1.2) <= found.longest.value <= math.hypot(1.0, 1.5)
    assert found.area.value == pytest.approx(50 * 0.03)
    assert math.isclose(math.hypot((x1 - x0) * 0.1, (y1 - y0) * 0.3), found.longest.value, rel_tol=1e-5)


def test_a_single_pixel_is_as_large_as_a_pixel_within_the_bound() -> None:
    mask = np.zeros((5, 5), np.bool_)
    mask[2, 3] = True
    found = measured(mask, (0.2, 0.2), corner=(10, 20))
    assert abs(found.longest.value - 0.2) <= found.longest.error and found.area.value == pytest.approx(0.04)
    assert found.centroid == (13.0, 22.0)


def test_bounds_grow_with_the_band_and_with_the_grain_of_the_network() -> None:
    mask, _ = ellipse(8.0, 5.0, 30, (0.1, 0.1))
    larger, _ = ellipse(9.0, 6.0, 30, (0.1, 0.1))
    smaller, _ = ellipse(7.5, 4.5, 30, (0.1, 0.1))
    plain, coarse = measured(mask, (0.1, 0.1)), measured(mask, (0.1, 0.1), grain=3.0)
    banded = measured(mask, (0.1, 0.1), smaller=smaller, larger=larger)
    assert plain.longest.error == pytest.approx(0.1) and coarse.longest.error == pytest.approx(0.3)
    # The wider of the two, 1 mm, and the grid's.
    assert 1.0 <= banded.longest.error <= 1.2
    assert banded.area.error > plain.area.error
    gone = measured(mask, (0.1, 0.1), smaller=np.zeros_like(mask))
    assert gone.longest.error >= gone.longest.value  # it may not be there at all
