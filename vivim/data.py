"""Clips to train and evaluate on: phantoms, made once, and augmented clip by clip."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vivim.config import MEAN, STD
from vivim.errors import DataError
from vivim_runtime.phantom import PhantomClip, PhantomSpec, phantom_clip

__all__ = ["SPLITS", "Clip", "augmented", "batches", "normalised", "phantom_clips"]

# Seeds of the phantoms; the splits never meet.
SPLITS = {"train": 1_000_000, "validation": 2_000_000, "test": 3_000_000}
_MOST_CLIPS = 1_000_000


@dataclass(frozen=True)
class Clip:
    """frames uint8 (T, H, W, 3) RGB and masks bool (T, H, W)."""

    frames: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]


def phantom_clips(split: str, count: int, frames: int, size: tuple[int, int], workers: int = 1) -> list[Clip]:
    """The first `count` phantom clips of a split (`train`, `validation`, `test`), the same ones every time."""
    if split not in SPLITS:
        raise DataError(f"there is no split {split!r}; expected one of {', '.join(SPLITS)}")
    if not 0 < count <= _MOST_CLIPS:
        raise DataError(f"{count} clips asked for; expected 1 to {_MOST_CLIPS}")
    specs = [PhantomSpec(seed=SPLITS[split] + i, frames=frames, size=size) for i in range(count)]
    if workers < 2 or count < 16:
        made: list[PhantomClip] = [phantom_clip(spec) for spec in specs]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            made = list(pool.map(phantom_clip, specs, chunksize=8))
    return [Clip(clip.frames, clip.masks) for clip in made]


def augmented(clip: Clip, rng: np.random.Generator) -> Clip:
    """The clip flipped, scaled, shifted and re-toned at random, every frame alike; same shapes."""
    frames, masks = clip.frames, clip.masks
    if rng.random() < 0.5:
        frames, masks = frames[:, :, ::-1], masks[:, :, ::-1]
    if rng.random() < 0.5:
        frames, masks = frames[::-1], masks[::-1]  # played backwards
    height, width = masks.shape[1:]
    scale = rng.uniform(0.85, 1.3)
    shift = rng.uniform(-0.1, 0.1, 2) * (width, height)
    centre = np.array([width / 2, height / 2])
    matrix = np.column_stack((np.eye(2) * scale, centre * (1 - scale) + shift))
    gamma, gain, offset = rng.uniform(0.7, 1.4), rng.uniform(0.8, 1.2), rng.uniform(-0.06, 0.06)
    tones = np.clip((np.linspace(0, 1, 256) ** gamma * gain + offset) * 255, 0, 255).astype(np.uint8)
    moved = np.stack([cv2.warpAffine(cv2.LUT(np.ascontiguousarray(f), tones), matrix, (width, height)) for f in frames])
    moved_masks = np.stack(
        [cv2.warpAffine(m.astype(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST) for m in masks]
    )
    return Clip(moved, moved_masks.astype(bool))


def normalised(frames: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 (..., H, W, 3) RGB -> float32 (..., 3, H, W) as the network takes it."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).float() / 255.0
    return ((x - torch.tensor(MEAN)) / torch.tensor(STD)).movedim(-1, -3)


def batches(clips: list[Clip], batch: int, frames: int, seed: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: every clip once, in random order, `frames` consecutive frames of it, augmented.

    Yields:
        clip (B, T, 3, H, W) normalised and truth (B, T, 1, H, W), both float32; a last short batch is dropped.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(clips))
    for start in range(0, len(order) - batch + 1, batch):
        chosen = []
        for index in order[start : start + batch]:
            clip = clips[index]
            first = int(rng.integers(0, len(clip.frames) - frames + 1))
            chosen.append(augmented(Clip(clip.frames[first : first + frames], clip.masks[first : first + frames]), rng))
        pixels = torch.stack([normalised(clip.frames) for clip in chosen])
        truth = torch.stack([torch.from_numpy(clip.masks).float()[:, None] for clip in chosen])
        yield pixels, truth
