"""How large, in millimetres and with bounds; and which lesion of one frame is which of the next. Pure."""

from __future__ import annotations

from vivim_runtime.measuring.curves import Curves
from vivim_runtime.measuring.geometry import Bounded, Measures, measured
from vivim_runtime.measuring.lesions import Lesion, LesionFinder
from vivim_runtime.measuring.scale import Scale, Scales, parse_mm_per_pixel, ultrasound_scales

__all__ = [
    "Bounded",
    "Curves",
    "Lesion",
    "LesionFinder",
    "Measures",
    "Scale",
    "Scales",
    "measured",
    "parse_mm_per_pixel",
    "ultrasound_scales",
]
