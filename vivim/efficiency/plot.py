"""Fig. 7 (b) as one SVG picture that needs nothing else: memory and time over the frames of a clip, in logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vivim.efficiency.report import COSTS, costs_of, number
from vivim.efficiency.study import Row, StudyOptions, Variant
from vivim_runtime.svg import COLORS, FAINT, INK, RULE, dot, line, page, text

__all__ = ["growth_svg"]

_WIDTH, _HEIGHT, _PANEL_W, _PANEL_H, _LEFT, _TOP, _GAP = 900, 430, 330, 300, 70, 70, 110
_COLORS = {"st_mamba": COLORS[0], "self_attention": COLORS[1]}


def growth_svg(rows: Sequence[Row], options: StudyOptions) -> str:
    """Two panels, a line a variant; dashed are lines of slope 1 (linear growth), dotted of slope 2 (quadratic).

    Figures that are missing, out of memory or time, end their line in a cross.
    """
    time = "CPU time, s" if any(COSTS["CPU time, s"](row) is not None for row in rows) else "time, s"
    height, width = options.growth_size
    words = "both axes logarithmic; dashed: linear growth, dotted: quadratic; x: out of memory or time"
    parts = [text(12, 40, words, FAINT)]
    for panel, cost in enumerate(("memory, MB", time)):
        parts += _panel(rows, cost, _LEFT + panel * (_PANEL_W + _GAP))
    parts += _legend(list(dict.fromkeys(row.variant for row in rows)))
    title = f"Inference of one clip of {height} x {width} pixels, {options.preset}"
    return page(_WIDTH, _HEIGHT, title, parts)


@dataclass(frozen=True)
class _Axes:
    """Where values lie: logarithms of frames and costs, over a panel whose left edge is at `left`."""

    left: float
    frames: tuple[int, int]
    costs: tuple[float, float]

    def x(self, frames: float) -> float:
        return self.left + _PANEL_W * _share(frames, *self.frames)

    def y(self, cost: float) -> float:
        return _TOP + _PANEL_H * (1 - _share(cost, *self.costs))


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low) if high > low else 0.5


def _panel(rows: Sequence[Row], cost: str, left: float) -> list[str]:
    variants = list(dict.fromkeys(row.variant for row in rows))
    values = [value for variant in variants for value in costs_of(rows, variant, cost)[1] if value > 0]
    frames = sorted({row.frames for row in rows})
    if not values:
        return [text(left, _TOP + 20, f"{cost}: nothing was measured", FAINT)]
    decades = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)) + 1e-9)
    axes = _Axes(left, (frames[0], frames[-1]), decades)
    parts = [text(left, _TOP - 10, cost, INK, size=12)]
    tick = decades[0]
    while tick <= decades[1] * 1.001:
        parts.append(line([(left, axes.y(tick)), (left + _PANEL_W, axes.y(tick))], RULE))
        parts.append(text(left - 6, axes.y(tick) + 4, number(tick), FAINT, anchor="end"))
        tick *= 10
    for count in frames:
        parts.append(line([(axes.x(count), _TOP), (axes.x(count), _TOP + _PANEL_H)], RULE))
        parts.append(text(axes.x(count), _TOP + _PANEL_H + 16, str(count), FAINT, anchor="middle"))
    parts.append(text(left + _PANEL_W / 2, _TOP + _PANEL_H + 32, "frames", FAINT, anchor="middle"))
    parts += [_guide(axes, slope, dash) for slope, dash in ((1, "6 4"), (2, "2 3"))]
    for variant in variants:
        parts += _series(axes, *costs_of(rows, variant, cost), variant, frames)
    return parts


def _guide(axes: _Axes, slope: int, dash: str) -> str:
    """A line of some slope from the panel's lower left corner to where it leaves the panel."""
    (first, last), (low, high) = axes.frames, axes.costs
    end = min(last, first * (high / low) ** (1 / slope))
    points = [(axes.x(first), axes.y(low)), (axes.x(end), axes.y(low * (end / first) ** slope))]
    return line(points, FAINT, dash=dash, more=' opacity="0.6"')


def _series(axes: _Axes, known: list[int], values: list[float], variant: Variant, frames: list[int]) -> list[str]:
    color = _COLORS[variant.module]
    points = [(axes.x(count), axes.y(value)) for count, value in zip(known, values, strict=True)]
    parts = [line(points, color, 2, _dash(variant))] if points else []
    parts += [dot(x, y, 3.5, color) for x, y in points]
    missing = [count for count in frames if count not in known]
    if missing:
        x, y = axes.x(missing[0]), _TOP + 8
        parts += [line([(x - 5, y - s), (x + 5, y + s)], color, 2) for s in (5, -5)]
        if points:
            parts.append(line([points[-1], (x, y)], color, dash="1 4"))
    return parts


def _legend(variants: Sequence[Variant]) -> list[str]:
    parts, y = [], _HEIGHT - 12
    for index, variant in enumerate(variants):
        x = _LEFT + index * 200
        parts.append(line([(x, y - 4), (x + 28, y - 4)], _COLORS[variant.module], 2, _dash(variant)))
        name = {"self_attention": "self-attention", "st_mamba": "ST-Mamba"}[variant.module]
        parts.append(text(x + 34, y, f"{name}, {'written out' if variant.written_out else 'fused'}", INK))
    return parts


def _dash(variant: Variant) -> str:
    return "7 3" if variant.written_out else ""
