"""The live run: camera to screens and recordings; see vivim_runtime.live.threads for who does what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from vivim_runtime.continuity import Continuity
from vivim_runtime.errors import SourceError, UsageError
from vivim_runtime.gating import HIDING, MEANING
from vivim_runtime.live.buffer import ClipBuffer
from vivim_runtime.live.capture import Capture
from vivim_runtime.live.compositor import ANOTHER_SCENE, Captured, Compositor, Links, MaskOptions
from vivim_runtime.live.inference import Inference, Inferred
from vivim_runtime.live.ledger import LedgerFile, LiveLedger
from vivim_runtime.live.meters import Recent
from vivim_runtime.live.recording import Recorder
from vivim_runtime.live.screens import Screen
from vivim_runtime.live.seeing import Seeing
from vivim_runtime.live.status import Controls, State, Status
from vivim_runtime.live.sync import Pairing, SteadyState, Sync, SyncChoice
from vivim_runtime.live.threads import END_S, LINE_QUEUE, TICK_S, Branch, Crew, Mailbox
from vivim_runtime.measuring import Scales
from vivim_runtime.offline import RunOptions, check_stream
from vivim_runtime.sessions.base import Session
from vivim_runtime.sinks.base import Sink
from vivim_runtime.sources.base import Frame, LiveSource, lost_frames
from vivim_runtime.text import printable

__all__ = ["LiveOptions", "LiveReport", "Outputs", "run_live"]

# A source that has given no frame for so long after the start is taken to be wrongly named.
_FIRST_FRAME_S = 15.0
# No frame for so many intervals, and so many seconds, is told as "no signal".
_SIGNAL_INTERVALS, _SIGNAL_S = 5.0, 1.0
# So long a first connection is nothing to worry about.
_CONNECTING_S = 2.0
# Why masks are hidden on purpose.
_SILENT = frozenset(MEANING[gate] for gate in HIDING)
# The first call of a session may compile kernels.
_WARM_UP_S = 120.0


@dataclass(frozen=True)
class LiveOptions:
    """How to run live.

    Attributes:
        run: what it shares with the offline run; `hop` None infers as often as the session can.
        clip_fps: frames a second of a clip; None is that of the training where the model says it, else the source's.
        max_mask_age_s: masks older than this are hidden.
        timeout_s: give up after so many seconds without a frame; None waits for ever once there was one.
        stuck_s: a call of the session that takes longer is told as "inference stuck".
        sync: whether every picture waits for its own mask, late by one inference: on, off, or auto, which asks for it
            where no picture is lost by it, and where masks would else be so old that an outline lies beside what moves
            (vivim_runtime.live.sync).
    """

    run: RunOptions = field(default_factory=RunOptions)
    clip_fps: float | None = None
    max_mask_age_s: float = 1.0
    timeout_s: float | None = None
    stuck_s: float = 5.0
    sync: Sync = "auto"

    def __post_init__(self) -> None:
        if self.sync not in get_args(Sync):
            raise UsageError(f"--sync is {self.sync}; expected {', '.join(get_args(Sync))}")
        for name, value in (
            ("--clip-rate", self.clip_fps),
            ("--max-mask-age", self.max_mask_age_s),
            ("--timeout", self.timeout_s),
        ):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{name} is {value:g}; expected more than 0")


@dataclass(frozen=True)
class Outputs:
    """Where a live run goes.

    Attributes:
        screens: open; they get every picture.
        sinks: opens the recordings; called once the first frame has told its size.
        film: opens one more recording, when people ask for one and there is none; None refuses.
        ledger: the file for the ledger, and what its first line says.
    """

    screens: Sequence[Screen] = ()
    sinks: Callable[[], Sequence[Sink]] = tuple
    film: Callable[[], Sink] | None = None
    ledger: tuple[Path, Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class LiveReport:
    """What a live run did.

    Attributes:
        counts: captured frames, and what became of them; they sum (vivim_runtime.live.ledger).
        inference: captured frames that were part of a clip, or not.
        clips, hop: clips inferred, and frames from one to the next at the end.
        seconds: of the whole run; fps: pictures shown a second.
        stages_ms: p50, p95, p99 and max of each part of a frame's way.
        lost: frames that a recorded source should have and that cannot be decoded; none of them was captured.
        reconnects: how often the source came back.
        recordings: what was written and dropped, by name.
        failures: recordings that could not begin or be completed, and clips of which no mask could be made; and why.
        abandoned: threads that hung and were left behind; the process should end without waiting for them.
        notes: what the user should know about the source.
    """

    counts: Mapping[str, int]
    inference: Mapping[str, int]
    clips: int
    hop: int
    seconds: float
    fps: float
    stages_ms: Mapping[str, Mapping[str, float]]
    lost: int
    reconnects: int
    recordings: Mapping[str, Mapping[str, int]]
    failures: tuple[str, ...]
    abandoned: tuple[str, ...]
    notes: tuple[str, ...]


def run_live(
    source: LiveSource,
    session: Session,
    controls: Controls,
    options: LiveOptions,
    outputs: Outputs,
    tell: Callable[[Status], None] | None = None,
) -> LiveReport:
    """Run until `controls.quit` is set or the source ends; call it from the main thread.

    Everything is closed within 2 s of that. A screen that needs the main thread gets it.

    Args:
        tell: called about twice a second, from another thread.

    Raises:
        SourceError: no frame came, or a recorded source is damaged.
        SinkError: a recording could not be opened. (One that fails later ends alone, see LiveReport.failures.)
    """
    return _LiveRun(source, session, controls, options, outputs, tell).run()


class _LiveRun:
    """The parts, put together."""

    def __init__(
        self,
        source: LiveSource,
        session: Session,
        controls: Controls,
        options: LiveOptions,
        outputs: Outputs,
        tell: Callable[[Status], None] | None,
    ) -> None:
        self.source, self.session, self.controls = source, session, controls
        self.options, self.outputs, self.tell = options, outputs, tell
        info, run = session.info, options.run
        if info.streaming:
            check_stream(info, run.hop or 1)
            if options.clip_fps is not None:
                raise UsageError(f"--clip-rate is given; {info.path.name} streams, and has no clips: leave it out")
        self.stop = threading.Event()
        self.crew = Crew(failed=controls.quit.set)
        self.lines: Branch[Mapping[str, Any]] | None = None
        self.ledger = LiveLedger(lambda line: self.lines.offer(line) if self.lines else None)
        if outputs.ledger:
            self.lines = self._ledger_branch(*outputs.ledger)
        self.mailbox: Mailbox[Captured] = Mailbox()
        clip_fps = options.clip_fps or info.takes.clip_fps
        interval = None if clip_fps is None else 1.0 / clip_fps
        self.buffer = ClipBuffer(info.frames, interval, source.fps)
        self.continuity = Continuity(source.fps) if info.streaming else None
        self.sync = SyncChoice(options.sync)
        self.pairing = Pairing()
        self.order = threading.Lock()
        self.newest_shown = -1  # index of the picture that was given to the compositor last
        self.steady = SteadyState()
        self.capture = Capture(source, self.crew, self._deliver, run.max_frames)
        self.recorder = Recorder(controls, options.run.scales or Scales())
        self.seeing = Seeing(info.takes, run.region, source, controls)
        self.scales = run.scales or Scales()
        self.inference = Inference(
            session,
            self.buffer,
            run.hop or 1,
            self._inferred,
            self.stop,
            self._hide,
            self.seeing,
            run.gates,
            run.smooth,
        )
        self.compositor = Compositor(
            MaskOptions(info, run.show, options.max_mask_age_s, self.scales, run.blank_outside),
            Links(
                self.mailbox,
                controls,
                outputs.screens,
                self.ledger,
                self.status,
                lambda: self.seeing.current,
                self.recorder.picture,
                self.stop,
            ),
        )
        self.arrivals = Recent()
        self.last_whole: float | None = None  # when the last frame came that was not damaged, by time.monotonic()
        self.began = time.monotonic()

    def run(self) -> LiveReport:
        self.crew.start("compositor", self.compositor.run)
        self.crew.start("inference", self.inference.run)
        if self.source.reconnects:
            self.capture.start()
        self.crew.start("supervisor", self._supervise)
        try:
            main = next((screen for screen in self.outputs.screens if screen.needs_main_thread), None)
            if main is not None:
                main.run_main()
            while not self.controls.quit.wait(TICK_S):
                pass
        finally:
            self.controls.quit.set()
            abandoned = self._end()
        error = self.crew.error or self.capture.error
        if error is not None:
            raise error
        return self._report(abandoned)

    def _deliver(self, frame: Frame, arrived: float, first: bool) -> None:
        """In the reader's thread."""
        self.arrivals.add()
        self.ledger.captured(frame)
        if first:
            self.buffer.reset()
            self.compositor.new_scene(frame.taken or arrived)
            if self.ledger.counts()["captured"] > 1:
                self.inference.forget(frame.index, "connection")
        if frame.damaged:
            self.ledger.fate(frame, "damaged")
            return
        self.last_whole = arrived
        if self.continuity and (reason := self.continuity.before(frame)) and not first:
            self.inference.forget(frame.index, reason)
        if self.controls.forget.is_set():
            self.controls.forget.clear()
            self.inference.forget(frame.index, "key")
        captured, waits = Captured(frame, arrived), self._may_wait(arrived)
        # What waits since that costs nothing does not wait longer than until now.
        shown = [] if waits and not self.sync.quick else self.pairing.flush()
        shown += self.pairing.add(captured) if waits else [captured]  # before its masks can come
        self.buffer.add(frame)
        for other in shown if self.buffer.complete else [*shown, *self.pairing.flush()]:
            self._show(other)

    def _may_wait(self, now: float) -> bool:
        """Whether a picture that comes now may wait for its own masks: there will be some before long."""
        inference = self.inference
        ready = inference.warm.is_set() and not inference.failing and not self.seeing.message
        return self.sync.on and ready and not self._hangs(now, self.sync.patience_s)

    def _show(self, captured: Captured) -> None:
        """Hand a picture to the compositor, unless a newer one was: time never goes back."""
        with self.order:
            old = captured.frame.index < self.newest_shown
            self.newest_shown = max(self.newest_shown, captured.frame.index)
            replaced = captured if old else self.mailbox.put(captured)
        if replaced is not None:
            self.ledger.fate(replaced.frame, "replaced")

    def _inferred(self, result: Inferred) -> None:
        """In the inference's thread."""
        self.ledger.inferred(result.frames)
        if result.reset:
            self.ledger.reset(result.frames[-1], result.reset)
        shown = self.compositor.prepare(result)
        own, dropped = self.pairing.take(shown.masked.frame.index)
        for other in dropped:
            self.ledger.fate(other.frame, "replaced")
        if own is not None:
            self._show(replace(own, own=shown))
        # Masks of a frame before the newest come when that one has been passed.
        every = shown.masked.frame is result.frames[-1] and self.inference.hop == 1
        self.sync.measured(time.monotonic() - result.begun, self.buffer.source_interval, every)
        self.recorder.clip(result)

    def _hide(self) -> None:
        """In the inference's thread."""
        self.compositor.hide()
        for captured in self.pairing.flush():  # no mask comes for them
            self._show(captured)

    def _supervise(self) -> None:
        opened, told, idle_since = False, 0.0, None
        while not self.controls.quit.wait(TICK_S):
            now = time.monotonic()
            # A camera is shown at once; a recording that is short would be over before the model is warm.
            if self.capture.began is None and self.inference.warm.is_set():
                self.capture.start()
            self.capture.replace_hanging_reader()
            if not opened and self.capture.last is not None:
                self.recorder.open(self.outputs.sinks(), self.source.size)
                opened = True
            if opened and self.controls.recording.is_set() and not self.recorder.branches and self.outputs.film:
                self.recorder.begin(self.outputs.film, self.source.size)
            if self.tell and now - told >= 0.5:
                self.tell(self.status(self.compositor.hidden, None))
                told = now
            if self.capture.ended and self.mailbox.empty:
                idle_since = idle_since or now
                if now - idle_since > 2 * TICK_S:  # the compositor may still have one in hand
                    self.controls.quit.set()
            elif self.capture.began is not None and not self.capture.ended:
                self._check_time_out(now, self.capture.began)
            if self.inference.failing or self._hangs(now, self.sync.patience_s):
                for captured in self.pairing.flush():
                    self._show(captured)

    def _check_time_out(self, now: float, began: float) -> None:
        last, limit = self.capture.last, self.options.timeout_s
        if last is None:
            last, limit = began, limit or _FIRST_FRAME_S
        if limit is not None and now - last > limit:
            raise SourceError(
                f"{self.source.name} gave no frame for {limit:g} s ({self.capture.message or 'it is silent'}); "
                "is it connected and on?"
            )

    def _hangs(self, now: float, patience_s: float) -> bool:
        """Whether the session has been busy with one call for so long, or for so long as is told."""
        busy = self.inference.busy_since
        return busy is not None and now - busy > min(patience_s, self.options.stuck_s)

    def status(self, hidden: str, mask_age_ms: float | None) -> Status:
        """What to tell now; `hidden` says why there are masks, but none that may be drawn."""
        views = self.seeing.current
        state, message = self._state(hidden)
        told = (message, self.compositor.note, self.recorder.message)
        return Status(
            state=state,
            message=printable("; ".join(part for part in told if part), 400),
            source=printable(self.source.name, 200),
            model=self.session.info.preset,
            precision=self.session.info.precision,
            backend=self.session.backend,
            device=self.session.device,
            fps=self.compositor.pictures.rate(),
            source_fps=self.arrivals.rate(),
            latency_ms=self.compositor.recent_ms.quantiles(),
            infer_ms=self.inference.recent_ms.quantiles(),
            mask_age_ms=mask_age_ms,
            hop=self.inference.hop,
            counts=self.ledger.counts(),
            seconds=time.monotonic() - self.began,
            recording=self.recorder.active,
            synchronised=self.sync.on,
            held_up=self.sync.is_slow,
            regions=() if views is None else tuple((r.x, r.y, r.width, r.height) for r in views.regions),
            region=self.seeing.rule,
            scale=printable(self.scales.describe(), 200),
        )

    def _state(self, hidden: str) -> tuple[State, str]:
        now = time.monotonic()
        other = self._state_without_masks(now)
        if other is None and hidden == ANOTHER_SCENE:  # as before the first mask
            other = State.warming_up, hidden
        if other is None and hidden in _SILENT:
            other = State.silent, hidden
        if other is not None:
            self.steady.forget()
            return other
        if self.steady.is_stale(bool(hidden), now):
            took = self.inference.recent_ms.quantiles().get("p50", 0.0)
            slow = took > 500.0 * self.options.max_mask_age_s
            hidden = hidden or "masks come again"
            return State.stale, f"{hidden}; the model takes {took:.0f} ms a clip" if slow else hidden
        return State.live, hidden  # which is not told as stale again, where it was just now

    def _state_without_masks(self, now: float) -> tuple[State, str] | None:
        """What there is to tell before masks are looked at; None where they decide."""
        if self.controls.paused.is_set():
            return State.paused, ""
        if self.capture.ended:
            return State.ended, ""
        if self.capture.began is None:
            return State.warming_up, "the model runs for the first time"
        last, whole = self.capture.last, self.last_whole
        silent = now - (self.capture.began if whole is None else whole)
        if whole is None and silent < _CONNECTING_S:
            return State.warming_up, "connecting"
        if whole is None or silent > max(_SIGNAL_S, _SIGNAL_INTERVALS / self.source.fps):
            damaged = last is not None and (whole is None or last > whole)
            frames = "no frame that is whole" if damaged else "no frame"
            return State.no_signal, self.capture.message or f"{frames} for {silent:.0f} s"
        busy_since = self.inference.busy_since
        if self.inference.failure:
            return State.stuck, self.inference.failure
        if self.inference.not_finite:
            return State.not_finite, self.inference.not_finite
        limit = self.options.stuck_s if self.inference.clips else _WARM_UP_S
        if busy_since is not None and now - busy_since > limit:
            return State.stuck, f"the model has not answered for {now - busy_since:.0f} s"
        if self.seeing.message:
            return State.warming_up, self.seeing.message
        if not self.inference.clips:
            return State.warming_up, ""
        return None

    def _end(self) -> tuple[str, ...]:
        """Stop everything and close the files; what hangs is left behind, and named."""
        until = time.monotonic() + END_S
        self.stop.set()
        self.capture.stop()
        abandoned = self.crew.join(until - 1.0)
        unseen = self.mailbox.take()
        for captured in [*self.pairing.flush(), *([unseen] if unseen else [])]:
            self.ledger.fate(captured.frame, "unseen")
        abandoned += self.recorder.finish(until - 0.1)
        self.compositor.farewell()
        if self.lines:
            self.lines.finish(until)
            abandoned += [] if self.lines.join(max(until, time.monotonic() + 0.1)) else [self.lines.name]
        return tuple(abandoned)

    def _ledger_branch(self, path: Path, first: Mapping[str, Any]) -> Branch[Mapping[str, Any]]:
        def totals() -> Mapping[str, Any]:
            lost = self.lines.dropped if self.lines else 0
            return {
                **self.ledger.counts(),
                **self.ledger.inference(),
                "clips": self.inference.clips,
                "clips_not_finite": self.inference.clips_not_finite,
                **({"resets": self.ledger.resets()} if self.continuity else {}),
                "lost": lost_frames(self.source),
                "lines_lost": lost,
            }

        file = LedgerFile(path, first, totals)

        def write(line: Mapping[str, Any]) -> int:
            file.line("reset" if "reset" in line else "frame", line)
            return 1

        return Branch(
            file.path,
            LINE_QUEUE,
            write,
            lambda error: file.__exit__(type(error) if error else None, error, None),
        )

    def _report(self, abandoned: tuple[str, ...]) -> LiveReport:
        branches: list[Branch[Any]] = [*self.recorder.branches, *([self.lines] if self.lines else [])]
        counts, bad = self.ledger.counts(), self.inference.clips_not_finite
        seconds = time.monotonic() - self.began
        stages = {**self.compositor.stages_ms, "prepare": self.inference.prepare_ms, "infer": self.inference.infer_ms}
        return LiveReport(
            counts=counts,
            inference=self.ledger.inference(),
            clips=self.inference.clips,
            hop=self.inference.hop,
            seconds=seconds,
            fps=counts["shown"] / seconds,
            stages_ms={name: durations.quantiles() for name, durations in stages.items()},
            lost=lost_frames(self.source),
            reconnects=self.capture.reconnects,
            recordings={branch.name: {"written": branch.written, "dropped": branch.dropped} for branch in branches},
            failures=(
                *(f"{branch.name}: {branch.error}" for branch in branches if branch.error),
                *self.recorder.refused,
                *([f"{bad} of {self.inference.clips} clips: {self.inference.first_not_finite}"] if bad else []),
            ),
            abandoned=abandoned,
            notes=tuple(self.source.notes),
        )
