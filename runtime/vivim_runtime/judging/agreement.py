"""How far one model is from another on the same clips, and how far it may be: one meter, one table of budgets.

    rel. L2     ||b - a|| / ||a - mean(a)|| over all logits: a's mean is taken off, so that an offset that all logits
                share cannot hide an error
    mask Dice   between the two masks at probability 0.5, the mean over the frames in which either side marks something
    truth       Dice of either side against the true masks, over the frames that have one

All is compared at the models' size; true masks are brought there by vivim_runtime.clips.mask_at.

Each budget guards what the others cannot see. Masks are one bit of a logit: a model whose numbers are wrong may still
mark the same pixels of a few clips, so logits have a budget in every precision (docs/parity.md derives the numbers).
Where no outline is to be seen on any clip, masks agree whatever the models are, and prove nothing: that is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vivim_runtime.clips import Clip
from vivim_runtime.errors import UsageError
from vivim_runtime.framing import planes_of
from vivim_runtime.judging import metrics
from vivim_runtime.sessions.base import Clips, Logits, Session
from vivim_runtime.sources.base import Image

__all__ = [
    "BUDGETS",
    "Agreement",
    "AgreementMeter",
    "Budget",
    "FrameAgreement",
    "MaskFigures",
    "TensorFigures",
    "budget_failures",
    "budget_of",
    "logits_of",
]

# |b - a| is counted in bins a 16th of a decade wide: quantiles are right to 15 %.
_BINS = np.geomspace(1e-10, 1e6, 16 * 16 + 1)


@dataclass(frozen=True)
class Budget:
    """How far a model may be from its reference.

    Attributes:
        relative_l2: of the logits, at most.
        mask_dice: between the masks, at least.
        truth_points: Dice against true masks may fall by at most this many points (hundredths); None is no limit.
    """

    relative_l2: float
    mask_dice: float
    truth_points: float | None = None


# By precision, from the finest to the coarsest; docs/parity.md shows what the numbers of the logits were drawn from.
BUDGETS = {
    "fp32": Budget(relative_l2=1e-4, mask_dice=0.9999),
    "fp16": Budget(relative_l2=5e-3, mask_dice=0.999),
    "bf16": Budget(relative_l2=4e-2, mask_dice=0.999),  # of fp16, times the 2^3 by which it rounds more coarsely
    "int8": Budget(relative_l2=0.15, mask_dice=0.99, truth_points=0.5),
}


@dataclass(frozen=True)
class TensorFigures:
    """How far b's logits are from a's: largest and relative difference, quantiles of |b - a|, cosine."""

    max_abs: float
    relative_l2: float
    p50: float
    p99: float
    p999: float
    cosine: float
    not_finite: int


@dataclass(frozen=True)
class MaskFigures:
    """How far b's masks are from a's, over frames and classes.

    Attributes:
        dice, iou: mean over the frames in which either side marks something; None where there is none.
        worst_dice, hd95: lowest Dice, and largest 95 % Hausdorff distance (pixels) of one frame; None likewise.
        changed_pixels: pixels that differ, of all.
        frames, empty, full: frames compared; those in which neither side marks anything, and those in which both sides
            mark everything.
        flicker_a, flicker_b: vivim_runtime.judging.metrics.flicker of either side.
        truth_a, truth_b: mean Dice against the true masks, over frames and classes; None where no frame has one.
        truths: frames that have one.
    """

    dice: float | None
    iou: float | None
    worst_dice: float | None
    hd95: float | None
    changed_pixels: int
    frames: int
    empty: int
    full: int
    flicker_a: float
    flicker_b: float
    truth_a: float | None
    truth_b: float | None
    truths: int


@dataclass(frozen=True)
class Agreement:
    """How far one model is from another, on logits and on masks."""

    tensor: TensorFigures
    masks: MaskFigures

    @property
    def points_lost(self) -> float:
        """Hundredths of Dice that b costs: against true masks where clips have them, else 100 (1 - mask Dice)."""
        masks = self.masks
        if masks.truth_a is not None and masks.truth_b is not None:
            return 100.0 * (masks.truth_a - masks.truth_b)
        return 100.0 * (1.0 - masks.dice) if masks.dice is not None else 0.0


@dataclass(frozen=True)
class FrameAgreement:
    """One frame: lowest Dice over the classes, and largest difference of a logit."""

    dice: float
    max_abs: float


def budget_of(*precisions: str) -> Budget:
    """The budget of the coarsest of some precisions; UsageError where one is unknown."""
    order = list(BUDGETS)
    unknown = [precision for precision in precisions if precision not in BUDGETS]
    if unknown:
        raise UsageError(f"there is no budget for the precision {', '.join(unknown)}; expected {', '.join(order)}")
    return BUDGETS[max(precisions, key=order.index)]


def budget_failures(agreement: Agreement, budget: Budget) -> Iterator[str]:
    """What is over a budget, or why nothing is proven, each in a few words; nothing where b stands for a."""
    tensor, masks = agreement.tensor, agreement.masks
    if tensor.not_finite:
        yield f"{tensor.not_finite} logits are not finite"
    if not tensor.relative_l2 <= budget.relative_l2:
        yield f"relative L2 of the logits {tensor.relative_l2:.2e} is over {budget.relative_l2:g}"
    if masks.dice is not None and not masks.dice >= budget.mask_dice:
        yield f"mask Dice {masks.dice:.6f} is under {budget.mask_dice:g}"
    if masks.empty + masks.full == masks.frames:
        what = "both sides mark everything" if masks.full else "neither side marks anything"
        yield f"{what} in any of {masks.frames} frames, so the masks prove nothing: give clips with findings"
    if budget.truth_points is not None and masks.truths and not agreement.points_lost <= budget.truth_points:
        lost = f"{agreement.points_lost:.2f} points"
        yield f"Dice against ground truth falls by {lost}, more than {budget.truth_points:g}"


def logits_of(session: Session, pixels: Image, runner: Callable[[Clips], Logits] | None = None) -> Logits:
    """Logits (T, K, H, W) of one clip (T, H, W, 3); a batch of several is filled with the clip itself.

    `runner`: what runs the session's film (vivim_runtime.sessions.base.film_runner); default the session itself.
    """
    # A copy: what ONNX Runtime gives out lies in its session's arena, which would live as long as the logits.
    return (runner or session)(np.repeat(pixels[None], session.info.batch or 1, axis=0))[-1].copy()


class AgreementMeter:
    """Adds up an `Agreement`, clip by clip, in memory that does not grow with pixels."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(("values", "a", "aa", "bb", "ab", "dd"), 0.0)
        self._max_abs, self._not_finite = 0.0, 0
        self._histogram = np.zeros(len(_BINS) + 1, np.int64)
        self._changed = self._frames = self._empty = self._full = 0
        self._figures: dict[str, list[float]] = {"dice": [], "iou": [], "hd95": [], "truth_a": [], "truth_b": []}
        self._meters: list[tuple[metrics.FlickerMeter, metrics.FlickerMeter]] = []
        self._next = ("", 0)  # source and number of the frame that would follow the last one

    def add(self, clip: Clip, a: Logits, b: Logits) -> list[FrameAgreement]:
        """One clip and the logits (T, K, H, W) of either side; how the sides agree on each of its frames."""
        self._add_tensor(a, b)
        if not self._meters or (clip.source, clip.start) != self._next:
            self._meters.append((metrics.FlickerMeter(), metrics.FlickerMeter()))
        self._next = clip.source, clip.start + len(clip)
        mask_a, mask_b = a > 0, b > 0  # probability 0.5
        marked = np.asarray((mask_a | mask_b).any(axis=(-2, -1)))  # (T, K)
        self._frames += len(a)
        self._empty += int(np.count_nonzero(~marked.any(axis=1)))
        self._full += int(np.count_nonzero((mask_a & mask_b).all(axis=(1, 2, 3))))
        self._changed += int(np.count_nonzero(mask_a != mask_b))
        dice = metrics.dice(mask_a, mask_b)  # (T, K)
        self._figures["dice"] += dice[marked].tolist()
        self._figures["iou"] += metrics.iou(mask_a, mask_b)[marked].tolist()
        self._figures["hd95"] += metrics.hd95(mask_a[marked], mask_b[marked]).tolist()
        for index in range(len(a)):
            for meter, mask in zip(self._meters[-1], (mask_a, mask_b), strict=True):
                meter.add(mask[index])
            truth = clip.true_mask(index)
            planes = None if truth is None else planes_of(truth)
            if planes is not None and len(planes) == a.shape[1]:  # else nothing says which class they are of
                self._figures["truth_a"].append(float(metrics.dice(mask_a[index], planes).mean()))
                self._figures["truth_b"].append(float(metrics.dice(mask_b[index], planes).mean()))
        with np.errstate(invalid="ignore"):  # infinite on both sides
            largest = np.nan_to_num(np.abs(b - a), nan=np.inf).max(axis=(1, 2, 3))  # (T,)
        return [FrameAgreement(float(x.min()), float(y)) for x, y in zip(dice, largest, strict=True)]

    def _add_tensor(self, a: Logits, b: Logits) -> None:
        finite = np.isfinite(a) & np.isfinite(b)
        self._not_finite += int(finite.size - np.count_nonzero(finite))
        x, y = a[finite].astype(np.float64), b[finite].astype(np.float64)
        difference = np.abs(y - x)
        for name, value in {
            "values": float(x.size),
            "a": x.sum(),
            "aa": x @ x,
            "bb": y @ y,
            "ab": x @ y,
            "dd": difference @ difference,
        }.items():
            self._sums[name] += float(value)
        self._max_abs = max(self._max_abs, float(difference.max(initial=0.0)))
        self._histogram += np.bincount(np.searchsorted(_BINS, difference), minlength=len(_BINS) + 1)

    def value(self) -> Agreement:
        """The figures of all clips so far."""
        return Agreement(self._tensor(), self._masks())

    def _tensor(self) -> TensorFigures:
        s = self._sums
        spread = s["aa"] - s["a"] ** 2 / max(s["values"], 1.0)  # ||a - mean(a)||^2
        norms = np.sqrt(s["aa"] * s["bb"])
        return TensorFigures(
            max_abs=self._max_abs,
            relative_l2=0.0 if s["dd"] == 0 else float(np.sqrt(s["dd"] / spread)) if spread > 0 else float("inf"),
            p50=self._quantile(0.5),
            p99=self._quantile(0.99),
            p999=self._quantile(0.999),
            cosine=float(s["ab"] / norms) if norms > 0 else 1.0,
            not_finite=self._not_finite,
        )

    def _quantile(self, share: float) -> float:
        """Upper edge of the bin that holds the quantile, and never more than the maximum."""
        position = int(np.searchsorted(np.cumsum(self._histogram), share * self._histogram.sum()))
        return min(float(_BINS[min(position, len(_BINS) - 1)]), self._max_abs)

    def _masks(self) -> MaskFigures:
        mean = {name: float(np.mean(values)) if values else None for name, values in self._figures.items()}
        flickers = [[meter.value() for meter in pair] for pair in self._meters] or [[0.0, 0.0]]
        return MaskFigures(
            dice=mean["dice"],
            iou=mean["iou"],
            worst_dice=min(self._figures["dice"], default=None),
            hd95=max(self._figures["hd95"], default=None),
            changed_pixels=self._changed,
            frames=self._frames,
            empty=self._empty,
            full=self._full,
            flicker_a=float(np.mean([pair[0] for pair in flickers])),
            flicker_b=float(np.mean([pair[1] for pair in flickers])),
            truth_a=mean["truth_a"],
            truth_b=mean["truth_b"],
            truths=len(self._figures["truth_a"]),
        )
