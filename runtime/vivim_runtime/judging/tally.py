"""Sums over frames, in memory that does not grow with their number."""

from __future__ import annotations

import numpy as np

from vivim_runtime.judging.frames import WIDTH
from vivim_runtime.judging.metrics import Figures

__all__ = ["SUBSETS", "Stretches", "Tally"]

# Over which frames a mean goes: all of them, or those with a lesion in the true mask.
SUBSETS = ("all", "lesion")

_FIRST_LENGTH, _MOST = 8, 32


class Tally:
    """Rows of figures added up.

    Attributes:
        sums: (2, WIDTH), over all frames and over those with a lesion.
        counts: (2, WIDTH), how many frames count for each.
        frames: (2,), how many there are.
    """

    def __init__(self) -> None:
        self.sums: Figures = np.zeros((len(SUBSETS), WIDTH))
        self.counts: Figures = np.zeros((len(SUBSETS), WIDTH))
        self.frames: Figures = np.zeros(len(SUBSETS))

    def add(self, row: Figures, lesion: bool) -> None:
        """One frame's row (WIDTH,), and whether its truth has a lesion."""
        which = slice(0, 2 if lesion else 1)
        counted = ~np.isnan(row)
        self.sums[which] += np.where(counted, row, 0.0)
        self.counts[which] += counted
        self.frames[which] += 1

    def join(self, other: Tally) -> None:
        """Add what another has added up."""
        self.sums += other.sums
        self.counts += other.counts
        self.frames += other.frames


class Stretches:
    """Tallies of stretches of consecutive frames: at most 32 of one length, which doubles as the video goes on.

    Frames that follow each other are alike, so a video is resampled in stretches, never in frames.
    """

    def __init__(self) -> None:
        self.length = _FIRST_LENGTH
        self.tallies: list[Tally] = []

    def add(self, row: Figures, lesion: bool) -> None:
        """The next frame; see Tally.add."""
        if not self.tallies or self.tallies[-1].frames[0] == self.length:
            if len(self.tallies) == _MOST:
                self._halve()
            self.tallies.append(Tally())
        self.tallies[-1].add(row, lesion)

    def _halve(self) -> None:
        pairs = zip(self.tallies[::2], self.tallies[1::2], strict=True)
        self.tallies = []
        for first, second in pairs:
            first.join(second)
            self.tallies.append(first)
        self.length *= 2

    def total(self) -> Tally:
        """All of them together."""
        total = Tally()
        for tally in self.tallies:
            total.join(tally)
        return total
