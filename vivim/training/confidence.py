"""Calibrated probability of a network, learnt on validation data; the record goes with its weights.

Temperature scaling (Guo et al. 2017): one number that all logits are divided by, so that of the pixels that are given
80 % some 80 % are lesion. Masks do not change. Dice against coverage says what the confidence is worth: how good the
masks are that are left when the least sure frames are held back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vivim.training.batches import ClipSource, judged_clip
from vivim_runtime.confidence import expected_dice
from vivim_runtime.framing import mask_at, planes_of
from vivim_runtime.judging.reliability import Reliability, ReliabilityTally
from vivim_runtime.sessions.base import Session

__all__ = [
    "Judged",
    "coverage",
    "judged_frames",
    "learn_temperature",
    "reliability",
    "rightly_empty",
]

Array = npt.NDArray[np.float32]
_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
# Pixels of a frame that are kept to learn the temperature from: neighbours say the same.
_PIXELS = 2048


@dataclass(frozen=True, eq=False)
class Judged:
    """What a network says of the frames of validation data.

    Attributes:
        logits, truth: (N, K P) of random pixels of each of N frames, the same ones of every class: all share one
            temperature.
        dice: (N,), with the truth, of several classes the lowest, as confidence is that of the least sure; NaN where
            neither truth nor mask marks anything.
        whole: all logits of each frame, (K, H / 2, W / 2): of which the expected Dice is computed.
    """

    logits: Array
    truth: npt.NDArray[np.bool_]
    dice: npt.NDArray[np.float64]
    whole: tuple[Array, ...]


def judged_frames(session: Session, clips: ClipSource, threshold: float = 0.5, seed: int = 0) -> Judged:
    """A network on every judged frame of clips, at its own size."""
    rng = np.random.default_rng(seed)
    level = float(np.log(threshold / (1 - threshold)))
    logits, truths, dice, whole = [], [], [], []
    size = session.info.size
    for index in range(len(clips)):
        clip = judged_clip(clips, index)
        said = session(clip.pixels[None])[0][clip.used]
        for frame, truth in zip(said, clip.truths, strict=True):
            true = mask_at(planes_of(truth), size)  # (K, H, W)
            pixels = rng.integers(0, frame[0].size, _PIXELS)
            logits.append(frame.reshape(len(frame), -1)[:, pixels].ravel())
            truths.append(true.reshape(len(true), -1)[:, pixels].ravel())
            dice.append(_lowest_dice(frame > level, true))
            whole.append(frame[:, ::2, ::2].astype(np.float32))  # half the size will do for sums over pixels
    return Judged(np.stack(logits), np.stack(truths), np.array(dice), tuple(whole))


def _lowest_dice(masks: npt.NDArray[np.bool_], truths: npt.NDArray[np.bool_]) -> float:
    """Of the classes (K, H, W) that either marks; NaN where there is none."""
    found = []
    for mask, true in zip(masks, truths, strict=True):
        if both := int(mask.sum()) + int(true.sum()):
            found.append(2 * int((mask & true).sum()) / both)
    return min(found, default=float("nan"))


def _loss(logits: Array, truth: npt.NDArray[np.bool_], temperature: float) -> float:
    """Mean negative log likelihood."""
    z = logits.astype(np.float64) / temperature
    return float(np.mean(np.logaddexp(0.0, z) - z * truth))


def learn_temperature(judged: Judged) -> float:
    """The temperature of the least negative log likelihood, by golden sections of its logarithm."""
    low, high, ratio = np.log(0.05), np.log(20.0), (np.sqrt(5) - 1) / 2
    while high - low > 1e-3:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if _loss(judged.logits, judged.truth, np.exp(a)) < _loss(judged.logits, judged.truth, np.exp(b)):
            high = b
        else:
            low = a
    return float(np.exp((low + high) / 2))


def reliability(judged: Judged, temperature: float) -> Reliability:
    """Of the probability of what was said, lesion or not, from one half on."""
    tally = ReliabilityTally(temperature)
    tally.add(judged.logits, judged.truth)
    return tally.reliability()


def rightly_empty(judged: Judged) -> float:
    """Share of the frames in which nothing was marked, and nothing was; one of each kind is added to what was seen."""
    empty = np.array([not (frame[0] > 0).any() for frame in judged.whole])
    right = empty & np.isnan(judged.dice)
    return float((right.sum() + 1) / (empty.sum() + 2))


def coverage(
    judged: Judged, temperature: float, nothing: float, threshold: float = 0.5
) -> list[tuple[float, float, float]]:
    """Dice against coverage: of the surest frames, that share, the mean Dice, and the least confidence among them.

    A frame of which neither truth nor mask marks anything is right: its Dice counts as 1.
    """
    sure = np.array([expected_dice(frame, threshold, temperature, nothing) for frame in judged.whole])
    dice = np.nan_to_num(judged.dice, nan=1.0)
    order = np.argsort(-sure, kind="stable")
    rows = []
    for share in _COVERAGES:
        kept = order[: max(1, round(share * len(order)))]
        rows.append((share, float(dice[kept].mean()), float(sure[kept].min())))
    return rows
