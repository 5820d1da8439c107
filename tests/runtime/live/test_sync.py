"""Pictures that wait for their masks, the choice whether they do, and a state that does not flicker."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vivim_runtime.live.compositor import Captured
from vivim_runtime.live.sync import Pairing, SteadyState, SyncChoice
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
def test_what_is_asked_for_stays(asked: str, on: bool) -> None:
    choice = SyncChoice(asked)  # type: ignore[arg-type]
    for second in range(60):
        choice.measured(0.001 if on else 9.0, float(second))
        assert choice.on is on


def test_auto_follows_the_measured_age_and_never_flips_twice_in_ten_seconds() -> None:
    choice, changes = SyncChoice("auto"), []
    rng = np.random.default_rng(0)
    for tick in range(1200):
        now = tick / 10
        before = choice.on
        # Slow, then around the threshold, then fast.
        usual = 0.4 if tick < 300 else 0.2 if tick < 600 else 0.05
        choice.measured(usual * rng.uniform(0.5, 1.5), now)
        if choice.on != before:
            changes.append(now)
    assert choice.on is False and changes and changes[0] < 1.0
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
