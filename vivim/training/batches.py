"""Clips to train and evaluate on: phantoms or a data set, augmented clip by clip, dealt in batches.

Everything random about a clip follows from (seed, epoch, index) alone, and so does the order of an epoch. So it does
not matter which process or worker makes a clip, or whether the run was interrupted before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from vivim.preprocessing import normalised
from vivim.training.cache import CacheOptions, FrameCache
from vivim_runtime.clips import Clip, Masks, windows
from vivim_runtime.datasets import PHANTOM_SPLITS, Dataset, clip_indices, framed, read_clip
from vivim_runtime.datasets.phantom import phantom_clip
from vivim_runtime.errors import ConfigError, DataError
from vivim_runtime.framing import Framing
from vivim_runtime.phantom import DRAWN, PhantomSpec
from vivim_runtime.sources.base import Image

__all__ = [
    "NO_AUGMENTATION",
    "Augmentation",
    "ClipSource",
    "DatasetClips",
    "JudgedClip",
    "JudgedVideos",
    "MemoryClips",
    "MixedClips",
    "PhantomClips",
    "StillClips",
    "TrainingBatches",
    "augmented",
    "clip_name",
    "clip_source",
    "judged_clip",
    "micro_batches",
    "phantom_clips",
    "scaled",
]


_MOST_CLIPS = 1_000_000


class ClipSource(Protocol):
    """The clips of an epoch. A list of `Clip` will do where all fit into memory."""

    def __len__(self) -> int:
        """Clips an epoch."""

    def clip(self, index: int, epoch: int) -> Clip:
        """One of them; the same every time."""


@dataclass(frozen=True)
class MemoryClips:
    """Clips that are in memory."""

    clips: Sequence[Clip]

    def __len__(self) -> int:
        return len(self.clips)

    def clip(self, index: int, epoch: int) -> Clip:
        return self.clips[index]


def clip_source(clips: ClipSource | Sequence[Clip]) -> ClipSource:
    """A source as it is, a list of clips as one."""
    return MemoryClips(clips) if isinstance(clips, Sequence) else clips


def clip_name(source: ClipSource, index: int) -> str:
    """What messages call a clip."""
    return source.name(index) if isinstance(source, DatasetClips | StillClips | MixedClips) else f"clip {index}"


@dataclass(frozen=True)
class PhantomClips:
    """Phantoms, made when they are asked for: `count` new ones in every epoch, or the same ones again.

    Attributes:
        split: of `PHANTOM_SPLITS`.
        count: clips an epoch.
        frames, size: T and (H, W).
        fresh: whether epoch e shows the clips e * count to (e + 1) * count - 1 of the split, so that none comes twice.
        lesion, screen, view, trouble: of `PhantomSpec` (its `DRAWN`).
        strides: a clip shows every first frame of its film, or every second, ... up to `strides`, by its number.
        framing: how what is drawn becomes pictures of another colour; its region is that of `view`.
    """

    split: str
    count: int
    frames: int
    size: tuple[int, int]
    fresh: bool = True
    screen: str = "none"
    view: str = "whole"
    framing: Framing | None = None
    trouble: str = ""
    strides: int = 1
    lesion: float | None = None

    def __post_init__(self) -> None:
        _check_phantoms(self.split, self.count)
        if not 1 <= self.strides <= 25:
            raise DataError(f"phantoms with strides of 1 to {self.strides}; expected at most 1 to 25")
        self._spec(0)  # which refuses what cannot be drawn, before anything begins

    def _spec(self, number: int) -> PhantomSpec:
        spec = _spec(self.split, number % _MOST_CLIPS, self.frames, self.size)
        return replace(spec, **{name: getattr(self, name) for name in DRAWN})

    def __len__(self) -> int:
        return self.count

    def clip(self, index: int, epoch: int) -> Clip:
        number = index + (epoch * self.count if self.fresh else 0)
        spec = self._spec(number)
        rate = spec.fps / (1 + number % self.strides)  # motion is per second
        clip = phantom_clip(replace(spec, fps=rate))
        if self.framing is None:
            return clip
        return replace(clip, pixels=np.stack([self.framing.picture(image) for image in clip.pixels]))


class _FramedVideos:
    """The videos of a data set and how their frames become pictures, found out once for each.

    Attributes:
        dataset: the videos.
        framing: before a region is found.
    """

    def __init__(self, dataset: Dataset, framing: Framing | tuple[int, int]) -> None:
        self.dataset = dataset
        self.framing = framing if isinstance(framing, Framing) else Framing.stretched(framing)
        self._framings: dict[int, Framing] = {}

    def _seen(self, number: int) -> Framing:
        """Of the frames of a video."""
        if number not in self._framings:
            self._framings[number] = framed(self.dataset.videos[number], self.framing)
        return self._framings[number]


class DatasetClips(_FramedVideos):
    """The clips of annotated videos, read when they are asked for.

    Attributes:
        dataset: where they are from.
        framing: how their frames become pictures.
    """

    def __init__(
        self,
        dataset: Dataset,
        frames: int,
        framing: Framing | tuple[int, int],
        stride: int = 1,
        hop: int = 1,
        cache: CacheOptions = CacheOptions(),  # noqa: B008
    ) -> None:
        """Clips of `frames` frames, `stride` apart, one every `hop` frames; DataError where no video has one.

        Args:
            framing: or (H, W), to which whole frames are stretched.
            cache: what is kept of frames, so that those of several clips are decoded once.
        """
        super().__init__(dataset, framing)
        self.cache = FrameCache(cache)
        self._clips = [
            (number, indices)
            for number, video in enumerate(dataset.videos)
            for indices in clip_indices(len(video), frames, stride, hop)
        ]
        if not self._clips:
            raise DataError(
                f"no video of {dataset.name} has the {(frames - 1) * stride + 1} frames of a clip; "
                "take fewer --frames or a smaller --stride"
            )

    def __len__(self) -> int:
        return len(self._clips)

    def clip(self, index: int, epoch: int) -> Clip:
        number, indices = self._clips[index]
        video = self.dataset.videos[number]
        framing = self._seen(number)
        pictures, masks = zip(*(self.cache.read(video, i, framing) for i in indices), strict=True)
        return Clip(np.stack(pictures), np.stack(masks), source=video.name, start=indices[0])

    def name(self, index: int) -> str:
        """For messages: the video, and the clip's first frame there."""
        number, indices = self._clips[index]
        return f"{self.dataset.videos[number].name} from frame {indices[0]}"


class StillClips(_FramedVideos):
    """Still pictures as clips: each is shown in all T frames of its own, which never meets another picture.

    So batches keep one shape, and the layers over time see what they see of a frozen screen: no motion. What
    augmentation draws anew in every frame (speckle, tones) still differs from frame to frame.
    """

    def __init__(
        self,
        dataset: Dataset,
        frames: int,
        framing: Framing | tuple[int, int],
        cache: CacheOptions = CacheOptions(),  # noqa: B008
    ) -> None:
        super().__init__(dataset, framing)
        self._frames, self.cache = frames, FrameCache(cache)
        self._pictures = [(n, i) for n, video in enumerate(dataset.videos) for i in range(len(video))]
        if not self._pictures:
            raise DataError(f"{dataset.name} holds no pictures; expected images with masks (docs/data.md)")

    def __len__(self) -> int:
        return len(self._pictures)

    def clip(self, index: int, epoch: int) -> Clip:
        number, i = self._pictures[index]
        video = self.dataset.videos[number]
        picture, mask = self.cache.read(video, i, self._seen(number))
        pixels, truth = np.stack([picture] * self._frames), np.stack([mask] * self._frames)
        return Clip(pixels, truth, source=video.name, start=i)

    def name(self, index: int) -> str:
        """For messages."""
        number, i = self._pictures[index]
        return self.dataset.videos[number].label(i)


@dataclass(frozen=True)
class MixedClips:
    """The clips of videos (or phantoms), and behind them those of still pictures; an epoch shows all of both."""

    videos: ClipSource
    stills: StillClips

    def __len__(self) -> int:
        return len(self.videos) + len(self.stills)

    def clip(self, index: int, epoch: int) -> Clip:
        left = index - len(self.videos)
        return self.videos.clip(index, epoch) if left < 0 else self.stills.clip(left, epoch)

    def name(self, index: int) -> str:
        """For messages."""
        left = index - len(self.videos)
        return clip_name(self.videos, index) if left < 0 else self.stills.name(left)


@dataclass(frozen=True)
class JudgedClip:
    """A clip to judge a network on.

    Attributes:
        pixels: uint8 (T, H, W, 3) RGB at the network's size.
        used: the positions whose masks count.
        truths: the true masks of these, each (H, W) or (K, H, W) at the size of its frame, where logits are judged.
        framing: how the logits come back to the frames.
    """

    pixels: npt.NDArray[np.uint8]
    used: slice
    truths: tuple[Masks, ...]
    framing: Framing


class JudgedVideos(_FramedVideos):
    """The clips that judge a network on annotated videos just as `vivim-eval` does: every frame once, at its own size.

    Of a network that learnt from every `stride`-th frame, these are the frames.
    """

    def __init__(self, dataset: Dataset, frames: int, framing: Framing | tuple[int, int], stride: int = 1) -> None:
        """DataError where no video has the frames of a clip; of a shorter one among others, the last is repeated."""
        super().__init__(dataset, framing)
        span = (frames - 1) * stride + 1
        if not any(len(video) >= span for video in dataset.videos):
            raise DataError(
                f"no video of {dataset.name} has the {span} frames of a clip; take fewer --frames or a smaller --stride"
            )
        self._windows = [
            (number, window)
            for number, video in enumerate(dataset.videos)
            for window in windows(range(0, len(video), stride), frames, frames, "newest")
        ]

    def __len__(self) -> int:
        return len(self._windows)

    def clip(self, index: int, epoch: int) -> Clip:
        """A clip as training sees it, masks at the network's size."""
        number, window = self._windows[index]
        return read_clip(self.dataset.videos[number], window.frames, self._seen(number))

    def judged(self, index: int) -> JudgedClip:
        """A clip to judge on; DataError for a frame or mask that cannot be read."""
        number, window = self._windows[index]
        pairs = [self.dataset.videos[number].read(i) for i in window.frames]
        framing = self._seen(number)
        pixels = np.stack([framing.picture(image) for image, _ in pairs])
        return JudgedClip(pixels, window.used, tuple(truth for _, truth in pairs[window.used]), framing)


def judged_clip(source: ClipSource, index: int) -> JudgedClip:
    """A clip of any source to judge on; of those that are made at the network's size, all frames count."""
    if isinstance(source, JudgedVideos):
        return source.judged(index)
    clip = source.clip(index, 0)
    return JudgedClip(clip.pixels, slice(0, len(clip)), tuple(clip.masks), Framing.stretched(clip.pixels.shape[1:3]))


def _check_phantoms(split: str, count: int) -> None:
    if split not in PHANTOM_SPLITS:
        raise DataError(f"there is no split {split!r}; expected one of {', '.join(PHANTOM_SPLITS)}")
    if not 0 < count <= _MOST_CLIPS:
        raise DataError(f"{count} clips asked for; expected 1 to {_MOST_CLIPS}")


def _spec(split: str, number: int, frames: int, size: tuple[int, int], trouble: str = "") -> PhantomSpec:
    return PhantomSpec(seed=PHANTOM_SPLITS[split] + number, frames=frames, size=size, trouble=trouble)


def phantom_clips(split: str, count: int, frames: int, size: tuple[int, int], workers: int = 1) -> list[Clip]:
    """The first `count` phantom clips of a split (`train`, `validation`, `test`), the same ones every time."""
    _check_phantoms(split, count)
    specs = [_spec(split, number, frames, size) for number in range(count)]
    if workers < 2 or count < 16:
        return [phantom_clip(spec) for spec in specs]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(phantom_clip, specs, chunksize=8))


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training clip, to all its frames alike; `NO_AUGMENTATION` leaves it as it is.

    Attributes:
        flip, backwards: chances of a mirror image, and of being played backwards.
        rotation: largest angle, degrees.
        scale: largest factor in or out; the crop that 1.3 makes shows 1 / 1.69 of the frame.
        shift: largest, share of height and width.
        gamma, gain: largest factor of either; offset: largest addition (1 is white).
        colour: largest factor between channels.
        speckle: largest standard deviation of multiplicative noise, new in every frame.
        upside_down, half_turn, quarter_turns: chances of a flip top to bottom, of a turn by 180 degrees, and of one by
            90, 180 or 270 (of frames that are no squares, by 180): for endoscopy, where no side is up.
        frame_tones: strength of the tones of the authors' code, which change from frame to frame: factors of brightness
            and contrast within 1 +- 0.5, of saturation within 1 +- 1, sharpness 0 to 3; 1 is theirs, 0 none.
        mask_noise: share of the pixels of masks that are set or cleared by chance, as in the authors' code (0.0015).
    """

    flip: float = 0.5
    backwards: float = 0.5
    rotation: float = 10.0
    scale: float = 1.3
    shift: float = 0.1
    gamma: float = 1.4
    gain: float = 1.2
    offset: float = 0.06
    colour: float = 1.05
    speckle: float = 0.08
    upside_down: float = 0.0
    half_turn: float = 0.0
    quarter_turns: float = 0.0
    frame_tones: float = 0.0
    mask_noise: float = 0.0

    def __post_init__(self) -> None:
        for names, least, most, expected in (
            (("flip", "backwards", "upside_down", "half_turn", "quarter_turns"), 0.0, 1.0, "a chance, 0 to 1"),
            (("frame_tones", "mask_noise"), 0.0, 1.0, "0 to 1"),
            (("scale", "gamma", "gain", "colour"), 1.0, math.inf, "at least 1"),
            (("rotation", "shift", "offset", "speckle"), 0.0, math.inf, "at least 0"),
        ):
            for name in names:
                if not least <= getattr(self, name) <= most:
                    raise ConfigError(f"augmentation: {name} is {getattr(self, name)}; expected {expected}")


NO_AUGMENTATION = Augmentation(0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0)


def augmented(clip: Clip, rng: np.random.Generator, options: Augmentation = Augmentation()) -> Clip:  # noqa: B008
    """The clip mirrored, rotated, scaled, shifted, re-toned and made noisy at random; same shapes."""
    frames, masks = clip.pixels, clip.masks
    if rng.random() < options.flip:
        frames, masks = frames[:, :, ::-1], masks[..., ::-1]
    if rng.random() < options.backwards:
        frames, masks = frames[::-1], masks[::-1]
    frames, masks = _turned(frames, masks, rng, options)
    height, width = masks.shape[-2:]
    matrix = _random_map(rng, options, height, width)
    tones = _random_tones(rng, options)
    noise = options.speckle * rng.random()
    moved = np.empty_like(frames)
    moved_masks = np.empty_like(masks)
    for index, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        toned = cv2.LUT(np.ascontiguousarray(frame), tones)
        if options.frame_tones > 0:
            toned = _frame_toned(toned, rng, options.frame_tones)
        warped = cv2.warpAffine(toned, matrix, (width, height))
        if noise > 0:
            grain = 1 + noise * rng.standard_normal((height, width, 1), np.float32)
            warped = np.clip(np.rint(warped * grain), 0, 255).astype(np.uint8)
        moved[index] = warped
        for plane in np.ndindex(mask.shape[:-2]):  # of several classes each
            values = np.ascontiguousarray(mask[plane], np.uint8)
            moved_masks[(index, *plane)] = cv2.warpAffine(values, matrix, (width, height), flags=cv2.INTER_NEAREST)
    if options.mask_noise > 0:
        noisy = rng.random(moved_masks.shape) < options.mask_noise
        moved_masks[noisy] = rng.random(int(noisy.sum())) < 0.5
    return Clip(moved, moved_masks)


def _turned(frames: Image, masks: Masks, rng: np.random.Generator, options: Augmentation) -> tuple[Image, Masks]:
    """Flipped and turned; what has no chance draws no number, so that the others stay what they were without it."""
    if options.upside_down and rng.random() < options.upside_down:
        frames, masks = frames[:, ::-1], masks[..., ::-1, :]
    if options.half_turn and rng.random() < options.half_turn:
        frames, masks = frames[:, ::-1, ::-1], masks[..., ::-1, ::-1]
    if options.quarter_turns and rng.random() < options.quarter_turns:
        turns = int(rng.integers(1, 4)) if masks.shape[-2] == masks.shape[-1] else 2
        frames, masks = np.rot90(frames, turns, (1, 2)), np.rot90(masks, turns, (-2, -1))
    return frames, masks


def _frame_toned(frame: Image, rng: np.random.Generator, strength: float) -> Image:
    """A frame (H, W, 3) with brightness, contrast, saturation and sharpness of its own."""
    grey = np.array([0.299, 0.587, 0.114], np.float32)
    image = frame.astype(np.float32) * np.float32(1 + strength * rng.uniform(-0.5, 0.5))
    mean = (image @ grey).mean()
    image = mean + (image - mean) * np.float32(1 + strength * rng.uniform(-0.5, 0.5))
    plain = (image @ grey)[..., None]
    image = plain + (image - plain) * np.float32(1 + strength * rng.uniform(-1, 1))
    smooth = cv2.blur(image, (3, 3))
    image = smooth + (image - smooth) * np.float32(1 + strength * rng.uniform(-1, 2))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _factor(rng: np.random.Generator, largest: float) -> float:
    """Between 1 / largest and largest, as often below 1 as above."""
    return float(largest ** rng.uniform(-1, 1))


def _random_map(rng: np.random.Generator, options: Augmentation, height: int, width: int) -> npt.NDArray[np.float64]:
    """A rotation and scale about the centre, and a shift: (2, 3) as cv2.warpAffine takes it."""
    angle, scale = options.rotation * rng.uniform(-1, 1), _factor(rng, options.scale)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
    matrix[:, 2] += options.shift * rng.uniform(-1, 1, 2) * (width, height)
    return matrix


def _random_tones(rng: np.random.Generator, options: Augmentation) -> npt.NDArray[np.uint8]:
    """A table (1, 256, 3) of new values for the old ones, by channel, as cv2.LUT takes it."""
    gamma, gain = _factor(rng, options.gamma), _factor(rng, options.gain)
    offset = options.offset * rng.uniform(-1, 1)
    colours = np.array([_factor(rng, options.colour) for _ in range(3)])
    tones = np.linspace(0, 1, 256) ** gamma * gain + offset
    return np.clip(np.rint(tones[:, None] * colours * 255), 0, 255).astype(np.uint8)[None]


def micro_batches(seed: int, epoch: int, clips: int, batch: int, a_step: int) -> list[list[int]]:
    """The order of an epoch: lists of `batch` clip numbers, `a_step` lists a step; what makes no whole step is left.

    The lists are the same however many processes share a step, and which of them takes which list.
    """
    order = np.random.default_rng([seed, epoch]).permutation(clips)
    whole = len(order) // (batch * a_step) * a_step
    return [order[batch * i : batch * (i + 1)].tolist() for i in range(whole)]


def scaled(pixels: Tensor, truth: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """A batch, pixels (B, T, 3, H, W) and truth (B, T, K, H, W), with sides of about `scale` times as many pixels.

    At 1 it stays as it is. Otherwise sides are multiples of 32, at least 32, as the strides of the stages divide them.
    Pixels are averaged as they are where a run makes frames smaller (vivim_runtime.framing); masks stay what the
    nearest pixel says.
    """
    if scale == 1:
        return pixels, truth
    size = [max(32, 32 * round(side * scale / 32)) for side in pixels.shape[-2:]]
    way = {"mode": "area"} if scale < 1 else {"mode": "bilinear", "align_corners": False}
    pictures = functional.interpolate(pixels.flatten(0, 1), size, **way)
    masks = functional.interpolate(truth.flatten(0, 1), size, mode="nearest-exact")
    return pictures.unflatten(0, pixels.shape[:2]), masks.unflatten(0, truth.shape[:2])


class _TrainingClips(TorchDataset[tuple[Tensor, Tensor]]):
    """Augmented clips by (epoch, index), as tensors (T, 3, H, W) and truth (T, K, H, W), float32."""

    def __init__(self, source: ClipSource, frames: int, seed: int, options: Augmentation) -> None:
        self._source, self._frames, self._seed, self._options = source, frames, seed, options

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        clip = self._source.clip(index, epoch)
        rng = np.random.default_rng([self._seed, epoch, index, 1])
        first = int(rng.integers(0, len(clip) - self._frames + 1))
        cut = slice(first, first + self._frames)
        changed = augmented(Clip(clip.pixels[cut], clip.masks[cut]), rng, self._options)
        truth = torch.from_numpy(changed.masks).float()
        return normalised(changed.pixels), truth[:, None] if truth.ndim == 3 else truth


class TrainingBatches:
    """Batches of augmented clips, for one epoch after the other.

    Args:
        clips: where they are from.
        frames: T; of longer clips, that many consecutive frames are taken at random.
        seed: of the augmentation.
        workers: processes that make clips ahead, and stay from epoch to epoch; 0 makes them here.
        pinned: put batches where a GPU can fetch them while it works.
    """

    def __init__(
        self,
        clips: ClipSource | Sequence[Clip],
        frames: int,
        seed: int,
        options: Augmentation = Augmentation(),  # noqa: B008
        workers: int = 0,
        pinned: bool = False,
    ) -> None:
        self._keys: list[list[tuple[int, int]]] = []
        # Workers are fresh interpreters: a forked one would inherit locks of threads that it does not have.
        self._loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            _TrainingClips(clip_source(clips), frames, seed, options),
            batch_sampler=self._keys,
            num_workers=workers,
            pin_memory=pinned,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
        )

    def of(self, epoch: int, numbers: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the clips `numbers` in an epoch.

        Yields:
            clip (B, T, 3, H, W) normalised and truth (B, T, K, H, W), both float32.
        """
        self._keys[:] = [[(epoch, index) for index in batch] for batch in numbers]
        yield from self._loader
