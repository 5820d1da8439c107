"""The figures of an evaluation: how each follows from the frames, and how far it would move with other videos.

Table I is a mean over frames. Table II is a mean over videos of the means over their frames, and its maxima are taken
last, over the thresholds of that mean, as the toolbox does.

Intervals are studentised: the standard error comes from the bootstrap, in which *videos* are drawn with replacement,
since the frames of one are not independent, and every figure is computed anew; the interval is that of Student's t, on
the scale of the figure's logarithm (lengths) or log odds (shares), where it cannot leave what is possible. Percentiles
of the draws, and BCa's, cover far less than they say where videos are few (benchmarks/coverage.py). Of a single video
stretches of frames are drawn instead, which says nothing about other patients.

Of several classes, a figure is the mean of the classes' figures, of those that have one; a draw is of the same videos
for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from vivim_runtime.judging.frames import columns
from vivim_runtime.judging.metrics import Figures
from vivim_runtime.judging.tally import SUBSETS, Tally

__all__ = [
    "ALSO",
    "AVERAGED",
    "FIGURES",
    "PAPER_1",
    "PAPER_2",
    "Bootstrap",
    "ClassUnits",
    "Estimate",
    "Figure",
    "Units",
    "difference",
    "drawn_estimate",
    "estimate",
    "interval",
    "mean_estimate",
    "student",
]

_CONFIDENCE = 0.95

Scale = Literal["share", "length", "difference"]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval (95 %); None where no frame counts for it, or where there is nothing to draw from."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: `resamples` draws from a generator with `seed`; 0 draws give no intervals."""

    resamples: int = 2000
    seed: int = 0

    def weights(self, units: int) -> Figures:
        """How often each unit is drawn: (resamples, units)."""
        return _weights(units, self.resamples, self.seed)


@lru_cache(maxsize=4)
def _weights(units: int, resamples: int, seed: int) -> Figures:
    rng = np.random.default_rng(seed)
    return rng.multinomial(units, np.full(units, 1 / units), resamples).astype(np.float64)


class Units:
    """What is drawn: the videos of a set, or the stretches of a single one."""

    def __init__(self, tallies: Sequence[Tally], stretches: bool) -> None:
        self.stretches = stretches
        self._sums = np.stack([tally.sums for tally in tallies])  # (units, subsets, WIDTH)
        self._counts = np.stack([tally.counts for tally in tallies])

    def __len__(self) -> int:
        return len(self._sums)

    def over_frames(self, subset: str, name: str, weights: Figures) -> Figures:
        """Mean over frames: weights (B, units) -> (B, columns); NaN where no frame counts."""
        sums, counts = self._of(subset, name)
        return _divided(weights @ sums, weights @ counts)

    def over_videos(self, subset: str, name: str, weights: Figures) -> Figures:
        """Mean over videos of their means; of stretches, which belong to one video, the mean over frames."""
        if self.stretches:
            return self.over_frames(subset, name, weights)
        sums, counts = self._of(subset, name)
        return _mean(_divided(sums, counts), weights)

    def flicker(self, subset: str, weights: Figures) -> Figures:
        """Mean over videos with a lesion of vivim_runtime.judging.metrics.flicker against the truth: (B, 1)."""
        changes, pairs = self._of(subset, "changes")
        area, frames = self._of(subset, "area")
        if self.stretches:
            changes, pairs, area, frames = (weights @ part for part in (changes, pairs, area, frames))
        mean_area = _divided(area, frames)
        of_each = _divided(changes, pairs) / np.where(mean_area > 0, np.maximum(mean_area, 1.0), np.nan)
        return of_each if self.stretches else _mean(of_each, weights)

    def _of(self, subset: str, name: str) -> tuple[Figures, Figures]:
        where = SUBSETS.index(subset), columns(name)
        return self._sums[:, where[0], where[1]], self._counts[:, where[0], where[1]]


class ClassUnits:
    """The same videos or stretches for several classes, whose figures are averaged."""

    def __init__(self, classes: Sequence[Units]) -> None:
        self.classes, self.stretches = tuple(classes), classes[0].stretches

    def __len__(self) -> int:
        return len(self.classes[0])


def _computed(figure: Figure, units: Units | ClassUnits, subset: str, weights: Figures) -> Figures:
    """A figure in each draw, weights (B, units) -> (B,); NaN where nothing counts."""
    if isinstance(units, Units):
        return figure.compute(units, subset, weights)
    of_each = np.stack([figure.compute(of_class, subset, weights) for of_class in units.classes])  # (K, B)
    known = ~np.isnan(of_each)
    return _divided(np.where(known, of_each, 0.0).sum(axis=0), known.sum(axis=0))


def _divided(part: Figures, whole: Figures) -> Figures:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole != 0)


def _mean(of_each: Figures, weights: Figures) -> Figures:
    """Mean over units (units, columns) of those that are not NaN: (B, columns)."""
    known = ~np.isnan(of_each)
    return _divided(weights @ np.where(known, of_each, 0.0), weights @ known.astype(np.float64))


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        key: in records.
        title, latex: in tables.
        better: the end of the scale that is good.
        digits: after the point, as the paper prints it.
        compute: (units, subset, weights (B, units)) -> (B,).
        scale: what values there are: shares are within 0 to 1, lengths not below 0.
    """

    key: str
    title: str
    latex: str
    better: Literal["higher", "lower"]
    digits: int
    compute: Callable[[Units, str, Figures], Figures]
    scale: Scale = "share"


def _over_frames(
    key: str, title: str, better: Literal["higher", "lower"] = "higher", digits: int = 4, scale: Scale = "share"
) -> Figure:
    return Figure(key, title, title, better, digits, lambda u, subset, w: u.over_frames(subset, key, w)[:, 0], scale)


def _over_videos(
    key: str,
    title: str,
    latex: str,
    column: str,
    reduce: Callable[[Figures], Figures],
    better: Literal["higher", "lower"] = "higher",
) -> Figure:
    return Figure(key, title, latex, better, 3, lambda u, subset, w: reduce(u.over_videos(subset, column, w)))


def _largest(curves: Figures) -> Figures:
    """The highest value over the thresholds: (B, 256) -> (B,)."""
    return curves.max(axis=1)


def _average(curves: Figures) -> Figures:
    """The mean over the thresholds, or the only value."""
    return curves.mean(axis=1)


PAPER_1 = (
    _over_frames("dice", "Dice"),
    _over_frames("iou", "Jaccard"),
    _over_frames("precision", "Precision"),
    _over_frames("recall", "Recall"),
    _over_frames("hd95", "HD95, px", "lower", 2, "length"),
)
PAPER_2 = (
    _over_videos("max_dice", "maxDice", "maxDice", "toolbox_dice", _largest),
    _over_videos("max_specificity", "maxSpe", "maxSpe", "toolbox_specificity", _largest),
    _over_videos("max_iou", "maxIoU", "maxIoU", "toolbox_iou", _largest),
    _over_videos("s_measure", "S-measure", r"$S_\alpha$", "s_measure", _average),
    _over_videos("e_mean", "E-measure", r"$E_\phi$", "toolbox_e", _average),
    _over_videos("mae", "MAE", "MAE", "mae", _average, "lower"),
)
AVERAGED = (
    _over_frames("averaged_dice", "Dice"),
    _over_frames("averaged_iou", "Jaccard"),
    _over_frames("averaged_precision", "Precision"),
    _over_frames("averaged_recall", "Recall"),
    _over_frames("averaged_specificity", "Specificity"),
)
ALSO = (
    _over_frames("missed", "missed", "lower"),
    _over_frames("false_alarm", "false alarms", "lower"),
    Figure("flicker", "flicker", "flicker", "lower", 4, lambda u, subset, w: u.flicker(subset, w)[:, 0], "length"),
    _over_videos("e_max", "maximal E", r"$E_\phi^{max}$", "toolbox_e", _largest),
    _over_videos("e_adaptive", "adaptive E", r"$E_\phi^{adp}$", "e_adaptive", _average),
)
FIGURES = (*PAPER_1, *PAPER_2, *AVERAGED, *ALSO)


def estimate(figure: Figure, units: Units | ClassUnits, subset: str, bootstrap: Bootstrap) -> Estimate:
    """A figure with its interval."""
    value = float(_values(figure, units, subset)[0])
    drawn = _computed(figure, units, subset, bootstrap.weights(len(units)))
    return drawn_estimate(value, drawn, _counting(figure, units, subset), figure.scale)


def difference(
    figure: Figure, a: Units | ClassUnits, b: Units | ClassUnits, subset: str, bootstrap: Bootstrap
) -> Estimate:
    """By how much b's figure is higher than a's, both on the same videos, which are drawn for both at once."""
    value = float((_values(figure, b, subset) - _values(figure, a, subset))[0])
    weights = bootstrap.weights(len(a))
    drawn = _computed(figure, b, subset, weights) - _computed(figure, a, subset, weights)
    return drawn_estimate(value, drawn, min(_counting(figure, units, subset) for units in (a, b)), "difference")


def _values(figure: Figure, units: Units | ClassUnits, subset: str) -> Figures:
    return _computed(figure, units, subset, np.ones((1, len(units))))


def _counting(figure: Figure, units: Units | ClassUnits, subset: str) -> int:
    """How many of the units count for a figure."""
    return int(np.count_nonzero(~np.isnan(_computed(figure, units, subset, np.eye(len(units))))))


def drawn_estimate(value: float, drawn: Figures, units: int, scale: Scale = "share") -> Estimate:
    """A value with the interval that draws give it.

    Args:
        drawn: what the value was in each draw, NaN where nothing counted.
        units: how many of what was drawn count.
    """
    known = drawn[~np.isnan(drawn)]
    if np.isnan(value):
        return Estimate(None, None, None)
    if units < 2 or len(known) < 2:
        return Estimate(value, None, None)
    # Draws of n units deviate by sqrt((n - 1) / n) of what the standard error is.
    error = float(known.std(ddof=1)) * math.sqrt(units / (units - 1))
    return Estimate(value, *interval(value, error, units - 1, scale))


def mean_estimate(values: Sequence[float] | Figures, scale: Scale = "difference") -> Estimate:
    """The mean of values of which each counts once, with its interval; those that are NaN do not count."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return Estimate(None, None, None)
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, None, None)
    return Estimate(mean, *interval(mean, float(known.std(ddof=1)) / math.sqrt(len(known)), len(known) - 1, scale))


def interval(value: float, error: float, freedom: int, scale: Scale) -> tuple[float, float]:
    """Student's interval (95 %) of a value with a standard error.

    Args:
        freedom: degrees of freedom.
        scale: log odds of shares, logarithms of lengths, differences as they are; a value at its bound stays alone
            there, since what would say how far it is from it has not been seen.
    """
    reach = student(freedom) * error
    if scale == "difference":
        return value - reach, value + reach
    if scale == "length":
        if value <= 0:
            return value, value
        factor = math.exp(min(reach / value, 700.0))
        return value / factor, value * factor
    if not 0 < value < 1:
        return value, value
    odds, factor = value / (1 - value), math.exp(min(reach / (value * (1 - value)), 300.0))
    return 1 / (1 + factor / odds), 1 / (1 + 1 / (factor * odds))


@lru_cache(maxsize=256)
def student(freedom: int) -> float:
    """The value that Student's t exceeds in either direction with a chance of 5 % in all.

    With t = sqrt(freedom) tan(angle), its density is cos(angle)^(freedom - 1) up to a factor.
    """
    angles = np.linspace(0.0, np.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    within = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2)))
    return math.sqrt(freedom) * math.tan(float(np.interp(_CONFIDENCE, within / within[-1], angles)))
