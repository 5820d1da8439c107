"""Maps and true masks to compare implementations on: random ones, a real video's, and those that break definitions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from vivim_runtime.judging.metrics import Figures, Masks

VTUS = Path(__file__).parents[4] / "shared" / "data" / "vtus"


def blob(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    """A filled ellipse that may leave the frame."""
    height, width = size
    canvas = np.zeros(size, np.uint8)
    centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
    axes = (int(rng.integers(2, width // 2)), int(rng.integers(2, height // 2)))
    cv2.ellipse(canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, cv2.FILLED)
    return canvas.astype(bool)


def map_of(mask: Masks, rng: np.random.Generator) -> Figures:
    """What a network might say of a mask: blurred, moved a little, and noisy; float64 in 0..1."""
    moved = np.roll(mask, rng.integers(-4, 5, 2), (0, 1)).astype(np.float64)
    soft = cv2.GaussianBlur(moved, (0, 0), float(rng.uniform(1, 3)))
    return np.clip(soft * rng.uniform(0.6, 1) + rng.uniform(0, 0.1, mask.shape), 0, 1)


def random_pairs(count: int = 20) -> Iterator[tuple[Figures, Masks]]:
    """Maps (H, W) and masks (H, W) of several sizes."""
    rng = np.random.default_rng(7)
    for _ in range(count):
        size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)))
        mask = blob(rng, size)
        yield map_of(mask, rng), mask


def real_masks() -> list[Masks]:
    """Eight true masks of the annotated thyroid video; none where it is not there."""
    files = sorted((VTUS / "Train_GT" / "0002").glob("*.png"))[::12]
    return [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 127 for path in files]


def real_pairs() -> list[tuple[Figures, Masks]]:
    """Maps made of the real masks, with them."""
    rng = np.random.default_rng(8)
    return [(map_of(mask, rng), mask) for mask in real_masks()]
