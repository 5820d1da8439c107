"""What every sink takes."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vivim_runtime.sessions.base import Logits
from vivim_runtime.sources.base import Frame, Image

__all__ = ["Segmented", "Sink"]


@dataclass(frozen=True, eq=False)
class Segmented:
    """One frame with its masks.

    Attributes:
        frame: as the source gave it.
        clip, position: the clip that the masks are from, and the frame's place in it.
        padded: whether that clip holds repeated frames, because the source is shorter than a clip.
        logits: float32 (K, H, W) at the frame's resolution.
        masks: bool (K, H, W).
        picture: uint8 (H, W, 3), the frame with the masks drawn on it.
        latency_ms: from the clip being complete to its masks, shared by all frames of the clip.
    """

    frame: Frame
    clip: int
    position: int
    padded: bool
    logits: Logits
    masks: npt.NDArray[np.bool_]
    picture: Image
    latency_ms: float


class Sink(Protocol):
    """Takes frames in order; a context manager.

    Opening it proves that it can be written. Leaving the context completes it; leaving it with an error keeps what can
    be used, under a name that says that it is a part.

    Attributes:
        path: what it writes, for people.
    """

    @property
    def path(self) -> str: ...

    def write(self, item: Segmented) -> None: ...

    def __enter__(self) -> Sink: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
