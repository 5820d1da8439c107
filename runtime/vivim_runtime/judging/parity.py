"""Is an artefact still the network that it was made from? Two sides, the same clips, figures, and a budget.

    rel. L2     ||b - a|| / ||a - mean(a)|| over all logits: a's mean is taken off, so that an offset that all logits
                share cannot hide an error
    mask Dice   between the two masks at probability 0.5, the mean over the frames in which either side marks something
    truth       Dice of either side against the ground truth, where the source knows it (phantoms)

A comparison fails when a figure is over its budget, or when either side gives a value that is not finite. No option
turns a failure into a success. Pixels and logits of a clip are let go before the next one, but for the worst frames.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.clips import resized
from vivim_runtime.errors import UsageError
from vivim_runtime.judging import metrics
from vivim_runtime.sessions.base import ClassInfo, Logits, ModelInfo, Session
from vivim_runtime.sources import Source, open_source
from vivim_runtime.sources.base import Image

__all__ = [
    "BUDGETS",
    "Budget",
    "Comparison",
    "MaskFigures",
    "Side",
    "TensorFigures",
    "WorstFrame",
    "compare",
    "default_sources",
]

Masks = npt.NDArray[np.bool_]

_SHOWN_WORST = 4
# |b - a| is counted in bins a 16th of a decade wide: quantiles are right to 15 %.
_BINS = np.geomspace(1e-10, 1e6, 16 * 16 + 1)


@dataclass(frozen=True)
class Budget:
    """What an artefact may differ from its reference; None is no limit.

    Attributes:
        relative_l2: of the logits, at most.
        mask_dice: between the masks, at least.
        truth_points: Dice against ground truth may fall by at most this many points (hundredths).
    """

    relative_l2: float | None
    mask_dice: float
    truth_points: float | None


BUDGETS = {
    "fp32": Budget(relative_l2=1e-4, mask_dice=0.9999, truth_points=None),
    "fp16": Budget(relative_l2=None, mask_dice=0.999, truth_points=None),
    "bf16": Budget(relative_l2=None, mask_dice=0.999, truth_points=None),
    "int8": Budget(relative_l2=None, mask_dice=0.99, truth_points=0.5),
}


@dataclass(frozen=True)
class Side:
    """One side of a comparison, for people and for records."""

    name: str
    backend: str
    preset: str
    precision: str
    device: str
    weights_sha256: str

    @classmethod
    def of(cls, session: Session) -> Side:
        """The side that a session is."""
        info = session.info
        return cls(info.path.name, session.backend, info.preset, info.precision, session.device, info.weights_sha256)


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
        frames, empty: frames compared, and those in which neither side marks anything.
        flicker_a, flicker_b: vivim_runtime.judging.metrics.flicker of either side.
        truth_a, truth_b: mean Dice against ground truth; None where the sources know none.
    """

    dice: float | None
    iou: float | None
    worst_dice: float | None
    hd95: float | None
    changed_pixels: int
    frames: int
    empty: int
    flicker_a: float
    flicker_b: float
    truth_a: float | None
    truth_b: float | None


@dataclass(frozen=True, eq=False)
class WorstFrame:
    """A frame that the sides see most differently; pixels and masks at the model's resolution."""

    source: str
    frame: int
    dice: float
    max_abs: float
    image: Image = field(repr=False)
    mask_a: Masks = field(repr=False)
    mask_b: Masks = field(repr=False)
    difference: npt.NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class Comparison:
    """The outcome: who, on what, the figures, the budget, and what is over it."""

    a: Side
    b: Side
    frames: int
    size: tuple[int, int]
    classes: tuple[ClassInfo, ...]
    sources: dict[str, int]
    tensor: TensorFigures
    masks: MaskFigures
    budget: Budget
    failures: tuple[str, ...]
    notes: tuple[str, ...]
    worst: tuple[WorstFrame, ...]

    @property
    def passed(self) -> bool:
        """Whether everything is within its budget."""
        return not self.failures

    def record(self) -> dict[str, Any]:
        """The outcome without pixels, for JSON; a value that is not finite becomes text."""
        worst = [{"source": w.source, "frame": w.frame, "dice": w.dice, "max_abs": w.max_abs} for w in self.worst]
        record = {
            "passed": self.passed,
            "failures": list(self.failures),
            "notes": list(self.notes),
            "a": asdict(self.a),
            "b": asdict(self.b),
            "clip": {"frames": self.frames, "height": self.size[0], "width": self.size[1]},
            "frames_of_source": self.sources,
            "tensor": asdict(self.tensor),
            "masks": asdict(self.masks),
            "budget": asdict(self.budget),
            "worst_frames": worst,
        }
        return _jsonable(record)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_jsonable(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def compare(
    a: Session, b: Session, sources: Sequence[str] | None = None, on_clip: Callable[[int], None] | None = None
) -> Comparison:
    """Run two sides on the same clips. `a` is the reference.

    Args:
        sources: names for vivim_runtime.open_source; each is cut into clips of T frames (what is left over at its end
            is dropped). Default two short phantoms.
        on_clip: called with the number of clips done.

    Raises:
        UsageError: the sides cannot be compared, or a source has no whole clip.
        SourceError: a source cannot be read.
    """
    _check_comparable(a.info, b.info)
    length, size = a.info.frames, a.info.size
    names = list(sources or default_sources(length, size))
    totals = _Totals(a.info.classes)
    counts: dict[str, int] = {}
    done = 0
    for name in names:
        before = totals.frames
        with open_source(name) as source:
            totals.start(source.name)
            for pixels, truth in _clips(source, length, size):
                totals.add(pixels, _logits(a, pixels), _logits(b, pixels), truth)
                done += 1
                if on_clip:
                    on_clip(done)
            label = source.name
        if totals.frames == before:
            raise UsageError(
                f"{name} has fewer than {length} frames, the frames of a clip; give a longer one to --clips"
            )
        counts[label] = counts.get(label, 0) + totals.frames - before
    tensor, masks, notes = totals.tensor(), totals.masks(), []
    budget = _budget(a.info, b.info)
    if a.info.weights_sha256 != b.info.weights_sha256:
        notes.append(f"{b.info.path.name} was made from other weights than {a.info.path.name}")
    if masks.empty == masks.frames:
        notes.append("neither side marks anything in any frame, so the masks prove nothing; compare on other clips")
    elif masks.empty:
        notes.append(f"{masks.empty} of {masks.frames} frames have no mask on either side and do not count for Dice")
    return Comparison(
        Side.of(a),
        Side.of(b),
        length,
        size,
        a.info.classes,
        counts,
        tensor,
        masks,
        budget,
        tuple(_failures(tensor, masks, budget)),
        tuple(notes),
        totals.worst(),
    )


def default_sources(frames: int, size: tuple[int, int]) -> list[str]:
    """Two phantoms of two clips each, at the model's size."""
    return [f"phantom:?seed={seed}&frames={2 * frames}&size={size[0]}x{size[1]}" for seed in (11, 12)]


def _check_comparable(a: ModelInfo, b: ModelInfo) -> None:
    def text(info: ModelInfo) -> str:
        names = ", ".join(c.name for c in info.classes)
        return f"{info.path.name} has T = {info.frames}, {info.size[0]}x{info.size[1]}, classes {names}"

    same = [c.name for c in a.classes] == [c.name for c in b.classes]
    if a.frames != b.frames or a.size != b.size or not same:
        raise UsageError(f"{text(a)}; {text(b)}: the two can only be compared when these are the same")


def _budget(a: ModelInfo, b: ModelInfo) -> Budget:
    """The budget of the coarser of the two precisions."""
    order = list(BUDGETS)
    unknown = {a.precision, b.precision} - set(order)
    if unknown:
        raise UsageError(f"there is no budget for the precision {', '.join(unknown)}; expected {', '.join(order)}")
    return BUDGETS[max(a.precision, b.precision, key=order.index)]


def _failures(tensor: TensorFigures, masks: MaskFigures, budget: Budget) -> Iterator[str]:
    if tensor.not_finite:
        yield f"{tensor.not_finite} logits are not finite"
    if budget.relative_l2 is not None and not tensor.relative_l2 <= budget.relative_l2:
        yield f"relative L2 of the logits {tensor.relative_l2:.2e} is over {budget.relative_l2:.0e}"
    if masks.dice is not None and not masks.dice >= budget.mask_dice:
        yield f"mask Dice {masks.dice:.6f} is under {budget.mask_dice}"
    if budget.truth_points is not None and masks.truth_a is not None and masks.truth_b is not None:
        lost = 100.0 * (masks.truth_a - masks.truth_b)
        if not lost <= budget.truth_points:
            yield f"Dice against ground truth falls by {lost:.2f} points, more than {budget.truth_points}"


def _clips(source: Source, length: int, size: tuple[int, int]) -> Iterator[tuple[Image, Masks | None]]:
    """Whole clips of a source at the model's size: uint8 (T, H, W, 3), and truth (T, H, W) where it is known."""
    frames = iter(source)
    while len(clip := list(islice(frames, length))) == length:
        pixels = np.stack([resized(frame.image, size) for frame in clip])
        truths = [_mask_at(frame.truth, size) for frame in clip if frame.truth is not None]
        yield pixels, np.stack(truths) if truths else None


def _mask_at(mask: Masks, size: tuple[int, int]) -> Masks:
    return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def _logits(session: Session, pixels: Image) -> Logits:
    """Logits (T, K, H, W) of one clip; a batch of several is filled with the clip itself, and the last one returned."""
    return session(np.repeat(pixels[None], session.info.batch or 1, axis=0))[-1]


class _Totals:
    """Sums over all clips."""

    def __init__(self, classes: tuple[ClassInfo, ...]) -> None:
        self.frames = 0
        self._classes = classes
        self._source = ""
        self._number = 0
        self._sums = dict.fromkeys(("values", "a", "aa", "bb", "ab", "dd"), 0.0)
        self._max_abs, self._not_finite = 0.0, 0
        self._histogram = np.zeros(len(_BINS) + 1, np.int64)
        self._changed = self._empty = 0
        self._figures: dict[str, list[float]] = {"dice": [], "iou": [], "hd95": [], "truth_a": [], "truth_b": []}
        self._meters: list[tuple[metrics.FlickerMeter, metrics.FlickerMeter]] = []
        self._worst: list[tuple[tuple[float, float], int, WorstFrame]] = []

    def start(self, source: str) -> None:
        """Frames of another source follow."""
        self._source, self._number = source, 0
        self._meters.append((metrics.FlickerMeter(), metrics.FlickerMeter()))

    def add(self, pixels: Image, a: Logits, b: Logits, truth: Masks | None) -> None:
        """One clip: pixels (T, H, W, 3), logits (T, K, H, W) of either side, truth (T, H, W)."""
        self._add_tensor(a, b)
        for index in range(len(a)):
            self._add_frame(pixels[index], a[index], b[index], None if truth is None else truth[index])

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

    def _add_frame(self, image: Image, a: Logits, b: Logits, truth: Masks | None) -> None:
        mask_a, mask_b = a > 0, b > 0  # probability 0.5
        for meter, mask in zip(self._meters[-1], (mask_a, mask_b), strict=True):
            meter.add(mask)
        self._changed += int(np.count_nonzero(mask_a != mask_b))
        marked = (mask_a | mask_b).any(axis=(-2, -1))  # (K,)
        dice = metrics.dice(mask_a, mask_b)
        self._empty += not marked.any()
        self._figures["dice"].extend(dice[marked].tolist())
        self._figures["iou"].extend(metrics.iou(mask_a, mask_b)[marked].tolist())
        self._figures["hd95"].extend(metrics.hd95(mask_a[marked], mask_b[marked]).tolist())
        if truth is not None and len(mask_a) == 1:
            self._figures["truth_a"].append(float(metrics.dice(mask_a[0], truth)))
            self._figures["truth_b"].append(float(metrics.dice(mask_b[0], truth)))
        difference = np.abs(b - a).max(axis=0)
        largest = float(np.nan_to_num(difference, nan=np.inf).max())
        frame = WorstFrame(self._source, self._number, float(dice.min()), largest, image, mask_a, mask_b, difference)
        heapq.heappush(self._worst, ((1.0 - frame.dice, frame.max_abs), self.frames, frame))
        if len(self._worst) > _SHOWN_WORST:
            heapq.heappop(self._worst)
        self.frames += 1
        self._number += 1

    def tensor(self) -> TensorFigures:
        """The figures of the logits."""
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

    def masks(self) -> MaskFigures:
        """The figures of the masks."""
        mean = {name: float(np.mean(values)) if values else None for name, values in self._figures.items()}
        dice, hd95 = self._figures["dice"], self._figures["hd95"]
        flickers = np.array([[meter.value() for meter in pair] for pair in self._meters]).mean(axis=0)
        return MaskFigures(
            dice=mean["dice"],
            iou=mean["iou"],
            worst_dice=min(dice, default=None),
            hd95=max(hd95, default=None),
            changed_pixels=self._changed,
            frames=self.frames,
            empty=self._empty,
            flicker_a=float(flickers[0]),
            flicker_b=float(flickers[1]),
            truth_a=mean["truth_a"],
            truth_b=mean["truth_b"],
        )

    def worst(self) -> tuple[WorstFrame, ...]:
        """The worst frames: lowest Dice first, then the largest difference of the logits."""
        return tuple(frame for _, _, frame in sorted(self._worst, reverse=True))
