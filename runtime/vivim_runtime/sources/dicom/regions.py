"""What a DICOM file says of the parts of its picture and of the size of its pixels: read, not believed.

Whether it can be is judged by whoever uses it (vivim_runtime.regions, vivim_runtime.measuring.scale).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vivim_runtime.regions import UltrasoundRegion
from vivim_runtime.sources.dicom.files import frame_groups, numbers

__all__ = ["spacing_of", "ultrasound_regions_of"]

# A screen has a handful of regions; a damaged file may say anything.
_MOST = 64
_CORNERS = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")


def spacing_of(dataset: Any, keywords: Sequence[str] = ("PixelSpacing",)) -> tuple[float, float] | None:
    """Millimetres between rows and between columns: the first of some attributes that has both; None without.

    Only Pixel Spacing is measured in the body; of the others (PS3.3 10.7) the ratio may be used.
    """
    for source in (dataset, frame_groups(dataset, "PixelMeasuresSequence")):
        for keyword in keywords:
            spacing = (numbers(source, keyword) or []) if source is not None else []
            if len(spacing) == 2:
                return spacing[0], spacing[1]
    return None


def ultrasound_regions_of(dataset: Any) -> tuple[UltrasoundRegion, ...]:
    """The items of the Sequence of Ultrasound Regions that have four corners (PS3.3 C.8.5.5)."""
    try:
        items = list(dataset.get("SequenceOfUltrasoundRegions") or [])[:_MOST]
    except Exception:  # pydicom interprets values when they are asked for
        return ()
    found = []
    for item in items:
        corners = [_whole(item, keyword) for keyword in _CORNERS]
        if None in corners:
            continue
        x0, y0, x1, y1 = (corner or 0 for corner in corners)
        deltas = [(numbers(item, f"PhysicalDelta{axis}") or [math.nan])[0] for axis in "XY"]
        delta = (deltas[0], deltas[1]) if all(map(math.isfinite, deltas)) else None
        units = tuple(_whole(item, f"PhysicalUnits{axis}Direction") or 0 for axis in "XY")
        kinds = _whole(item, "RegionSpatialFormat") or 0, _whole(item, "RegionDataType") or 0
        found.append(UltrasoundRegion(*kinds, x0, y0, x1, y1, (units[0], units[1]), delta))
    return tuple(found)


def _whole(item: Any, keyword: str) -> int | None:
    value = (numbers(item, keyword) or [math.nan])[0]
    return int(value) if math.isfinite(value) and abs(value) < 1e6 else None
