"""What every sink takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vivim_runtime.clips import threshold_logit
from vivim_runtime.errors import NotFiniteError
from vivim_runtime.framing import Views, logits_at
from vivim_runtime.gating import HIDING, touches_edge
from vivim_runtime.measuring import Lesion, LesionFinder
from vivim_runtime.regions import Region
from vivim_runtime.sessions.base import Logits
from vivim_runtime.sources.base import Frame, Image

__all__ = ["MaskedFrame", "Segmented", "Sink", "check_finite", "gated_frame", "measured_frame"]


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
        regions: what the model saw of the frame; () where that was all of it.
        lesions: the connected parts of the masks, measured; () where nobody asked.
        state: the gate that closed for the clip (vivim_runtime.gating); its masks are empty where that hides them.
        at_edge: whether a mask reaches the edge of the region.
        confidence: the Dice that the model itself expects; None of models that are not calibrated.
    """

    frame: Frame
    clip: int
    position: int
    padded: bool
    logits: Logits
    masks: npt.NDArray[np.bool_]
    latency_ms: float
    reset: str = field(default="", kw_only=True)
    regions: tuple[Region, ...] = field(default=(), kw_only=True)
    lesions: tuple[Lesion, ...] = field(default=(), kw_only=True)
    state: str = field(default="", kw_only=True)
    at_edge: bool = field(default=False, kw_only=True)
    confidence: float | None = field(default=None, kw_only=True)

    @classmethod
    def of(
        cls,
        frame: Frame,
        logits: Logits | Sequence[Logits],
        threshold: float,
        *,
        clip: int,
        position: int,
        latency_ms: float,
        padded: bool = False,
        reset: str = "",
        views: Views | None = None,
    ) -> MaskedFrame:
        """What the model's logits mark in a frame: where the probability is above a threshold.

        Args:
            logits: (K, h, w); with `views` one of each.
            views: how the frame became the model's pictures; None where all of it was stretched.

        Raises:
            NotFiniteError: one of them is NaN or infinite; above a threshold it would look like "no lesion".
        """
        check_finite(frame, np.asarray(logits))
        size = (frame.image.shape[0], frame.image.shape[1])
        at_size = logits_at(np.asarray(logits), size) if views is None else views.logits(list(logits), size)
        masks = at_size > threshold_logit(threshold)
        regions = views.regions if views else ()
        return cls(frame, clip, position, padded, at_size, masks, latency_ms, regions=regions, reset=reset)

    @classmethod
    def none(cls, frame: Frame, classes: int) -> MaskedFrame:
        """A frame of which no masks are known, as one in which nothing is marked."""
        shape = (classes, *frame.image.shape[:2])
        logits, masks = np.broadcast_to(np.float32(-np.inf), shape), np.broadcast_to(np.False_, shape)
        return cls(frame, -1, -1, False, logits, masks, 0.0)


def gated_frame(
    masked: MaskedFrame,
    state: str,
    gates: Sequence[str],
    inside: npt.NDArray[np.bool_] | None,
    confidence: float | None,
) -> MaskedFrame:
    """The same, its masks hidden where the gate of that state hides them.

    Args:
        state: what the gatekeeper said of the clip.
        gates: which gates there are.
        inside: (H, W), what the model sees; None is all.
        confidence: the Dice that the model expects.
    """
    if state in HIDING:
        return replace(masked, state=state, masks=np.zeros_like(masked.masks), confidence=None)
    at_edge = "edge" in gates and touches_edge(masked.masks, inside)
    return replace(masked, state=state, at_edge=at_edge, confidence=confidence)


def measured_frame(masked: MaskedFrame, finder: LesionFinder, threshold: float, grain: float) -> MaskedFrame:
    """The same with its lesions, measured.

    Args:
        threshold: probability above which the masks are marked.
        grain: side of a pixel of the model, in pixels of the frame.
    """
    lesions = finder.find(masked.masks, masked.logits, masked.frame.time, threshold_logit(threshold), grain)
    return replace(masked, lesions=lesions)


@dataclass(frozen=True, eq=False)
class Segmented(MaskedFrame):
    """One frame with its masks, and uint8 (H, W, 3) `picture`, the frame with the masks drawn on it."""

    picture: Image

    @classmethod
    def drawn(cls, masked: MaskedFrame, picture: Image, frame: Frame | None = None) -> Segmented:
        """Masks with the picture they were drawn on; `frame` where that is another one than they are of."""
        m = masked
        return cls(
            frame=frame or m.frame,
            clip=m.clip,
            position=m.position,
            padded=m.padded,
            logits=m.logits,
            masks=m.masks,
            latency_ms=m.latency_ms,
            regions=m.regions,
            lesions=m.lesions,
            state=m.state,
            at_edge=m.at_edge,
            confidence=m.confidence,
            picture=picture,
            reset=m.reset,
        )


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
