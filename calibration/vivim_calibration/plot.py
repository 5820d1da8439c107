"""The sensitivity of the layers as one SVG picture that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from vivim_calibration.sensitivity import LayerCost
from vivim_runtime.svg import COLORS, FAINT, INK, bar, page, text

__all__ = ["sensitivity_svg"]

_ROW, _TOP, _LABEL, _BARS, _FIGURES = 16, 62, 300, 380, 110
_SHOWN = 40
_ALONE, _LEFT = COLORS[:2]


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
    parts = [text(12, 38, "bar: relative L2 of the logits; figure: Dice points lost (negative: gained)", FAINT)]
    if left_in_float:
        parts.append(text(12, 53, f"orange: left in float ({len(left_in_float)})", _LEFT))
    for row, cost in enumerate(shown):
        y = _TOP + row * _ROW
        color = _LEFT if cost.layer.name in left_in_float else _ALONE
        length = _BARS * cost.alone_error / largest
        parts.append(text(_LABEL - 8, y + 11, cost.layer.name, INK, anchor="end"))
        parts.append(bar(_LABEL, y + 2, length, _ROW - 4, color))
        figures = f"{cost.alone_error:.4f}  {cost.alone_points:+.3f}"
        parts.append(text(_LABEL + length + 6, y + 11, figures, FAINT))
    return page(width, height, f"What each layer costs when it alone is int8{more}", parts)
