"""One picture for every frame that is newest: the youngest mask on it, as long as that is young enough."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vivim_runtime.clips import Show, logits_at, threshold_logit
from vivim_runtime.live.inference import Inferred
from vivim_runtime.live.ledger import LiveLedger
from vivim_runtime.live.meters import Durations, Recent
from vivim_runtime.live.screens.base import Screen
from vivim_runtime.live.status import Controls, Shown, State, Status
from vivim_runtime.live.threads import TICK_S, Mailbox
from vivim_runtime.overlay import Marks
from vivim_runtime.sessions.base import Logits, ModelInfo
from vivim_runtime.sinks.base import Segmented
from vivim_runtime.sources.base import Frame, Image

__all__ = ["Captured", "Compositor", "MaskedFrame"]

# The picture before the first frame.
_NO_PICTURE_SIZE = (480, 640)
# While nothing new comes, the screens hear of the state this often.
_STATUS_S = 0.25


@dataclass(frozen=True, eq=False)
class Captured:
    """A frame, and when it was dequeued (time.monotonic())."""

    frame: Frame
    dequeued: float


@dataclass(frozen=True, eq=False)
class MaskedFrame:
    """The masks of one frame of a clip, at the frame's own size.

    Attributes:
        frame: whose masks these are.
        clip, position: where they come from.
        logits: float32 (K, H, W).
        masks: bool (K, H, W).
        marks: the same, ready to be drawn.
        latency_ms: of the clip.
    """

    frame: Frame
    clip: int
    position: int
    logits: Logits
    masks: npt.NDArray[np.bool_]
    marks: Marks
    latency_ms: float

    @classmethod
    def of(cls, result: Inferred, position: int, threshold: float, model: ModelInfo) -> MaskedFrame:
        """The masks of position `position` of a clip, marked above a probability."""
        frame = result.frames[position]
        logits = logits_at(result.logits[position], frame.image.shape[:2])
        masks = logits > threshold_logit(threshold)
        marks = Marks(masks, model.classes)
        return cls(frame, result.number, position, logits, masks, marks, result.latency_ms)


class _Ready:
    """The masks of one position of a result, for the threshold that was asked last."""

    def __init__(self, result: Inferred, position: int, threshold: float, model: ModelInfo) -> None:
        self._result, self._position, self._threshold, self._model = result, position, threshold, model
        self.masked = MaskedFrame.of(result, position, threshold, model)
        taken = self.masked.frame.taken
        self.taken = result.started if taken is None else taken

    def at(self, threshold: float) -> MaskedFrame:
        """The masks for a threshold. Called in the compositor's thread alone."""
        if threshold != self._threshold:
            self.masked = MaskedFrame.of(self._result, self._position, threshold, self._model)
            self._threshold = threshold
        return self.masked


class Compositor:
    """Takes the newest frame, draws, and shows; in one thread.

    Args:
        status: of this moment, given why the newest masks are not drawn ("" when they are), and the age of those drawn
            in ms.
        record: takes what was drawn, while a recording runs.
        max_age_s: a mask older than this is hidden.
        show: which frame of a clip gives its mask: the newest, or the centre, which is older by half a clip.
    """

    def __init__(
        self,
        mailbox: Mailbox[Captured],
        controls: Controls,
        screens: Sequence[Screen],
        ledger: LiveLedger,
        status: Callable[[str, float | None], Status],
        record: Callable[[Segmented], None],
        model: ModelInfo,
        max_age_s: float,
        show: Show,
        stop: threading.Event,
    ) -> None:
        self._mailbox, self._controls, self._screens = mailbox, controls, screens
        self._ledger, self._status, self._record, self._model = ledger, status, record, model
        self._max_age_s, self._show, self._stop = max_age_s, show, stop
        self._ready: _Ready | None = None  # the newest result, its masks ready to be drawn
        self._last: Frame | None = None  # the newest that was shown, and the masks that were on it
        self._last_ready: _Ready | None = None
        self._scene_began = self._told = 0.0
        self.hidden = ""  # why the newest masks were not drawn on the last picture; "" when they were
        self.pictures = Recent()
        self.recent_ms = Recent()
        self.stages_ms = {name: Durations() for name in ("deliver", "compose", "present", "latency", "mask age")}

    def new_scene(self, began: float) -> None:
        """What was taken before then (time.monotonic()) shows something else: its masks are not drawn any more."""
        self._scene_began = began

    def prepare(self, result: Inferred) -> None:
        """Take the newest result. Called in the inference's thread, so that its work does not delay a picture."""
        position = len(result.frames) - 1 if self._show == "newest" else len(result.frames) // 2
        ready = _Ready(result, position, self._controls.threshold, self._model)
        ready.masked.marks.prepare(self._controls.layers)
        self._ready = ready

    def run(self) -> None:
        """Until `stop`."""
        while not self._stop.is_set():
            captured = self._mailbox.take(TICK_S)
            if captured is None:
                if time.monotonic() - self._told >= _STATUS_S:
                    self._show_again()
            elif self._controls.paused.is_set() and self._last is not None:
                self._picture(captured, shown=False)
            else:
                self._picture(captured, shown=True)

    def _picture(self, captured: Captured, shown: bool) -> None:
        """Draw a new frame, show it unless paused, and record it while that is on."""
        frame = captured.frame
        taken = frame.taken or captured.dequeued
        ready = self._ready
        masked, age = self._mask_for(frame, ready)
        if shown or self._controls.recording.is_set():
            picture = self._drawn(frame, masked)
            composited = time.monotonic()
            if shown:
                self._last, self._last_ready = frame, ready
                self._present(frame, masked, age, picture)
                presented = time.monotonic()
                self.pictures.add()
                self.recent_ms.add((composited - taken) * 1000.0)
                for name, milliseconds in (
                    ("deliver", captured.dequeued - taken),
                    ("compose", composited - captured.dequeued),
                    ("present", presented - composited),
                    ("latency", composited - taken),
                ):
                    self.stages_ms[name].add(milliseconds * 1000.0)
                if age is not None:
                    self.stages_ms["mask age"].add(age * 1000.0)
            if self._controls.recording.is_set():
                self._record(self._segmented(frame, masked, picture))
        elif time.monotonic() - self._told >= _STATUS_S:
            self._show_again()
        details = {}
        if shown:
            details = {
                "latency_ms": round((composited - taken) * 1000.0, 3),
                "mask_of": None if masked is None else masked.frame.index,
                "mask_age_ms": None if age is None else round(age * 1000.0, 3),
            }
        self._ledger.fate(frame, "shown" if shown else "paused", **details)

    def _show_again(self) -> None:
        """The last picture, drawn as the controls are now, with a new status."""
        if self._last is None:
            self._present(None, None, None, np.zeros((*_NO_PICTURE_SIZE, 3), np.uint8))
            return
        masked, age = self._mask_for(self._last, self._last_ready)
        self._present(self._last, masked, age, self._drawn(self._last, masked))

    def _present(self, frame: Frame | None, masked: MaskedFrame | None, age: float | None, picture: Image) -> None:
        hidden = "" if masked is not None or frame is None else self._why_hidden(frame)
        status = self._status(hidden, None if age is None else age * 1000.0)
        shown = Shown(frame, None if masked is None else masked.masks, picture, status)
        for screen in self._screens:
            screen.show(shown)
        self._told, self.hidden = time.monotonic(), hidden

    def farewell(self) -> None:
        """Tell the screens that it is over; called when `run` has returned."""
        if self._last is not None:
            status = replace(self._status("", None), state=State.ended)
            picture = self._drawn(self._last, None)
            for screen in self._screens:
                screen.show(Shown(self._last, None, picture, status))

    def _mask_for(self, frame: Frame, ready: _Ready | None) -> tuple[MaskedFrame | None, float | None]:
        """Masks that fit the frame and are young enough, and their age in seconds; (None, None) without."""
        if ready is None or ready.masked.frame.image.shape != frame.image.shape:
            return None, None
        age = time.monotonic() - ready.taken
        # A picture that stands still keeps its masks; they are as old as it is.
        standing = frame is self._last and self._controls.paused.is_set()
        if (age > self._max_age_s or ready.taken < self._scene_began) and not standing:
            return None, None
        return ready.at(self._controls.threshold), age

    def _why_hidden(self, frame: Frame) -> str:
        ready = self._ready
        if ready is None:
            return ""
        if ready.taken < self._scene_began or ready.masked.frame.image.shape != frame.image.shape:
            return "the newest masks are of another scene"
        return f"masks older than {1000 * self._max_age_s:.0f} ms are hidden"

    def _drawn(self, frame: Frame, masked: MaskedFrame | None) -> Image:
        if masked is None:
            return frame.image
        return masked.marks.on(frame.image, self._controls.layers, self._controls.alpha)

    def _segmented(self, frame: Frame, masked: MaskedFrame | None, picture: Image) -> Segmented:
        """What was drawn, for a recording: the masks are those on the picture, whichever frame they are of."""
        if masked is not None:
            return Segmented(
                frame, masked.clip, masked.position, False, masked.logits, masked.masks, picture, masked.latency_ms
            )
        shape = (len(self._model.classes), *frame.image.shape[:2])
        logits, masks = np.broadcast_to(np.float32(-np.inf), shape), np.broadcast_to(np.False_, shape)
        return Segmented(frame, -1, -1, False, logits, masks, picture, 0.0)
