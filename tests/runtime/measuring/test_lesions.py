"""Lesions keep their number from frame to frame."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vivim_runtime.measuring import Curves, LesionFinder, Scales, parse_mm_per_pixel
from vivim_runtime.measuring.lesions import assignment

SIZE = (96, 128)


def frame(*discs: tuple[float, float, float]) -> np.ndarray:
    """Logits (1, H, W) that are 0 at the edges of discs (x, y, radius), one more for each pixel inside."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.max([r - np.hypot(columns - x, rows - y) for x, y, r in discs], axis=0)[None].astype(np.float32)


def found(finder: LesionFinder, time: float, *discs: tuple[float, float, float]) -> list[tuple[int, int]]:
    """(number, column of the centroid) of each lesion."""
    logits = frame(*discs) if discs else np.full((1, *SIZE), -9, np.float32)
    lesions = finder.find(logits > 0, logits, time, 0.0)
    return sorted((lesion.number, round(lesion.in_pixels.centroid[0])) for lesion in lesions)


def test_lesions_that_move_keep_their_numbers_even_where_they_change_order() -> None:
    finder = LesionFinder(Scales())
    for step in range(10):  # the smaller one grows past the other, and both move
        result = found(finder, step / 25, (30 + step, 40, 14), (90 - step, 50, 10 + step))
        assert result == [(1, 30 + step), (2, 90 - step)]


def test_a_lesion_that_is_gone_for_a_moment_comes_back_with_its_number() -> None:
    finder = LesionFinder(Scales())
    assert found(finder, 0.0, (40, 40, 12)) == [(1, 40)]
    assert found(finder, 0.04) == []
    assert found(finder, 0.4, (42, 40, 12)) == [(1, 42)]
    assert found(finder, 1.2, (42, 40, 12)) == [(2, 42)]  # after half a second, nobody knows
    assert found(finder, 1.24, (42, 40, 12), (100, 40, 8)) == [(2, 42), (3, 100)]


def test_specks_are_no_lesions_and_stay_in_the_mask() -> None:
    finder = LesionFinder(Scales())
    logits = np.full((1, *SIZE), -9, np.float32)
    logits[0, 10:12, 10:14] = 3
    mask = logits > 0
    assert finder.find(mask, logits, 0.0, 0.0) == () and mask.sum() == 8
    assert len(finder.find(mask, logits, 0.0, 0.0, grain=0.5)) == 1


def test_measures_come_with_the_scale_of_the_place() -> None:
    finder = LesionFinder(parse_mm_per_pixel("0.5"))
    (lesion,) = finder.find(frame((40, 40, 12)) > 0, frame((40, 40, 12)), 0.0, 0.0)
    assert lesion.measures is not None
    assert abs(lesion.measures.longest.value - 12.0) <= lesion.measures.longest.error
    # One logit is one pixel here: the band of six logits moves each end by six pixels, the grid by half a one.
    assert lesion.measures.longest.error == pytest.approx(0.5 * (2 * 6 + 1), abs=0.5 * 0.75)
    record = lesion.record()
    assert record["lesion"] == 1 and record["longest_mm"][0] == round(lesion.measures.longest.value, 3)  # type: ignore[index]
    (plain,) = LesionFinder(Scales()).find(frame((40, 40, 12)) > 0, frame((40, 40, 12)), 0.0, 0.0)
    assert plain.measures is None and "longest_mm" not in plain.record()


def test_area_over_time_is_a_curve_for_each_lesion() -> None:
    finder, curves = LesionFinder(parse_mm_per_pixel("0.5")), Curves()
    for step in range(3):
        logits = frame((30, 40, 10 + step), *([(90, 50, 9)] if step else []))
        curves.add(step / 25, finder.find(logits > 0, logits, step / 25, 0.0))
    first, second = curves.record()
    assert first["time_s"] == [0.0, 0.04, 0.08] and second["time_s"] == [0.04, 0.08]
    assert first["area_px"] == sorted(first["area_px"]) and len(first["area_mm2"]) == 3
    assert first["area_mm2"][0][0] == pytest.approx(first["area_px"][0] * 0.25)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 2), (4, 4), (5, 3)])
def test_the_assignment_is_the_best_of_all(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    for _ in range(20):
        gains = np.round(rng.random(shape) * (rng.random(shape) > 0.4), 3)
        pairs = assignment(gains)
        rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
        assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
        wide = gains if shape[0] <= shape[1] else gains.T
        best = max(
            sum(wide[row, column] for row, column in enumerate(order))
            for order in itertools.permutations(range(wide.shape[1]), wide.shape[0])
        )
        assert sum(gains[pair] for pair in pairs) == pytest.approx(best)
