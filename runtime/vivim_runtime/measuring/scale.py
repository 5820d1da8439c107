"""Millimetres a pixel, and why there are none: a scale that contradicts its picture is refused, never used."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vivim_runtime.errors import UsageError
from vivim_runtime.regions import Region, UltrasoundRegion

__all__ = ["Scale", "Scales", "parse_mm_per_pixel", "spacing_scale", "ultrasound_scales"]

_CM = 3  # Physical Units Direction (PS3.3 C.8.5.5.1.15)
# Pixels of a scanner's screen or of a photograph of it; what lies outside is a header that is wrong.
_LEAST_MM, _MOST_MM = 1e-3, 10.0


@dataclass(frozen=True)
class Scale:
    """Of a picture, or of a part of it.

    Attributes:
        mm_x, mm_y: millimetres a pixel, as the picture is shown.
        origin: what says so, for people.
        region: for which part of the picture; None for all of it.
    """

    mm_x: float
    mm_y: float
    origin: str
    region: Region | None = None

    @property
    def pixel(self) -> float:
        """The larger side of a pixel, mm."""
        return max(self.mm_x, self.mm_y)


@dataclass(frozen=True)
class Scales:
    """The scales of a source.

    Attributes:
        scales: one, or one for each part; () where there is none.
        refusal: why there is none; "" where there is one.
    """

    scales: tuple[Scale, ...] = ()
    refusal: str = "nothing says how large a pixel is (--mm-per-pixel)"

    @classmethod
    def one(cls, scale: Scale) -> Scales:
        return cls((scale,), "")

    def at(self, x: float, y: float) -> Scale | None:
        """The scale at a place of the picture, in pixels; None outside of the parts that have one."""
        for scale in self.scales:
            region = scale.region
            if region is None or (
                region.x - 0.5 <= x < region.x + region.width - 0.5
                and region.y - 0.5 <= y < region.y + region.height - 0.5
            ):
                return scale
        return None

    def record(self) -> dict[str, Any]:
        """For ledgers and JSON."""
        if not self.scales:
            return {"refused": self.refusal}
        return {
            "mm_per_pixel": [[round(s.mm_x, 6), round(s.mm_y, 6)] for s in self.scales],
            "origin": self.scales[0].origin,
            **({"of": [str(s.region) for s in self.scales]} if any(s.region is not None for s in self.scales) else {}),
        }

    def describe(self) -> str:
        """For people, in one line."""
        if not self.scales:
            return f"no millimetres: {self.refusal}"
        sizes = ", ".join(
            f"{s.mm_x:.4g} mm" if s.mm_x == s.mm_y else f"{s.mm_x:.4g} x {s.mm_y:.4g} mm" for s in self.scales
        )
        return f"a pixel is {sizes} ({self.scales[0].origin})"


def parse_mm_per_pixel(text: str, option: str = "--mm-per-pixel") -> Scales:
    """The scale of `0.2`, or of `0.2x0.3`: millimetres a pixel across and down.

    Raises:
        UsageError: no such number, or one that no pixel has.
    """
    number = r"(\d{1,6}(?:\.\d{0,9})?|\.\d{1,9})"
    match = re.fullmatch(rf"{number}(?:x{number})?", text.strip(), re.ASCII)
    values = [float(part) for part in (match[1], match[2] or match[1])] if match else []
    if not values or not all(_LEAST_MM <= value <= _MOST_MM for value in values):
        raise UsageError(f"{option} is {text}; expected {_LEAST_MM:g} to {_MOST_MM:g}, or across x down: 0.2x0.3")
    return Scales.one(Scale(values[0], values[1], "given by hand"))


def ultrasound_scales(
    regions: Sequence[UltrasoundRegion], stored: tuple[int, int], shown: tuple[int, int], name: str
) -> Scales:
    """The scales of the tissue regions of a DICOM file, in pixels as shown; refused where one contradicts the picture.

    Args:
        stored, shown: (H, W) of the picture.
        name: for people.
    """
    tissue = [region for region in regions if region.is_tissue]
    if not tissue:
        return Scales(refusal=f"{name} has no ultrasound region of tissue")
    scales = []
    for region in tissue:
        if reason := region.contradiction(stored):
            return Scales(refusal=f"{name} contradicts itself: {reason}, so its scale is of another picture")
        if region.units != (_CM, _CM) or region.delta is None:
            return Scales(refusal=f"{name} gives its region no centimetres (units {region.units})")
        # Delta may be negative: physical y that grows upwards.
        across = 10.0 * abs(region.delta[0]) * stored[1] / shown[1]
        down = 10.0 * abs(region.delta[1]) * stored[0] / shown[0]
        if not all(math.isfinite(v) and _LEAST_MM <= v <= _MOST_MM for v in (across, down)):
            return Scales(refusal=f"{name} says that a pixel is {across:g} x {down:g} mm, which cannot be")
        scales.append(Scale(across, down, "ultrasound region", region.shown(stored, shown)))
    return Scales(tuple(scales), "")


def spacing_scale(spacing: tuple[float, float], stored: tuple[int, int], shown: tuple[int, int], name: str) -> Scales:
    """The scale of Pixel Spacing: millimetres between rows and between columns of the stored picture."""
    down, across = spacing[0] * stored[0] / shown[0], spacing[1] * stored[1] / shown[1]
    if not all(math.isfinite(v) and _LEAST_MM <= v <= _MOST_MM for v in (across, down)):
        return Scales(refusal=f"{name} says that a pixel is {across:g} x {down:g} mm, which cannot be")
    return Scales.one(Scale(across, down, "pixel spacing"))
