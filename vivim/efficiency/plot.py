"""Fig. 7 (b) as one SVG picture that needs nothing else: memory and time over the frames of a clip, in logarithms."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from vivim.efficiency.report import COSTS, costs_of, number
from vivim.efficiency.study import Row, StudyOptions, Variant

__all__ = ["growth_svg"]

_WIDTH, _HEIGHT, _PANEL_W, _PANEL_H, _LEFT, _TOP, _GAP = 900, 430, 330, 300, 70, 70, 110
_INK, _FAINT, _GRID = "#1c2430", "#5a6675", "#dde2e8"
_COLORS = {"self_attention": "#c2562b", "st_mamba": "#2563a8"}


def growth_svg(rows: Sequence[Row], options: StudyOptions) -> str:
    """Two panels, a line a variant; dashed are lines of slope 1 (linear growth), dotted of slope 2 (quadratic).

    Figures that are missing, out of memory or time, end their line in a cross.
    """
    time = "CPU time, s" if any(COSTS["CPU time, s"](row) is not None for row in rows) else "time, s"
    height, width = options.growth_size
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(12, 22, f"Inference of one clip of {height} x {width} pixels, {options.preset}", _INK, size=14),
        _text(
            12, 40, "both axes logarithmic; dashed: linear growth, dotted: quadratic; x: out of memory or time", _FAINT
        ),
    ]
    for panel, cost in enumerate(("memory, MB", time)):
        parts += _panel(rows, cost, _LEFT + panel * (_PANEL_W + _GAP))
    parts += _legend(list(dict.fromkeys(row.variant for row in rows)))
    return "\n".join([*parts, "</svg>"]) + "\n"


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
        return [_text(left, _TOP + 20, f"{cost}: nothing was measured", _FAINT)]
    decades = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)) + 1e-9)
    axes = _Axes(left, (frames[0], frames[-1]), decades)
    parts = [_text(left, _TOP - 10, cost, _INK, size=12)]
    tick = decades[0]
    while tick <= decades[1] * 1.001:
        parts.append(_line([(left, axes.y(tick)), (left + _PANEL_W, axes.y(tick))], _GRID))
        parts.append(_text(left - 6, axes.y(tick) + 4, number(tick), _FAINT, anchor="end"))
        tick *= 10
    for count in frames:
        parts.append(_line([(axes.x(count), _TOP), (axes.x(count), _TOP + _PANEL_H)], _GRID))
        parts.append(_text(axes.x(count), _TOP + _PANEL_H + 16, str(count), _FAINT, anchor="middle"))
    parts.append(_text(left + _PANEL_W / 2, _TOP + _PANEL_H + 32, "frames", _FAINT, anchor="middle"))
    parts += [_guide(axes, slope, dash) for slope, dash in ((1, "6 4"), (2, "2 3"))]
    for variant in variants:
        parts += _series(axes, *costs_of(rows, variant, cost), variant, frames)
    return parts


def _guide(axes: _Axes, slope: int, dash: str) -> str:
    """A line of some slope from the panel's lower left corner to where it leaves the panel."""
    (first, last), (low, high) = axes.frames, axes.costs
    end = min(last, first * (high / low) ** (1 / slope))
    points = [(axes.x(first), axes.y(low)), (axes.x(end), axes.y(low * (end / first) ** slope))]
    return _line(points, _FAINT, f' stroke-dasharray="{dash}" opacity="0.6"')


def _series(axes: _Axes, known: list[int], values: list[float], variant: Variant, frames: list[int]) -> list[str]:
    color = _COLORS[variant.module]
    points = [(axes.x(count), axes.y(value)) for count, value in zip(known, values, strict=True)]
    parts = [_line(points, color, f' stroke-width="2"{_dash(variant)}')] if points else []
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in points]
    missing = [count for count in frames if count not in known]
    if missing:
        x, y = axes.x(missing[0]), _TOP + 8
        parts += [_line([(x - 5, y - s), (x + 5, y + s)], color, ' stroke-width="2"') for s in (5, -5)]
        if points:
            parts.append(_line([points[-1], (x, y)], color, ' stroke-dasharray="1 4"'))
    return parts


def _legend(variants: Sequence[Variant]) -> list[str]:
    parts, y = [], _HEIGHT - 12
    for index, variant in enumerate(variants):
        x = _LEFT + index * 200
        parts.append(
            _line([(x, y - 4), (x + 28, y - 4)], _COLORS[variant.module], f' stroke-width="2"{_dash(variant)}')
        )
        name = {"self_attention": "self-attention", "st_mamba": "ST-Mamba"}[variant.module]
        parts.append(_text(x + 34, y, f"{name}, {'written out' if variant.written_out else 'fused'}", _INK))
    return parts


def _dash(variant: Variant) -> str:
    return ' stroke-dasharray="7 3"' if variant.written_out else ""


def _line(points: Sequence[tuple[float, float]], color: str, more: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}"{more}/>'


def _text(x: float, y: float, text: str, color: str, size: int = 11, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" font-size="{size}" text-anchor="{anchor}">'
        f"{html.escape(text)}</text>"
    )
