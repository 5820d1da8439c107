"""Means over frames and over videos, and intervals: against computing by hand and against what they promise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from vivim_runtime.judging import metrics
from vivim_runtime.judging.figures import (
    FIGURES,
    Bootstrap,
    Estimate,
    Figure,
    Units,
    difference,
    estimate,
    interval,
    mean_estimate,
    student,
)
from vivim_runtime.judging.frames import WIDTH, FrameJudge, columns
from vivim_runtime.judging.metrics import Masks
from vivim_runtime.judging.tally import Tally

BY_KEY = {figure.key: figure for figure in FIGURES}
DICE, MAX_DICE, E_MEAN, MAE, FLICKER = (BY_KEY[k] for k in ("dice", "max_dice", "e_mean", "mae", "flicker"))
BOOTSTRAP = Bootstrap(2000, seed=1)


def tally(name: str, *values: float | np.ndarray, lesion: bool = True) -> Tally:
    """A video of so many frames, of which one figure is known."""
    made = Tally()
    for value in values:
        row = np.full(WIDTH, np.nan)
        row[columns(name)] = value
        made.add(row, lesion)
    return made


def videos(*tallies: Tally) -> Units:
    return Units(tallies, stretches=False)


def value(figure: Figure, units: Units, subset: str = "all") -> float | None:
    return estimate(figure, units, subset, BOOTSTRAP).value


def test_keys_are_all_different() -> None:
    assert len(BY_KEY) == len(FIGURES)


def test_table_one_weighs_frames_alike_and_table_two_videos() -> None:
    assert value(DICE, videos(tally("dice", 1.0, 1.0, 1.0), tally("dice", 0.0))) == pytest.approx(0.75)
    assert value(MAE, videos(tally("mae", 1.0, 1.0, 1.0), tally("mae", 0.0))) == pytest.approx(0.5)


def test_a_maximum_is_taken_over_the_mean_of_all_videos() -> None:
    rising, falling = np.linspace(0, 1, 256), np.linspace(1, 0, 256)
    both = videos(tally("toolbox_dice", rising), tally("toolbox_dice", falling))
    assert value(MAX_DICE, both) == pytest.approx(0.5)  # the best thresholds of either would give 1
    assert value(MAX_DICE, videos(tally("toolbox_dice", rising, falling))) == pytest.approx(0.5)
    assert value(MAX_DICE, videos(tally("toolbox_dice", rising))) == pytest.approx(1.0)
    assert value(E_MEAN, videos(tally("toolbox_e", rising))) == pytest.approx(0.5)
    assert value(BY_KEY["e_max"], videos(tally("toolbox_e", rising))) == pytest.approx(1.0)


def test_a_video_without_frames_that_count_is_left_out() -> None:
    units = videos(tally("mae", 0.2), tally("mae", np.nan), tally("dice", 1.0))
    assert value(MAE, units) == pytest.approx(0.2)
    assert value(BY_KEY["recall"], units) is None
    assert estimate(BY_KEY["recall"], units, "all", BOOTSTRAP) == Estimate(None, None, None)


def test_frames_without_a_lesion_are_left_out_of_their_subset() -> None:
    units = videos(tally("dice", 0.5), tally("dice", 1.0, lesion=False))
    assert value(DICE, units) == 0.75 and value(DICE, units, "lesion") == 0.5


def test_flicker_is_the_mean_of_the_videos_that_have_a_lesion() -> None:
    rng = np.random.default_rng(2)
    sequences = [(rng.random((4, 8, 9)) > 0.6, rng.random((4, 8, 9)) > 0.5) for _ in range(2)]
    sequences.append((rng.random((4, 8, 9)) > 0.6, np.zeros((4, 8, 9), bool)))

    def of(masks: Masks, truth: Masks) -> Tally:
        made, judge = Tally(), FrameJudge(len(masks), 0.0)
        for mask, true in zip(masks, truth, strict=True):
            made.add(judge.row(np.where(mask, 5, -5).astype(np.float32), true), bool(true.any()))
        return made

    units = videos(*(of(*pair) for pair in sequences))
    expected = np.mean([metrics.flicker(masks, truth) for masks, truth in sequences[:2]])
    assert value(FLICKER, units) == pytest.approx(expected, rel=1e-12)
    alone = Units([of(*sequences[0])], stretches=True)
    assert value(FLICKER, alone) == pytest.approx(metrics.flicker(*sequences[0]), rel=1e-12)
    assert value(FLICKER, videos(of(*sequences[2]))) is None


def test_videos_are_drawn_whole_so_more_frames_of_them_prove_no_more() -> None:
    few = videos(*(tally("dice", d) for d in np.linspace(0, 1, 8)))
    many = videos(*(tally("dice", *[d] * 50) for d in np.linspace(0, 1, 8)))
    a, b = (estimate(DICE, units, "all", BOOTSTRAP) for units in (few, many))
    assert (a.low, a.high) == pytest.approx((b.low, b.high))
    assert a.low is not None and a.high is not None and a.high - a.low > 0.3  # the deviation of 8 values is 0.33


def test_the_value_of_student_is_that_of_the_tables() -> None:
    # Printed in every textbook to three digits; the last is nearly the normal distribution's 1.960.
    for freedom, expected in ((1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042), (100_000, 1.960)):
        assert student(freedom) == pytest.approx(expected, abs=6e-4)


def test_an_interval_is_students_with_the_standard_error_of_the_draws() -> None:
    of_each = np.array([5.0, 7.0, 6.0, 9.0, 8.0])
    units = videos(*(tally("hd95", d) for d in of_each))
    found = estimate(BY_KEY["hd95"], units, "all", BOOTSTRAP)
    error = of_each.std(ddof=1) / np.sqrt(5)  # 0.71
    factor = np.exp(2.776 * error / 7.0)
    # The standard deviation of 2000 draws is good to 1 / sqrt(4000) = 1.6 %, of a reach of 2: 0.03 px; four of these.
    assert (found.value, found.low, found.high) == pytest.approx((7.0, 7 / factor, 7 * factor), abs=0.13)


def test_the_mean_of_values_has_the_interval_of_its_standard_error() -> None:
    # 5, 7, 6, 9, 8: mean 7, standard error sqrt(2.5 / 5) = 0.7071, t of 4 degrees of freedom 2.7764.
    found = mean_estimate([5.0, 7.0, np.nan, 6.0, 9.0, 8.0])
    assert (found.value, found.low, found.high) == pytest.approx((7.0, 7.0 - 1.9632, 7.0 + 1.9632), abs=1e-3)
    assert mean_estimate([3.0, np.nan]) == Estimate(3.0, None, None)
    assert mean_estimate([np.nan]) == mean_estimate([]) == Estimate(None, None, None)


def test_intervals_stay_within_what_is_possible() -> None:
    few = estimate(DICE, videos(tally("dice", 0.2), tally("dice", 0.9)), "all", BOOTSTRAP)
    assert few.low is not None and few.high is not None and 0 < few.low < 0.2 < 0.9 < few.high < 1
    assert interval(0.5, 0.0, 4, "share") == pytest.approx((0.5, 0.5))
    assert interval(1.0, 0.1, 4, "share") == (1.0, 1.0) and interval(0.0, 0.0, 4, "length") == (0.0, 0.0)
    assert interval(0.5, 9.0, 1, "share") == pytest.approx((0.0, 1.0), abs=1e-9)
    low, high = interval(-0.2, 0.1, 4, "difference")
    assert (low, high) == pytest.approx((-0.2 - 0.2776, -0.2 + 0.2776), abs=1e-4)


@pytest.mark.parametrize("count", [5, 6, 10])
def test_intervals_of_few_videos_cover_what_they_say(count: int) -> None:
    rng, truth, hits = np.random.default_rng(count), 20 / 23, 0
    for _ in range(300):
        units = videos(*(tally("dice", d) for d in rng.beta(20, 3, count)))
        found = estimate(DICE, units, "all", Bootstrap(200, seed=1))
        hits += found.low is not None and found.high is not None and found.low <= truth <= found.high
    # 95 % of 300 is 285, with a deviation of 3.8; four of these. Percentiles of the draws cover 82 to 90 %: 246 to 270.
    assert hits >= 270


def test_every_figure_is_computed_anew_for_each_draw() -> None:
    rising, falling = np.linspace(0, 1, 256), np.linspace(1, 0, 256)
    one_way = estimate(MAX_DICE, videos(tally("toolbox_dice", rising), tally("toolbox_dice", rising)), "all", BOOTSTRAP)
    both = estimate(MAX_DICE, videos(tally("toolbox_dice", rising), tally("toolbox_dice", falling)), "all", BOOTSTRAP)
    # One video drawn twice has a maximum of 1, both together have 0.5; of two like videos all draws are the same.
    assert one_way == Estimate(1.0, 1.0, 1.0)
    assert both.value == pytest.approx(0.5) and both.low is not None and both.low < 0.01


def test_one_video_or_no_draws_give_no_interval() -> None:
    assert estimate(DICE, videos(tally("dice", 0.2, 0.9)), "all", BOOTSTRAP) == Estimate(0.55, None, None)
    two = videos(tally("dice", 0.25), tally("dice", 0.75))
    assert estimate(DICE, two, "all", Bootstrap(0)) == Estimate(0.5, None, None)


def test_a_draw_in_which_nothing_counts_is_left_out_and_so_is_a_video() -> None:
    units = videos(tally("mae", 0.25), tally("dice", 1.0), tally("dice", 1.0))
    assert estimate(MAE, units, "all", BOOTSTRAP) == Estimate(0.25, None, None)  # one video says nothing of others
    two, four = (
        estimate(MAE, videos(*(tally("mae", d) for d in (0.25, 0.35)), *(tally("dice", 1.0),) * idle), "all", BOOTSTRAP)
        for idle in (0, 2)
    )
    # Both have one degree of freedom; the draws of four hold fewer of the two, and never fewer than one.
    assert two.low is not None and four.low is not None and four.low < 0.05 and two.low < 0.05


def test_intervals_come_from_the_seed() -> None:
    units = videos(*(tally("dice", d) for d in np.random.default_rng(0).random(12)))
    one, again, other = (estimate(DICE, units, "all", Bootstrap(200, seed)) for seed in (3, 3, 4))
    assert one == again and one.value == other.value and one.low != other.low


def test_stretches_of_a_video_are_weighed_by_their_frames() -> None:
    stretches: Sequence[Tally] = [tally("mae", 1.0, 1.0, 1.0), tally("mae", 0.0)]
    assert value(MAE, Units(stretches, stretches=True)) == pytest.approx(0.75)


def test_a_difference_is_taken_on_the_same_videos() -> None:
    rng = np.random.default_rng(5)
    of_a = rng.random(20)
    a = videos(*(tally("dice", d) for d in of_a))
    b = videos(*(tally("dice", d + 0.01) for d in of_a))
    alone, found = estimate(DICE, a, "all", BOOTSTRAP), difference(DICE, a, b, "all", BOOTSTRAP)
    assert alone.low is not None and alone.high is not None and alone.high - alone.low > 0.1
    assert (found.value, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01), abs=1e-12)


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    rng, held, rounds = np.random.default_rng(6), 0, 300
    for seed in range(rounds):
        # Two frames that are alike in each of 30 videos.
        means = rng.normal(0.5, 0.1, 30)
        units = videos(*(tally("dice", m, m) for m in means))
        found = estimate(DICE, units, "all", Bootstrap(300, seed))
        assert found.low is not None and found.high is not None
        held += found.low <= 0.5 <= found.high
    # Percentile intervals of 30 values hold it in some 93 of 100 cases; the deviation of the count is 1.5 %. Frames
    # drawn as if they were independent would give 84 %.
    assert 0.89 < held / rounds < 0.98
