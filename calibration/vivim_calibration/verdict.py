"""Does an int8 model earn its place? How far its masks and logits are from float32's, and how long it takes.

    mask Dice     between the masks at probability 0.5, the mean over frames in which either side marks something
    points lost   hundredths of Dice: against ground truth where the clips know it, else 100 (1 - mask Dice)
    rel. L2       ||b - a|| / ||a - mean(a)|| over all logits

The budget is that of the project for int8 (docs/parity.md). No option turns a failure into a success.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from vivim_calibration.clips import Clip, Masks
from vivim_runtime.judging import metrics
from vivim_runtime.sessions.base import Clips, Logits, Session

__all__ = [
    "MASK_DICE",
    "TRUTH_POINTS",
    "Agreement",
    "AgreementMeter",
    "accuracy_failures",
    "agreement_of",
    "latencies",
    "logits_of",
    "logits_of_clips",
    "speed_failure",
]

# Mask Dice against float32, at least; Dice points against ground truth that may be lost, at most.
MASK_DICE = 0.99
TRUTH_POINTS = 0.5


@dataclass(frozen=True)
class Agreement:
    """How far a model is from its float32 reference.

    Attributes:
        mask_dice, worst_dice: mean and lowest over frames and classes; None where no frame has a mask.
        truth_reference, truth: mean Dice against ground truth of either; None where the clips know none.
        relative_l2, max_abs: of the logits.
        frames, empty: frames compared, and those in which neither side marks anything.
        not_finite: logits that are not.
    """

    mask_dice: float | None
    worst_dice: float | None
    truth_reference: float | None
    truth: float | None
    relative_l2: float
    max_abs: float
    frames: int
    empty: int
    not_finite: int

    @property
    def points_lost(self) -> float:
        """Dice points that the model costs."""
        if self.truth is not None and self.truth_reference is not None:
            return 100.0 * (self.truth_reference - self.truth)
        return 100.0 * (1.0 - self.mask_dice) if self.mask_dice is not None else 0.0


class AgreementMeter:
    """Adds up an `Agreement`, clip by clip."""

    def __init__(self) -> None:
        self._dice: list[float] = []
        self._truth: list[tuple[float, float]] = []
        self._frames = self._empty = self._not_finite = self._count = 0
        self._sum = self._squares = self._differences = self._largest = 0.0

    def add(self, reference: Logits, logits: Logits, truth: Masks | None) -> None:
        """Logits (T, K, H, W) of either side, and truth (T, H, W), which is compared where there is one class."""
        finite = np.isfinite(reference) & np.isfinite(logits)
        self._not_finite += int(finite.size - np.count_nonzero(finite))
        a, b = reference[finite].astype(np.float64), logits[finite].astype(np.float64)
        difference = b - a
        self._count += a.size
        self._sum += float(a.sum())
        self._squares += float(a @ a)
        self._differences += float(difference @ difference)
        self._largest = max(self._largest, float(np.abs(difference).max(initial=0.0)))
        mask_a, mask_b = reference > 0, logits > 0
        marked = np.asarray((mask_a | mask_b).any(axis=(-2, -1)))  # (T, K)
        self._dice += metrics.dice(mask_a, mask_b)[marked].tolist()
        self._frames += len(marked)
        self._empty += int(np.count_nonzero(~marked.any(axis=1)))
        if truth is not None and mask_a.shape[1] == 1:
            pairs = zip(metrics.dice(mask_a[:, 0], truth), metrics.dice(mask_b[:, 0], truth), strict=True)
            self._truth += [(float(x), float(y)) for x, y in pairs]

    def value(self) -> Agreement:
        """The figures of all clips so far."""
        spread = self._squares - self._sum**2 / max(self._count, 1)  # ||a - mean(a)||^2
        relative = float(np.sqrt(self._differences / spread)) if spread > 0 else float("inf")
        truths = np.array(self._truth).mean(axis=0).tolist() if self._truth else [None, None]
        return Agreement(
            mask_dice=float(np.mean(self._dice)) if self._dice else None,
            worst_dice=min(self._dice, default=None),
            truth_reference=truths[0],
            truth=truths[1],
            relative_l2=relative if self._differences else 0.0,
            max_abs=self._largest,
            frames=self._frames,
            empty=self._empty,
            not_finite=self._not_finite,
        )


def logits_of(session: Session, pixels: npt.NDArray[np.uint8]) -> Logits:
    """Logits (T, K, H, W) of one clip (T, H, W, 3); a batch of several is filled with the clip itself."""
    # A copy: what ONNX Runtime gives out lies in its session's arena, which would live as long as the logits.
    logits: Logits = session(np.repeat(pixels[None], session.info.batch or 1, axis=0))[-1].copy()
    return logits


def logits_of_clips(
    session: Session, clips: Iterable[Clip], on_clip: Callable[[int], None] = lambda _: None
) -> list[Logits]:
    """What a model makes of clips; `on_clip` is told how many are done."""
    found = []
    for done, clip in enumerate(clips, 1):
        found.append(logits_of(session, clip.pixels))
        on_clip(done)
    return found


def agreement_of(
    session: Session,
    clips: Iterable[Clip],
    expected: Sequence[Logits],
    on_clip: Callable[[int], None] = lambda _: None,
) -> Agreement:
    """How far a model is from what the reference makes of the same clips."""
    meter = AgreementMeter()
    for done, (clip, reference) in enumerate(zip(clips, expected, strict=True), 1):
        meter.add(reference, logits_of(session, clip.pixels), clip.truth)
        on_clip(done)
    return meter.value()


def accuracy_failures(agreement: Agreement) -> list[str]:
    """What is over the budget of int8."""
    failures = []
    if agreement.not_finite:
        failures.append(f"{agreement.not_finite} logits are not finite")
    if agreement.mask_dice is not None and not agreement.mask_dice >= MASK_DICE:
        failures.append(f"mask Dice {agreement.mask_dice:.4f} is under {MASK_DICE}")
    if agreement.truth is not None and not agreement.points_lost <= TRUTH_POINTS:
        failures.append(
            f"Dice against ground truth falls by {agreement.points_lost:.2f} points, more than {TRUTH_POINTS}"
        )
    return failures


def latencies(sessions: Sequence[Session], clips: Clips, runs: int) -> list[float]:
    """Median milliseconds of a call of each session on clips (B, T, H, W, 3).

    The sessions take turns, so that what else the machine does falls on all of them.
    """
    times: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        session.warm_up()
    for _ in range(runs):
        for session, taken in zip(sessions, times, strict=True):
            begin = time.perf_counter()
            session(clips)
            taken.append(1e3 * (time.perf_counter() - begin))
    return [median(taken) for taken in times]


def speed_failure(int8: float, rivals: dict[str, float], device: str) -> str | None:
    """Why int8 wins nothing here, from the milliseconds of it and of other precisions; None where it is fastest."""
    name, best = min(rivals.items(), key=lambda item: item[1])
    if int8 < best:
        return None
    return (
        f"int8 takes {int8:.1f} ms and {name} {best:.1f} ms on {device}, so it wins nothing here; "
        "if the file is for another device, say which: --target NAME"
    )
