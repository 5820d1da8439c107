"""A data set of two classes that a network of some seconds can learn: bright discs and dark squares on grey noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.runtime.datasets.trees import write_image

NAMES = ("disc", "square")
VALUES = (3, 7)


def shapes(seed: int, frame: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A frame (H, W, 3) and its labels (H, W): a disc of 3 on the one half, a square of 7 on the other, both still."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((size, size))
    labels = np.zeros((size, size), np.uint8)
    sides = rng.permutation(2)
    for side, value in zip(sides, VALUES, strict=True):
        y, x = rng.integers(size // 4, 3 * size // 4), size // 4 + side * (size // 2) + rng.integers(-4, 5)
        radius = rng.integers(size // 8, size // 5)
        away = np.hypot(rows - y, columns - x) if value == 3 else np.maximum(abs(rows - y), abs(columns - x))
        labels[away <= radius] = value
    noise = np.random.default_rng([seed, frame]).standard_normal(labels.shape)
    grey = 110 + 20 * noise + 100 * (labels == 3) - 90 * (labels == 7)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2), labels


def write_shapes(root: Path, videos: int, frames: int = 2, first: int = 0, size: int = 64) -> Path:
    """`videos` videos in the plain layout, and the table of their classes; no seed comes twice."""
    for number in range(first, first + videos):
        for index in range(frames):
            image, labels = shapes(number, index, size)
            write_image(root / "images" / f"v{number:03d}" / f"{index}.png", image)
            write_image(root / "masks" / f"v{number:03d}" / f"{index}.png", labels)
    write_table(root)
    return root


def write_table(root: Path) -> None:
    """`classes.json`."""
    table = dict(zip(map(str, VALUES), NAMES, strict=True))
    (root / "classes.json").write_text(json.dumps(table), encoding="utf-8")
