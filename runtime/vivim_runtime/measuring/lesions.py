"""Lesions of a frame, and which one of the next frame each of them is.

What is marked falls into connected parts. A part that overlaps best with one of a frame before, all pairs weighed
together (the assignment with the largest sum of IoU), has its number; what overlaps with none is new. A lesion that is
not marked for a while keeps its number for that long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.measuring.geometry import Bounded, Measures, measured
from vivim_runtime.measuring.scale import Scale, Scales

__all__ = ["Lesion", "LesionFinder", "assignment"]

Mask = npt.NDArray[np.bool_]

# A part with fewer pixels of the network than this is a speck: it stays in the mask, and is no lesion.
_LEAST_PIXELS = 9
_MOST_LESIONS = 32  # a frame and class: the largest
_LEAST_IOU = 0.1
_REMEMBERED_S = 0.5
# The outline may be anywhere between the threshold moved by this, in logits, up and down (probabilities of 0.0025 to
# 0.9975 around 0.5): networks are surer than they are right. The least whole number that covers 98 % of the diameters
# and areas of phantoms that validate (benchmarks/millimetres.py --split validation); a band of 1 covers half of them.
_BAND = 6.0


@dataclass(frozen=True, eq=False)
class Lesion:
    """A connected part of a mask.

    Attributes:
        number: of the lesion, from 1; the same from frame to frame.
        label: of the class, from 0.
        pixels: how many are marked.
        box: (x, y, width, height) around it.
        mask: bool (height, width) within the box.
        measures: in millimetres; None where there is no scale.
        in_pixels: the same in pixels.
    """

    number: int
    label: int
    pixels: int
    box: tuple[int, int, int, int]
    mask: Mask = field(repr=False)
    measures: Measures | None
    in_pixels: Measures

    def record(self) -> dict[str, object]:
        """For ledgers and JSON; lengths with their bounds."""
        own = self.in_pixels
        values: dict[str, object] = {
            "lesion": self.number,
            "area_px": self.pixels,
            "longest_px": round(own.longest.value, 2),
            "across_px": round(own.across.value, 2),
            "centroid_px": [round(v, 2) for v in own.centroid],
        }
        if self.measures is not None:
            for name, bounded in (
                ("area_mm2", self.measures.area),
                ("longest_mm", self.measures.longest),
                ("across_mm", self.measures.across),
            ):
                values[name] = _rounded(bounded)
        return values


def _rounded(bounded: Bounded) -> list[float]:
    """[value, bound]."""
    return [round(bounded.value, 3), round(bounded.error, 3)]


@dataclass
class _Track:
    number: int
    box: tuple[int, int, int, int]
    mask: Mask
    time: float


class LesionFinder:
    """Finds the lesions of one frame after the other, in order of time.

    Args:
        scales: of the pictures.
    """

    def __init__(self, scales: Scales) -> None:
        self.scales = scales
        self._tracks: dict[int, list[_Track]] = {}
        self._count = 0

    def find(
        self,
        masks: Mask,
        logits: npt.NDArray[np.float32],
        time: float,
        threshold: float,
        grain: float = 1.0,
    ) -> tuple[Lesion, ...]:
        """The lesions in masks (K, H, W), the largest first within a class.

        Args:
            logits: (K, H, W), whose values above `threshold` the masks are.
            time: of the frame, seconds.
            grain: side of a pixel of the network, in pixels of the frame.
        """
        found: list[Lesion] = []
        for label, (mask, values) in enumerate(zip(masks, logits, strict=True)):
            parts = _parts(mask, _LEAST_PIXELS * grain**2)
            numbers = self._numbers(label, parts, time)
            for number, (box, part) in zip(numbers, parts, strict=True):
                found.append(self._lesion(number, label, box, part, values, threshold, grain))
        return tuple(found)

    def _numbers(self, label: int, parts: Sequence[tuple[tuple[int, int, int, int], Mask]], time: float) -> list[int]:
        tracks = [t for t in self._tracks.get(label, []) if 0 <= time - t.time <= _REMEMBERED_S]
        overlaps = np.array([[_iou(t.box, t.mask, *part) for t in tracks] for part in parts]).reshape(
            len(parts), len(tracks)
        )
        pairs = dict(assignment(np.where(overlaps >= _LEAST_IOU, overlaps, 0.0)))
        numbers = []
        for index, (box, mask) in enumerate(parts):
            track = pairs.get(index)
            if track is None:
                self._count += 1
                tracks.append(_Track(self._count, box, mask, time))
                numbers.append(self._count)
            else:
                tracks[track] = _Track(tracks[track].number, box, mask, time)
                numbers.append(tracks[track].number)
        self._tracks[label] = tracks
        return numbers

    def _lesion(
        self,
        number: int,
        label: int,
        box: tuple[int, int, int, int],
        part: Mask,
        logits: npt.NDArray[np.float32],
        threshold: float,
        grain: float,
    ) -> Lesion:
        smaller = part & (logits[_slices(box)] > threshold + _BAND)
        larger, larger_box = _grown(logits, threshold - _BAND, box, part)
        wide = np.zeros(larger.shape, np.bool_)
        offset = box[0] - larger_box[0], box[1] - larger_box[1]
        inner = slice(offset[1], offset[1] + box[3]), slice(offset[0], offset[0] + box[2])
        wide[inner] = part
        narrow = np.zeros(larger.shape, np.bool_)
        narrow[inner] = smaller
        corner = larger_box[:2]

        def measures(pixel: tuple[float, float]) -> Measures:
            return measured(wide, pixel, corner=corner, grain=grain, smaller=narrow, larger=larger)

        in_pixels = measures((1.0, 1.0))
        scale = self.scale_of(in_pixels)
        own = None if scale is None else measures((scale.mm_x, scale.mm_y))
        return Lesion(number, label, int(np.count_nonzero(part)), box, part, own, in_pixels)

    def scale_of(self, measures: Measures) -> Scale | None:
        """The scale where a lesion lies."""
        return self.scales.at(*measures.centroid)


def _slices(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    return slice(box[1], box[1] + box[3]), slice(box[0], box[0] + box[2])


def _parts(mask: Mask, least: float) -> list[tuple[tuple[int, int, int, int], Mask]]:
    """(box, mask within it) of the connected parts of at least `least` pixels, the largest first."""
    if not mask.any():
        return []
    left, top, across, down = cv2.boundingRect(mask.view(np.uint8))
    marked = np.ascontiguousarray(mask[top : top + down, left : left + across])  # a small part of a frame, mostly
    count, labels, stats, _ = cv2.connectedComponentsWithStats(marked.view(np.uint8), connectivity=8)
    order = sorted(range(1, count), key=lambda n: -int(stats[n, cv2.CC_STAT_AREA]))
    parts = []
    for number in order[:_MOST_LESIONS]:
        if stats[number, cv2.CC_STAT_AREA] < least:
            break
        x, y, width, height = (int(v) for v in stats[number, :4])
        part = labels[_slices((x, y, width, height))] == number
        parts.append(((left + x, top + y, width, height), part))
    return parts


def _grown(
    logits: npt.NDArray[np.float32], threshold: float, box: tuple[int, int, int, int], part: Mask
) -> tuple[Mask, tuple[int, int, int, int]]:
    """What is connected with a part at a lower threshold, within its box and as much again around it."""
    margin = max(box[2], box[3])
    x0, y0 = max(0, box[0] - margin), max(0, box[1] - margin)
    x1, y1 = min(logits.shape[1], box[0] + box[2] + margin), min(logits.shape[0], box[1] + box[3] + margin)
    wide = logits[y0:y1, x0:x1] > threshold
    _, labels = cv2.connectedComponents(wide.view(np.uint8), connectivity=8)
    inner = labels[box[1] - y0 : box[1] - y0 + box[3], box[0] - x0 : box[0] - x0 + box[2]]
    row, column = divmod(int(part.argmax()), part.shape[1])
    return labels == inner[row, column], (x0, y0, x1 - x0, y1 - y0)


def _iou(box_a: tuple[int, int, int, int], mask_a: Mask, box_b: tuple[int, int, int, int], mask_b: Mask) -> float:
    x0, y0 = max(box_a[0], box_b[0]), max(box_a[1], box_b[1])
    x1 = min(box_a[0] + box_a[2], box_b[0] + box_b[2])
    y1 = min(box_a[1] + box_a[3], box_b[1] + box_b[3])
    if x0 >= x1 or y0 >= y1:
        return 0.0
    a = mask_a[y0 - box_a[1] : y1 - box_a[1], x0 - box_a[0] : x1 - box_a[0]]
    b = mask_b[y0 - box_b[1] : y1 - box_b[1], x0 - box_b[0] : x1 - box_b[0]]
    both = int(np.count_nonzero(a & b))
    return both / (int(np.count_nonzero(mask_a)) + int(np.count_nonzero(mask_b)) - both)


def assignment(gains: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """(row, column) pairs with the largest sum of gains (N, M), each row and column once; pairs of gain 0 are left out.

    The Hungarian method with potentials, O(n^3) (Kuhn 1955; the form of Jonker and Volgenant 1987).
    """
    if not gains.size:
        return []
    turned = gains.shape[0] > gains.shape[1]
    cost = -(gains.T if turned else gains)
    rows, columns = cost.shape
    u, v = np.zeros(rows + 1), np.zeros(columns + 1)
    row_of = np.zeros(columns + 1, np.intp)  # 1 + row of each column; 0 where it has none
    way = np.zeros(columns + 1, np.intp)
    for row in range(1, rows + 1):
        row_of[0], column = row, 0
        least = np.full(columns + 1, np.inf)
        used = np.zeros(columns + 1, np.bool_)
        while row_of[column]:
            used[column] = True
            own = row_of[column]
            reduced = cost[own - 1] - u[own] - v[1:]
            better = ~used[1:] & (reduced < least[1:])
            least[1:][better] = reduced[better]
            way[1:][better] = column
            free = np.where(used[1:], np.inf, least[1:])
            following = int(free.argmin()) + 1
            step = free[following - 1]
            u[row_of[used]] += step
            v[used] -= step
            least[1:][~used[1:]] -= step
            column = following
        while column:
            row_of[column] = row_of[way[column]]
            column = int(way[column])
    pairs = [(int(row_of[c]) - 1, c - 1) for c in range(1, columns + 1) if row_of[c]]
    pairs = [(c, r) for r, c in pairs] if turned else pairs
    return sorted((r, c) for r, c in pairs if gains[r, c] > 0)
