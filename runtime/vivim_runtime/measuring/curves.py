"""Area over time, a curve for each lesion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vivim_runtime.measuring.lesions import Lesion

__all__ = ["Curves"]


_MM = ("area_mm2", "longest_mm")
_COLUMNS = ("time_s", "area_px", "longest_px", *_MM)


class Curves:
    """Collects lesions of frames, and gives a curve for each."""

    def __init__(self) -> None:
        self._curves: dict[int, dict[str, Any]] = {}

    def add(self, time: float, lesions: Sequence[Lesion]) -> None:
        """The lesions of the next frame, at its time in seconds."""
        for lesion in lesions:
            curve = self._curves.setdefault(
                lesion.number,
                {"lesion": lesion.number, "class": lesion.label, **{name: [] for name in _COLUMNS}},
            )
            curve["time_s"].append(round(time, 4))
            curve["area_px"].append(lesion.pixels)
            curve["longest_px"].append(round(lesion.in_pixels.longest.value, 2))
            found = lesion.measures
            for name in ("area", "longest"):
                bounded = None if found is None else getattr(found, name)
                values = None if bounded is None else [round(bounded.value, 3), round(bounded.error, 3)]
                curve["area_mm2" if name == "area" else "longest_mm"].append(values)

    def record(self) -> list[dict[str, Any]]:
        """For JSON, in the order in which the lesions appeared; millimetres only where there are some."""
        curves = (self._curves[number] for number in sorted(self._curves))
        return [{k: v for k, v in curve.items() if k not in _MM or any(v)} for curve in curves]
