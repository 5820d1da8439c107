"""Videos of video files, with a folder of masks that are numbered as their frames are."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import av

from vivim_runtime.datasets.classes import Labels
from vivim_runtime.datasets.folder import image_names, read_labels, read_mask
from vivim_runtime.datasets.videos import Mask, TitledVideo, Values
from vivim_runtime.errors import DataError
from vivim_runtime.sources.base import Image
from vivim_runtime.sources.depth import significant_bits
from vivim_runtime.sources.film import (
    Decoding,
    FilmConverter,
    geometry_of,
    has_loose_bits,
    largest_value,
    open_film,
    reason_of,
    shows_picture,
)
from vivim_runtime.sources.geometry import Geometry

__all__ = ["RecordedVideo"]

# Up to so many frames ahead are decoded one after the other; further ones are reached from the key frame before them.
_AHEAD = 32
# Files that are open at a time, in every process.
_OPEN = 2


@dataclass(frozen=True)
class RecordedVideo(TitledVideo):
    """A video file and its masks: the number in a mask's name is that of its frame, from 0 (as vivim-run writes them).

    Masks that are numbered from 1 to the number of frames are recognised, and masks that were drawn on the stored
    pictures of a film that is shown turned or stretched: those of the stored size go the same way as its pictures.

    Attributes:
        path: the video file.
        masks_folder, mask_names: where the masks lie, and their files.
    """

    path: Path
    masks_folder: Path
    mask_names: tuple[str, ...]

    @classmethod
    def listed(cls, title: str, path: Path, masks_folder: Path) -> RecordedVideo:
        """The video of a file and a folder, which may not exist."""
        return cls(title, path, masks_folder, image_names(masks_folder))

    def __len__(self) -> int:
        return len(_reader(os.getpid(), self.path))

    @cached_property
    def _first(self) -> int:
        """The number of the first frame."""
        numbers = {_number(name) for name in self.mask_names}
        return 1 if numbers == set(range(1, len(self) + 1)) else 0

    @cached_property
    def _mask_of(self) -> dict[int, str]:
        """Files of masks by frame, where it is one only."""
        counts = Counter(map(_number, self.mask_names))
        frames = {number - self._first: name for name in self.mask_names if (number := _number(name)) is not None}
        return {i: name for i, name in frames.items() if 0 <= i < len(self) and counts[i + self._first] == 1}

    def label(self, index: int) -> str:
        return f"{self.title}, frame {index}"

    def frame(self, index: int) -> Image:
        return _reader(os.getpid(), self.path).read(index)

    def mask(self, index: int) -> Values | None:
        name = self._mask_of.get(index)
        if name is None:
            return None
        values, reader = read_mask(self.masks_folder / name), _reader(os.getpid(), self.path)
        return reader.geometry.show_mask(values) if reader.takes_as_stored(values.shape) else values

    def labels(self, index: int) -> Labels | None:
        """As they are stored, not turned."""
        name = self._mask_of.get(index)
        coloured = self.classes is not None and self.classes.is_coloured
        return None if name is None else read_labels(self.masks_folder / name, coloured)

    def planes(self, index: int) -> Mask | None:
        planes, reader = super().planes(index), _reader(os.getpid(), self.path)
        if planes is None or not reader.takes_as_stored(planes.shape[1:]):
            return planes
        return reader.geometry.show_planes(planes)

    @property
    def strays(self) -> tuple[str, ...]:
        matched = set(self._mask_of.values())
        return tuple(f"{self.title}/{name}" for name in self.mask_names if name not in matched)

    @property
    def picture_files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def mask_files(self) -> tuple[Path, ...]:
        return tuple(self.masks_folder / name for name in self.mask_names)

    @property
    def notes(self) -> tuple[str, ...]:
        notes = (f"masks of {self.title} are numbered from 1",) if self._first else ()
        return (*notes, *_reader(os.getpid(), self.path).notes)


def _number(name: str) -> int | None:
    """The last number in a file's name."""
    found = re.findall(r"\d+", Path(name).stem)
    return int(found[-1]) if found else None


class _Reader:
    """Frames of a video file in any order. Times are listed by reading the packets, which decodes nothing."""

    _container: Any = None
    _stream: Any = None

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._open()
            packets = [p for p in self._container.demux(self._stream) if shows_picture(p, self._stream)]
            self._open()
            self._look_at_first()
        except (av.error.FFmpegError, OSError, ValueError, IndexError, AttributeError) as error:
            raise DataError(f"{path} is no video that FFmpeg can read ({reason_of(error)}); is it complete?") from None
        times = [packet.pts for packet in packets]
        # Without distinct times frames can only be counted.
        self._times: list[int] | None = None if None in times or len(set(times)) < len(times) else sorted(times)
        self._count = len(times)
        self._frames: Iterator[tuple[int, Any]] = iter(())
        self._next: int | None = None  # the frame that is decoded next; not known after a jump

    def _look_at_first(self) -> None:
        """How the pictures are shown, as the first one that can be decoded tells."""
        first = next((picture for _, picture in Decoding(self._container, self._stream)), None)
        if first is None:
            raise DataError(f"{self._path} has no frames that can be decoded; is it complete?")
        self.stored = (int(first.height), int(first.width))
        self.geometry: Geometry = geometry_of(first, self._stream)
        told = self.geometry.describe()
        self.notes: tuple[str, ...] = (f"{self._path.name} is {told}, as it says",) if told else ()
        white = 65535
        if has_loose_bits(first):
            self._open()
            pictures = (picture for _, picture in Decoding(self._container, self._stream))
            bits = significant_bits(max(map(largest_value, pictures), default=0))
            white = 2**bits - 1
            self.notes += (f"{self._path.name} has 16 bits, of which {bits} are used: {white} is white",)
        self._converter = FilmConverter(self.stored, white)

    def __len__(self) -> int:
        return self._count

    def takes_as_stored(self, size: tuple[int, ...]) -> bool:
        """Whether a mask (H, W) was drawn on what is stored, and that is shown in another shape."""
        return size == self.stored and self.stored != self.geometry.shown_size(self.stored)

    def _open(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container, self._stream = open_film(self._path)
        if self._stream is None:
            raise DataError(f"{self._path} has no video stream")

    def _jump(self, index: int) -> None:
        """Go on with the key frame at or before a frame; from the start where times do not tell, or it is the start."""
        if self._times is None or index == 0:
            self._open()
            self._next = 0
        else:
            self._container.seek(self._times[index], stream=self._stream)
            self._next = None
        self._frames = iter(Decoding(self._container, self._stream))

    def read(self, index: int) -> Image:
        """uint8 RGB (H, W, 3); DataError when it cannot be decoded."""
        if not 0 <= index < self._count:
            raise IndexError(f"frame {index} of the {self._count} of {self._path}")
        try:
            if self._next is None or not self._next <= index <= self._next + _AHEAD:
                self._jump(index)
            picture = self._decoded(index)
            if picture is None:  # the jump went too far
                self._jump(0)
                picture = self._decoded(index)
        except (av.error.FFmpegError, OSError) as error:
            self._next = None
            raise DataError(f"frame {index} of {self._path} cannot be decoded ({error}); is it complete?") from None
        if picture is None:
            self._next = None
            raise DataError(f"{self._path} has no frame {index} that can be decoded; is it complete?")
        return self._converter.rgb(picture, self.geometry)

    def _decoded(self, index: int) -> Any:
        """Decode up to a frame; None where the stream is behind it already."""
        for counted, picture in self._frames:
            number = counted if self._times is None else self._number_of(picture)
            if number is None:
                continue
            self._next = number + 1
            if number >= index:
                return picture if number == index else None
        return None

    def _number_of(self, picture: Any) -> int | None:
        return self._numbers.get(picture.pts)

    @cached_property
    def _numbers(self) -> dict[int, int]:
        return {time: number for number, time in enumerate(self._times or ())}


@lru_cache(maxsize=_OPEN)
def _reader(process: int, path: Path) -> _Reader:
    """The open file, of this process alone: a forked one shares the position in its parent's file."""
    return _Reader(path)
