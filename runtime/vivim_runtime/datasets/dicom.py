"""Videos of DICOM files: a cine loop, and the DICOM Segmentation (PS3.3 A.51) that refers to its frames.

Which segmentation belongs to which loop is told by its references, not by file names; which of its frames belongs to
which frame of the loop by their Derivation Image (C.7.6.16.2.6). Several segments count as one object, unless classes
are asked for: then a label is a segment's number, and a segment that a frame leaves out is empty there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vivim_runtime.datasets.classes import Classes
from vivim_runtime.datasets.videos import Mask, Orphan, TitledVideo, Values
from vivim_runtime.errors import DataError, SourceError
from vivim_runtime.sources.base import MAX_PIXELS, Frame, Image
from vivim_runtime.sources.dicom import DicomFile
from vivim_runtime.sources.dicom.files import SEGMENTATIONS, no_picture, read_dicom
from vivim_runtime.sources.dicom.frames import count_frames

__all__ = ["DicomVideo", "list_dicom"]

# Files that are kept in memory at a time, in every process.
_OPEN = 2


@dataclass(frozen=True)
class DicomVideo(TitledVideo):
    """A DICOM cine loop and its segmentation.

    Attributes:
        path: the loop.
        segmentation: None where there is none.
        frames: of the loop.
        missing_is_empty: whether a frame that the segmentation leaves out has no object; else it was not looked at.
    """

    path: Path
    segmentation: Path | None
    frames: int
    missing_is_empty: bool = False

    def __len__(self) -> int:
        return self.frames

    def label(self, index: int) -> str:
        return f"{self.title}, frame {index}"

    def frame(self, index: int) -> Image:
        return _loop(os.getpid(), self.path).read(index)

    def mask(self, index: int) -> Values | None:
        if self.segmentation is None:
            return None
        segmentation = _segmentation(self.segmentation, self.frames)
        values = segmentation.mask(index)
        if values is None and self.missing_is_empty:
            values = np.zeros(segmentation.size, np.uint8)
        # Segmentations lie on the stored pixels, which may not be square.
        return None if values is None else _loop(os.getpid(), self.path).geometry.show_mask(values)

    def planes(self, index: int) -> Mask | None:
        assert self.classes is not None
        if self.segmentation is None:
            return None
        segmentation = _segmentation(self.segmentation, self.frames)
        planes = segmentation.planes(index, self.classes)
        if planes is None and self.missing_is_empty:
            planes = np.zeros((len(self.classes.names), *segmentation.size), np.bool_)
        return None if planes is None else _loop(os.getpid(), self.path).geometry.show_planes(planes)

    @property
    def strays(self) -> tuple[str, ...]:
        if self.segmentation is None:
            return ()
        referred = _segmentation(self.segmentation, self.frames).frames
        return tuple(f"{self.segmentation.name} for frame {i}" for i in sorted(referred) if not 0 <= i < self.frames)

    @property
    def about_missing(self) -> str:
        return "add it; or, where the segmentation leaves out frames without object, say --layout plain-sparse"

    @property
    def dicom(self) -> DicomFile | None:
        return _loop(os.getpid(), self.path).file

    @property
    def picture_files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def mask_files(self) -> tuple[Path, ...]:
        return () if self.segmentation is None else (self.segmentation,)

    @property
    def notes(self) -> tuple[str, ...]:
        if self.segmentation is None:
            return ()
        found = _segmentation(self.segmentation, self.frames)
        are_one = found.segments != 1 and (self.classes is None or not self.classes.labels)
        notes = [f"the {found.segments} segments of {self.title} count as one object"] if are_one else []
        if found.by_order:
            notes.append(f"{self.segmentation.name} does not say which frames it means; they are taken in order")
        absent = self.frames - sum(0 <= index < self.frames for index in found.frames)
        if absent and self.missing_is_empty:
            notes.append(f"{absent} frames of {self.title} that {self.segmentation.name} leaves out count as empty")
        return (*notes, *(note for note in _loop(os.getpid(), self.path).notes))


def list_dicom(files: Iterable[Path], missing_is_empty: bool = False) -> list[TitledVideo]:
    """The loops among DICOM files, each with the segmentation that refers to it; what is no image is left out.

    Args:
        missing_is_empty: see `DicomVideo`.

    Raises:
        DataError: a file that cannot be read, a segmentation of several instances, or several of one loop.
        MissingExtraError: pydicom is not installed.
    """
    loops: dict[str, tuple[Path, int]] = {}
    masks: dict[str, list[Path]] = {}
    for path in files:
        header = _Header.read(path)
        if header.kind in SEGMENTATIONS:
            masks.setdefault(header.referred, []).append(path)
        elif header.frames:
            loops[header.instance] = path, header.frames
    several = [f"{loops[uid][0].name} has {_names(found)}" for uid, found in masks.items() if len(found) > 1]
    if several:
        raise DataError(f"{'; '.join(several)}: leave one segmentation of each in the folder")
    videos: list[TitledVideo] = [
        DicomVideo(path.stem, path, masks[uid][0] if uid in masks else None, frames, missing_is_empty)
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
        try:
            dataset, frames = count_frames(path)
        except SourceError as error:
            raise DataError(str(error)) from None
        try:
            kind = str(dataset.file_meta.MediaStorageSOPClassUID)
            instance = str(dataset.SOPInstanceUID) if frames else ""
            referred = _referred(dataset) if kind in SEGMENTATIONS else set()
        except Exception as error:  # pydicom interprets values when they are asked for
            raise DataError(f"{path} does not say what it is ({type(error).__name__}); is it complete?") from None
        if kind in SEGMENTATIONS and len(referred) != 1:
            raise DataError(f"{path} refers to {len(referred)} instances; expected the one loop that it segments")
        if kind not in SEGMENTATIONS and no_picture(dataset):
            frames = 0
        return cls(kind, instance, frames, "".join(referred))


def _referred(dataset: Any) -> set[str]:
    """The instances that a segmentation refers to: as a whole, or where it does not say it, frame by frame."""
    series = dataset.get("ReferencedSeriesSequence") or []
    instances = [item for one in series for item in one.get("ReferencedInstanceSequence") or []]
    if not instances:
        instances = [item for groups in _functional_groups(dataset) for item in _source_images(groups)]
    return {str(item.ReferencedSOPInstanceUID) for item in instances}


def _functional_groups(dataset: Any) -> list[Any]:
    """The functional groups of the frames, and the shared ones."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    return [*per_frame, *(dataset.get("SharedFunctionalGroupsSequence") or [])]


def _source_images(groups: Any) -> list[Any]:
    """What a frame was derived from."""
    derivations = groups.get("DerivationImageSequence") or []
    return [item for derivation in derivations for item in derivation.get("SourceImageSequence") or []]


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


class _Loop:
    """Frames of a DICOM file in any order; those of one clip, which follow each other, are decoded once."""

    def __init__(self, path: Path) -> None:
        try:
            self.file = self._file = DicomFile(path)
        except SourceError as error:
            raise DataError(str(error)) from None
        self.geometry = self._file.geometry
        self._frames: Iterator[Frame] = iter(self._file)
        self._last: Frame | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how the loop is read, as far as it has been."""
        return tuple(self._file.notes)

    def read(self, index: int) -> Image:
        """uint8 RGB (H, W, 3); DataError when it cannot be decoded."""
        if self._last is not None and self._last.index > index:
            self._frames, self._last = iter(self._file), None
        try:
            while self._last is None or self._last.index < index:
                self._last = next(self._frames)
        except StopIteration:
            self._frames, self._last = iter(self._file), None
            if index >= (self._file.frame_count or 0):
                raise IndexError(f"frame {index} of {self._file.name}") from None
            raise DataError(self._undecodable(index)) from None
        except SourceError as error:
            self._frames, self._last = iter(self._file), None
            raise DataError(str(error)) from None
        if self._last.index != index:
            raise DataError(self._undecodable(index))
        return self._last.image

    def _undecodable(self, index: int) -> str:
        return f"frame {index} of {self._file.path} cannot be decoded; is the file complete?"


class _Segmentation:
    """The masks of a DICOM Segmentation by frame of its loop.

    Attributes:
        size: (H, W).
        frames: numbers of its own frames, from 0, by frame of the loop, from 0.
        segments: how many.
        by_order: whether it does not say which frames of the loop it means, and has one for each.

    Args:
        frames: of the loop.
    """

    def __init__(self, path: Path, frames: int) -> None:
        self._path = path
        try:
            dataset = read_dicom(path)
        except SourceError as error:
            raise DataError(str(error)) from None
        try:
            self.size = (int(dataset.Rows), int(dataset.Columns))
            self._bits = int(dataset.BitsAllocated)
            self._half = int(dataset.get("MaximumFractionalValue") or 0) / 2  # fractional ones are set from half on
            numbered = [item.get("SegmentNumber", 1) for item in dataset.get("SegmentSequence") or [{}]]
            self.segments = sum(int(number) > 0 for number in numbered)  # 0 is what a label map calls its background
            labels = (str(item.get("SegmentLabel", "")) for item in dataset.get("SegmentSequence") or [{}])
            self._names = {int(n): name for n, name in zip(numbered, labels, strict=True) if int(n) > 0}
            self._is_map = str(dataset.get("SegmentationType", "")) == "LABELMAP"
            self.frames = _by_frame(dataset)
            self.by_order = not self.frames
            if self.by_order:
                self.frames = _in_order(dataset, frames)
            dataset.NumberOfFrames = len(dataset.PerFrameFunctionalGroupsSequence)
            self._data = dataset
            if not 0 < self.size[0] * self.size[1] <= MAX_PIXELS or "PixelData" not in dataset:
                raise ValueError
        except (DataError, MemoryError):
            raise
        except Exception as error:  # pydicom interprets values when they are asked for
            raise DataError(f"{path} does not describe its masks well ({type(error).__name__})") from None

    def mask(self, index: int) -> Values | None:
        """0 and 255, uint8 (H, W), of a frame of the loop; None where no mask refers to it."""
        if index not in self.frames:
            return None
        planes = self._decoded(index, self._plane)
        return np.logical_or.reduce(planes).astype(np.uint8) * np.uint8(255)

    def planes(self, index: int, classes: Classes) -> Mask | None:
        """The masks of classes, bool (K, H, W), of a frame of the loop; None where no mask refers to it.

        Raises:
            DataError: a segment that has no class, or the name of another one.
        """
        try:
            if classes.is_coloured:
                raise DataError(f"has segments and no colours ({classes.origin}); name their numbers")
            known = dict(classes.labels)
            classes.refuse([n for n in self._names if n not in known and n not in classes.background])
            for number, name in known.items():
                called = self._names.get(number, name)
                if called != name and called in classes.names:
                    raise DataError(f"calls segment {number} {called}, and {classes.origin} calls it {name}")
        except DataError as error:
            raise DataError(f"the segmentation {self._path.name} {error}") from None
        if index not in self.frames:
            return None
        if self._is_map:
            (labels,) = self._decoded(index, self._labels)
            try:
                return classes.planes(labels)
            except DataError as error:
                raise DataError(f"the mask of frame {index} in {self._path} {error}") from None
        result = np.zeros((len(classes.names), *self.size), np.bool_)
        try:
            segment_of = self._segment_of
        except Exception as error:  # pydicom interprets values when they are asked for
            raise DataError(
                f"{self._path} does not say well of which segments its frames are ({type(error).__name__})"
            ) from None
        for number, plane in zip(self.frames[index], self._decoded(index, self._plane), strict=True):
            meant = known.get(segment_of[number])
            if meant is not None:
                result[classes.names.index(meant)] |= plane
        return result

    @cached_property
    def _segment_of(self) -> list[int]:
        return _segments(self._data)

    def _decoded(self, index: int, read: Callable[[int], Any]) -> list[Any]:
        """What is read of its own frames that belong to a frame of the loop."""
        try:
            return [read(number) for number in self.frames[index]]
        except MemoryError:
            raise
        except Exception as error:  # the decoders behind pydicom share no base class
            raise DataError(
                f"the mask of frame {index} in {self._path} cannot be decoded ({type(error).__name__}); "
                "is the file complete?"
            ) from None

    def _labels(self, number: int) -> Any:
        """One of the frames of a label map, numbers of segments (H, W)."""
        from pydicom.pixels import pixel_array

        return pixel_array(self._data, index=number)

    def _plane(self, number: int) -> Any:
        """One of its own frames, bool (H, W)."""
        pixels = self.size[0] * self.size[1]
        if self._bits == 1 and not self._data.file_meta.TransferSyntaxUID.is_compressed:
            # A bit a pixel, the first in the lowest bit; frames follow each other without padding (PS3.5 8.1.1).
            first, end = number * pixels, (number + 1) * pixels
            packed = np.frombuffer(self._data.PixelData, np.uint8)[first // 8 : -(-end // 8)]
            return np.unpackbits(packed, bitorder="little")[first % 8 :][:pixels].reshape(self.size) > 0
        from pydicom.pixels import pixel_array

        return pixel_array(self._data, index=number) >= max(1.0, self._half)


def _by_frame(dataset: Any) -> dict[int, list[int]]:
    """Numbers of a segmentation's frames by the frame of the loop that they were made of, both from 0."""
    result: dict[int, list[int]] = {}
    for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        for source in _source_images(groups):
            referred = source.get("ReferencedFrameNumber") or 1  # absent where the source has a single frame
            for frame in [referred] if isinstance(referred, (int, str)) else referred:
                result.setdefault(int(frame) - 1, []).append(number)
    return result


def _segments(dataset: Any) -> list[int]:
    """Of each of a segmentation's frames, the segment that it is of."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0].get("SegmentIdentificationSequence")
    found = (g.get("SegmentIdentificationSequence") or shared for g in dataset.PerFrameFunctionalGroupsSequence)
    return [int(identified[0].ReferencedSegmentNumber) if identified else 1 for identified in found]


def _in_order(dataset: Any, frames: int) -> dict[int, list[int]]:
    """As `_by_frame`, of a segmentation that refers to no frames: it must have one for each, in every segment."""
    result: dict[int, list[int]] = {}
    seen: Counter[int] = Counter()
    for number, segment in enumerate(_segments(dataset)):
        result.setdefault(seen[segment], []).append(number)
        seen[segment] += 1
    if set(seen.values()) != {frames}:
        counts = ", ".join(map(str, seen.values()))
        raise DataError(
            f"{Path(str(dataset.filename)).name} does not say which frames it means, and has {counts} for the {frames} "
            "of the loop; write it with references to the frames (Derivation Image), or with a frame for each"
        )
    return result


@lru_cache(maxsize=_OPEN)
def _loop(process: int, path: Path) -> _Loop:
    """The open file, of this process alone."""
    return _Loop(path)


@lru_cache(maxsize=_OPEN)
def _segmentation(path: Path, frames: int) -> _Segmentation:
    return _Segmentation(path, frames)
