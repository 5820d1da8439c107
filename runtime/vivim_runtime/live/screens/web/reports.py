"""A Status as JSON for the page and as text for Prometheus. Neither holds anything about the patient."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vivim_runtime.live.status import Controls, State, Status
from vivim_runtime.sessions.base import ClassInfo

__all__ = ["as_json", "as_metrics"]

_QUANTILES = {"p50": "0.5", "p95": "0.95", "p99": "0.99", "max": "1"}


def as_json(
    status: Status, controls: Controls, classes: tuple[ClassInfo, ...], age_s: float, viewers: int
) -> dict[str, Any]:
    """Everything that the page shows.

    Args:
        age_s: seconds since the run gave this status.
        viewers: who watch the stream now.
    """
    return {
        **asdict(status),
        "state": status.state.value,
        "age_s": round(age_s, 3),
        "viewers": viewers,
        "threshold": controls.threshold,
        "layers": list(controls.layers),
        "opacity": controls.alpha,
        "view": controls.view.value,
        "hud": controls.hud.value,
        "paused": controls.paused.is_set(),
        "region_drawn": controls.region is not None,
        "recording_wanted": controls.recording.is_set(),
        "classes": [{"name": info.name, "color": list(info.color)} for info in classes],
    }


def _label(value: str) -> str:
    """A label's value as Prometheus wants it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _labels(pairs: dict[str, str]) -> str:
    return ",".join(f'{key}="{_label(value)}"' for key, value in pairs.items())


def as_metrics(status: Status, age_s: float, viewers: int) -> str:
    """The text format of Prometheus, version 0.0.4; times in seconds."""
    lines: list[str] = []

    def add(name: str, kind: str, text: str, values: dict[str, float]) -> None:
        lines.extend((f"# HELP vivim_{name} {text}", f"# TYPE vivim_{name} {kind}"))
        for labels, value in values.items():
            lines.append(f"vivim_{name}{{{labels}}} {value:g}" if labels else f"vivim_{name} {value:g}")

    def quantiles(milliseconds: Any) -> dict[str, float]:
        return {f'quantile="{_QUANTILES[key]}"': ms / 1000.0 for key, ms in milliseconds.items() if key in _QUANTILES}

    runs = {name: str(getattr(status, name)) for name in ("model", "precision", "backend", "device")}
    add("info", "gauge", "What runs.", {_labels(runs): 1})
    states = {_labels({"state": state.value}): float(state is status.state) for state in State}
    add("state", "gauge", "1 for the state that the run is in.", states)
    add("fps", "gauge", "Pictures shown a second.", {"": status.fps})
    add("source_fps", "gauge", "Frames captured a second.", {"": status.source_fps})
    add("latency_seconds", "gauge", "From the driver to the composited picture, lately.", quantiles(status.latency_ms))
    add("inference_seconds", "gauge", "Of the session's calls, lately.", quantiles(status.infer_ms))
    if status.mask_age_ms is not None:
        add("mask_age_seconds", "gauge", "Age of the mask that is shown.", {"": status.mask_age_ms / 1000.0})
    add("hop_frames", "gauge", "Frames from one clip to the next.", {"": status.hop})
    counts = {_labels({"fate": fate}): float(count) for fate, count in status.counts.items()}
    add("frames_total", "counter", "Frames, by what became of them.", counts)
    add("run_seconds_total", "counter", "Since the run began.", {"": status.seconds})
    add("recording", "gauge", "Whether a recording is being written.", {"": float(status.recording)})
    add("status_age_seconds", "gauge", "Since the run last said something.", {"": age_s})
    add("viewers", "gauge", "Who watch the stream.", {"": viewers})
    return "\n".join(lines) + "\n"
