"""What every sink takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vivim_runtime.clips import logits_at, threshold_logit
from vivim_runtime.errors import NotFiniteError
from vivim_runtime.sessions.base import Logits
from vivim_runtime.sources.base import Frame, Image

__all__ = ["MaskedFrame", "Segmented", "Sink", "check_finite"]


def check_finite(frame: Frame, logits: Logits) -> None:
    """NotFiniteError where what a model says of a frame cannot be a mask."""
    bad = logits.size - int(np.count_nonzero(np.isfinite(logits)))
    if bad:
        raise NotFiniteError(
            f"the model gives {bad} of {logits.size} values that are not finite (NaN or infinity) "
            f"in frame {frame.index} at {frame.time:.3f} s; try the file in fp32, or export it again"
        )


@dataclass(frozen=True, eq=False)
class MaskedFrame:
    """The masks of one frame of a clip, at the frame's own size.

    Attributes:
        frame: whose masks these are.
        clip, position: the clip that the masks are from, and the frame's place in it; -1 where there are none.
        padded: whether that clip holds repeated frames, because the source is shorter than a clip.
        logits: float32 (K, H, W) at the frame's resolution.
        masks: bool (K, H, W).
        latency_ms: from the clip being complete to its masks, shared by all frames of the clip.
        reset: why a streaming model forgot before this frame (vivim_runtime.continuity.REASONS); "" where it did not.
    """

    frame: Frame
    clip: int
    position: int
    padded: bool
    logits: Logits
    masks: npt.NDArray[np.bool_]
    latency_ms: float
    reset: str = field(default="", kw_only=True)

    @classmethod
    def of(
        cls,
        frame: Frame,
        logits: Logits,
        threshold: float,
        *,
        clip: int,
        position: int,
        latency_ms: float,
        padded: bool = False,
        reset: str = "",
    ) -> MaskedFrame:
        """What the model's logits (K, h, w) mark in a frame: where the probability is above a threshold.

        Raises:
            NotFiniteError: one of them is NaN or infinite; above a threshold it would look like "no lesion".
        """
        check_finite(frame, logits)
        at_size = logits_at(logits, frame.image.shape[:2])
        masks = at_size > threshold_logit(threshold)
        return cls(frame, clip, position, padded, at_size, masks, latency_ms, reset=reset)

    @classmethod
    def none(cls, frame: Frame, classes: int) -> MaskedFrame:
        """A frame of which no masks are known, as one in which nothing is marked."""
        shape = (classes, *frame.image.shape[:2])
        logits, masks = np.broadcast_to(np.float32(-np.inf), shape), np.broadcast_to(np.False_, shape)
        return cls(frame, -1, -1, False, logits, masks, 0.0)


@dataclass(frozen=True, eq=False)
class Segmented(MaskedFrame):
    """One frame with its masks, and uint8 (H, W, 3) `picture`, the frame with the masks drawn on it."""

    picture: Image

    @classmethod
    def drawn(cls, masked: MaskedFrame, picture: Image, frame: Frame | None = None) -> Segmented:
        """Masks with the picture they were drawn on; `frame` where that is another one than they are of."""
        m = masked
        given = (frame or m.frame, m.clip, m.position, m.padded, m.logits, m.masks, m.latency_ms, picture)
        return cls(*given, reset=m.reset)


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
