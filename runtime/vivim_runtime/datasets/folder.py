"""Videos that are two folders of images: frames, and masks of the same names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.datasets.videos import TitledVideo, Values
from vivim_runtime.errors import DataError
from vivim_runtime.sources.base import Image
from vivim_runtime.sources.images import IMAGE_SUFFIXES, natural_key

__all__ = ["FolderVideo", "image_names", "read_frame", "read_mask"]

# Where a complete file ends, and how many bytes behind are put up with (padding, comments of a scanner).
_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}
_BEHIND = 1024


def image_names(folder: Path) -> tuple[str, ...]:
    """The images in a folder, in natural order (frame2 before frame10); none where there is no such folder."""
    if not folder.is_dir():
        return ()
    found = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return tuple(path.name for path in sorted(found, key=natural_key) if not path.name.startswith("."))


def read_frame(path: Path) -> Image:
    """uint8 RGB (H, W, 3) of an image file; DataError when it is none, or cut off."""
    return cv2.cvtColor(_decoded(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_mask(path: Path) -> Values:
    """The values of a mask, 8 bit (H, W): of colours (a palette) the largest channel; DataError as `read_frame`."""
    stored = _decoded(path, cv2.IMREAD_UNCHANGED)
    if stored.ndim == 3:
        stored = stored[..., :3].max(axis=2)  # without transparency
    if stored.dtype == np.uint8:
        return stored
    deep = stored.dtype == np.uint16 and stored.max() > 255
    return (stored >> 8 if deep else stored.clip(0, 255)).astype(np.uint8)


def _decoded(path: Path, flags: int) -> npt.NDArray[Any]:
    """What OpenCV makes of a file that is whole: of one that is cut off it makes an image that ends in grey."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    end = _ENDS.get(data[:2])
    if not data or (end is not None and end not in data[-_BEHIND:]):
        raise DataError(f"{path} is cut off behind {len(data)} bytes; copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # of a size that OpenCV refuses
        image = None
    if image is None:
        raise DataError(f"{path} is no image that can be decoded; is it complete?")
    return image


@dataclass(frozen=True)
class FolderVideo(TitledVideo):
    """Frames and masks in two folders (or in one), matched by their names without suffix.

    Attributes:
        frames_folder, masks_folder: where they lie.
        frame_names, mask_names: their files, in natural order.
    """

    frames_folder: Path
    masks_folder: Path
    frame_names: tuple[str, ...]
    mask_names: tuple[str, ...]

    @classmethod
    def listed(cls, title: str, frames_folder: Path, masks_folder: Path) -> FolderVideo:
        """The video that two folders hold; a folder that does not exist holds nothing."""
        return cls(title, frames_folder, masks_folder, image_names(frames_folder), image_names(masks_folder))

    def __len__(self) -> int:
        return len(self.frame_names)

    @cached_property
    def _mask_of(self) -> dict[str, str]:
        """Files of masks by their names without suffix, where it is one only."""
        counts = Counter(map(_stem, self.mask_names))
        return {_stem(name): name for name in self.mask_names if counts[_stem(name)] == 1}

    @cached_property
    def _twice(self) -> set[str]:
        """Names without suffix that stand for several frames."""
        return {stem for stem, count in Counter(map(_stem, self.frame_names)).items() if count > 1}

    def label(self, index: int) -> str:
        return f"{self.title}/{self.frame_names[index]}"

    def frame(self, index: int) -> Image:
        return read_frame(self.frames_folder / self.frame_names[index])

    def mask(self, index: int) -> Values | None:
        stem = _stem(self.frame_names[index])
        found = self._mask_of.get(stem)
        return None if found is None or stem in self._twice else read_mask(self.masks_folder / found)

    @property
    def strays(self) -> tuple[str, ...]:
        matched = (set(map(_stem, self.frame_names)) - self._twice) & set(self._mask_of)
        return tuple(f"{self.title}/{name}" for name in self.mask_names if _stem(name) not in matched)

    @property
    def picture_files(self) -> tuple[Path, ...]:
        return tuple(self.frames_folder / name for name in self.frame_names)

    @property
    def mask_files(self) -> tuple[Path, ...]:
        return tuple(self.masks_folder / name for name in self.mask_names)


def _stem(name: str) -> str:
    return Path(name).stem
