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

from vivim_runtime.datasets.folder import image_names, read_mask
from vivim_runtime.datasets.videos import TitledVideo, Values
from vivim_runtime.errors import DataError
from vivim_runtime.sources.base import MAX_PIXELS, Image

__all__ = ["VIDEO_SUFFIXES", "RecordedVideo"]

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts"})

# Up to so many frames ahead are decoded one after the other; further ones are reached from the key frame before them.
_AHEAD = 32
# Files that are open at a time, in every process.
_OPEN = 2


@dataclass(frozen=True)
class RecordedVideo(TitledVideo):
    """A video file and its masks: the number in a mask's name is that of its frame, from 0 (as vivim-run writes them).

    Masks that are numbered from 1 to the number of frames are recognised.

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
        return None if name is None else read_mask(self.masks_folder / name)

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
        return (f"masks of {self.title} are numbered from 1",) if self._first else ()


def _number(name: str) -> int | None:
    """The last number in a file's name."""
    found = re.findall(r"\d+", Path(name).stem)
    return int(found[-1]) if found else None


class _Reader:
    """Frames of a video file in any order. Times are listed by reading the packets, which decodes nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._open()
            packets = [p for p in self._container.demux(self._stream) if p.size and not p.is_discard]
        except (av.error.FFmpegError, OSError, ValueError, IndexError, AttributeError) as error:
            raise DataError(f"{path} is no video that FFmpeg can read ({error}); is it complete?") from None
        if not packets:
            raise DataError(f"{path} has no frames; is it complete?")
        times = [packet.pts for packet in packets]
        # Without distinct times frames can only be counted.
        self._times: list[int] | None = None if None in times or len(set(times)) < len(times) else sorted(times)
        self._count = len(times)
        self._frames: Iterator[Any] = iter(())
        self._next: int | None = None  # the frame that is decoded next; not known after a jump

    def __len__(self) -> int:
        return self._count

    def _open(self) -> None:
        self._container: Any = av.open(str(self._path), options={"max_pixels": str(MAX_PIXELS)})
        self._stream: Any = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"

    def _jump(self, index: int) -> None:
        """Go on with the key frame at or before a frame; from the start where times do not tell, or it is the start."""
        if self._times is None or index == 0:
            self._container.close()
            self._open()
            self._next = 0
        else:
            self._container.seek(self._times[index], stream=self._stream)
            self._next = None
        self._frames = self._container.decode(self._stream)

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
        return picture.to_ndarray(format="rgb24")

    def _decoded(self, index: int) -> Any:
        """Decode up to a frame; None where the stream is behind it already."""
        for picture in self._frames:
            number = self._number_of(picture)
            if number is None:
                continue
            self._next = number + 1
            if number >= index:
                return picture if number == index else None
        return None

    def _number_of(self, picture: Any) -> int | None:
        if self._times is None:
            return self._next
        return self._numbers.get(picture.pts)

    @cached_property
    def _numbers(self) -> dict[int, int]:
        return {time: number for number, time in enumerate(self._times or ())}


@lru_cache(maxsize=_OPEN)
def _reader(process: int, path: Path) -> _Reader:
    """The open file, of this process alone: a forked one shares the position in its parent's file."""
    return _Reader(path)
