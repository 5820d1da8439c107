"""Pictures that wait for their masks, the choice whether they do, and a state that does not flicker."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vivim_runtime.live.compositor import Captured
from vivim_runtime.live.sync import Pairing, SteadyState, Sync, SyncChoice
from vivim_runtime.sources.base import Frame


def captured(index: int) -> Captured:
    return Captured(Frame(index, index / 25, np.zeros((2, 2, 3), np.uint8)), 0.0)


def test_a_picture_comes_with_its_own_mask_and_those_before_it_are_dropped() -> None:
    pairing = Pairing()
    for index in range(4):
        assert pairing.add(captured(index)) == []
    own, dropped = pairing.take(2)
    assert own is not None and own.frame.index == 2 and [c.frame.index for c in dropped] == [0, 1]
    assert pairing.take(1) == (None, [])  # gone, and what waits stays
    assert [c.frame.index for c in pairing.flush()] == [3]
    assert pairing.flush() == []


def test_pictures_do_not_pile_up() -> None:
    pairing = Pairing()
    late = [c for index in range(70) for c in pairing.add(captured(index))]
    assert [c.frame.index for c in late] == list(range(6))


@pytest.mark.parametrize(("asked", "on"), [("on", True), ("off", False)])
def test_what_is_asked_for_stays(asked: Sync, on: bool) -> None:
    choice = SyncChoice(asked)
    for second in range(60):
        choice.measured(0.001 if on else 9.0, 0.04, True, float(second))
        assert (choice.on, choice.quick) == (on, False)


WAITS, QUICK, NOT = (True, False), (True, True), (False, False)


@pytest.mark.parametrize(
    ("seconds", "interval", "every", "expected"),
    [
        (0.021, 1 / 25, True, QUICK),  # tiny-stream on one core
        (0.021, 1 / 30, True, QUICK),
        (0.021, 1 / 60, True, NOT),  # pictures would be lost
        (0.004, 1 / 25, True, QUICK),  # clips on a GPU: each picture ends one
        (0.004, 1 / 25, False, NOT),  # with a longer hop most pictures have no mask of their own
        (0.027, 1 / 25, True, QUICK),
        (0.029, 1 / 25, True, NOT),  # less than an interval, and too near to it
        (0.1, 1 / 25, True, NOT),
        (0.1, 1 / 5, True, QUICK),  # a camera in the dark
        (0.24, 1 / 25, True, NOT),
        (0.26, 1 / 25, True, WAITS),
        (0.26, 1 / 25, False, WAITS),
        (0.26, 1.0, True, WAITS),  # no picture is lost, but it is to be told how late they are
    ],
)
def test_auto_waits_where_it_costs_nothing_and_where_masks_would_be_old(
    seconds: float, interval: float, every: bool, expected: tuple[bool, bool]
) -> None:
    choice = SyncChoice("auto")
    for number in range(9):
        assert not choice.quick  # nine masks are looked at
        choice.measured(seconds, interval, every, number / 25)
    assert (choice.on, choice.quick) == expected
    assert (choice.patience_s < 1.0) is (expected is QUICK)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0.020, 0.035, QUICK),  # 88 % of an interval
        (0.020, 0.037, NOT),
        (0.020, 0.2, NOT),  # from slow masks it would stay
        (0.020, 0.3, WAITS),
        (0.3, 0.2, WAITS),
        (0.3, 0.1, NOT),
        (0.3, 0.02, QUICK),
        (0.1, 0.035, NOT),
        (0.1, 0.2, NOT),
    ],
)
def test_auto_changes_later_one_way_than_the_other(before: float, after: float, expected: tuple[bool, bool]) -> None:
    choice = SyncChoice("auto")
    for number in range(600):
        choice.measured(before if number < 300 else after, 1 / 25, True, number / 10)
    assert (choice.on, choice.quick) == expected


@pytest.mark.parametrize("usual", [(0.4, 0.2, 0.05), (0.02, 0.032, 0.06), (0.01, 0.3, 0.02)])
def test_auto_never_changes_twice_in_ten_seconds(usual: tuple[float, float, float]) -> None:
    choice, changes = SyncChoice("auto"), []
    rng = np.random.default_rng(0)
    for tick in range(3600):
        now = tick / 25
        before = choice.on, choice.quick
        choice.measured(usual[tick // 1200] * rng.uniform(0.5, 1.5), 1 / 25, True, now)
        if (choice.on, choice.quick) != before:
            changes.append(now)
    assert changes and changes[0] < 1.0
    assert all(b - a >= 10.0 for a, b in itertools.pairwise(changes))


def test_state_never_changes_twice_in_ten_seconds() -> None:
    """Masks that come and go at the limit of their age, five times a second."""
    state, changes, told = SteadyState(), [], False
    rng = np.random.default_rng(1)
    for tick in range(1000):
        now = tick / 5
        stale = state.is_stale(bool(rng.random() < 0.5), now)
        if stale != told:
            changes.append(now)
        told = stale
    assert len(changes) > 3
    assert all(b - a >= 10.0 for a, b in itertools.pairwise(changes))


def test_the_first_stale_mask_is_told_at_once() -> None:
    state = SteadyState()
    assert not state.is_stale(False, 0.0)
    assert state.is_stale(True, 0.1)
    assert state.is_stale(False, 5.0)
    assert not state.is_stale(False, 10.2)
    state.forget()  # no signal
    assert state.is_stale(True, 10.3)
    assert not state.is_stale(False, 10.4)
