"""A report for programs: JSON with everything in it, and CSV with one line a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from vivim_runtime.bench import record as bench_record
from vivim_runtime.judging.evaluation import Evaluation
from vivim_runtime.judging.figures import Estimate
from vivim_runtime.judging.report import Report
from vivim_runtime.text import csv_cell

__all__ = ["csv_text", "record"]

_HEAD = ("model", "video", "frames", "figure", "value", "low", "high")


def record(report: Report) -> dict[str, Any]:
    """The report as a dict for JSON; see docs/evaluation.md. A figure for which no frame counts is None."""
    first = report.evaluations[0]
    return {
        "format": 1,
        "vivim-edge": version("vivim-edge"),
        "data": {
            "name": report.data,
            "split": report.split,
            "videos": len(first.videos),
            "frames": report.frames,
            "lesion_frames": report.lesion_frames,
        },
        "options": asdict(report.options),
        "intervals": {"confidence": 0.95, "drawn": first.drawn},
        "notes": list(report.notes),
        "models": [_model(report, i) for i in range(len(report.evaluations))],
    }


def _model(report: Report, i: int) -> dict[str, Any]:
    evaluation = report.evaluations[i]
    entry: dict[str, Any] = {
        "name": report.names[i],
        "model": asdict(evaluation.model),
        "hop": evaluation.hop,
        "overall": _overall(evaluation),
        "dice_at": evaluation.dice_at.tolist(),
        "best_threshold": evaluation.best_threshold,
        "reliability": {"temperature": evaluation.temperature, **asdict(evaluation.reliability)},
        "videos": [asdict(video) for video in evaluation.videos],
        "worst_frames": [
            {"video": w.video, "frame": w.frame, "dice": w.dice, "wrong": w.wrong} for w in evaluation.worst
        ],
    }
    if evaluation.of:
        entry["class"] = evaluation.of
    if report.first(i) != i:
        entry["higher_than_first"] = {key: asdict(e) for key, e in report.difference(i, "all").items()}
    if report.speeds:
        (measured,) = bench_record([report.speeds[i]])
        del measured["latencies_ms"]
        entry["speed"] = {"fps": report.frames_per_second(i), **measured}
    return entry


def _overall(evaluation: Evaluation) -> dict[str, dict[str, dict[str, float | None]]]:
    return {subset: {k: asdict(e) for k, e in figures.items()} for subset, figures in evaluation.overall.items()}


def csv_text(report: Report) -> str:
    """One line a model, video, subset of frames and figure; the video is empty for the figures over all of them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_HEAD)
    for name, evaluation in zip(report.rows, report.evaluations, strict=True):
        for line in _lines(evaluation):
            writer.writerow((csv_cell(name), csv_cell(line[0]), *line[1:]))
    return out.getvalue()


def _lines(evaluation: Evaluation) -> Iterator[tuple[str, str, str, float | None, float | None, float | None]]:
    for subset, overall in evaluation.overall.items():
        for key, estimate in overall.items():
            yield "", subset, key, estimate.value, estimate.low, estimate.high
    for video in evaluation.videos:
        for subset, figures in video.figures.items():
            for key, value in figures.items():
                spread = video.dice if (subset, key) == ("all", "dice") else Estimate(None, None, None)
                yield video.name, subset, key, value, spread.low, spread.high
