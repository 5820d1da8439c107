"""How runs went, one behind the other, as a picture: mean training loss and validation Dice of every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vivim_runtime.errors import DataError
from vivim_runtime.svg import COLORS, FAINT, INK, RULE, dot, line, page, rule, text
from vivim_runtime.text import parse_json

__all__ = ["curve_svg", "read_log"]

_LEFT, _TOP, _WIDTH, _HEIGHT, _GAP = 52, 56, 620, 150, 46
_STEPS = 4  # of an axis


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a run, as `fit` wrote them into `log.jsonl`.

    Raises:
        DataError: a folder without a run, or a damaged log.
    """
    path = folder / "log.jsonl"
    try:
        return [parse_json(row) for row in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); expected the --out folder of fit") from None
    except ValueError as error:
        raise DataError(f"{path} is no log of vivim-train fit: {error}") from None


def curve_svg(runs: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> str:
    """Two panels over the epochs of all runs, each run in its colour; the best epoch of each is marked.

    Args:
        runs: names and epochs.

    Raises:
        DataError: no epoch at all.
    """
    count = sum(len(epochs) for _, epochs in runs)
    if not count:
        raise DataError("no epoch has ended yet, so there is nothing to draw")
    losses = [epoch["loss"] for _, epochs in runs for epoch in epochs]
    dice = [epoch["scores"]["dice"] for _, epochs in runs for epoch in epochs]
    panels = (("mean training loss", losses, 0.0, max(losses)), ("validation Dice", dice, min(dice), 1.0))
    parts: list[str] = []
    for index, (title, values, low, high) in enumerate(panels):
        top = _TOP + index * (_HEIGHT + _GAP)
        parts.append(text(_LEFT, top - 8, title, INK, size=12))
        parts += _grid(top, low, high)
        parts += _series(runs, values, top, low, high, best=max if index else min)
    bottom = _TOP + 2 * _HEIGHT + _GAP
    parts.append(text(_LEFT + _WIDTH / 2, bottom + 18, f"epochs, {count} in all", FAINT, anchor="middle"))
    for index, (name, epochs) in enumerate(runs):
        best = max((epoch["scores"]["dice"] for epoch in epochs), default=float("nan"))
        words = f"{name}: {len(epochs)} epochs, best Dice {best:.4f}"
        parts.append(text(_LEFT, bottom + 36 + 16 * index, words, COLORS[index % len(COLORS)], size=12))
    return page(_LEFT + _WIDTH + 24, bottom + 36 + 16 * len(runs) + 6, "Training", parts)


def _grid(top: float, low: float, high: float) -> list[str]:
    parts = []
    for step in range(_STEPS + 1):
        y = top + _HEIGHT * (1 - step / _STEPS)
        value = low + (high - low) * step / _STEPS
        parts.append(rule(_LEFT, y, _LEFT + _WIDTH, y, RULE))
        parts.append(text(_LEFT - 6, y + 4, f"{value:.2f}", FAINT, anchor="end"))
    return parts


def _series(
    runs: Sequence[tuple[str, Sequence[dict[str, Any]]]],
    values: list[float],
    top: float,
    low: float,
    high: float,
    best: Any,
) -> list[str]:
    """The lines of the runs, whose values stand one behind the other."""
    parts: list[str] = []
    spread, start = high - low or 1.0, 0
    for index, (_, epochs) in enumerate(runs):
        color = COLORS[index % len(COLORS)]
        own = values[start : start + len(epochs)]
        points = [
            (_LEFT + _WIDTH * (start + i + 0.5) / len(values), top + _HEIGHT * (1 - (value - low) / spread))
            for i, value in enumerate(own)
        ]
        if points:
            parts.append(line(points, color, 2))
            parts.append(dot(*points[own.index(best(own))], 4, color))
        start += len(epochs)
    return parts
