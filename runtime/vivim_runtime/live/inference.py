"""The newest clip through the model, again and again; a model that fails or hangs is told from one that is slow."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vivim_runtime.errors import NotFiniteError
from vivim_runtime.live.buffer import ClipBuffer
from vivim_runtime.live.meters import Durations, Recent
from vivim_runtime.live.threads import TICK_S
from vivim_runtime.sessions.base import Clips, Logits, Session
from vivim_runtime.sinks.base import MaskedFrame, check_finite
from vivim_runtime.sources.base import Frame

__all__ = ["Inference", "Inferred"]

# Failures in a row after which a model is given up.
_MOST_FAILURES = 5
_WAIT_AFTER_FAILURE_S = 0.5


@dataclass(frozen=True, eq=False)
class Inferred:
    """A clip and what the model said.

    Attributes:
        number: of the clip, from 0.
        frames: its T frames.
        fresh: positions whose frames were in no clip before.
        logits: float32 (T, K, h, w).
        prepared, started, finished: time.monotonic() when its pixels were ready, and of the session's call.
    """

    number: int
    frames: tuple[Frame, ...]
    fresh: tuple[int, ...]
    logits: Logits
    prepared: float
    started: float
    finished: float

    @property
    def latency_ms(self) -> float:
        """From the newest frame being taken to its masks."""
        return (self.finished - (self.frames[-1].taken or self.started)) * 1000.0

    def masked(self, position: int, threshold: float) -> MaskedFrame:
        """The masks of one of its frames, marked above a probability."""
        return MaskedFrame.of(
            self.frames[position],
            self.logits[position],
            threshold,
            clip=self.number,
            position=position,
            latency_ms=self.latency_ms,
        )


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
    ) -> None:
        """`done` takes every result; `hide` is called for a clip of which no mask can be made."""
        self._hide = hide
        self._session, self._buffer, self._min_hop, self._done, self._stop = session, buffer, hop, done, stop
        self._small: dict[int, Clips] = {}  # frames at the model's size, since clips overlap
        self._last_index = -1
        self._hops: deque[int] = deque(maxlen=9)
        self.warm = threading.Event()
        self.busy_since: float | None = None
        self.failure = self.not_finite = self.first_not_finite = ""
        self.clips = self.clips_not_finite = 0
        self.infer_ms, self.prepare_ms, self.recent_ms = Durations(), Durations(), Recent()

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
                self._done(result)
                self.not_finite = ""
            finally:
                self.busy_since = None

    def _infer(self, frames: tuple[Frame, ...]) -> Inferred:
        begun = time.monotonic()
        info = self._session.info
        framing = info.framing()
        self._small = {f.index: self._small.get(f.index, _EMPTY) for f in frames}
        for frame in frames:
            if self._small[frame.index] is _EMPTY:
                self._small[frame.index] = framing.picture(frame.image)
        clip = np.stack([self._small[frame.index] for frame in frames])
        pixels = np.broadcast_to(clip, (info.batch or 1, *clip.shape))
        prepared = time.monotonic()
        self.busy_since = started = prepared
        logits = self._session(np.ascontiguousarray(pixels))[0]
        finished = time.monotonic()
        last = frames[-1].index
        if self._last_index >= 0:
            self._hops.append(last - self._last_index)
        fresh = tuple(
            position
            for position, frame in enumerate(frames)
            if frame.index > self._last_index and (position == 0 or frames[position - 1] is not frame)
        )
        self._last_index, self.clips = last, self.clips + 1
        self.prepare_ms.add((prepared - begun) * 1000.0)
        self.infer_ms.add((finished - started) * 1000.0)
        self.recent_ms.add((finished - started) * 1000.0)
        for frame, values in zip(frames, logits, strict=True):
            check_finite(frame, values)
        return Inferred(self.clips - 1, frames, fresh, logits, prepared, started, finished)


_EMPTY: Clips = np.zeros(0, np.uint8)
