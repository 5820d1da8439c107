"""The study as tables for people and as a record for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from vivim.efficiency.growth import Growth, growth
from vivim.efficiency.measuring import Outcome, Status
from vivim.efficiency.study import METHODS, Row, StudyOptions, Variant

__all__ = ["COSTS", "costs_of", "growth_markdown", "number", "record", "table_markdown"]

# What grows with the number of frames, by the name it has in tables: of a row, a number or None.
COSTS: dict[str, Callable[[Row], float | None]] = {
    "memory, MB": lambda row: None if row.inference.peak_bytes is None else row.inference.peak_bytes / 1e6,
    "time, s": lambda row: row.inference.seconds,
    "CPU time, s": lambda row: row.inference.cpu_seconds,
    "counted memory, MB": lambda row: row.counts.inference_bytes / 1e6,
    "counted GFLOP": lambda row: row.counts.flops / 1e9,
}
# In the place of a figure that is not there.
_STATUS = {
    Status.NOT_RUN: "-",
    Status.TOO_LARGE: "OOM (> {counted} MB counted)",
    Status.OUT_OF_MEMORY: "OOM",
    Status.TOO_SLOW: "> {limit:g} s",
}


def table_markdown(rows: Sequence[Row], options: StudyOptions) -> str:
    """Table IV: a row a variant."""
    on_cpu = any(row.inference.cpu_seconds is not None for row in rows)
    head = ["", "core module", "attention", "TM, MB", "IM, MB", "run time, s"]
    head += ["CPU time, s"] * on_cpu + ["training step, s"] + ["its CPU time, s"] * on_cpu
    head += ["counted TM, MB", "counted IM, MB", "GFLOP", "global"]
    lines = []
    for row in rows:
        method, counts = METHODS[row.variant.module], row.counts
        inference = _figures(row.inference, counts.inference_bytes, options)
        assert row.training is not None
        training = _figures(row.training, counts.training_bytes, options)
        cells = [method.name, method.core, "written out" if row.variant.written_out else "fused"]
        cells += [training[0], *inference[: 2 + on_cpu], *training[1 : 2 + on_cpu]]
        cells += [number(counts.training_bytes / 1e6), number(counts.inference_bytes / 1e6)]
        lines.append([*cells, number(counts.flops / 1e9), "yes" if method.is_global else "no"])
    return _markdown(head, lines, texts=3)


def growth_markdown(rows: Sequence[Row], options: StudyOptions) -> str:
    """Fig. 7 (b): a row a variant and number of frames, and a table of the fits."""
    on_cpu = any(row.inference.cpu_seconds is not None for row in rows)
    head = ["", "frames", "IM, MB", "run time, s"] + ["CPU time, s"] * on_cpu + ["counted IM, MB", "GFLOP"]
    lines = []
    for row in rows:
        figures = _figures(row.inference, row.counts.inference_bytes, options)[: 2 + on_cpu]
        counted = [number(row.counts.inference_bytes / 1e6), number(row.counts.flops / 1e9)]
        lines.append([row.variant.label, str(row.frames), *figures, *counted])
    fits = [
        [variant.label, cost, f"{frames[0]} to {frames[-1]}", number(fit.per_frame), *_fit_cells(fit)]
        for variant, cost, frames, fit in _fits(rows)
    ]
    fit_head = ["", "cost", "frames", "a frame", "R² of a line", "quadratic part", "exponent"]
    return _markdown(head, lines, texts=1) + "\n" + _markdown(fit_head, fits, texts=2)


def costs_of(rows: Sequence[Row], variant: Variant, cost: str) -> tuple[list[int], list[float]]:
    """Frames and costs of a variant, where there are figures."""
    points = [(row.frames, COSTS[cost](row)) for row in rows if row.variant == variant]
    known = [(frames, value) for frames, value in points if value is not None]
    return [frames for frames, _ in known], [value for _, value in known]


def record(table: Sequence[Row], growing: Sequence[Row], options: StudyOptions) -> dict[str, Any]:
    """Everything, for JSON."""
    fits = [
        {"variant": variant.label, "cost": cost, "frames": frames, **asdict(fit)}
        for variant, cost, frames, fit in _fits(growing)
    ]
    return {
        "options": asdict(options),
        "table": [_row_record(row) for row in table],
        "growth": [_row_record(row) for row in growing],
        "fits": fits,
    }


def number(value: float) -> str:
    """Three digits that count, thousands set apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _fits(rows: Sequence[Row]) -> Iterator[tuple[Variant, str, list[int], Growth]]:
    """The fits of every variant and cost, and over which frames, where there are figures enough."""
    for variant in dict.fromkeys(row.variant for row in rows):
        for cost in COSTS:
            frames, values = costs_of(rows, variant, cost)
            fit = growth(frames, values)
            if fit:
                yield variant, cost, frames, fit


def _fit_cells(fit: Growth) -> list[str]:
    return [f"{fit.linear_r2:.4f}", f"{round(100 * fit.quadratic_share)} %", f"{fit.exponent:.2f}"]


def _figures(outcome: Outcome, counted: int, options: StudyOptions) -> list[str]:
    """Memory, seconds, processor seconds; or why there are none."""
    if outcome.status is not Status.MEASURED:
        text = _STATUS[outcome.status].format(counted=number(counted / 1e6), limit=options.limits.seconds)
        return [text, "-", "-"]
    memory = None if outcome.peak_bytes is None else outcome.peak_bytes / 1e6
    return ["-" if value is None else number(value) for value in (memory, outcome.seconds, outcome.cpu_seconds)]


def _row_record(row: Row) -> dict[str, Any]:
    outcomes = {"inference": row.inference, "training": row.training}
    return {
        "method": METHODS[row.variant.module].name,
        "st_module": row.variant.module,
        "written_out": row.variant.written_out,
        "frames": row.frames,
        **{k: {**asdict(o), "status": o.status.name.lower()} for k, o in outcomes.items() if o is not None},
        "counted": asdict(row.counts),
    }


def _markdown(head: list[str], rows: list[list[str]], texts: int) -> str:
    """A Markdown table, aligned, whose first `texts` columns hold words and whose others hold figures."""
    widths = [max(3, *map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * w if i < texts else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    aligned = [
        [cell.ljust(w) if i < texts else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]
        for cells in (head, rule, *rows)
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in aligned)
