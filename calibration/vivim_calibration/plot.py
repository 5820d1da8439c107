"""The sensitivity of the layers as one SVG picture that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence

from vivim_calibration.sensitivity import LayerCost

__all__ = ["sensitivity_svg"]

_ROW, _TOP, _LABEL, _BARS, _FIGURES = 16, 62, 300, 380, 110
_SHOWN = 40
_ALONE, _LEFT, _INK, _FAINT = "#2563a8", "#c2562b", "#1c2430", "#5a6675"


def sensitivity_svg(costs: Sequence[LayerCost], left_in_float: Sequence[str] = ()) -> str:
    """Horizontal bars: the logits' error of every layer quantised alone, the dearest first; its points beside it.

    Args:
        costs: as ranked.
        left_in_float: layers that are shown as returned to float.
    """
    shown = costs[:_SHOWN]
    largest = max((cost.alone_error for cost in shown), default=0.0) or 1.0
    height = _TOP + _ROW * len(shown) + 20
    width = _LABEL + _BARS + _FIGURES
    more = f" (the first {_SHOWN} of {len(costs)})" if len(costs) > _SHOWN else ""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(12, 20, f"What each layer costs when it alone is int8{more}", _INK, size=14),
        _text(12, 38, "bar: relative L2 of the logits; figure: Dice points lost (negative: gained)", _FAINT),
    ]
    if left_in_float:
        parts.append(_text(12, 53, f"orange: left in float ({len(left_in_float)})", _LEFT))
    for row, cost in enumerate(shown):
        y = _TOP + row * _ROW
        color = _LEFT if cost.layer.name in left_in_float else _ALONE
        length = _BARS * cost.alone_error / largest
        parts.append(_text(_LABEL - 8, y + 11, cost.layer.name, _INK, anchor="end"))
        parts.append(f'<rect x="{_LABEL}" y="{y + 2}" width="{length:.1f}" height="{_ROW - 4}" fill="{color}"/>')
        figures = f"{cost.alone_error:.4f}  {cost.alone_points:+.3f}"
        parts.append(_text(_LABEL + length + 6, y + 11, figures, _FAINT))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, color: str, size: int = 11, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" fill="{color}" font-size="{size}" text-anchor="{anchor}">{html.escape(text)}</text>'
    )
