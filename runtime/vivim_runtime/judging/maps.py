"""How a probability map compares with a true mask: the figures that need more than one threshold.

Definitions of the toolbox of PNS-Net (eval/main_VPS.m), which the paper's Table II follows, and of its Python twin,
which comes with Vivim (poloy_metrics.py). There a map is stretched to 0..1 first (`stretched`), a pixel is marked where
the map is at least the threshold, and the thresholds are k/255:

    S-measure   alpha-mean (0.5) of how alike object and background are in themselves, and of the structural similarity
                in the four parts that meet in the centre of the true mask (Fan et al., ICCV 2017)
    E-measure   how mask and truth align, both around their means, over the pixels less one (Fan et al., IJCAI 2018)
    MAE         mean |map - truth|

Arrays over thresholds have shape (256,), the lowest threshold first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vivim_runtime.judging.metrics import Figures, Masks

__all__ = [
    "THRESHOLDS",
    "Counts",
    "adaptive_e_measure",
    "counts_above",
    "counts_at_least",
    "e_measure",
    "mean_absolute_error",
    "probabilities",
    "ratio",
    "s_measure",
    "stretched",
]

THRESHOLDS: Figures = np.arange(256) / 255.0
_EPS = np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class Counts:
    """Pixels of one frame by what they are and by what was marked.

    Attributes:
        true, false: marked ones that are of the object, and that are not; float64, one value a threshold.
        foreground, background: pixels of the object, and all others.
    """

    true: Figures
    false: Figures
    foreground: int
    background: int

    @property
    def marked(self) -> Figures:
        """Pixels that are marked."""
        return self.true + self.false

    def dice(self, nothing: float) -> Figures:
        """2 |both| / (|marked| + |object|); `nothing` where there is neither."""
        return ratio(2 * self.true, self.marked + self.foreground, nothing)

    def iou(self, nothing: float) -> Figures:
        """|both| / |either|; `nothing` where there is neither."""
        return ratio(self.true, self.false + self.foreground, nothing)

    def precision(self, nothing: float) -> Figures:
        """Share of the marked pixels that are of the object; `nothing` where none is marked."""
        return ratio(self.true, self.marked, nothing)

    def recall(self, nothing: float) -> Figures:
        """Share of the object's pixels that are marked; `nothing` where there is no object."""
        return ratio(self.true, np.full_like(self.true, self.foreground), nothing)

    def specificity(self, nothing: float) -> Figures:
        """Share of the other pixels that are not marked; `nothing` where the object is everywhere."""
        return ratio(self.background - self.false, np.full_like(self.true, self.background), nothing)


def ratio(part: Figures, whole: Figures, nothing: float) -> Figures:
    """part / whole; `nothing` where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), nothing)


def probabilities(logits: npt.NDArray[np.float32]) -> Figures:
    """The sigmoid in float64, without overflow; same shape."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float64))


def stretched(probability: Figures) -> Figures:
    """The map so that its smallest value is 0 and its largest 1; a constant map stays (mapminmax of MATLAB)."""
    low, high = probability.min(), probability.max()
    return (probability - low) / (high - low) if high > low else probability


def counts_at_least(values: Figures, truth: Masks) -> Counts:
    """A pixel is marked where its value (H, W) is at least the threshold."""
    return _counts(np.searchsorted(THRESHOLDS, values.ravel(), side="right"), truth.ravel())


def counts_above(values: Figures, truth: Masks) -> Counts:
    """A pixel is marked where its value (H, W) is above the threshold."""
    return _counts(np.searchsorted(THRESHOLDS, values.ravel(), side="left"), truth.ravel())


def _counts(levels: npt.NDArray[np.intp], truth: Masks) -> Counts:
    """`levels`: by how many thresholds, from the lowest on, each pixel is marked."""

    def passing(chosen: npt.NDArray[np.intp]) -> Figures:
        histogram = np.bincount(chosen, minlength=len(THRESHOLDS) + 1)[1:]
        return histogram[::-1].cumsum()[::-1].astype(np.float64)

    foreground = int(np.count_nonzero(truth))
    return Counts(passing(levels[truth]), passing(levels[~truth]), foreground, truth.size - foreground)


def e_measure(counts: Counts) -> Figures:
    """The E-measure at every threshold; a perfect mask of N pixels has N / (N - 1)."""
    pixels = counts.foreground + counts.background
    marked = counts.marked
    if counts.foreground == 0:
        total = pixels - marked
    elif counts.background == 0:
        total = marked
    else:
        total = np.zeros_like(marked)
        mean, true_mean = marked / pixels, counts.foreground / pixels
        for value, true_value, number in (
            (1, 1, counts.true),
            (1, 0, counts.false),
            (0, 1, counts.foreground - counts.true),
            (0, 0, counts.background - counts.false),
        ):
            a, b = value - mean, true_value - true_mean
            alignment = 2 * a * b / (a**2 + b**2 + _EPS)
            total += number * (1 + alignment) ** 2 / 4
    return total / (pixels - 1 + _EPS)


def adaptive_e_measure(values: Figures, truth: Masks) -> float:
    """The E-measure where a pixel is marked from twice the map's mean on (at most 1)."""
    marked = values >= min(2 * values.mean(), 1.0)
    true = np.count_nonzero(marked & truth)
    foreground = int(np.count_nonzero(truth))
    false = np.count_nonzero(marked) - true
    counts = Counts(np.array([float(true)]), np.array([float(false)]), foreground, truth.size - foreground)
    return float(e_measure(counts)[0])


def mean_absolute_error(values: Figures, truth: Masks) -> float:
    """Mean |map - truth| of a map (H, W)."""
    return float(np.abs(values - truth).mean())


def s_measure(values: Figures, truth: Masks) -> float:
    """The S-measure of a map (H, W) in 0..1."""
    share = truth.mean()
    if share == 0:
        return float(1 - values.mean())
    if share == 1:
        return float(values.mean())
    objects = share * _likeness(values[truth]) + (1 - share) * _likeness(1 - values[~truth])
    return max(0.0, float(0.5 * objects + 0.5 * _regions(values, truth)))


def _likeness(values: Figures) -> float:
    """How near to 1, and how even, the values of an object are."""
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return float(2 * mean / (mean**2 + 1 + deviation + _EPS))


def _regions(values: Figures, truth: Masks) -> float:
    """Structural similarity of the four parts, each weighted by its area."""
    # Rounded half to even, as the Python twin does; MATLAB rounds half up. The centre belongs to the first parts.
    y, x = (int(np.rint(where.mean())) + 1 for where in np.nonzero(truth))
    rows, columns = (slice(0, y), slice(y, None)), (slice(0, x), slice(x, None))
    parts = [(values[r, c], truth[r, c].astype(np.float64)) for r in rows for c in columns]
    return sum(part.size / values.size * _similarity(part, of_truth) for part, of_truth in parts if part.size)


def _similarity(a: Figures, b: Figures) -> float:
    """Structural similarity of two maps of one shape."""
    mean_a, mean_b = a.mean(), b.mean()
    free = a.size - 1 + _EPS
    centred_a, centred_b = a - mean_a, b - mean_b
    spread = ((centred_a**2).sum() + (centred_b**2).sum()) / free
    above = 4 * mean_a * mean_b * (centred_a * centred_b).sum() / free
    below = (mean_a**2 + mean_b**2) * spread
    if above != 0:
        return float(above / (below + _EPS))
    return 1.0 if below == 0 else 0.0
