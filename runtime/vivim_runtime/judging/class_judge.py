"""What is gathered of a class while videos go by; of a model of one class, of the model."""

from __future__ import annotations

from vivim_runtime.datasets import Video
from vivim_runtime.judging.figures import Units
from vivim_runtime.judging.frames import FrameJudge, columns
from vivim_runtime.judging.metrics import Masks
from vivim_runtime.judging.reliability import ReliabilityTally
from vivim_runtime.judging.tally import Stretches
from vivim_runtime.judging.worst import WorstFrames
from vivim_runtime.sessions.base import Logits
from vivim_runtime.sources.base import Frame

__all__ = ["ClassJudge"]


class ClassJudge:
    """Measures frame after frame.

    Attributes:
        stretches: of each video.
        worst: the frames that the class is marked worst on.
        sure: how far its probabilities are true.
    """

    def __init__(self, level: float, worst: int, temperature: float) -> None:
        """`level`: the logit above which a pixel is marked."""
        self.worst, self.sure = WorstFrames(worst), ReliabilityTally(temperature)
        self.stretches: list[Stretches] = []
        self._level, self._dice = level, columns("dice").start

    def begin(self, video: Video) -> None:
        """The next video."""
        self.stretches.append(Stretches())
        self._frames, self._video = FrameJudge(len(video), self._level), video.name

    def add(self, frame: Frame, logits: Logits, mask: Masks, truth: Masks) -> None:
        """The next frame of it, its logits, mask and true mask (H, W)."""
        row = self._frames.row(logits, truth)
        self.stretches[-1].add(row, bool(truth.any()))
        self.sure.add(logits, truth)
        self.worst.add(self._video, frame.index, float(row[self._dice]), frame.image, mask, truth)

    def units(self) -> Units:
        """What intervals are drawn from: the videos, or the stretches of a single one."""
        if len(self.stretches) > 1:
            return Units([stretches.total() for stretches in self.stretches], stretches=False)
        return Units(self.stretches[0].tallies, stretches=True)
