"""Means over frames and over videos, and intervals: against computing by hand and against what they promise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from vivim_runtime.judging import metrics
from vivim_runtime.judging.figures import FIGURES, Bootstrap, Estimate, Figure, Units, difference, estimate
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


def test_the_interval_of_two_videos_reaches_from_one_to_the_other() -> None:
    # Either is drawn twice in a quarter of the draws, far more than the 2.5 % that are left out.
    both = estimate(DICE, videos(tally("dice", 0.2), tally("dice", 0.9)), "all", BOOTSTRAP)
    assert (both.value, both.low, both.high) == pytest.approx((0.55, 0.2, 0.9))


def test_the_interval_leaves_out_the_outer_twentieth_of_the_draws() -> None:
    # The one video with 1 is drawn 3 times of 5 or more in 5.8 % of the draws, 4 times or more in 0.7 %, never in 33 %.
    found = estimate(DICE, videos(*(tally("dice", d) for d in (0.0, 0.0, 1.0, 0.0, 0.0))), "all", BOOTSTRAP)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0, 0.6))


def test_every_figure_is_computed_anew_for_each_draw() -> None:
    rising, falling = np.linspace(0, 1, 256), np.linspace(1, 0, 256)
    found = estimate(MAX_DICE, videos(tally("toolbox_dice", rising), tally("toolbox_dice", falling)), "all", BOOTSTRAP)
    # One video drawn twice has a maximum of 1, both together have 0.5.
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 1.0))


def test_one_video_or_no_draws_give_no_interval() -> None:
    assert estimate(DICE, videos(tally("dice", 0.2, 0.9)), "all", BOOTSTRAP) == Estimate(0.55, None, None)
    two = videos(tally("dice", 0.25), tally("dice", 0.75))
    assert estimate(DICE, two, "all", Bootstrap(0)) == Estimate(0.5, None, None)


def test_a_draw_in_which_nothing_counts_is_left_out() -> None:
    units = videos(tally("mae", 0.25), tally("dice", 1.0), tally("dice", 1.0))
    assert estimate(MAE, units, "all", BOOTSTRAP) == Estimate(0.25, 0.25, 0.25)


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
