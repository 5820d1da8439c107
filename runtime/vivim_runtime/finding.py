"""Finds a scanner's picture on its screen: what moves or speckles, against what never changes.

Letters, bars, menus and the ground around a picture stand still; tissue does not, and where it does its speckle is
partly new in every frame. So each pixel's variation over a clip says where the picture is. What a clock, an
electrocardiogram or a digitised output's noise move is thin or weak, and is filtered out.

A fan's far corners are often black, and black stands still. Therefore the region is not what moves but the smallest
shape that a probe's picture can have around nearly all of it: a rectangle, a trapezoid, or a fan, which may be cut off
at its sides and at its lower end. Where none fits, it is the convex hull. Of a still picture, brightness takes motion's
place.

Pure: pictures in, region out. `RegionFinder` is the same for live pictures, and notices when the screen changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.regions import Region

__all__ = ["Finding", "RegionFinder", "find", "find_region"]

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float32]
Parameters = npt.NDArray[np.float64]

# Longer side of the pictures that variation is measured on, and of the grids that shapes are fitted on, in cells.
_LOOK_AT = 640
_GRIDS = (88, 240)
# Variation that counts, grey levels: more than noise, but no more than speckle has at the least.
_LEAST_LEVEL, _MOST_LEVEL = 0.35, 5.0
# Noise on black is cut off below: what it varies by is 0.58 of what it does elsewhere. Tissue varies by far more than
# what stands still; this share of the most variable tissue counts as tissue too.
_CLIPPED, _OF_TISSUE = 1.7, 0.02
# Share of a neighbourhood that must vary: a line of up to three pixels is less than that of seven.
_NEIGHBOURHOOD, _DENSE = 7, 0.5
# Of the picture, the least that is one; of the largest piece, the least that belongs to it.
_LEAST_AREA, _LEAST_PIECE = 0.02, 0.03
# What a cell that varies costs outside the shape, where one that does not costs 1 inside it.
_LEFT_OUT = 5.0
# What the best shape may cost, as a share of what varies, and of a still picture, where letters are bright too.
_MOST_COST, _MOST_COST_OF_STILLS = 0.6, 0.12
# A kind with more parameters must be better by more than chance makes it.
_HANDICAPS = (("rectangle", 1.0), ("trapezoid", 1.06), ("fan", 1.06))
# A still picture of which so much is bright is tissue from side to side.
_MOSTLY = 0.6
# Live: of what varies, as much may lie outside a region, and of its sides as much must be reached, or it is looked for
# again; two regions of so much overlap are the same.
_STRAY, _REACH, _AGREE = 0.06, 0.6, 0.93
# A region of so much of the picture is all of it.
_ALL = 0.975


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        region: None where there is none.
        shape: `whole`, `rectangle`, `trapezoid`, `fan` or `hull`; "" where there is none.
        reason: why there is none, or what the region rests on.
        moves: whether it rests on what moves.
    """

    region: Region | None
    shape: str
    reason: str
    moves: bool = True


def find_region(images: Sequence[Image]) -> Region | None:
    """The region of a scanner's picture in the pictures of a clip, uint8 (H, W, 3), all of one size.

    Returns:
        Region with its outline; all of the picture where nothing is around the tissue; None where it cannot be told.
    """
    return find(images).region


def find(images: Sequence[Image]) -> Finding:
    """The same, with what it rests on."""
    look = _Variation()
    for image in images:
        look.add(image)
    return look.finding()


class _Variation:
    """Mean and variation of pictures that come one by one, on a grid of at most `_LOOK_AT` cells."""

    def __init__(self) -> None:
        self.count = 0
        self.size = (0, 0)
        self._first: Field | None = None
        self._sum: Field | None = None
        self._squares: Field | None = None

    def add(self, image: Image) -> None:
        if self._first is not None and image.shape[:2] != self.size:
            raise ValueError(f"a picture of {image.shape[:2]} after those of {self.size}")
        grey = _looked_at(image)
        if self._first is None or self._sum is None or self._squares is None:
            self.size = (image.shape[0], image.shape[1])
            self._first, self._sum, self._squares = grey, np.zeros_like(grey), np.zeros_like(grey)
        change = grey - self._first  # of small numbers, squares are exact
        self._sum += change
        self._squares += change * change
        self.count += 1

    def deviation(self) -> Field:
        """Standard deviation of each cell, grey levels."""
        assert self._sum is not None and self._squares is not None
        count = np.float32(self.count)
        variance = (self._squares - self._sum * self._sum / count) / np.maximum(count - 1, 1)
        return np.sqrt(np.maximum(variance, np.float32(0)))

    def mean(self) -> Field:
        """Mean of each cell, grey levels."""
        assert self._first is not None and self._sum is not None
        return self._first + self._sum / np.float32(self.count)

    def finding(self) -> Finding:
        if not self.count:
            return Finding(None, "", "no pictures")
        evidence = _varying(self.deviation(), self.count) if self.count > 2 else None
        if evidence is not None and evidence.mean() >= _LEAST_AREA:
            return _fitted(evidence, self.size, f"what varies in {self.count} pictures", _MOST_COST)
        evidence = _bright(self.mean())
        if evidence.mean() < _LEAST_AREA:
            return Finding(None, "", "nothing moves, and nothing is bright: there is no picture")
        if evidence.mean() > _MOSTLY:
            return Finding(Region.of(self.size), "whole", "nothing moves, and most of the picture is bright", False)
        found = _fitted(evidence, self.size, "brightness, as the picture stands still", _MOST_COST_OF_STILLS)
        if found.shape == "hull":
            return Finding(None, "", "nothing moves, and what is bright has not the shape of a probe's picture")
        return replace(found, moves=False)

    def explained_by(self, region: Region) -> bool:
        """Whether what varies lies within a region and reaches all its sides, or nothing varies."""
        evidence = _varying(self.deviation(), self.count)
        if evidence.mean() < _LEAST_AREA:
            return True
        inside = cv2.resize(
            region.mask(self.size).astype(np.uint8), evidence.shape[::-1], interpolation=cv2.INTER_NEAREST
        )
        outside = float((evidence & (inside == 0)).sum() / evidence.sum())
        rows, columns = np.nonzero(evidence & (inside > 0))
        if not len(rows):
            return False
        zoom = evidence.shape[0] / self.size[0]
        tall, wide = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        return outside < _STRAY and min(tall / region.height, wide / region.width) > _REACH * zoom


def _looked_at(image: Image) -> Field:
    """Grey levels float32 of a picture, made smaller."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    shrink = _LOOK_AT / max(grey.shape)
    if shrink < 1:
        size = (max(1, round(grey.shape[1] * shrink)), max(1, round(grey.shape[0] * shrink)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return grey.astype(np.float32)


def _dense(mask: Mask) -> Mask:
    """Where most of the neighbourhood is set; no thin lines."""
    share = cv2.blur(mask.astype(np.float32), (_NEIGHBOURHOOD, _NEIGHBOURHOOD), borderType=cv2.BORDER_REFLECT)
    return share > _DENSE


def _varying(deviation: Field, count: int) -> Mask:
    """Where a clip varies. A standard deviation of `count` normal values itself deviates by 1 / sqrt(2 (count - 1))."""
    noise = _CLIPPED * float(np.percentile(deviation, 20)) * (1 + 4 / np.sqrt(2 * (count - 1)))
    level = float(np.clip(max(noise, _OF_TISSUE * np.percentile(deviation, 98)), _LEAST_LEVEL, _MOST_LEVEL))
    return _pieces(_dense(deviation > level))


def _bright(mean: Field) -> Mask:
    """Where a still picture is not as its ground."""
    ground = float(np.median(np.concatenate((mean[0], mean[-1], mean[:, 0], mean[:, -1]))))
    if ground > 48:  # the picture reaches its border
        ground = 0.0
    return _pieces(_dense(np.abs(mean - ground) > 8))


def _pieces(mask: Mask) -> Mask:
    """The larger connected pieces."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    return np.isin(labels, np.flatnonzero(areas >= max(1, _LEAST_PIECE * areas.max())))


# Shapes. Parameters are in cells of the grid; x and y are the cells' centres.


def _rectangle(p: Parameters, x: Field, y: Field) -> Mask:
    """Left, top, right, bottom."""
    return (x >= p[0]) & (x <= p[2]) & (y >= p[1]) & (y <= p[3])


def _trapezoid(p: Parameters, x: Field, y: Field) -> Mask:
    """Middle, top, half width of the face, slope of the sides, length of the beams."""
    middle, top, half, slope, length = p
    behind = half / max(slope, 1e-3)
    down = y - top
    ratio = (x - middle) / np.maximum(down + behind, 1e-3)
    reach = np.hypot(x - middle, down + behind) - behind * np.hypot(1, ratio)
    return (down >= 0) & (np.abs(ratio) <= slope) & (reach <= length)


def _fan(p: Parameters, x: Field, y: Field) -> Mask:
    """Middle, height of the apex, inner radius, outer radius, half angle, half width shown, lowest row."""
    middle, apex, inner, outer, angle, half, bottom = p
    across, down = x - middle, y - apex
    reach = np.hypot(across, down)
    within = (reach >= inner) & (reach <= outer) & (np.abs(across) <= half) & (y <= bottom)
    return within & (np.abs(across) * np.cos(angle) <= down * np.sin(angle))


Shape = Callable[[Parameters, Field, Field], Mask]


def _starts(box: tuple[float, float, float, float]) -> list[tuple[str, Shape, Parameters]]:
    """Shapes that just fill a box of left, top, right, bottom."""
    left, top, right, bottom = box
    middle, wide, tall = (left + right) / 2, right - left, bottom - top
    starts: list[tuple[str, Shape, Parameters]] = [("rectangle", _rectangle, np.array([left, top, right, bottom]))]
    for slope in (0.15, 0.35):
        half = max(wide / 2 - slope * tall, 0.1 * wide)
        starts.append(("trapezoid", _trapezoid, np.array([middle, top, half, slope, tall])))
    for angle in (0.45, 0.62, 0.8, 1.15):
        outer = wide / (2 * np.sin(angle))
        apex = bottom - outer
        inner = max(0.0, (top - apex) / np.cos(angle))
        if apex > top:  # so wide a fan begins lower than at its apex; as much as is seen begins there
            apex, inner, outer = top, 0.0, tall
        starts.append(("fan", _fan, np.array([middle, apex, inner, outer, angle, wide / 2, bottom])))
    return starts


def _steps(name: str, reach: float) -> Parameters:
    """How far a first step goes, parameter by parameter."""
    if name == "rectangle":
        return np.full(4, reach)
    if name == "trapezoid":
        return np.array([reach, reach, reach, 0.1, reach])
    return np.array([reach, 2 * reach, 2 * reach, 2 * reach, 0.12, reach, reach])


class _Grid:
    """Evidence by cell, and what shapes cost on it."""

    def __init__(self, evidence: Mask, longest: int) -> None:
        shrink = min(1.0, longest / max(evidence.shape))
        self.shape = (max(8, round(evidence.shape[0] * shrink)), max(8, round(evidence.shape[1] * shrink)))
        share = cv2.resize(evidence.astype(np.float32), self.shape[::-1], interpolation=cv2.INTER_AREA)
        self.x = np.arange(self.shape[1], dtype=np.float32)[None]
        self.y = np.arange(self.shape[0], dtype=np.float32)[:, None]
        # What setting a cell costs over leaving it out.
        self.price = (1 - share) - np.float32(_LEFT_OUT) * share
        self.base = _LEFT_OUT * float(share.sum())
        rows, columns = np.nonzero(share >= 0.5)
        if not len(rows):
            rows, columns = np.nonzero(share > 0)
        self.box = (float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max()))

    def cost(self, shape: Shape, parameters: Parameters) -> float:
        return self.base + float(self.price[shape(parameters, self.x, self.y)].sum(dtype=np.float64))

    def improved(
        self, shape: Shape, parameters: Parameters, steps: Parameters, finest: float, directions: int
    ) -> tuple[float, Parameters]:
        """Descent along one parameter after the other, and along directions drawn by chance, the same ones always.

        Args:
            steps: the first step of each parameter.
            finest: the last one's share of it.
            directions: how many for each parameter, besides the parameters themselves.
        """
        best, found = self.cost(shape, parameters), parameters.copy()
        rng = np.random.default_rng(0)
        axes = np.eye(len(found))
        scale = 1.0
        while scale >= finest:
            better = False
            for move in (*axes, *rng.standard_normal((directions * len(found), len(found))) / 2):
                for sign in (1.0, -1.0):
                    while True:
                        tried = found + sign * scale * move * steps
                        cost = self.cost(shape, tried)
                        if cost >= best - 1e-6:
                            break
                        best, found, better = cost, tried, True
            if not better:
                scale /= 2
        return best, found


def _fitted(evidence: Mask, size: tuple[int, int], reason: str, most_cost: float) -> Finding:
    coarse = _Grid(evidence, _GRIDS[0])
    tries = []
    for name, shape, start in _starts(coarse.box):
        cost, parameters = coarse.improved(shape, start, _steps(name, 4.0), 0.5, 1)
        tries.append((cost, name, shape, parameters))
    fine = _Grid(evidence, _GRIDS[1])
    zoom = np.array(fine.shape) / coarse.shape
    best: tuple[float, str, Shape, Parameters] | None = None
    for kind, handicap in _HANDICAPS:
        _, _, shape, parameters = min((t for t in tries if t[1] == kind), key=lambda t: t[0])
        _, parameters = coarse.improved(shape, parameters, _steps(kind, 4.0), 0.125, 4)
        cost, parameters = fine.improved(shape, _zoomed(kind, parameters, zoom), _steps(kind, 2.0), 0.125, 2)
        if best is None or cost * handicap < best[0]:
            best = (cost * handicap, kind, shape, parameters)
    assert best is not None
    cost, kind, shape, parameters = best
    cost /= dict(_HANDICAPS)[kind]
    area = int(evidence.sum()) * (fine.shape[0] * fine.shape[1]) / evidence.size
    if cost > most_cost * area:
        return _hull(evidence, size, reason)
    return _outlined(kind, shape, parameters, fine, size, reason)


def _zoomed(kind: str, p: Parameters, zoom: npt.NDArray[np.float64]) -> Parameters:
    """Parameters of another grid; cells' centres are half a cell from their edges."""
    zy, zx = zoom
    lengths = np.array(
        {"rectangle": [zx, zy, zx, zy], "trapezoid": [zx, zy, zx, 1.0, zy], "fan": [zx, zy, zy, zy, 1.0, zx, zy]}[kind]
    )
    places = np.array(
        {"rectangle": [1, 1, 1, 1], "trapezoid": [1, 1, 0, 0, 0], "fan": [1, 1, 0, 0, 0, 0, 1]}[kind], float
    )
    return (p + 0.5 * places) * lengths - 0.5 * places


def _outlined(
    kind: str, shape: Shape, parameters: Parameters, grid: _Grid, size: tuple[int, int], reason: str
) -> Finding:
    """The shape in pixels of the picture."""
    height, width = size
    x = (np.arange(width, dtype=np.float32)[None] + np.float32(0.5)) * np.float32(grid.shape[1] / width) - 0.5
    y = (np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)) * np.float32(grid.shape[0] / height) - 0.5
    return _from_mask(shape(parameters, x, y), kind, reason)


def _hull(evidence: Mask, size: tuple[int, int], reason: str) -> Finding:
    corners = cv2.convexHull(np.argwhere(evidence)[:, ::-1].astype(np.int32))
    canvas = cv2.fillConvexPoly(np.zeros(evidence.shape, np.uint8), corners, 1)
    mask = cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    return _from_mask(mask, "hull", reason)


def _from_mask(mask: Mask, kind: str, reason: str) -> Finding:
    size = (mask.shape[0], mask.shape[1])
    if mask.mean() >= _ALL:
        return Finding(Region.of(size), "whole", reason)
    if mask.mean() < _LEAST_AREA:
        return Finding(None, "", "what stands out is too small to be a picture")
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = max(contours, key=cv2.contourArea)
    x, y, width, height = cv2.boundingRect(outline)
    if kind == "rectangle":
        return Finding(Region(x, y, width, height), kind, reason)
    corners = cv2.approxPolyDP(outline, 0.7, True)[:, 0]
    return Finding(Region(x, y, width, height, tuple((int(cx), int(cy)) for cx, cy in corners)), kind, reason)


class RegionFinder:
    """The region of live pictures, which come one by one.

    Nothing is found before `window` pictures were seen. From then on the region stays what it is while what varies
    stays within it; a screen that changes its layout, size or depth opens the question again, and two windows that
    agree on a new region settle it. A picture that is frozen, or a probe that has lost contact, changes nothing.

    Attributes:
        finding: what holds; None before anything was found.
        changes: how often another region took its place.
    """

    def __init__(self, window: int = 24) -> None:
        self.finding: Finding | None = None
        self.changes = 0
        self._window = window
        self._look = _Variation()
        self._rival: Finding | None = None

    @classmethod
    def of(cls, region: Region) -> RegionFinder:
        """One that goes on from a region that was found already."""
        finder = cls()
        finder.finding = Finding(region, "", "found before")
        return finder

    def add(self, image: Image) -> bool:
        """Takes a picture, uint8 (H, W, 3); whether `finding` has changed."""
        size = (image.shape[0], image.shape[1])
        if self._look.count and size != self._look.size:
            self._look, self._rival = _Variation(), None
        changed = False
        if self.finding is not None and self.finding.region is not None and not self.finding.region.fits(size):
            self.finding, changed = None, True
        self._look.add(image)
        if self._look.count < self._window:
            return changed
        look, self._look = self._look, _Variation()
        return self._judge(look) or changed

    def _judge(self, look: _Variation) -> bool:
        known = self.finding
        if known is not None and known.region is not None and look.explained_by(known.region):
            self._rival = None
            return False
        found = look.finding()
        if found.region is None or not found.moves:
            return False
        if known is None:
            self.finding = found
            return True
        if self._rival is None or self._rival.region is None or _overlap(found, self._rival, look.size) < _AGREE:
            self._rival = found
            return False
        self._rival = None
        if _overlap(found, known, look.size) >= _AGREE:
            return False
        self.finding = found
        self.changes += 1
        return True


def _overlap(one: Finding, other: Finding, size: tuple[int, int]) -> float:
    """Intersection over union of two regions."""
    if one.region is None or other.region is None or not (one.region.fits(size) and other.region.fits(size)):
        return 0.0
    a, b = one.region.mask(size), other.region.mask(size)
    return float((a & b).sum() / max(1, (a | b).sum()))
