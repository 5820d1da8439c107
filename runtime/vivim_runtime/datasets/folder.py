"""Videos that are two folders of images: frames, and masks of the same names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vivim_runtime.datasets.classes import Labels, packed_colours
from vivim_runtime.datasets.videos import TitledVideo, Values
from vivim_runtime.errors import DataError, SourceError
from vivim_runtime.sources.base import Image
from vivim_runtime.sources.images import image_files
from vivim_runtime.sources.pictures import PictureFile, PictureSeries

__all__ = ["FolderVideo", "image_names", "read_labels", "read_mask"]


def image_names(folder: Path) -> tuple[str, ...]:
    """The images in a folder, in natural order (frame2 before frame10); none where there is no such folder."""
    return tuple(path.name for path in image_files(folder))


def _single(path: Path) -> PictureFile:
    """A file that holds one picture; DataError when it is none, cut off, or holds several."""
    try:
        file = PictureFile(path)
    except SourceError as error:
        raise DataError(str(error)) from None
    if file.count != 1:
        raise DataError(f"{path} holds {file.count} pictures; expected one a file: write its pictures as files")
    return file


def read_mask(path: Path) -> Values:
    """The values of a mask, 8 bit (H, W), turned as its EXIF says: of colours (a palette) the largest channel.

    Raises:
        DataError: it is no single image, or cut off.
    """
    try:
        stored = _single(path).read(0, colour=False)
    except SourceError as error:
        raise DataError(str(error)) from None
    if stored.ndim == 3:
        stored = stored.max(axis=2)
    if stored.dtype == np.uint8:
        return stored
    deep = stored.dtype.kind != "f" and stored.max(initial=0) > 255
    return (stored >> 8 if deep else stored.clip(0, 255)).astype(np.uint8)


def read_labels(path: Path, coloured: bool) -> Labels:
    """The label of every pixel of a mask (H, W), turned as its EXIF says: its value, or index, or colour.

    Raises:
        DataError: it is no single image, cut off, or has labels of another kind.
    """
    try:
        file = _single(path)
        stored = None if coloured else file.indices()
        if stored is None:
            stored = file.read(0, colour=coloured)
    except SourceError as error:
        raise DataError(str(error)) from None
    if coloured:
        if stored.dtype != np.uint8:
            raise DataError(f"{path} has colours of {stored.dtype}; expected 8 bit a channel")
        return packed_colours(stored)
    if stored.ndim == 3:
        if (stored != stored[..., :1]).any():
            raise DataError(f"{path} is of colours; expected values: name colours, as --classes #ff0000=lesion")
        stored = stored[..., 0]
    if stored.dtype.kind == "f":
        if not np.array_equal(stored, np.rint(stored)) or np.abs(stored).max(initial=0) > np.iinfo(np.int32).max:
            raise DataError(f"{path} has values that are no whole numbers; expected labels")
        return stored.astype(np.int32)
    return stored


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

    @cached_property
    def _series(self) -> PictureSeries:
        """The frames' files, which are scaled alike."""
        return PictureSeries(tuple(self.frames_folder / name for name in self.frame_names))

    def frame(self, index: int) -> Image:
        file = _single(self.frames_folder / self.frame_names[index])
        try:
            return self._series.read(file)
        except SourceError as error:
            raise DataError(str(error)) from None

    @property
    def notes(self) -> tuple[str, ...]:
        note = self._series.note
        return () if note is None else (f"{self.title}: {note}",)

    def mask(self, index: int) -> Values | None:
        path = self._mask_path(index)
        return None if path is None else read_mask(path)

    def labels(self, index: int) -> Labels | None:
        path = self._mask_path(index)
        return None if path is None else read_labels(path, self.classes is not None and self.classes.is_coloured)

    def _mask_path(self, index: int) -> Path | None:
        stem = _stem(self.frame_names[index])
        found = self._mask_of.get(stem)
        return None if found is None or stem in self._twice else self.masks_folder / found

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
