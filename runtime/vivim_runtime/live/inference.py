"""The newest clip through the model, again and again; a model that fails or hangs is told from one that is slow."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vivim_runtime.confidence import Confidence
from vivim_runtime.errors import NotFiniteError
from vivim_runtime.framing import Views
from vivim_runtime.gating import HIDING, Gatekeeper
from vivim_runtime.live.buffer import ClipBuffer
from vivim_runtime.live.meters import Durations, Recent
from vivim_runtime.live.seeing import Seeing
from vivim_runtime.live.threads import TICK_S
from vivim_runtime.regions import Region
from vivim_runtime.sessions.base import Clips, Logits, Session, Stream
from vivim_runtime.sinks.base import MaskedFrame, check_finite, gated_frame
from vivim_runtime.smoothing import Smoother
from vivim_runtime.sources.base import Frame

__all__ = ["Inference", "Inferred"]

# Failures in a row after which a model is given up.
_MOST_FAILURES = 5
_WAIT_AFTER_FAILURE_S = 0.5
# Beyond such a pause, what was marked before says nothing of what is seen now.
_LONGEST_GAP_S = 0.5


@dataclass(frozen=True, eq=False)
class Inferred:
    """A clip and what the model said.

    Attributes:
        number: of the clip, from 0.
        frames: its T frames.
        fresh: positions whose frames were in no clip before.
        logits: float32 (T, K, h, w).
        begun, started, finished: time.monotonic() when work on it began, and of the session's call.
        reset: why a streaming model forgot before it; "" where it did not.
        views: how its frames were seen; then logits are (V, T, K, h, w). None where all of them was stretched.
        drawn: the region that people had drawn; None without.
        state: the gate that closed for the clip, "" when none did; gates: which there are.
        sure: how sure the model is; None where nobody has calibrated it.
    """

    number: int
    frames: tuple[Frame, ...]
    fresh: tuple[int, ...]
    logits: Logits
    begun: float
    started: float
    finished: float
    reset: str = ""
    views: Views | None = None
    drawn: Region | None = None
    state: str = ""
    gates: tuple[str, ...] = ()
    sure: Confidence | None = None

    @property
    def latency_ms(self) -> float:
        """From the newest frame being taken to its masks."""
        return (self.finished - (self.frames[-1].taken or self.started)) * 1000.0

    def masked(self, position: int, threshold: float) -> MaskedFrame:
        """The masks of one of its frames, marked above a probability."""
        logits = self.logits[position] if self.views is None else self.logits[:, position]
        masked = MaskedFrame.of(
            self.frames[position],
            logits,
            threshold,
            clip=self.number,
            position=position,
            latency_ms=self.latency_ms,
            reset=self.reset,
            views=self.views,
        )
        seen = logits[None] if self.views is None else logits
        expected = None if self.sure is None else min(self.sure.expects(of_view, threshold) for of_view in seen)
        height, width = masked.masks.shape[1:]
        inside = None if self.views is None else self.views.inside((height, width))
        return gated_frame(masked, self.state, self.gates, inside, expected)


class Inference:
    """Infers the clip that ends with the newest frame whenever the session is free and `hop` new frames have come.

    With `hop` 1 the session is always busy when it is slower than the camera, so that the true distance from clip to
    clip (`hop` of this object) is the smallest that keeps up.

    Attributes:
        warm: set when the session has run once.
        busy_since: when the call that runs began; None between calls.
        failure: the last failure of the session, in one line; "" when it works.
        not_finite: why no mask can be made of the newest clip; "" when it can.
        clips_not_finite: clips of which none could be made, and `first_not_finite`, why of the first.
    """

    def __init__(
        self,
        session: Session,
        buffer: ClipBuffer,
        hop: int,
        done: Callable[[Inferred], None],
        stop: threading.Event,
        hide: Callable[[], None] = lambda: None,
        seeing: Seeing | None = None,
        gates: tuple[str, ...] = (),
        smooth: int = 1,
    ) -> None:
        """`done` takes every result; `hide` is called for a clip of which no mask can be made.

        Args:
            seeing: which part of the frames the session sees; None is all of them.
            gates: when to be silent (vivim_runtime.gating).
            smooth: frames over which the logits of new frames are a mean (vivim_runtime.smoothing); 1 is none.
        """
        self._smoother, self._smoothed = (Smoother(smooth) if smooth > 1 else None), -math.inf
        self._sure = session.info.confidence
        self._gatekeeper = Gatekeeper(gates, None if self._sure is None else self._sure.domain)
        self._seeing, self._views = seeing, Views.of(session.info.takes)
        self._hide = hide
        self._session, self._buffer, self._min_hop, self._done, self._stop = session, buffer, hop, done, stop
        self._streams: list[Stream] = []  # of a streaming model, one for each view
        self._forget: deque[tuple[int, str]] = deque()  # from which frame on, and why
        self._small: dict[int, Clips] = {}  # frames at the model's size, since clips overlap
        self._last_index = -1
        self._hops: deque[int] = deque(maxlen=9)
        self.warm = threading.Event()
        self.busy_since: float | None = None
        self.failure = self.not_finite = self.first_not_finite = ""
        self.clips = self.clips_not_finite = 0
        self.infer_ms, self.prepare_ms, self.recent_ms = Durations(), Durations(), Recent()

    def forget(self, index: int, reason: str) -> None:
        """Let a streaming model forget before the first clip that reaches a frame. Called in any thread."""
        if self._session.info.streaming:
            self._forget.append((index, reason))

    def _reason_to_forget(self, index: int) -> str:
        reason = ""
        while self._forget and self._forget[0][0] <= index:
            reason = self._forget.popleft()[1]
        if reason:
            self._streams.clear()
        return reason

    def _runners(self, views: int) -> Sequence[Callable[[Clips], Logits]]:
        """What runs each view: the session, or of a streaming model a stream."""
        if not self._session.info.streaming:
            return [self._session] * views
        self._streams = self._streams or [Stream(self._session) for _ in range(views)]
        return self._streams

    @property
    def failing(self) -> bool:
        """Whether no mask is to be waited for now."""
        return bool(self.failure or self.not_finite)

    @property
    def hop(self) -> int:
        """Frames from one clip to the next, lately."""
        return int(statistics.median(self._hops)) if self._hops else self._min_hop

    def run(self) -> None:
        """Until `stop`; raises what the session raises when that does not end."""
        self.busy_since = time.monotonic()
        self._session.warm_up()
        self.busy_since = None
        self.warm.set()
        failures = 0
        while not self._stop.is_set():
            frames = self._buffer.newest(self._last_index, self._min_hop, TICK_S)
            if frames is None:
                continue
            try:
                result = self._infer(frames)
            except NotFiniteError as error:
                failures, self.failure = 0, ""
                self.not_finite = str(error)
                self.first_not_finite = self.first_not_finite or self.not_finite
                self.clips_not_finite += 1
                self._hide()
            except Exception as error:
                failures += 1
                self.failure = f"the model failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
                if failures >= _MOST_FAILURES:
                    raise
                self._stop.wait(_WAIT_AFTER_FAILURE_S)
            else:
                failures, self.failure = 0, ""
                if result is not None:
                    self._done(result)
                    self.not_finite = ""
            finally:
                self.busy_since = None

    def _seen(self, frames: tuple[Frame, ...]) -> Views | None:
        """How the frames are seen; None while that is not known."""
        if self._seeing is None:
            return self._views
        views = self._seeing.views(frames)
        if views is not None and views != self._views:
            self._views, self._small = views, {}
            self._streams.clear()  # what they have seen was another part of the picture
            self._smoothed = -math.inf
        return views

    def _smooth(self, frames: tuple[Frame, ...], fresh: tuple[int, ...], logits: Logits, anew: bool) -> None:
        """Make the logits (V, T, K, h, w) of the new frames a mean over time, in place.

        It begins anew after a gap, and with pictures of which masks mean nothing.
        """
        if self._smoother is None:
            return
        for position in fresh:
            moment = frames[position].time
            if anew or not 0 <= moment - self._smoothed <= _LONGEST_GAP_S:
                self._smoother.forget()
            anew, self._smoothed = False, moment
            logits[:, position] = self._smoother(logits[:, position])

    def _infer(self, frames: tuple[Frame, ...]) -> Inferred | None:
        """None while it is not known which part of the frames is to be seen."""
        begun = time.monotonic()
        reset = self._reason_to_forget(frames[-1].index)
        info = self._session.info
        drawn = None if self._seeing is None else self._seeing.drawn
        views = self._seen(frames)
        last = frames[-1].index
        if views is None:
            self._last_index = last
            return None
        self._small = {f.index: self._small.get(f.index, _EMPTY) for f in frames}
        for frame in frames:
            if self._small[frame.index] is _EMPTY:
                self._small[frame.index] = np.stack(views.pictures(frame.image))
        clips = np.stack([self._small[frame.index] for frame in frames], axis=1)  # (V, T, H, W, 3)
        batch = info.batch or 1
        pixels = [np.ascontiguousarray(np.broadcast_to(clip, (batch, *clip.shape))) for clip in clips]
        self.busy_since = started = time.monotonic()
        logits = np.stack([run(view)[0] for run, view in zip(self._runners(len(pixels)), pixels, strict=True)])
        finished = time.monotonic()
        if self._last_index >= 0:
            self._hops.append(last - self._last_index)
        fresh = tuple(
            position
            for position, frame in enumerate(frames)
            if frame.index > self._last_index and (position == 0 or frames[position - 1] is not frame)
        )
        self._last_index, self.clips = last, self.clips + 1
        self.prepare_ms.add((started - begun) * 1000.0)
        self.infer_ms.add((finished - started) * 1000.0)
        self.recent_ms.add((finished - started) * 1000.0)
        for position, frame in enumerate(frames):
            check_finite(frame, logits[:, position])
        state = self._gatekeeper.judge_views([list(of_view) for of_view in clips])
        self._smooth(frames, fresh, logits, anew=bool(reset) or state in HIDING)
        return Inferred(
            number=self.clips - 1,
            frames=frames,
            fresh=fresh,
            logits=logits,
            begun=begun,
            started=started,
            finished=finished,
            reset=reset,
            views=views,
            drawn=drawn,
            state=state,
            gates=self._gatekeeper.gates,
            sure=self._sure,
        )


_EMPTY: Clips = np.zeros(0, np.uint8)
