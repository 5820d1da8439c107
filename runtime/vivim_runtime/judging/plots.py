"""The pictures of a report, as SVG that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from vivim_runtime.judging.maps import THRESHOLDS
from vivim_runtime.judging.report import Report
from vivim_runtime.svg import COLORS, FAINT, INK, RULE, bar, dot, line, page, rule, text

__all__ = ["dice_at_threshold", "dice_by_video", "reliability_diagram"]

_SHOWN_VIDEOS = 40


def dice_by_video(report: Report) -> str:
    """A bar for each video and model, the worst video of the first model first, with the interval as a whisker."""
    videos = [
        [evaluation.videos[i] for evaluation in report.evaluations] for i in range(len(report.evaluations[0].videos))
    ]
    ranked = sorted(videos, key=lambda of_models: of_models[0].dice.value or 0.0)
    shown = ranked[:_SHOWN_VIDEOS]
    row, gap, label, length = 12, 6, 150, 420
    left, top = label + 12, 66 + 16 * len(report.labels)
    height = top + len(shown) * (row * len(report.labels) + gap) + 30
    more = f" (the worst {len(shown)} of {len(ranked)})" if len(shown) < len(ranked) else ""
    parts = [
        text(12, 40, "whisker: 95 % interval over stretches of the video's frames", FAINT),
        *_legend(report, 12, 58),
    ]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + length * value
        parts += [
            rule(x, top - 6, x, height - 24, RULE),
            text(x, height - 10, f"{value:g}", FAINT, anchor="middle"),
        ]
    y = float(top)
    for of_models in shown:
        parts.append(text(label, y + row * len(of_models) / 2 + 4, _shortened(of_models[0].name), INK, anchor="end"))
        for i, video in enumerate(of_models):
            dice = video.dice.value or 0.0
            parts.append(bar(left, y + 1, length * dice, row - 2, _color(i)))
            parts.append(text(left + length + 10, y + row - 2, f"{dice:.4f}", FAINT))
            if video.dice.low is not None and video.dice.high is not None:
                ends = left + length * video.dice.low, left + length * video.dice.high
                parts.append(rule(ends[0], y + row / 2, ends[1], y + row / 2, INK))
                parts += [rule(x, y + row / 2 - 3, x, y + row / 2 + 3, INK) for x in ends]
            y += row
        y += gap
    return page(left + length + 70, height, f"Dice by video{more}", parts)


def dice_at_threshold(report: Report) -> str:
    """Mean Dice over all frames at every threshold, one line a model; the threshold in use as a dot on it."""
    width, height, left = 560, 320, 52
    top = 44 + 16 * len(report.labels)
    right, bottom = width - 20, top + height - 100
    used = report.options.threshold

    def at(threshold: float, dice: float) -> tuple[float, float]:
        return left + (right - left) * threshold, bottom - (bottom - top) * dice

    parts = [*_legend(report, 12, 40)]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        (x, y), (x0, _), (x1, _) = at(value, value), at(0, 0), at(1, 0)
        parts += [rule(x0, y, x1, y, RULE), text(left - 8, y + 4, f"{value:g}", FAINT, anchor="end")]
        parts.append(text(x, bottom + 16, f"{value:g}", FAINT, anchor="middle"))
    parts.append(text((left + right) / 2, bottom + 34, "threshold on the probability", FAINT, anchor="middle"))
    for i, evaluation in enumerate(report.evaluations):
        points = [at(t, d) for t, d in zip(THRESHOLDS, evaluation.dice_at, strict=True)]
        parts.append(line(points, _color(i), 1.6, f"6 {6 * i}" if i else ""))  # lines that coincide show in turns
        x, y = at(used, float(evaluation.overall["all"]["dice"].value or 0.0))
        parts.append(dot(x, y, 4, _color(i)))
    return page(width, bottom + 44, "Mean Dice over all frames, by threshold", parts)


def reliability_diagram(report: Report) -> str:
    """Of the pixels that are given a probability, the share that is right; a dot's size is its share of the pixels."""
    side, left = 300, 52
    top = 60 + 16 * len(report.labels)

    def at(given: float, right: float) -> tuple[float, float]:
        return left + side * (given - 0.5) * 2, top + side * (1 - right)

    parts = [text(12, 40, "above the line: right more often than it says; below: less often", FAINT)]
    for i, (label, evaluation) in enumerate(zip(report.labels, report.evaluations, strict=True)):
        how = "as they are" if evaluation.temperature == 1 else f"temperature {evaluation.temperature:.2f}"
        words = f"{label}: {how}, expected calibration error {evaluation.reliability.error:.4f}"
        parts += [bar(12, 58 + 16 * i - 9, 10, 10, _color(i)), text(28, 58 + 16 * i, words, INK)]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        (x0, y), (x1, _), (x, _) = at(0.5, value), at(1.0, value), at(0.5 + value / 2, 0.0)
        parts += [rule(x0, y, x1, y, RULE), text(left - 8, y + 4, f"{value:g}", FAINT, anchor="end")]
        parts.append(text(x, top + side + 16, f"{0.5 + value / 2:g}", FAINT, anchor="middle"))
    parts += [
        rule(*at(0.5, 0.5), *at(1.0, 1.0), FAINT),
        text(left + side / 2, top + side + 34, "probability of what is said of a pixel", FAINT, anchor="middle"),
    ]
    for i, evaluation in enumerate(report.evaluations):
        found = evaluation.reliability
        points = [at(*pair) for pair in zip(found.confidence, found.accuracy, strict=True)]
        parts.append(line(points, _color(i), 1.6, f"6 {6 * i}" if i else ""))
        for (x, y), share in zip(points, found.share, strict=True):
            parts.append(dot(x, y, 2 + 6 * share**0.5, _color(i)))
    return page(max(side + left + 40, 560), top + side + 44, "Share of pixels that are right, by probability", parts)


def _color(model: int) -> str:
    return COLORS[model % len(COLORS)]


def _shortened(name: str) -> str:
    """A name that fits beside a bar: its end tells videos apart."""
    return name if len(name) <= 24 else "…" + name[-23:]


def _legend(report: Report, x: float, y: float) -> Iterator[str]:
    for i, label in enumerate(report.labels):
        yield bar(x, y + 16 * i - 9, 10, 10, _color(i))
        yield text(x + 16, y + 16 * i, label, INK)
