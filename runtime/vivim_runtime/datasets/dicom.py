"""Videos of DICOM files: a cine loop, and the DICOM Segmentation (PS3.3 A.51) that refers to its frames.

Which segmentation belongs to which loop is told by its references, not by file names; which of its frames belongs to
which frame of the loop by their Derivation Image (C.7.6.16.2.6). Several segments count as one object.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vivim_runtime.datasets.videos import Orphan, TitledVideo, Values
from vivim_runtime.errors import DataError, MissingExtraError, SourceError
from vivim_runtime.sources.base import MAX_PIXELS, Frame, Image
from vivim_runtime.sources.dicom import DicomFile

__all__ = ["DicomVideo", "list_dicom"]

# SOP classes of segmentations: Segmentation Storage, and that of label maps.
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
# Files that are kept in memory at a time, in every process.
_OPEN = 2


@dataclass(frozen=True)
class DicomVideo(TitledVideo):
    """A DICOM cine loop and its segmentation.

    Attributes:
        path: the loop.
        segmentation: None where there is none.
        frames: of the loop.
    """

    path: Path
    segmentation: Path | None
    frames: int

    def __len__(self) -> int:
        return self.frames

    def label(self, index: int) -> str:
        return f"{self.title}, frame {index}"

    def frame(self, index: int) -> Image:
        return _loop(os.getpid(), self.path).read(index)

    def mask(self, index: int) -> Values | None:
        return None if self.segmentation is None else _segmentation(self.segmentation).mask(index)

    @property
    def strays(self) -> tuple[str, ...]:
        if self.segmentation is None:
            return ()
        referred = _segmentation(self.segmentation).frames
        return tuple(f"{self.segmentation.name} for frame {i}" for i in sorted(referred) if not 0 <= i < self.frames)

    @property
    def picture_files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def mask_files(self) -> tuple[Path, ...]:
        return () if self.segmentation is None else (self.segmentation,)

    @property
    def notes(self) -> tuple[str, ...]:
        segments = 1 if self.segmentation is None else _segmentation(self.segmentation).segments
        return () if segments == 1 else (f"the {segments} segments of {self.title} count as one object",)


def list_dicom(files: Iterable[Path]) -> list[TitledVideo]:
    """The loops among DICOM files, each with the segmentation that refers to it; what is no image is left out.

    Raises:
        DataError: a file that cannot be read, a segmentation of several instances, or several of one loop.
        MissingExtraError: pydicom is not installed.
    """
    loops: dict[str, tuple[Path, int]] = {}
    masks: dict[str, list[Path]] = {}
    for path in files:
        header = _Header.read(path)
        if header.kind in _SEGMENTATIONS:
            masks.setdefault(header.referred, []).append(path)
        elif header.frames:
            loops[header.instance] = path, header.frames
    several = [f"{loops[uid][0].name} has {_names(found)}" for uid, found in masks.items() if len(found) > 1]
    if several:
        raise DataError(f"{'; '.join(several)}: leave one segmentation of each in the folder")
    videos: list[TitledVideo] = [
        DicomVideo(path.stem, path, masks[uid][0] if uid in masks else None, frames)
        for uid, (path, frames) in loops.items()
    ]
    return videos + [Orphan(found[0].stem, (found[0].name,)) for uid, found in masks.items() if uid not in loops]


@dataclass(frozen=True)
class _Header:
    """What a DICOM file says before its pixels.

    Attributes:
        kind, instance: UIDs of its SOP class, and its own.
        frames: 0 for what is no image, such as a directory or a report.
        referred: of a segmentation, the UID of the instance that it refers to.
    """

    kind: str
    instance: str
    frames: int
    referred: str

    @classmethod
    def read(cls, path: Path) -> _Header:
        dataset = _read(path, pixels=False)
        try:
            kind = str(dataset.file_meta.MediaStorageSOPClassUID)
            frames = int(dataset.get("NumberOfFrames") or 1) if "Rows" in dataset else 0
            instance = str(dataset.SOPInstanceUID) if frames else ""
            series = dataset.get("ReferencedSeriesSequence") or [] if kind in _SEGMENTATIONS else []
            instances = [i for item in series for i in item.get("ReferencedInstanceSequence") or []]
            referred = {str(i.ReferencedSOPInstanceUID) for i in instances}
        except Exception as error:  # pydicom interprets values when they are asked for
            raise DataError(f"{path} does not say what it is ({type(error).__name__}); is it complete?") from None
        if kind in _SEGMENTATIONS and len(referred) != 1:
            raise DataError(f"{path} refers to {len(referred)} instances; expected the one loop that it segments")
        return cls(kind, instance, frames, "".join(referred))


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _read(path: Path, pixels: bool) -> Any:
    try:
        import pydicom
    except ModuleNotFoundError:
        raise MissingExtraError(f"reading {path.name}", "dicom") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what pydicom puts up with
            return pydicom.dcmread(path, stop_before_pixels=not pixels)
    except MemoryError:
        raise
    except Exception as error:  # pydicom, zlib and struct raise whatever a damaged byte leads them to
        # Not the error's text: it may quote a value.
        raise DataError(f"{path} is no readable DICOM file ({type(error).__name__}); is it complete?") from None


class _Loop:
    """Frames of a DICOM file in any order; those of one clip, which follow each other, are decoded once."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = DicomFile(path)
        except SourceError as error:
            raise DataError(str(error)) from None
        self._frames: Iterator[Frame] = iter(self._file)
        self._last: Frame | None = None

    def read(self, index: int) -> Image:
        """uint8 RGB (H, W, 3); DataError when it cannot be decoded."""
        if self._last is not None and self._last.index > index:
            self._frames, self._last = iter(self._file), None
        try:
            while self._last is None or self._last.index < index:
                self._last = next(self._frames)
        except StopIteration:
            raise IndexError(f"frame {index} of {self._file.name}") from None
        except SourceError as error:
            self._frames, self._last = iter(self._file), None
            raise DataError(str(error)) from None
        return self._last.image


class _Segmentation:
    """The masks of a DICOM Segmentation by frame of its loop.

    Attributes:
        frames: numbers of its own frames, from 0, by frame of the loop, from 0.
        segments: how many.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        dataset = _read(path, pixels=True)
        try:
            self._size = (int(dataset.Rows), int(dataset.Columns))
            self._bits = int(dataset.BitsAllocated)
            self._half = int(dataset.get("MaximumFractionalValue") or 0) / 2  # fractional ones are set from half on
            self.segments = len(dataset.get("SegmentSequence") or [None])
            self.frames = _by_frame(dataset)
            self._data = dataset
            if not 0 < self._size[0] * self._size[1] <= MAX_PIXELS or "PixelData" not in dataset:
                raise ValueError
        except MemoryError:
            raise
        except Exception as error:  # pydicom interprets values when they are asked for
            raise DataError(f"{path} does not describe its masks well ({type(error).__name__})") from None

    def mask(self, index: int) -> Values | None:
        """0 and 255, uint8 (H, W), of a frame of the loop; None where no mask refers to it."""
        if index not in self.frames:
            return None
        try:
            planes = [self._plane(number) for number in self.frames[index]]
        except MemoryError:
            raise
        except Exception as error:  # the decoders behind pydicom share no base class
            raise DataError(
                f"the mask of frame {index} in {self._path} cannot be decoded ({type(error).__name__}); "
                "is the file complete?"
            ) from None
        return np.logical_or.reduce(planes).astype(np.uint8) * np.uint8(255)

    def _plane(self, number: int) -> Any:
        """One of its own frames, bool (H, W)."""
        pixels = self._size[0] * self._size[1]
        if self._bits == 1 and not self._data.file_meta.TransferSyntaxUID.is_compressed:
            # A bit a pixel, the first in the lowest bit; frames follow each other without padding (PS3.5 8.1.1).
            first, end = number * pixels, (number + 1) * pixels
            packed = np.frombuffer(self._data.PixelData, np.uint8)[first // 8 : -(-end // 8)]
            return np.unpackbits(packed, bitorder="little")[first % 8 :][:pixels].reshape(self._size) > 0
        from pydicom.pixels import pixel_array

        return pixel_array(self._data, index=number) >= max(1.0, self._half)


def _by_frame(dataset: Any) -> dict[int, list[int]]:
    """Numbers of a segmentation's frames by the frame of the loop that they were made of, both from 0."""
    result: dict[int, list[int]] = {}
    for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        referred = source.get("ReferencedFrameNumber") or 1  # absent where the source has a single frame
        result.setdefault(int(referred) - 1, []).append(number)
    return result


@lru_cache(maxsize=_OPEN)
def _loop(process: int, path: Path) -> _Loop:
    """The open file, of this process alone."""
    return _Loop(path)


@lru_cache(maxsize=_OPEN)
def _segmentation(path: Path) -> _Segmentation:
    return _Segmentation(path)
