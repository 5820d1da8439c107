"""A plain phantom: mostly a cropped picture, as networks learn from, with a little of what a screen shows over it."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.phantom.probe import Beams
from vivim_runtime.phantom.spec import PhantomSpec
from vivim_runtime.phantom.tissue import Scene
from vivim_runtime.phantom.trouble import Trouble

__all__ = ["PlainPhantom"]

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float32]


class PlainPhantom:
    """A phantom without a scanner around it.

    Attributes:
        scene: what its frames show.
        sector: which pixels (H, W) show it.
    """

    def __init__(self, spec: PhantomSpec) -> None:
        rng = spec.scene_rng()
        beams = Beams.of_picture(*spec.size)
        self._spec, self.scene = spec, Scene(spec, rng, beams)
        self.sector = _sector(rng, beams.y, beams.x)
        self._furniture = _furniture(rng, *spec.size)

    def frames(self) -> Iterator[tuple[Image, Mask]]:
        """The frames (H, W, 3) and masks (H, W), one by one."""
        spec, sector, furniture = self._spec, self.sector, self._furniture
        trouble = Trouble(spec) if spec.trouble else None
        for index in range(spec.frames):
            visibility = 1.0 if trouble is None else trouble.visibility(index)
            grey, depth = self.scene.echoes(index / spec.fps, spec.frame_rng(index), visibility=visibility)
            image = np.where(sector, np.clip(grey, 0, 1) * 255, 0)
            image = np.where(furniture > 0, np.maximum(image, furniture), image)
            rgb = np.clip(image[..., None] * self.scene.tint, 0, 255).astype(np.uint8)
            mask = np.zeros(sector.shape, bool) if depth is None else (depth > 0) & sector
            yield (rgb, mask) if trouble is None else trouble.upon(index, rgb, mask)


def _sector(rng: np.random.Generator, y: Field, x: Field) -> Mask:
    """The visible area: the whole frame, a rectangle with margins, or the sector of a curved probe."""
    aspect = y.shape[1] / y.shape[0]
    kind = rng.choice(["full", "margins", "sector"], p=[0.45, 0.3, 0.25])
    if kind == "full":
        return np.ones(y.shape, bool)
    if kind == "margins":
        top, bottom = rng.uniform(0, 0.08), 1 - rng.uniform(0, 0.1)
        left, right = rng.uniform(0, 0.14) * aspect, (1 - rng.uniform(0, 0.14)) * aspect
        return (y >= top) & (y < bottom) & (x >= left) & (x < right)
    apex, inner = -rng.uniform(0.15, 0.6), rng.uniform(0.02, 0.08)
    radius = np.hypot(y - apex, x - aspect / 2)
    angle = np.abs(np.arctan2(x - aspect / 2, y - apex))
    return (radius > inner - apex) & (radius < 1.0 - apex - 0.02) & (angle < rng.uniform(0.5, 0.8))


def _furniture(rng: np.random.Generator, height: int, width: int) -> Image:
    """What a screen shows over the image: depth ticks, a grey bar, letters. Grey levels; 0 is see-through."""
    canvas = np.zeros((height, width), np.uint8)
    if rng.random() < 0.5:
        return canvas
    unit = height / 256
    grey = int(rng.integers(120, 240))
    if rng.random() < 0.6:
        side = int(rng.choice([1, width - 2 - int(5 * unit)]))
        for tick in np.arange(rng.uniform(0.02, 0.08), 1.0, rng.uniform(0.05, 0.12)):
            y = int(tick * height)
            cv2.line(canvas, (side, y), (side + int(4 * unit), y), grey, max(1, int(unit)))
    if rng.random() < 0.35:
        x, y0, y1 = int(width * 0.96), int(height * 0.15), int(height * 0.5)
        bar = np.linspace(255, 20, y1 - y0).astype(np.uint8)
        canvas[y0:y1, x : x + max(2, int(5 * unit))] = bar[:, None]
    for _ in range(int(rng.integers(0, 4))):
        text = "".join(rng.choice(list("ABDEFGHMRT0123456789.:"), int(rng.integers(2, 9))))
        at = (int(rng.uniform(0.01, 0.7) * width), int(rng.choice([0.05, 0.1, 0.94, 0.98]) * height))
        size = rng.uniform(0.25, 0.42) * unit
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, grey, max(1, round(unit)), cv2.LINE_AA)
    return canvas
