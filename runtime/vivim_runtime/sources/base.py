"""What every source of frames gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["DEFAULT_FPS", "Frame", "Image", "Source"]

Image = npt.NDArray[np.uint8]

# What is assumed where a source does not tell.
DEFAULT_FPS = 25.0


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame: its number from 0, its time in seconds from the start, and uint8 RGB pixels (H, W, 3).

    `truth` is the true mask, bool (H, W), where the source knows it.
    """

    index: int
    time: float
    image: Image
    truth: npt.NDArray[np.bool_] | None = None


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
