"""Small pictures as SVG text that needs nothing else: a page, words, bars, and lines through points."""

from __future__ import annotations

from collections.abc import Sequence

from vivim_runtime.text import html_text

__all__ = ["COLORS", "FAINT", "INK", "RULE", "bar", "dot", "line", "page", "rule", "text"]

# Of series, in this order; of words that matter and of others; of the grid.
COLORS = ("#2563a8", "#c2562b", "#2f855a", "#7c3aed", "#b7791f", "#be185d")
INK, FAINT, RULE = "#1c2430", "#5a6675", "#dde2e8"


def page(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A white picture of that many pixels with a title in its corner."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="system-ui, sans-serif" font-size="11">'
    )
    ground = f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>'
    return "\n".join([head, ground, text(12, 20, title, INK, size=14), *parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, color: str, size: int = 11, anchor: str = "start") -> str:
    """Words whose baseline starts, is centred (anchor `middle`) or ends (`end`) at a point."""
    place = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {place} fill="{color}" font-size="{size}" text-anchor="{anchor}">{html_text(words)}</text>'


def bar(x: float, y: float, width: float, height: float, color: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>'


def line(points: Sequence[tuple[float, float]], color: str, width: float = 1.0, dash: str = "", more: str = "") -> str:
    """A line through points; `dash` as in stroke-dasharray, `more` for other attributes."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width:g}"{dashes}{more}/>'


def rule(x0: float, y0: float, x1: float, y1: float, color: str) -> str:
    """A thin straight line: of a grid, an axis, a whisker."""
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{color}"/>'


def dot(x: float, y: float, radius: float, color: str) -> str:
    """A filled circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{color}"/>'
