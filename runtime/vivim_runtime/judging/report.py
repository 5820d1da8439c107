"""What several evaluations on the same data say together.

A model of several classes has a row for the mean over them, and one for each behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vivim_runtime.bench import ModelResult
from vivim_runtime.judging.evaluation import Evaluation, EvaluationOptions
from vivim_runtime.judging.figures import FIGURES, Estimate, difference

__all__ = ["Report", "with_classes"]


def with_classes(
    names: Sequence[str], evaluations: Sequence[Evaluation], speeds: Sequence[ModelResult]
) -> tuple[tuple[str, ...], tuple[Evaluation, ...], tuple[ModelResult, ...]]:
    """Names, evaluations and speeds (of all models, or none) of a report, with a row for each class of a model."""
    counts = [1 + len(evaluation.classes) for evaluation in evaluations]
    rows = tuple(row for evaluation in evaluations for row in (evaluation, *evaluation.classes))
    of_rows = tuple(name for name, count in zip(names, counts, strict=True) for _ in range(count))
    return of_rows, rows, tuple(s for s, count in zip(speeds, counts, strict=False) for _ in range(count))


@dataclass(frozen=True)
class Report:
    """Models side by side.

    Attributes:
        data: name of the data set.
        split: of it; "" for all videos.
        options: how was evaluated.
        names: of the models, as they were given.
        evaluations: one a model; of several classes, the mean and each (`with_classes`).
        speeds: one for each of these, as vivim_runtime.bench measured them; none where that was not asked for.
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
        """Short names of the models that are still different, and which of their classes it is."""
        short = [self._row(Path(name).name, i) for i, name in enumerate(self.names)]
        return tuple(short) if len(set(short)) == len(short) else self.rows

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the models as they were given, and which of their classes it is."""
        return tuple(self._row(name, i) for i, name in enumerate(self.names))

    def _row(self, name: str, row: int) -> str:
        of = self.evaluations[row].of
        return f"{name}, {of}" if of else name

    @property
    def has_classes(self) -> bool:
        """Whether the models mark several classes."""
        return any(evaluation.of for evaluation in self.evaluations)

    def first(self, row: int) -> int:
        """The row that another one is compared with: that of the first model, of the same class."""
        return [evaluation.of for evaluation in self.evaluations].index(self.evaluations[row].of)

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
        """Of them, those with a lesion, or any class, in the true mask."""
        return self.evaluations[0].lesion_frames

    @property
    def subsets(self) -> tuple[str, ...]:
        """Over which frames figures differ: all, and those with a lesion where there are others too."""
        differs = any(0 < evaluation.lesion_frames < self.frames for evaluation in self.evaluations)
        return ("all", "lesion") if differs else ("all",)

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
        """By how much a model's figures are higher than the first one's, of the same class, by key."""
        a, b = self.evaluations[self.first(model)].units, self.evaluations[model].units
        return {f.key: difference(f, a, b, subset, self.options.bootstrap) for f in FIGURES}
