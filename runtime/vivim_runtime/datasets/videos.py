"""Annotated videos: what a data set is made of, and how clips are read from it.

Opening a data set lists files and reads no pixels; a frame and its mask are read when they are asked for. So memory
does not grow with the pixels, and what is wrong with files is found by reading them (`vivim_runtime.datasets.check`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.clips import Clip
from vivim_runtime.datasets.classes import Classes, Labels
from vivim_runtime.errors import DataError, UsageError
from vivim_runtime.framing import WHITE_FROM, Framing
from vivim_runtime.locating import LOOKED_AT, regions_of
from vivim_runtime.regions import WHOLE
from vivim_runtime.sources.base import Image
from vivim_runtime.sources.dicom import DicomFile

__all__ = [
    "AnnotatedVideo",
    "Dataset",
    "Mask",
    "Orphan",
    "Part",
    "TitledVideo",
    "Values",
    "Video",
    "area_labels",
    "binary",
    "clip_indices",
    "framed",
    "one_class",
    "read_clip",
]

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.uint8]

_LABEL_SIDE, _LABEL_GAP, _MOST_LABELS = 5, 16, 8  # pixels, values, values


class Video(Protocol):
    """One annotated video.

    Attributes:
        name: unique within the data set; made of folder and file names, never of patient data.
    """

    @property
    def name(self) -> str: ...

    def __len__(self) -> int:
        """How many frames."""

    def read(self, index: int) -> tuple[Image, Mask]:
        """Frame uint8 RGB (H, W, 3) and mask bool (H, W), of several classes (K, H, W).

        Raises:
            DataError: they cannot be read or do not belong together.
        """


class AnnotatedVideo(ABC):
    """A `Video` whose frames and masks can be read one without the other, as a check of the data needs it."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def label(self, index: int) -> str:
        """How messages call a frame: the video and the file or number."""

    @abstractmethod
    def frame(self, index: int) -> Image:
        """uint8 RGB (H, W, 3); DataError when it cannot be read."""

    @abstractmethod
    def mask(self, index: int) -> Values | None:
        """The mask's values as they are stored, in 8 bit (H, W), None where a frame has none; see `binary`."""

    @property
    def classes(self) -> Classes | None:
        """What the labels of masks stand for; None where a mask is one object, white on black."""
        return None

    def labels(self, index: int) -> Labels | None:
        """The label of every pixel (H, W), as `classes` has them; None where a frame has no mask."""
        raise DataError(f"the masks of {self.name} have no labels; expected masks of one class, named alone")

    def planes(self, index: int) -> Mask | None:
        """The masks of the `classes`, bool (K, H, W); None where a frame has none, DataError for unknown labels."""
        assert self.classes is not None
        labels = self.labels(index)
        try:
            return None if labels is None else self.classes.planes(labels)
        except DataError as error:
            raise DataError(f"the mask of {self.label(index)} {error}") from None

    @property
    def strays(self) -> tuple[str, ...]:
        """Masks of which there is no frame, or no single one, as messages call them."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how the video is read."""
        return ()

    @property
    def about_missing(self) -> str:
        """What to do about frames without mask, where it is something of this kind of video."""
        return ""

    @property
    def dicom(self) -> DicomFile | None:
        """The DICOM file that the frames are from; None of others."""
        return None

    @property
    def picture_files(self) -> tuple[Path, ...]:
        """The files that the frames are read from, in order; none where there are no files."""
        return ()

    @property
    def mask_files(self) -> tuple[Path, ...]:
        """The files that the masks are read from."""
        return ()

    def read(self, index: int) -> tuple[Image, Mask]:
        image, mask = self.read_known(index)
        if mask is None:
            advice = self.about_missing or "add it, or remove the frame"
            raise DataError(f"{self.label(index)} has no mask; {advice} (vivim-train check-data)")
        return image, mask

    def read_known(self, index: int) -> tuple[Image, Mask | None]:
        """The same, with None for the mask of a frame that has none."""
        image = self.frame(index)
        if self.classes is not None and self.classes.labels:
            planes = self.planes(index)
            if planes is None:
                return image, None
            self._check_size(index, image, planes[0].shape)
            return image, planes if self.classes.several else planes[0]
        values = self.mask(index)
        if values is None:
            return image, None
        self._check_size(index, image, values.shape)
        if reason := one_class(values):
            raise DataError(f"the mask of {self.label(index)} {reason}")
        return image, binary(values)

    def _check_size(self, index: int, image: Image, size: tuple[int, ...]) -> None:
        if size != image.shape[:2]:
            raise DataError(
                f"{self.label(index)} is {image.shape[1]}x{image.shape[0]} and its mask "
                f"{size[1]}x{size[0]} (width x height); they must be of one size"
            )


@dataclass(frozen=True)
class TitledVideo(AnnotatedVideo):
    """An `AnnotatedVideo` with a name of its own, and with classes where its data set has them."""

    title: str
    named: Classes | None = field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        return self.title

    @property
    def classes(self) -> Classes | None:
        return self.named


@dataclass(frozen=True)
class Orphan(TitledVideo):
    """Masks of a video that is not there: no frames, and all masks are strays."""

    masks: tuple[str, ...]

    def __len__(self) -> int:
        return 0

    def label(self, index: int) -> str:
        raise IndexError(index)

    def frame(self, index: int) -> Image:
        raise IndexError(index)

    def mask(self, index: int) -> Values | None:
        raise IndexError(index)

    @property
    def strays(self) -> tuple[str, ...]:
        return self.masks


@dataclass(frozen=True)
class Part(AnnotatedVideo):
    """The frames `start` to `stop` (left out) of a video, as a video of its own: `0002[0:45]`."""

    whole: AnnotatedVideo
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.whole.name}[{self.start}:{self.stop}]"

    def __len__(self) -> int:
        return self.stop - self.start

    def _at(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of the {len(self)} of {self.name}")
        return self.start + index

    def label(self, index: int) -> str:
        return self.whole.label(self._at(index))

    def frame(self, index: int) -> Image:
        return self.whole.frame(self._at(index))

    def mask(self, index: int) -> Values | None:
        return self.whole.mask(self._at(index))

    @property
    def classes(self) -> Classes | None:
        return self.whole.classes

    def labels(self, index: int) -> Labels | None:
        return self.whole.labels(self._at(index))

    def planes(self, index: int) -> Mask | None:
        return self.whole.planes(self._at(index))

    @property
    def strays(self) -> tuple[str, ...]:
        return self.whole.strays

    @property
    def notes(self) -> tuple[str, ...]:
        return self.whole.notes

    @property
    def about_missing(self) -> str:
        return self.whole.about_missing

    @property
    def dicom(self) -> DicomFile | None:
        return self.whole.dicom

    @property
    def picture_files(self) -> tuple[Path, ...]:
        return self.whole.picture_files

    @property
    def mask_files(self) -> tuple[Path, ...]:
        return self.whole.mask_files


@dataclass(frozen=True)
class Dataset:
    """Annotated videos.

    Attributes:
        name: `VTUS`, `phantom`, the folder's name, ...
        split: `train`, `test`, ..., or "" for all videos.
        videos: by split, and in natural order of their names.
        layout: how the files lie; see `vivim_runtime.datasets.LAYOUTS`.
        notes: what a user should know about how it was opened.
        origin: who made the split, for people: "of the data set", "drawn with seed 3"; "" for all videos.
        split_names: the splits that the files themselves make.
        classes: of the masks; None where they are one object, white on black.
    """

    name: str
    split: str
    videos: tuple[AnnotatedVideo, ...]
    layout: str = ""
    notes: tuple[str, ...] = ()
    origin: str = ""
    split_names: tuple[str, ...] = ()
    classes: Classes | None = None

    def __len__(self) -> int:
        """Frames of all videos."""
        return sum(len(video) for video in self.videos)


def one_class(values: Values) -> str:
    """Why a stored mask (H, W) is not of one class, as a message says it; "" where it is.

    What compression or interpolation leaves between black and white is thin, or never quite even. A class is an area,
    a square of five pixels of one value at least, and another one is not near it (values below 16 are counted singly).
    """
    labels = area_labels(values)
    if len(labels) > 1:
        return (
            f"has areas of the values {', '.join(map(str, labels))}, that is, several classes; name them "
            "(--classes lesion,vessel, or a table classes.json), or write masks of 0 and 255 for one"
        )
    if labels and not binary(values).any():
        return f"marks an area by {labels[0]}; expected 255, or 0 and 1 alone"
    return ""


def area_labels(values: Values) -> list[int]:
    """The values, rising, of which a stored mask (H, W) has areas; several are several classes. See `one_class`."""
    areas = _areas(values)
    few = int(values.max(initial=0)) < _LABEL_GAP
    return [v for i, v in enumerate(areas) if few or i == 0 or v - areas[i - 1] >= _LABEL_GAP]


def _areas(values: Values) -> list[int]:
    """The values, rising, that fill a square somewhere (or are alone); 0 and, of many, the rarest left out."""
    counts = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel()  # without a wider copy, as bincount makes one
    counts[0] = 0
    square = np.ones((_LABEL_SIDE, _LABEL_SIDE), np.uint8)
    common = np.argsort(-counts, kind="stable")[:_MOST_LABELS]
    common = common[counts[common] >= square.size]
    if len(common) == 1:  # nearly every mask, and nothing that need be looked for
        return list(map(int, common))
    return sorted(int(v) for v in common if cv2.erode((values == v).view(np.uint8), square, borderValue=0).any())


def binary(values: Values) -> Mask:
    """Stored values (H, W) -> bool: white is the object, or 1 where 1 is the largest value there is."""
    return values >= (1 if values.max(initial=0) == 1 else WHITE_FROM)


def framed(video: AnnotatedVideo, framing: Framing) -> Framing:
    """How the frames of a video become pictures: its region is found by the rule of the contract.

    Raises:
        DataError: a frame that cannot be read, or a region that there is not.
    """
    rule = framing.contract.rule
    if framing.region is not None or rule.kind == WHOLE or not len(video):
        return framing
    first = video.frame(0)

    def images() -> list[Image]:
        return [first, *(video.frame(index) for index in range(1, min(len(video), LOOKED_AT)))]

    try:
        return framing.at(regions_of(rule, video, (first.shape[0], first.shape[1]), video.name, images))
    except UsageError as error:
        raise DataError(str(error)) from None


def read_clip(video: Video, indices: Sequence[int], framing: Framing) -> Clip:
    """The frames `indices` of a video as the network takes them, prepared as when the model is used.

    Raises:
        DataError: a frame or mask that cannot be read, or of different sizes.
    """
    pairs = [video.read(index) for index in indices]
    return Clip(
        np.stack([framing.picture(image) for image, _ in pairs]),
        np.stack([framing.truth(mask) for _, mask in pairs]),
        source=video.name,
        start=indices[0],
    )


def clip_indices(length: int, frames: int, stride: int, hop: int) -> list[tuple[int, ...]]:
    """The clips of `frames` frames, `stride` apart, of a video of `length`; one begins every `hop` frames.

    The last one ends where the video does, so that its last frames are in a clip whatever the hop is. A video too short
    for one clip gives none.
    """
    if min(frames, stride, hop) < 1:
        raise UsageError(f"clips of {frames} frames, stride {stride}, hop {hop}; expected numbers of at least 1")
    span = (frames - 1) * stride + 1
    starts = [*range(0, length - span, hop), *([length - span] if length >= span else [])]
    return [tuple(range(start, start + span, stride)) for start in starts]
