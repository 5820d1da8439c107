"""What was measured, as a record for programs and a table for people: rows are figures, columns are models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from vivim_runtime.bench.worker import Opened
from vivim_runtime.text import markdown_text

__all__ = ["ModelResult", "markdown_table", "record", "terminal_table"]


@dataclass(frozen=True)
class ModelResult:
    """The figures of one model.

    Attributes:
        name: as it was given.
        batch: clips a call.
        latencies_ms: of every call that counts, from clips in host memory to logits in host memory.
        host_bytes: by how much its process grew at most, libraries included; None where the system does not tell.
        gpu_bytes: that it took of the GPU; None where there is none.
        layers: milliseconds by layer in each of some runs, where that was asked for.
        opened: what it is, and what the start cost.
    """

    name: str
    batch: int
    latencies_ms: list[float]
    host_bytes: int | None
    gpu_bytes: int | None
    layers: list[dict[str, float]] | None
    opened: Opened

    def percentile(self, percent: float) -> float:
        """Of the latencies, milliseconds."""
        return float(np.percentile(self.latencies_ms, percent))

    @property
    def clips_per_second(self) -> float:
        """With one call after the other."""
        return 1e3 * self.batch * len(self.latencies_ms) / sum(self.latencies_ms)

    @property
    def frames_per_second(self) -> float:
        """With clips that do not overlap."""
        return self.clips_per_second * self.opened.frames


def record(results: list[ModelResult]) -> list[dict[str, Any]]:
    """One dict a model, for JSON."""
    return [
        {
            "name": r.name,
            **asdict(r.opened),
            "batch": r.batch,
            "calls": len(r.latencies_ms),
            "latency_ms": {
                "p50": r.percentile(50),
                "p90": r.percentile(90),
                "p95": r.percentile(95),
                "p99": r.percentile(99),
                "max": max(r.latencies_ms),
            },
            "clips_per_second": r.clips_per_second,
            "frames_per_second": r.frames_per_second,
            "host_bytes": r.host_bytes,
            "gpu_bytes": r.gpu_bytes,
            "latencies_ms": r.latencies_ms,
        }
        for r in results
    ]


def _number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _megabytes(count: int | None) -> str:
    return "" if count is None else _number(count / 1e6)


_ROWS: dict[str, Callable[[ModelResult], str]] = {
    "runs in": lambda r: r.opened.backend,
    "device": lambda r: r.opened.device,
    "precision": lambda r: r.opened.precision,
    "clip": lambda r: f"{r.opened.frames} x {r.opened.size[0]} x {r.opened.size[1]}",
    "not as trained": lambda r: "; ".join(r.opened.departures),
    "clips a call": lambda r: str(r.batch),
    "file, MB": lambda r: _megabytes(r.opened.file_bytes),
    "load, ms": lambda r: _number(r.opened.load_ms),
    "first inference, ms": lambda r: _number(r.opened.first_ms),
    "latency p50, ms": lambda r: _number(r.percentile(50)),
    "p90": lambda r: _number(r.percentile(90)),
    "p95": lambda r: _number(r.percentile(95)),
    "p99": lambda r: _number(r.percentile(99)),
    "max": lambda r: _number(max(r.latencies_ms)),
    "calls": lambda r: str(len(r.latencies_ms)),
    "clips/s": lambda r: _number(r.clips_per_second),
    "frames/s": lambda r: _number(r.frames_per_second),
    "host memory, MB": lambda r: _megabytes(r.host_bytes),
    "GPU memory, MB": lambda r: _megabytes(r.gpu_bytes),
}


def _cells(results: list[ModelResult]) -> list[list[str]]:
    """Head and rows; what no model has is left out."""
    names = [Path(r.name).name for r in results]
    if len(set(names)) < len(names):
        names = [r.name for r in results]
    rows = [[title, *(text(r) for r in results)] for title, text in _ROWS.items()]
    if len(results) > 1:
        first = results[0].percentile(50)
        rows.append([f"speed, {names[0]} = 1", *(f"{first / r.percentile(50):.2f}" for r in results)])
    return [["", *names], *(row for row in rows if any(row[1:]))]


def terminal_table(results: list[ModelResult]) -> Table:
    """The table for Rich."""
    head, *rows = _cells(results)
    table = Table(box=None, pad_edge=False)
    table.add_column(head[0])
    for name in head[1:]:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(results: list[ModelResult]) -> str:
    """The table in Markdown."""
    head, *rows = ([markdown_text(cell) for cell in line] for line in _cells(results))
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
