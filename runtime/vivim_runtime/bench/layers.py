"""What the layers of a model cost, in the shape of `trtexec --exportProfile`."""

from __future__ import annotations

import statistics
from typing import Any

__all__ = ["layer_profile"]


def layer_profile(runs: list[dict[str, float]]) -> list[dict[str, Any]]:
    """`[{"count": runs}, {"name", "timeMs", "averageMs", "medianMs", "percentage"}, ...]`, as trtexec writes it.

    Args:
        runs: milliseconds by layer, of every run; all of them have the same layers.
    """
    names = list(runs[0]) if runs else []
    columns = {name: [run.get(name, 0.0) for run in runs] for name in names}
    total = sum(map(sum, columns.values()))
    layers = [
        {
            "name": name,
            "timeMs": sum(times),
            "averageMs": statistics.fmean(times),
            "medianMs": statistics.median(times),
            "percentage": 100.0 * sum(times) / total if total else 0.0,
        }
        for name, times in columns.items()
    ]
    return [{"count": len(runs)}, *layers]
