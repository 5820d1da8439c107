"""What a run says before and while it goes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vivim.commands.progress import RunProgress, duration
from vivim.training.batches import phantom_clips
from vivim.training.fit import RunOptions
from vivim.training.plan import planned
from vivim.training.recipe import FitConfig


def said(seconds_a_step: float, steps: int, epochs: int = 2, done: int = 0, quiet: bool = False) -> list[str]:
    """The lines of a run off a terminal, each of whose steps takes so long."""
    now = [0.0]
    console = Console(file=io.StringIO(), width=200)
    with RunProgress(console, epochs, done, quiet, clock=lambda: now[0]) as progress:
        for _ in range(done, epochs):
            for step in range(1, steps + 1):
                now[0] += seconds_a_step
                progress.on_step(step, steps, 1.5)
            progress.on_epoch()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_off_a_terminal_there_is_a_line_every_half_minute_and_no_bar() -> None:
    estimate, *lines = said(6.0, steps=20)
    assert estimate == "6 s a step, 4 min to go without validation; 2 min an epoch"  # after 3 steps: 37 are left
    # 40 steps in 240 s: one each 30 s, which is every fifth step.
    assert len(lines) == 8
    assert lines[0] == "epoch 1/2  step 5/20  loss 1.5000  6 s a step, 4 min to go without validation"
    assert lines[-1].startswith("epoch 2/2  step 20/20") and lines[-1].endswith("0 s to go without validation")


def test_quick_runs_say_how_long_they_take_and_no_more() -> None:
    assert said(0.1, steps=20) == ["0.1 s a step, 3 s to go without validation; 2 s an epoch"]


def test_a_resumed_run_counts_on_and_other_processes_are_silent() -> None:
    lines = said(20.0, steps=4, epochs=3, done=2)
    assert lines[1].startswith("epoch 3/3  step 2/4")
    assert said(20.0, steps=4, quiet=True) == []


def test_durations_are_said_in_the_unit_that_fits() -> None:
    assert [duration(s) for s in (3.4, 99, 600, 5999, 9000)] == ["3 s", "99 s", "10 min", "100 min", "2.5 h"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "tiny: 0.96 M parameters, all trained, from chance"),
        ({"only": "edge_head"}, "tiny: 0.96 M parameters, 4,657 of its edge head alone trained, from chance"),
        ({"init": "tiny"}, "tiny: 1.03 M parameters, all trained, from tiny"),
    ],
)
def test_a_run_says_first_what_it_is_going_to_do(changes: dict[str, str], expected: str) -> None:
    clips = phantom_clips("train", 5, 1, (64, 64))
    config = FitConfig(preset="tiny", batch=2, frames=1, epochs=3, **changes)  # type: ignore[arg-type]
    network, steps, losses, device = planned(config, clips, clips[:1], RunOptions())
    assert network == expected
    assert steps == (
        "5 clips of 1 x 64 x 64; 3 epochs of 2 steps of 2 clips, 1 clips left out of each epoch; 1 clips to validate on"
    )
    assert "0.3 affine, 0.3 boundary" in losses and "adam, rate 0.0001 to 1e-06" in losses
    assert device.startswith("CPU, ")
