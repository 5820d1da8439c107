"""What several evaluations on the same data say together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vivim_runtime.bench import ModelResult
from vivim_runtime.judging.evaluation import Evaluation, EvaluationOptions
from vivim_runtime.judging.figures import FIGURES, Estimate, difference

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """Models side by side.

    Attributes:
        data: name of the data set.
        split: of it; "" for all videos.
        options: how was evaluated.
        names: of the models, as they were given.
        evaluations: one a model.
        speeds: one a model, as vivim_runtime.bench measured them; none where that was not asked for.
        data_notes: what to know about how the data was read.
    """

    data: str
    split: str
    options: EvaluationOptions
    names: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    speeds: tuple[ModelResult, ...] = field(default=(), repr=False)
    data_notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Short names of the models that are still different."""
        short = tuple(Path(name).name for name in self.names)
        return short if len(set(short)) == len(short) else self.names

    @property
    def title(self) -> str:
        """The data set and its split."""
        return f"{self.data}, {self.split}" if self.split else self.data

    @property
    def frames(self) -> int:
        """Of the data set."""
        return self.evaluations[0].frames

    @property
    def lesion_frames(self) -> int:
        """Of them, those with a lesion in the true mask."""
        return self.evaluations[0].lesion_frames

    @property
    def subsets(self) -> tuple[str, ...]:
        """Over which frames figures differ: all, and those with a lesion where there are others too."""
        return ("all", "lesion") if 0 < self.lesion_frames < self.frames else ("all",)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know when reading the figures, each said once."""
        drawn = f"intervals: 95 %, bootstrap over {self.evaluations[0].drawn}, seed {self.options.bootstrap.seed}"
        of_models = [note for evaluation in self.evaluations for note in evaluation.notes]
        intervals = [drawn] if self.options.bootstrap.resamples else []
        return tuple(dict.fromkeys((*self.data_notes, *intervals, *of_models)))

    def frames_per_second(self, model: int) -> float | None:
        """Frames that a model gives masks for, each clip serving `hop` of them; None where speed was not measured."""
        if not self.speeds:
            return None
        return self.speeds[model].clips_per_second * self.evaluations[model].hop

    def difference(self, model: int, subset: str) -> dict[str, Estimate]:
        """By how much a model's figures are higher than the first one's, by key."""
        a, b = self.evaluations[0].units, self.evaluations[model].units
        return {f.key: difference(f, a, b, subset, self.options.bootstrap) for f in FIGURES}
