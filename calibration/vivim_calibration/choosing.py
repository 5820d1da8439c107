"""Which layers stay in float so that `--budget` holds on clips that nobody has seen.

Ranges are learnt on some clips and layers are ranked on them; how many of the ranking are needed is found on others,
held out for it, and the verdict is reached on a third kind. What is compared with the budget is no mean but what the
mean over all clips of this kind exceeds once in twenty times: the mean and its error, by Student's distribution over
the videos (over clips, where there are fewer than four videos, since clips of one resemble each other).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from vivim_calibration.sensitivity import Trial
from vivim_runtime.judging.agreement import BUDGETS, Agreement, budget_failures

__all__ = ["FEWEST_GROUPS", "Choice", "choose_layers", "upper_bound"]

# Videos or clips from which an error of the mean can be told at all.
FEWEST_GROUPS = 3
_VIDEOS = 4


@dataclass(frozen=True)
class Choice:
    """What stays in float, and what the rest costs on the clips held out for the choice.

    Attributes:
        left_in_float: names of layers.
        clips, groups: held out; the videos or clips that the error is taken over.
        points_lost, points_bound: Dice points, their mean and its 95 % bound.
        mask_dice, mask_dice_bound: mean Dice between the masks, and its 95 % bound; None where nothing is marked.
    """

    left_in_float: tuple[str, ...]
    clips: int
    groups: int
    points_lost: float
    points_bound: float
    mask_dice: float | None
    mask_dice_bound: float | None


def choose_layers(
    trial: Trial,
    ranked: Callable[[], Sequence[str]],
    budget: float,
    always: Sequence[str] = (),
) -> Choice | None:
    """The fewest layers of a ranking that must stay in float; None where nothing less than all of them suffices.

    Args:
        trial: on the held-out clips.
        ranked: the layers but those in `always`, the dearest first; asked for only where some are needed.
        budget: Dice points that may be lost.
        always: in float besides.
    """
    first = _choice(trial, always, budget)
    if first is not None:
        return first
    names = list(ranked())
    # By bisection: more layers in float are no worse, but for the noise of contours.
    found: Choice | None = None
    low, high = 1, len(names)
    while low < high:
        middle = (low + high) // 2
        tried = _choice(trial, [*always, *names[:middle]], budget)
        if tried is None:
            low = middle + 1
        else:
            found, high = tried, middle
    return found


def upper_bound(values: Sequence[float]) -> float:
    """What the mean that some values are drawn from exceeds once in twenty times (Student's t, one-sided)."""
    if len(values) < FEWEST_GROUPS:
        return math.inf
    free = len(values) - 1
    z = 1.6449
    # Abramowitz and Stegun 26.7.5: 2 % short with two degrees of freedom, 0.1 % with seven.
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    return fmean(values) + t * stdev(values) / math.sqrt(len(values))


def _choice(trial: Trial, left_in_float: Collection[str], budget: float) -> Choice | None:
    """What a choice costs; None where it is over the budget, or over that of every int8 file."""
    together, each = trial.each_without(left_in_float)
    sources = [clip.source for clip in trial.clips]
    keys = sources if len(set(sources)) >= _VIDEOS else list(range(len(sources)))
    grouped: dict[object, list[Agreement]] = {}
    for key, agreement in zip(keys, each, strict=True):
        grouped.setdefault(key, []).append(agreement)
    points = [fmean(some.points_lost for some in group) for group in grouped.values()]
    dices = [[a.masks.dice for a in group if a.masks.dice is not None] for group in grouped.values()]
    lost = [1 - fmean(some) for some in dices if some]
    dice_bound = 1 - upper_bound(lost) if lost else None
    choice = Choice(
        tuple(left_in_float),
        len(each),
        len(grouped),
        together.points_lost,
        max(together.points_lost, upper_bound(points)),
        together.masks.dice,
        dice_bound,
    )
    limit = BUDGETS["int8"]
    holds = (
        choice.points_bound <= budget
        and (dice_bound is None or dice_bound >= limit.mask_dice)
        and not any(budget_failures(together, limit))
    )
    return choice if holds else None
