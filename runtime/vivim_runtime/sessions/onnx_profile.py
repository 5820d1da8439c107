"""What ONNX Runtime writes when it profiles: events with start and duration, from which each node's time is taken."""

from __future__ import annotations

from typing import Any

__all__ = ["node_times"]


def node_times(events: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Milliseconds of the nodes of every run, in order of execution.

    What runs within another node (the body of a Scan, of an If) is part of that node and not listed by itself: it
    starts before the other ends, since ONNX Runtime executes one node after the other.

    Args:
        events: content of the file; `ts` and `dur` are in microseconds.
    """
    runs = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: e["ts"])
    nodes = sorted(
        (e for e in events if e.get("name", "").endswith("_kernel_time")), key=lambda e: (e["ts"], -e["dur"])
    )
    times: list[dict[str, float]] = [{} for _ in runs]
    current, end = 0, 0.0
    for event in nodes:
        while current + 1 < len(runs) and event["ts"] >= runs[current + 1]["ts"]:
            current += 1
        if event["ts"] < end or not runs:
            continue
        end = event["ts"] + event["dur"]
        name = event["name"].removesuffix("_kernel_time")
        times[current][name] = times[current].get(name, 0.0) + event["dur"] / 1e3
    return times
