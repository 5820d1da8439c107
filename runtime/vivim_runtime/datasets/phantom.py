"""Phantoms as a data set: the built-in default, the same clips on every machine, one clip a video."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from vivim_runtime.clips import Clip
from vivim_runtime.datasets.videos import TitledVideo, Values
from vivim_runtime.errors import DataError
from vivim_runtime.phantom import DRAWN, PhantomName, PhantomSpec, phantom_frames
from vivim_runtime.sources.base import Image

__all__ = ["PHANTOM_SPLITS", "PhantomVideo", "phantom_clip", "phantom_videos"]

# Seeds of the phantoms; the splits never meet. `vivim.training.batches` trains on the same ones.
PHANTOM_SPLITS = {"train": 1_000_000, "validation": 2_000_000, "test": 3_000_000}
_MOST_CLIPS = 1_000_000

_EXAMPLE = "phantom:clips=40,frames=5,size=256"


@dataclass(frozen=True)
class PhantomVideo(TitledVideo):
    """A phantom, made as a whole when it is first read; the last two that were read are kept."""

    spec: PhantomSpec

    def __len__(self) -> int:
        return self.spec.frames

    def label(self, index: int) -> str:
        return f"{self.title}, frame {index}"

    def frame(self, index: int) -> Image:
        return _made(self.spec).pixels[index]

    def mask(self, index: int) -> Values:
        return _made(self.spec).masks[index].astype(np.uint8) * np.uint8(255)


def phantom_clip(spec: PhantomSpec) -> Clip:
    """The whole video of `spec` in memory, as one clip."""
    pairs = list(phantom_frames(spec))
    return Clip(np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs]))


@lru_cache(maxsize=2)
def _made(spec: PhantomSpec) -> Clip:
    clip = phantom_clip(spec)
    clip.pixels.setflags(write=False)
    return clip


def phantom_videos(name: str, split: str) -> tuple[PhantomVideo, ...]:
    """The phantoms of a split, or of all three where it is "".

    Args:
        name: `phantom`, or with options `phantom:clips=40,frames=5,size=256` (also `size=480x640`, height first;
            `fps=25`, `screen=mixed`, `view=region`; `lesion=0.7` for a lesion in seven of ten; `trouble=shadow` hides
            lesions for a while).
        split: `train`, `validation`, `test`, or "".

    Raises:
        DataError: another split, or a number of clips that is out of range.
        UsageError: options that do not exist or are no numbers, or phantoms that cannot be made.
    """
    asked = PhantomName.parse(name, ("clips", "frames", "size", "fps", *DRAWN), _EXAMPLE)
    if split and split not in PHANTOM_SPLITS:
        raise DataError(f"phantoms have no split {split!r}; expected one of {', '.join(PHANTOM_SPLITS)}")
    clips, frames = asked.whole("clips", 40), asked.whole("frames", 5)
    size, fps = asked.size("256"), asked.number("fps", 25.0)
    like = PhantomSpec(0, frames, size, fps, **asked.drawn)
    if not 0 < clips <= _MOST_CLIPS:
        raise DataError(f"{name} asks for {clips} clips; expected 1 to {_MOST_CLIPS}")
    return tuple(
        PhantomVideo(f"{part}-{number:04d}", replace(like, seed=PHANTOM_SPLITS[part] + number))
        for part in ([split] if split else PHANTOM_SPLITS)
        for number in range(clips)
    )
