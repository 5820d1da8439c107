"""The offline run: every frame of a source through the model, in order, to every sink, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from vivim_runtime.clips import Show, Window, threshold_logit, windows
from vivim_runtime.continuity import Continuity
from vivim_runtime.errors import UsageError
from vivim_runtime.framing import Views
from vivim_runtime.gating import HIDING, Gatekeeper
from vivim_runtime.interrupts import undisturbed
from vivim_runtime.locating import located
from vivim_runtime.measuring import Curves, LesionFinder, Scales
from vivim_runtime.overlay import Layer, drawn
from vivim_runtime.regions import WHOLE, Region, RegionRule
from vivim_runtime.sessions.base import Clips, Logits, ModelInfo, Session, Stream
from vivim_runtime.sinks.base import MaskedFrame, Segmented, Sink, gated_frame, measured_frame
from vivim_runtime.smoothing import Smoother
from vivim_runtime.sources.base import Frame, Source, lost_frames

__all__ = ["RunOptions", "RunReport", "Stopwatch", "check_stream", "run"]


_Item = TypeVar("_Item")


@dataclass(frozen=True)
class RunOptions:
    """How to run.

    Attributes:
        hop: frames from one clip to the next; None is that of the model, mostly T: every frame is inferred once.
        show: which frames of a clip give their masks when clips overlap (vivim_runtime.clips).
        threshold: probability above which a pixel belongs to a class.
        layers, alpha: what is drawn, and the opacity of `overlay`.
        max_frames: stop after so many frames; None goes to the end.
        region: which part of the pictures the model sees; None is that of its contract.
        scales: how large pixels are; lesions are found and measured where it is given.
        gates: when to be silent (vivim_runtime.gating); () is never.
        blank_outside: whether pictures that are written or shown are black outside of what the model sees.
        smooth: masks are a mean over about so many frames (vivim_runtime.smoothing); 1 is none.
    """

    hop: int | None = None
    show: Show = "newest"
    threshold: float = 0.5
    layers: tuple[Layer, ...] = ("overlay", "contour")
    alpha: float = 0.45
    max_frames: int | None = None
    region: RegionRule | None = None
    scales: Scales | None = None
    gates: tuple[str, ...] = ()
    blank_outside: bool = False
    smooth: int = 1

    def __post_init__(self) -> None:
        threshold_logit(self.threshold)
        Smoother(self.smooth)
        if not 0.0 <= self.alpha <= 1.0:
            raise UsageError(f"--alpha is {self.alpha:g}; expected 0 (invisible) to 1 (opaque)")
        if self.max_frames is not None and self.max_frames < 1:
            raise UsageError(f"--max-frames is {self.max_frames}; expected at least 1")


@dataclass
class Stopwatch:
    """Seconds spent in named parts of the work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of the block to `part`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        frames, with_mask: frames written, and those with a mask that is not empty.
        clips, padded_clips: clips inferred, and those filled up because the source is shorter than a clip.
        seconds: wall time without warming up.
        fps: frames / seconds.
        latency_ms: p50, p95 and max over the clips, from a clip being complete to its masks.
        stages_ms: mean milliseconds a frame spent in each part of the work.
        interrupted: whether the user stopped it.
        notes: what the user should know about the source.
        lost: frames that the source should have and that could not be read; no output has them.
        resets: how often a streaming model forgot what it had seen, by reason (vivim_runtime.continuity).
        regions: what the model saw of the pictures, as `--region` takes it; () where that was all of them.
        states: frames for which a gate closed, by gate.
        lesions: of each that was found and measured, area and longest diameter over time.
    """

    frames: int
    with_mask: int
    clips: int
    padded_clips: int
    seconds: float
    fps: float
    latency_ms: dict[str, float]
    stages_ms: dict[str, float]
    interrupted: bool
    notes: tuple[str, ...]
    lost: int = 0
    resets: Mapping[str, int] = field(default_factory=dict)
    regions: tuple[str, ...] = ()
    lesions: tuple[dict[str, Any], ...] = ()
    states: dict[str, int] = field(default_factory=dict)


def run(
    source: Source,
    session: Session,
    sinks: Sequence[Sink],
    options: RunOptions,
    on_frame: Callable[[Segmented], None] | None = None,
) -> RunReport:
    """Segment a source.

    A KeyboardInterrupt ends the run in good order: what was inferred is complete in the sinks.

    Args:
        sinks: already open; they receive every frame once, in order.
        on_frame: called after each frame, for progress.

    A streaming model takes frame after frame, and forgets where the film does not go on.

    Raises:
        SourceError: the source cannot be read any further.
        SinkError: an output cannot be written any further.
        UsageError: the options do not fit the model.
    """
    info, watch = session.info, Stopwatch()
    gatekeeper = Gatekeeper(options.gates, None if info.confidence is None else info.confidence.domain)
    hop = info.hop if options.hop is None else options.hop
    rule = options.region or info.takes.rule
    if info.streaming:
        check_stream(info, hop)
    regions, given = located(rule, source, islice(source, options.max_frames))
    views = Views.of(info.takes, regions)
    if options.blank_outside and all(region == Region.of(source.size) for region in regions):
        raise UsageError(
            f"{source.name}: --blank-outside needs a region that leaves something out, "
            f"and {rule.describe()} {'leave' if rule.kind == WHOLE else 'leaves'} out nothing; give --region X,Y,W,H"
        )
    streams = [Stream(session) for _ in views.regions or (None,)] if info.streaming else []
    continuity = Continuity(source.fps)
    frames = _watched(given, watch, "read")
    lesions = None if options.scales is None else LesionFinder(options.scales)
    curves, smoother = Curves(), Smoother(options.smooth)
    latencies: list[float] = []
    padded = written = with_mask = 0
    states: dict[str, int] = {}
    interrupted = False
    started = time.perf_counter()
    try:
        for group in _grouped(windows(frames, info.frames, hop, options.show), info.batch or 1):
            begun = time.perf_counter()
            reset = continuity.before(group[0].frames[0]) if streams else ""
            for stream in streams if reset else ():
                stream.reset()
            with watch.measure("prepare"):
                pixels = _stacked(group, views, info.batch or 1)
            with watch.measure("infer"):
                runners: Sequence[Callable[[Clips], Logits]] = streams or [session] * len(pixels)
                logits = np.stack([runs(seen) for runs, seen in zip(runners, pixels, strict=True)], axis=1)
                # (B, V, T, K, H, W)
            latency = (time.perf_counter() - begun) * 1000.0
            latencies.extend([latency] * len(group))
            padded += sum(window.padded > 0 for window in group)
            if reset:
                smoother.forget()
            for number, (window, window_logits) in enumerate(zip(group, logits, strict=False)):
                state = ""
                if options.gates:
                    with watch.measure("judge"):
                        state = gatekeeper.judge_views([seen[number] for seen in pixels])
                if state in HIDING:
                    smoother.forget()  # what it says of such pictures means nothing for others
                for item in _segmented(
                    window, window_logits, session, options, latency, watch, views, lesions, smoother, state, reset
                ):
                    states[item.state] = states.get(item.state, 0) + 1
                    curves.add(item.frame.time, item.lesions)
                    with watch.measure("write"):
                        _write(sinks, item)
                    written += 1
                    with_mask += bool(item.masks.any())
                    if on_frame:
                        on_frame(item)
    except KeyboardInterrupt:
        interrupted = True
    seconds = time.perf_counter() - started
    return RunReport(
        frames=written,
        with_mask=with_mask,
        clips=len(latencies),
        padded_clips=padded,
        seconds=seconds,
        fps=written / seconds,
        latency_ms=_percentiles(latencies),
        stages_ms={part: 1000.0 * value / max(written, 1) for part, value in watch.seconds.items()},
        interrupted=interrupted,
        notes=tuple(source.notes),
        lost=lost_frames(source),
        resets=dict(continuity.resets),
        regions=tuple(map(str, regions)),
        lesions=tuple(curves.record()),
        states={name: count for name, count in states.items() if name},
    )


def check_stream(info: ModelInfo, hop: int) -> None:
    """UsageError where one film cannot go frame after frame through a streaming model."""
    if hop != 1:
        raise UsageError(f"--hop is {hop}; {info.path.name} streams, and takes every frame: leave --hop out")
    if info.batch != 1:
        raise UsageError(f"{info.path.name} takes {info.batch} films at once; export it with --batch 1 to run one")


def _watched(items: Iterable[_Item], watch: Stopwatch, part: str) -> Iterator[_Item]:
    """The items, the time that each takes to come added to `part`."""
    iterator = iter(items)
    while True:
        with watch.measure(part):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def _grouped(items: Iterable[Window[Frame]], size: int) -> Iterator[list[Window[Frame]]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def _stacked(group: list[Window[Frame]], views: Views, batch: int) -> list[np.ndarray]:
    """uint8 (batch, T, H, W, 3) of each view; a group too small for the batch is filled with its last window."""
    result = []
    for framing in views.framings:
        pixels = [np.stack([framing.picture(frame.image) for frame in window.frames]) for window in group]
        result.append(np.stack([*pixels, *[pixels[-1]] * (batch - len(group))]))
    return result


def _segmented(
    window: Window[Frame],
    logits: np.ndarray,
    session: Session,
    options: RunOptions,
    latency: float,
    watch: Stopwatch,
    views: Views,
    lesions: LesionFinder | None,
    smoother: Smoother,
    state: str,
    reset: str,
) -> Iterator[Segmented]:
    """The frames that this window serves, with masks at their own resolution; logits are (V, T, K, H, W)."""
    for position in range(window.used.start, window.used.stop):
        frame = window.frames[position]
        if options.blank_outside:  # the model has seen it already
            frame = replace(frame, image=views.blanked(frame.image))
        with watch.measure("mask"):
            said = logits[:, position] if state in HIDING else smoother(logits[:, position])
            masked = MaskedFrame.of(
                frame,
                said,
                options.threshold,
                clip=window.number,
                position=position,
                latency_ms=latency,
                padded=window.padded > 0,
                reset=reset,
                views=views,
            )
            size = masked.masks.shape[1:]
            sure = session.info.confidence
            expected = None if sure is None else min(sure.expects(seen, options.threshold) for seen in said)
            masked = gated_frame(masked, state, options.gates, views.inside((size[0], size[1])), expected)
            if lesions is not None:
                masked = measured_frame(masked, lesions, options.threshold, views.grain(size))
        with watch.measure("draw"):
            classes, within = session.info.classes, views.inside(size)
            picture = drawn(frame.image, masked.masks, classes, options.layers, options.alpha, within)
        yield Segmented.drawn(masked, picture)


@undisturbed
def _write(sinks: Sequence[Sink], item: Segmented) -> None:
    for sink in sinks:
        sink.write(item)


def _percentiles(latencies: list[float]) -> dict[str, float]:
    if not latencies:
        return {}
    p50, p95, most = np.percentile(latencies, (50, 95, 100)).tolist()
    return {"p50": p50, "p95": p95, "max": most}
