"""The pictures of a report, as SVG that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from vivim_runtime.evaluation.maps import THRESHOLDS
from vivim_runtime.evaluation.report import Report

__all__ = ["dice_at_threshold", "dice_by_video"]

_COLORS = ("#2563a8", "#c2562b", "#2f855a", "#7c3aed", "#b7791f", "#be185d")
_INK, _FAINT, _RULE = "#1c2430", "#5a6675", "#dde2e8"
_SHOWN_VIDEOS = 40


def dice_by_video(report: Report) -> str:
    """A bar for each video and model, the worst video of the first model first, with the interval as a whisker."""
    videos = [
        [evaluation.videos[i] for evaluation in report.evaluations] for i in range(len(report.evaluations[0].videos))
    ]
    ranked = sorted(videos, key=lambda of_models: of_models[0].dice.value or 0.0)
    shown = ranked[:_SHOWN_VIDEOS]
    bar, gap, label, length = 12, 6, 150, 420
    left, top = label + 12, 66 + 16 * len(report.labels)
    height = top + len(shown) * (bar * len(report.labels) + gap) + 30
    more = f" (the worst {len(shown)} of {len(ranked)})" if len(shown) < len(ranked) else ""
    parts = [
        *_page(left + length + 70, height, f"Dice by video{more}"),
        _text(12, 40, "whisker: 95 % interval over stretches of the video's frames", _FAINT),
        *_legend(report, 12, 58),
    ]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + length * value
        parts += [
            _line(x, top - 6, x, height - 24, _RULE),
            _text(x, height - 10, f"{value:g}", _FAINT, anchor="middle"),
        ]
    y = float(top)
    for of_models in shown:
        parts.append(_text(label, y + bar * len(of_models) / 2 + 4, _shortened(of_models[0].name), _INK, anchor="end"))
        for i, video in enumerate(of_models):
            dice = video.dice.value or 0.0
            parts.append(_bar(left, y + 1, length * dice, bar - 2, _color(i)))
            parts.append(_text(left + length + 10, y + bar - 2, f"{dice:.4f}", _FAINT))
            if video.dice.low is not None and video.dice.high is not None:
                ends = left + length * video.dice.low, left + length * video.dice.high
                parts.append(_line(ends[0], y + bar / 2, ends[1], y + bar / 2, _INK))
                parts += [_line(x, y + bar / 2 - 3, x, y + bar / 2 + 3, _INK) for x in ends]
            y += bar
        y += gap
    return _joined(parts)


def dice_at_threshold(report: Report) -> str:
    """Mean Dice over all frames at every threshold, one line a model; the threshold in use as a dot on it."""
    width, height, left = 560, 320, 52
    top = 44 + 16 * len(report.labels)
    right, bottom = width - 20, top + height - 100
    used = report.options.threshold

    def at(threshold: float, dice: float) -> tuple[float, float]:
        return left + (right - left) * threshold, bottom - (bottom - top) * dice

    parts = [*_page(width, bottom + 44, "Mean Dice over all frames, by threshold"), *_legend(report, 12, 40)]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        (x, y), (x0, _), (x1, _) = at(value, value), at(0, 0), at(1, 0)
        parts += [_line(x0, y, x1, y, _RULE), _text(left - 8, y + 4, f"{value:g}", _FAINT, anchor="end")]
        parts.append(_text(x, bottom + 16, f"{value:g}", _FAINT, anchor="middle"))
    parts.append(_text((left + right) / 2, bottom + 34, "threshold on the probability", _FAINT, anchor="middle"))
    for i, evaluation in enumerate(report.evaluations):
        points = " ".join(
            "{:.1f},{:.1f}".format(*at(t, d)) for t, d in zip(THRESHOLDS, evaluation.dice_at, strict=True)
        )
        # Lines that coincide show in turns.
        dashes = f' stroke-dasharray="6 {6 * i}"' if i else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{_color(i)}" stroke-width="1.6"{dashes}/>')
        x, y = at(used, float(evaluation.overall["all"]["dice"].value or 0.0))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_color(i)}"/>')
    return _joined(parts)


def _color(model: int) -> str:
    return _COLORS[model % len(_COLORS)]


def _shortened(name: str) -> str:
    """A name that fits beside a bar: its end tells videos apart."""
    return name if len(name) <= 24 else "…" + name[-23:]


def _page(width: int, height: int, title: str) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="11">'
    )
    yield f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    yield _text(12, 20, title, _INK, size=14)


def _legend(report: Report, x: float, y: float) -> Iterator[str]:
    for i, label in enumerate(report.labels):
        yield _bar(x, y + 16 * i - 9, 10, 10, _color(i))
        yield _text(x + 16, y + 16 * i, label, _INK)


def _text(x: float, y: float, text: str, color: str, size: int = 11, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {place} fill="{color}" font-size="{size}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _bar(x: float, y: float, width: float, height: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>'


def _line(x0: float, y0: float, x1: float, y1: float, color: str) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{color}"/>'


def _joined(parts: Sequence[str]) -> str:
    return "\n".join([*parts, "</svg>"]) + "\n"
