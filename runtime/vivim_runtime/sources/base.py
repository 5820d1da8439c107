"""What every source of frames gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["DEFAULT_FPS", "MAX_PIXELS", "Frame", "Image", "LiveSource", "Source", "counted_frames", "lost_frames"]

Image = npt.NDArray[np.uint8]

# What is assumed where a source does not tell.
DEFAULT_FPS = 25.0

# The largest frame that is read, 8192 x 4608 (8K): a damaged header must not ask for all memory.
MAX_PIXELS = 8192 * 4608


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame: its number from 0, its time in seconds from the start, and uint8 RGB pixels (H, W, 3).

    `truth` is the true mask, bool (H, W), of several classes (K, H, W), where the source knows it. Of live sources,
    `taken` is when it was taken, by the clock of time.monotonic(): by the driver's or the sender's clock where there is
    one, else when it arrived; `damaged` frames were decoded from incomplete data.
    """

    index: int
    time: float
    image: Image
    truth: npt.NDArray[np.bool_] | None = None
    taken: float | None = None
    damaged: bool = False


class Source(Protocol):
    """Frames in order; a context manager that closes what it opened.

    Attributes:
        name: for people; never holds patient data.
        size: (H, W) of every frame.
        fps: frames per second, as far as the source tells.
        frame_count: how many frames, where it is known in advance.
        notes: what a user should know about how the source was read.
    """

    name: str
    size: tuple[int, int]
    fps: float
    frame_count: int | None
    notes: list[str]

    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def counted_frames(count: int) -> str:
    """`1 frame`, `2 frames`."""
    return f"{count} frame{'' if count == 1 else 's'}"


def lost_frames(source: Source) -> int:
    """Frames that a source should have and that could not be read (`lost`), as far as it has been read."""
    return int(getattr(source, "lost", 0))  # only files can lose some


class LiveSource(ABC):
    """A `Source` whose frames come when they come: a camera, a stream, or a recorded source played at its own speed.

    Iterating connects, and gives frames until the connection is lost (SourceError); iterating again connects anew.
    Frame numbers and times begin anew with it, `Frame.taken` does not. Iterating never blocks for longer than
    `patience` seconds at a time, where the operating system lets it.

    Attributes:
        reconnects: whether a new attempt makes sense when frames stop coming; else that is the end.
        patience: seconds.
        size: (H, W) of the last frame; (0, 0) before the first.
    """

    reconnects = True
    patience = 5.0

    def __init__(self, name: str, fps: float = DEFAULT_FPS) -> None:
        self.name, self.fps = name, fps
        self.size: tuple[int, int] = (0, 0)
        self.frame_count: int | None = None
        self.notes: list[str] = []

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Each iteration closes what it opened.
        return
