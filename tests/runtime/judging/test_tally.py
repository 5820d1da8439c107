"""Sums over frames: what counts, over which frames, and in how much memory."""

from __future__ import annotations

import numpy as np

from vivim_runtime.judging.frames import WIDTH
from vivim_runtime.judging.metrics import Figures
from vivim_runtime.judging.tally import Stretches, Tally


def numbered(value: float) -> Figures:
    return np.full(WIDTH, float(value))


def test_a_figure_that_a_frame_does_not_count_for_is_neither_added_nor_counted() -> None:
    tally, row = Tally(), numbered(2.0)
    row[3] = np.nan
    tally.add(row, lesion=True)
    tally.add(numbered(5.0), lesion=False)
    assert tally.sums[:, 2].tolist() == [7.0, 2.0] and tally.counts[:, 2].tolist() == [2.0, 1.0]
    assert tally.sums[:, 3].tolist() == [5.0, 0.0] and tally.counts[:, 3].tolist() == [1.0, 0.0]
    assert tally.frames.tolist() == [2.0, 1.0]


def test_a_video_becomes_few_stretches_of_consecutive_frames_however_long_it_is() -> None:
    for frames, length, last in ((5, 8, 5), (91, 8, 3), (256, 8, 8), (257, 16, 1), (1000, 32, 8)):
        stretches = Stretches()
        for number in range(frames):
            stretches.add(numbered(number), lesion=number % 3 == 0)
        assert stretches.length == length and len(stretches.tallies) <= 32
        sizes = [int(tally.frames[0]) for tally in stretches.tallies]
        assert sizes == [length] * (len(sizes) - 1) + [last] and sum(sizes) == frames
        sums = [tally.sums[0, 0] for tally in stretches.tallies]
        starts = range(0, frames, length)
        assert sums == [sum(range(start, min(start + length, frames))) for start in starts]
        total = stretches.total()
        assert total.sums[0, 0] == sum(range(frames)) and total.sums[1, 0] == sum(range(0, frames, 3))
        assert total.frames.tolist() == [frames, len(range(0, frames, 3))]


def test_joining_leaves_the_other_tally_as_it_was() -> None:
    a, b = Tally(), Tally()
    a.add(numbered(1.0), lesion=True)
    b.add(numbered(2.0), lesion=True)
    a.join(b)
    assert a.sums[0, 0] == 3.0 and a.counts[1, 0] == 2.0 and b.sums[0, 0] == 2.0
