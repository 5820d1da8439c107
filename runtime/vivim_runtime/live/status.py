"""What a live run says about itself (Status), what viewers may change (Controls), and one picture for them (Shown)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from vivim_runtime.overlay import Layer
from vivim_runtime.regions import Region
from vivim_runtime.sessions.base import Logits
from vivim_runtime.sources.base import Frame, Image

__all__ = ["Controls", "HudLevel", "Shown", "State", "Status", "View"]


class State(str, Enum):
    """What the viewer has to know at a glance."""

    warming_up = "warming up"  # no clip has been inferred yet
    live = "live"
    stale = "stale"  # the newest mask is older than the limit, and hidden
    no_signal = "no signal"  # the source gives no frames; it is being reopened
    silent = "no mask"  # the picture is of a kind of which a mask would mean nothing (vivim_runtime.gating)
    stuck = "inference stuck"  # the session has not come back within its limit
    not_finite = "not finite"  # the model gives NaN or infinity, of which no mask can be made; masks are hidden
    paused = "paused"
    ended = "ended"


class HudLevel(str, Enum):
    """How much is written on the picture. A state that is not live is told at every level."""

    none = "none"
    small = "small"  # the age of the mask alone
    full = "full"


class View(str, Enum):
    """What screens show of a picture; recordings always have the picture with the masks on it."""

    masks = "masks"
    side = "side by side"  # the frame as it came on the left, with the masks on the right
    probability = "probability"  # of the most probable class, as colours


@dataclass(frozen=True)
class Status:
    """One look at a live run.

    Attributes:
        state, message: the state, and one line for people about it ("" when there is nothing to add).
        source, model, precision, backend, device: what runs; the source's name never holds patient data.
        fps: pictures shown a second over the last seconds; source_fps: frames captured.
        latency_ms: of pictures, from the driver's time stamp to composited: p50, p95, p99, max over the last seconds.
        infer_ms: of the session's calls: p50, p95, p99, max.
        mask_age_ms: age of the shown mask's frame when it was composited; None without a mask.
        hop: frames from one clip to the next, as the run has chosen it.
        counts: the ledger so far: captured, and what became of the frames; the counts sum.
        seconds: since the run began.
        recording: whether a recording is being written.
        synchronised: whether every picture waits for its own mask.
        held_up: whether that is to be told: it was asked for, or takes so long that the picture is not the newest.
        size: (H, W) of the picture; (0, 0) before the first.
        regions: what the model sees of it, each (x, y, width, height); () is all of it.
        region: where these are from, for people.
        lesions: what is marked on the picture, measured (vivim_runtime.measuring.Lesion.record).
        scale: how large a pixel is, or why nobody knows.
    """

    state: State
    message: str = ""
    source: str = ""
    model: str = ""
    precision: str = ""
    backend: str = ""
    device: str = ""
    fps: float = 0.0
    source_fps: float = 0.0
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    infer_ms: Mapping[str, float] = field(default_factory=dict)
    mask_age_ms: float | None = None
    hop: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    recording: bool = False
    synchronised: bool = False
    held_up: bool = False
    size: tuple[int, int] = (0, 0)
    regions: tuple[tuple[int, int, int, int], ...] = ()
    region: str = ""
    lesions: tuple[Mapping[str, Any], ...] = ()
    scale: str = ""


@dataclass(frozen=True, eq=False)
class Shown:
    """One picture for the screens.

    Attributes:
        frame: the newest frame, or the last one while there is no signal; None before the first.
        masks: bool (K, H, W) drawn on it; None when there is none, or none that is young enough.
        picture: uint8 RGB (H, W, 3), the frame with the masks drawn on it, without the status.
        status: of this moment.
        logits: float32 (K, H, W) that the masks are of; None where there are none.
    """

    frame: Frame | None
    masks: npt.NDArray[np.bool_] | None
    picture: Image
    status: Status
    logits: Logits | None = None


class Controls:
    """What viewers change while it runs; safe to use from every thread.

    The run reads the values for every picture; screens (the window's keys, the web page) set them.
    """

    def __init__(
        self, layers: tuple[Layer, ...], threshold: float, alpha: float, hud: HudLevel = HudLevel.full
    ) -> None:
        self._lock = threading.Lock()
        self._layers, self._threshold, self.alpha = layers, threshold, alpha
        self.hud, self.hud_corner, self.view = hud, 0, View.masks  # corner: of `vivim_runtime.live.screens.hud.Hud`
        self.paused = threading.Event()  # the picture stands still; capture and recording go on
        self.recording = threading.Event()
        self.forget = threading.Event()  # what a streaming model has seen
        self.quit = threading.Event()
        self._region: Region | None = None

    @property
    def region(self) -> Region | None:
        """What people have drawn for the model to see; None is what the run was told."""
        with self._lock:
            return self._region

    def see(self, region: Region | None) -> None:
        """Let the model see this part of the picture from the next clip on; None is what the run was told."""
        with self._lock:
            self._region = region

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is drawn now."""
        with self._lock:
            return self._layers

    @property
    def threshold(self) -> float:
        """Probability above which a pixel is marked now."""
        with self._lock:
            return self._threshold

    def toggle(self, layer: Layer) -> None:
        """Draw a layer that is not drawn, or the other way round."""
        with self._lock:
            rest = tuple(other for other in self._layers if other != layer)
            self._layers = rest if layer in self._layers else (*rest, layer)

    def change_threshold(self, step: float) -> None:
        """Move the threshold by `step`, within 0.05 to 0.95."""
        with self._lock:
            self._threshold = round(min(0.95, max(0.05, self._threshold + step)), 4)

    def set_alpha(self, alpha: float) -> None:
        """Set the opacity of the filled masks, within 0 to 1."""
        self.alpha = round(min(1.0, max(0.0, alpha)), 4)

    def next_hud(self) -> None:
        """Write less on the picture, and after nothing all again."""
        levels = (HudLevel.full, HudLevel.small, HudLevel.none)
        self.hud = levels[(levels.index(self.hud) + 1) % len(levels)]

    def move_hud(self) -> None:
        """Write the figures into the next corner, clockwise."""
        self.hud_corner = (self.hud_corner + 1) % 4

    def switch_view(self, view: View) -> None:
        """Show a view, or the masks again where it is shown already."""
        self.view = View.masks if self.view is view else view
