"""One picture for every frame that is newest: the youngest mask on it, as long as that is young enough."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vivim_runtime.clips import Show
from vivim_runtime.framing import Views
from vivim_runtime.gating import HIDING, MEANING
from vivim_runtime.live.inference import Inferred
from vivim_runtime.live.ledger import LiveLedger
from vivim_runtime.live.meters import Durations, Recent
from vivim_runtime.live.screens.base import Screen
from vivim_runtime.live.status import Controls, Shown, State, Status
from vivim_runtime.live.threads import TICK_S, Mailbox
from vivim_runtime.measuring import LesionFinder, Scales
from vivim_runtime.overlay import Marks
from vivim_runtime.sessions.base import ModelInfo
from vivim_runtime.sinks.base import MaskedFrame, Segmented, measured_frame
from vivim_runtime.sinks.ledger import found_in
from vivim_runtime.sources.base import Frame, Image

__all__ = ["ANOTHER_SCENE", "Captured", "Compositor", "Links", "MaskOptions", "Ready"]

# Why masks are hidden behind a change of scene.
ANOTHER_SCENE = "the newest masks are of another scene"
# The picture before the first frame.
_NO_PICTURE_SIZE = (480, 640)
# While nothing new comes, the screens hear of the state this often.
_STATUS_S = 0.25


class Ready:
    """The masks of one position of a result, for the threshold that was asked last, ready to be drawn."""

    def __init__(
        self, result: Inferred, position: int, threshold: float, model: ModelInfo, finder: LesionFinder
    ) -> None:
        self._result, self._position, self._model, self._finder = result, position, model, finder
        self.drawn = result.drawn  # the region that people had drawn
        self._mark(threshold)
        taken = self.masked.frame.taken
        self.taken = result.started if taken is None else taken

    def _mark(self, threshold: float) -> None:
        self._threshold = threshold
        masked = self._result.masked(self._position, threshold)
        views, size = self._result.views, masked.masks.shape[1:]
        grain = 1.0 if views is None else views.grain(size)
        self.masked = measured_frame(masked, self._finder, threshold, grain)
        self.marks = Marks(masked.masks, self._model.classes, None if views is None else views.inside(size))

    def at(self, threshold: float) -> Ready:
        """This, for a threshold. Called in the compositor's thread alone."""
        if threshold != self._threshold:
            self._mark(threshold)
        return self


@dataclass(frozen=True, eq=False)
class Captured:
    """A frame, and when it was dequeued (time.monotonic()); `own` are its own masks, where it has waited for them."""

    frame: Frame
    dequeued: float
    own: Ready | None = None


@dataclass(frozen=True)
class MaskOptions:
    """Which masks are drawn.

    Attributes:
        model: whose they are.
        show: which frame of a clip gives its mask: the newest, or the centre, which is older by half a clip.
        max_age_s: a mask older than this is hidden.
        scales: how large pixels are.
        blank_outside: whether pictures are black outside of what the model sees; all black while that is not known.
    """

    model: ModelInfo
    show: Show
    max_age_s: float
    scales: Scales = field(default_factory=Scales)
    blank_outside: bool = False


@dataclass(frozen=True, eq=False)
class Links:
    """What the compositor takes from and gives to.

    Attributes:
        mailbox: the newest frame.
        controls: what people ask for.
        screens: get every picture.
        ledger: hears of every frame's fate.
        status: of this moment, given why the newest masks are not drawn ("" when they are), and the age of those drawn
            in ms.
        views: what the model sees of the frames; None while that is not known.
        record: takes what was drawn, while a recording runs.
        stop: set when the run ends.
    """

    mailbox: Mailbox[Captured]
    controls: Controls
    screens: Sequence[Screen]
    ledger: LiveLedger
    status: Callable[[str, float | None], Status]
    views: Callable[[], Views | None]
    record: Callable[[Segmented], None]
    stop: threading.Event


class Compositor:
    """Takes the newest frame, draws, and shows; in one thread."""

    def __init__(self, masks: MaskOptions, links: Links) -> None:
        self._mailbox, self._controls, self._screens = links.mailbox, links.controls, links.screens
        self._ledger, self._status, self._record, self._stop = links.ledger, links.status, links.record, links.stop
        self._model, self._max_age_s, self._show = masks.model, masks.max_age_s, masks.show
        self._blank, self._views = masks.blank_outside, links.views
        self._lesions = LesionFinder(masks.scales)
        self._ready: Ready | None = None  # the newest result, its masks ready to be drawn
        self._last: Frame | None = None  # the newest that was shown, and the masks that were on it
        self._last_ready: Ready | None = None
        self._not_finite = False  # whether the newest clip has no masks, since the model gave NaN or infinity
        self._scene_began = self._told = 0.0
        self.note = ""  # what is to be said of the masks that are drawn
        self.hidden = ""  # why the newest masks were not drawn on the last picture; "" when they were
        self.pictures = Recent()
        self.recent_ms = Recent()
        self.stages_ms = {name: Durations() for name in ("deliver", "compose", "present", "latency", "mask age")}

    def new_scene(self, began: float) -> None:
        """What was taken before then (time.monotonic()) shows something else: its masks are not drawn any more."""
        self._scene_began = began

    def prepare(self, result: Inferred) -> Ready:
        """Take the newest result, and give what is drawn of it. Called in the inference's thread, so that its work does
        not delay a picture."""
        position = len(result.frames) - 1 if self._show == "newest" else len(result.frames) // 2
        ready = Ready(result, position, self._controls.threshold, self._model, self._lesions)
        ready.marks.prepare(self._controls.layers)
        self._ready, self._not_finite = ready, False
        return ready

    def hide(self) -> None:
        """Draw no masks until the next result: the newest clip has none. Called in the inference's thread."""
        self._ready, self._not_finite = None, True

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
        frame = self._blanked(captured.frame) if self._blank else captured.frame
        taken = frame.taken or captured.dequeued
        ready = captured.own or self._ready
        drawn, age = self._mask_for(frame, ready)
        if shown or self._controls.recording.is_set():
            picture = self._drawn(frame, drawn)
            composited = time.monotonic()
            if shown:
                self._last, self._last_ready = frame, ready
                self._present(frame, drawn, age, picture)
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
                # The masks are those on the picture, whichever frame they are of.
                masked = drawn.masked if drawn else MaskedFrame.none(frame, len(self._model.classes))
                self._record(Segmented.drawn(masked, picture, frame))
        elif time.monotonic() - self._told >= _STATUS_S:
            self._show_again()
        details = {}
        if shown:
            details = {
                "latency_ms": round((composited - taken) * 1000.0, 3),
                "mask_of": drawn.masked.frame.index if drawn else None,
                "mask_age_ms": None if age is None else round(age * 1000.0, 3),
                **({"not_finite": True} if self._not_finite else {}),
                **(found_in(drawn.masked, self._model.classes) if drawn else {}),
            }
        self._ledger.fate(frame, "shown" if shown else "paused", **details)

    def _blanked(self, frame: Frame) -> Frame:
        """A frame of which nothing is left outside of what the model sees."""
        views = self._views()
        image = np.zeros_like(frame.image) if views is None else views.blanked(frame.image)
        return replace(frame, image=image)

    def _show_again(self) -> None:
        """The last picture, drawn as the controls are now, with a new status."""
        if self._last is None:
            self._present(None, None, None, np.zeros((*_NO_PICTURE_SIZE, 3), np.uint8))
            return
        drawn, age = self._mask_for(self._last, self._last_ready)
        self._present(self._last, drawn, age, self._drawn(self._last, drawn))

    def _present(self, frame: Frame | None, ready: Ready | None, age: float | None, picture: Image) -> None:
        hidden = "" if ready is not None or frame is None else self._why_hidden(frame)
        masked = ready.masked if ready else None
        self.note = ""
        if masked is not None and masked.state in HIDING:
            hidden = MEANING[masked.state]
        elif masked is not None:
            closed = (masked.state, "edge" if masked.at_edge else "")
            self.note = "; ".join(MEANING[gate] for gate in closed if gate)
        lesions = tuple(lesion.record() for lesion in masked.lesions) if masked else ()
        size = (0, 0) if frame is None else (picture.shape[0], picture.shape[1])
        status = replace(self._status(hidden, None if age is None else age * 1000.0), lesions=lesions, size=size)
        shown = Shown(frame, masked.masks if masked else None, picture, status, masked.logits if masked else None)
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

    def _mask_for(self, frame: Frame, ready: Ready | None) -> tuple[Ready | None, float | None]:
        """Masks that fit the frame and are young enough, and their age in seconds; (None, None) without."""
        if ready is None or ready.masked.frame.image.shape != frame.image.shape or ready.drawn != self._controls.region:
            return None, None
        age = time.monotonic() - ready.taken
        # A picture that stands still keeps its masks; they are as old as it is.
        standing = frame is self._last and self._controls.paused.is_set()
        # A picture that has waited for its own masks is as old as they are.
        old = age > self._max_age_s and ready.masked.frame is not frame
        if (old or ready.taken < self._scene_began) and not standing:
            return None, None
        return ready.at(self._controls.threshold), age

    def _why_hidden(self, frame: Frame) -> str:
        ready = self._ready
        if ready is None:
            return ""
        if ready.taken < self._scene_began or ready.masked.frame.image.shape != frame.image.shape:
            return ANOTHER_SCENE
        if ready.drawn != self._controls.region:
            return "the newest masks are of another region"
        return f"masks older than {1000 * self._max_age_s:.0f} ms are hidden"

    def _drawn(self, frame: Frame, ready: Ready | None) -> Image:
        if ready is None:
            return frame.image
        return ready.marks.on(frame.image, self._controls.layers, self._controls.alpha)
