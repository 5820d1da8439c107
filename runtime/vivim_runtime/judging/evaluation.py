"""A model on a data set: every frame through the pipeline that `vivim-run` uses, measured against its true mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from vivim_runtime.clips import Show, threshold_logit
from vivim_runtime.datasets import Dataset, Video
from vivim_runtime.datasets.as_source import VideoSource
from vivim_runtime.errors import DataError, NotFiniteError, UsageError
from vivim_runtime.judging.figures import FIGURES, Bootstrap, Estimate, Units, estimate
from vivim_runtime.judging.frames import FrameJudge, columns
from vivim_runtime.judging.maps import THRESHOLDS
from vivim_runtime.judging.metrics import Figures
from vivim_runtime.judging.outlines import EDGE_FIGURES, EdgeTally, edge_estimates
from vivim_runtime.judging.reliability import Reliability, ReliabilityTally
from vivim_runtime.judging.tally import SUBSETS, Stretches
from vivim_runtime.judging.worst import WorstFrame, WorstFrames
from vivim_runtime.offline import RunOptions, run
from vivim_runtime.regions import RegionRule
from vivim_runtime.sessions.base import ModelInfo, Outlining, Session
from vivim_runtime.sinks.base import Segmented
from vivim_runtime.smoothing import Smoother

__all__ = ["Evaluation", "EvaluationOptions", "ModelFacts", "VideoFigures", "check_model", "evaluate"]


@dataclass(frozen=True)
class EvaluationOptions:
    """How to evaluate.

    Attributes:
        hop, show: which clip a frame's mask is from, as in vivim_runtime.RunOptions.
        threshold: probability above which a pixel is marked.
        bootstrap: how intervals are made.
        worst: how many of the worst frames to keep.
        region: which part of the frames the model sees; None is that of its contract. Judged is the whole frame.
        smooth: frames over which masks are a mean; 1 is none.
    """

    hop: int | None = None
    show: Show = "newest"
    threshold: float = 0.5
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    worst: int = 6
    region: RegionRule | None = None
    smooth: int = 1

    def __post_init__(self) -> None:
        threshold_logit(self.threshold)
        Smoother(self.smooth)
        for name, value in (
            ("bootstrap", self.bootstrap.resamples),
            ("seed", self.bootstrap.seed),
            ("worst", self.worst),
        ):
            if value < 0:
                raise UsageError(f"--{name} is {value}; expected 0 or more")


@dataclass(frozen=True)
class ModelFacts:
    """Which model it was, for people and for records.

    Attributes:
        name, backend, device, preset, precision, weights_sha256: as the session says.
        frames, size: T and (H, W) of a clip.
        departures: in what clips differ from those of the training.
    """

    name: str
    backend: str
    device: str
    preset: str
    precision: str
    frames: int
    size: tuple[int, int]
    weights_sha256: str
    departures: tuple[str, ...] = ()

    @classmethod
    def of(cls, session: Session) -> ModelFacts:
        """The facts of a session."""
        info = session.info
        return cls(
            info.path.name,
            session.backend,
            session.device,
            info.preset,
            info.precision,
            info.frames,
            info.size,
            info.weights_sha256,
            info.departures,
        )


@dataclass(frozen=True)
class VideoFigures:
    """One video.

    Attributes:
        name: of the video.
        frames, lesion_frames: how many, and how many of them have a lesion in the true mask.
        figures: by subset (all, lesion) and key of vivim_runtime.judging.figures; None where no frame counts. Of a
            network with an edge head, "all" has vivim_runtime.judging.outlines.EDGE_FIGURES, too.
        dice: with an interval over stretches of this video's frames.
    """

    name: str
    frames: int
    lesion_frames: int
    figures: dict[str, dict[str, float | None]]
    dice: Estimate


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The outcome.

    Attributes:
        model: what was evaluated.
        hop: frames from one clip to the next.
        videos: one by one.
        overall: figures with intervals by subset and key, as of the videos.
        units: what intervals are drawn from, for differences between models.
        drawn: what that is, for people.
        dice_at: mean Dice over all frames at every threshold, (256,).
        worst: the worst frames, worst first.
        reliability: how far its probabilities are true, over the pixels of all frames.
        temperature: that logits are divided by for that; 1 where nobody has calibrated the model.
        notes: what to know when reading the figures.
    """

    model: ModelFacts
    hop: int
    videos: tuple[VideoFigures, ...]
    overall: dict[str, dict[str, Estimate]]
    units: Units
    drawn: str
    dice_at: Figures = field(repr=False)
    worst: tuple[WorstFrame, ...] = field(repr=False)
    reliability: Reliability = field(repr=False)
    temperature: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """Of all videos."""
        return sum(video.frames for video in self.videos)

    @property
    def lesion_frames(self) -> int:
        """Of them, those with a lesion in the true mask."""
        return sum(video.lesion_frames for video in self.videos)

    @property
    def best_threshold(self) -> float:
        """The threshold with the highest mean Dice over all frames; of several, the one nearest to 0.5."""
        best = np.flatnonzero(self.dice_at == self.dice_at.max())
        return float(THRESHOLDS[best[np.abs(THRESHOLDS[best] - 0.5).argmin()]])


def check_model(info: ModelInfo, options: EvaluationOptions) -> None:
    """UsageError where a model cannot be evaluated: it marks several classes, or the hop is longer than its clips."""
    if len(info.classes) != 1:
        names = ", ".join(c.name for c in info.classes)
        raise UsageError(f"{info.path.name} marks {names}; expected a model of one class, as the true masks are")
    if options.hop is not None and not 1 <= options.hop <= info.frames:
        raise UsageError(
            f"--hop is {options.hop}; expected 1 to {info.frames}, the frames of a clip of {info.path.name}"
        )


def evaluate(
    session: Session,
    dataset: Dataset,
    options: EvaluationOptions,
    on_frame: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Measure a model on every frame of a data set, at the resolution of its true masks.

    Memory does not grow with the number of frames.

    Args:
        on_frame: called after each frame, for progress.

    Raises:
        DataError: a frame or mask that cannot be read, or no frames at all.
        UsageError: see `check_model`.
        ModelError: the model gives values that are not finite.
        KeyboardInterrupt: the user stopped it.
    """
    info = session.info
    check_model(info, options)
    videos = [video for video in dataset.videos if len(video)]
    if not videos:
        raise DataError(f"{dataset.name} holds no frames{' in the split ' + dataset.split if dataset.split else ''}")
    if isinstance(session, Outlining):
        session = session.with_outlines() or session
    outlined = len(session.info.classes) > len(info.classes)
    session.warm_up()
    worst = WorstFrames(options.worst)
    results, tallies, padded = [], [], 0
    edges: list[EdgeTally] = []
    sure = ReliabilityTally(info.confidence.temperature if info.confidence else 1.0)
    for video in videos:
        edges.append(EdgeTally())
        stretches, is_padded = _stretches(session, video, options, worst, edges[-1], sure, on_frame)
        tallies.append(stretches.total())
        results.append(_video_figures(video.name, stretches, edges[-1] if outlined else None, options.bootstrap))
        padded += is_padded
    if len(videos) > 1:
        units, drawn = Units(tallies, stretches=False), f"{len(videos)} videos"
    else:
        units = Units(stretches.tallies, stretches=True)
        drawn = f"{len(units)} stretches of {stretches.length} frames of one video"
    hop = options.hop or info.hop
    overall = {subset: {f.key: estimate(f, units, subset, options.bootstrap) for f in FIGURES} for subset in SUBSETS}
    if outlined:
        overall["all"] |= edge_estimates(edges, options.bootstrap)
    return Evaluation(
        ModelFacts.of(session),
        hop,
        tuple(results),
        overall,
        units,
        drawn,
        units.over_frames("all", "dice_at", np.ones((1, len(units))))[0],
        worst.ranked(),
        sure.reliability(),
        sure.temperature,
        tuple(_notes(results, padded, units, options, info.frames)),
    )


def _stretches(
    session: Session,
    video: Video,
    options: EvaluationOptions,
    worst: WorstFrames,
    edges: EdgeTally,
    sure: ReliabilityTally,
    on_frame: Callable[[], None],
) -> tuple[Stretches, bool]:
    """A video's tallies, and whether it is shorter than a clip; `edges` counts where the session tells outlines."""
    stretches = Stretches()
    judge = FrameJudge(len(video), threshold_logit(options.threshold))
    dice = columns("dice").start

    def add(item: Segmented) -> None:
        frame = item.frame
        assert frame.truth is not None
        row = judge.row(item.logits[0], frame.truth)
        stretches.add(row, bool(frame.truth.any()))
        sure.add(item.logits[0], frame.truth)
        for outline in item.logits[1:]:
            edges.add(outline, frame.truth)
        worst.add(video.name, frame.index, float(row[dice]), frame.image, item.masks[0], frame.truth)
        on_frame()

    settings = RunOptions(
        hop=options.hop,
        show=options.show,
        threshold=options.threshold,
        layers=(),
        region=options.region,
        smooth=options.smooth,
    )
    try:
        with VideoSource(video) as source:
            report = run(source, session, (), settings, add)
    except NotFiniteError as error:
        raise NotFiniteError(f"{session.info.path.name} on {video.name}: {error}") from None
    if report.interrupted:
        raise KeyboardInterrupt
    return stretches, report.padded_clips > 0


def _video_figures(name: str, stretches: Stretches, edges: EdgeTally | None, bootstrap: Bootstrap) -> VideoFigures:
    total, drawn = stretches.total(), Units(stretches.tallies, stretches=True)
    alone, none = Units([total], stretches=True), Bootstrap(0)
    figures = {subset: {f.key: estimate(f, alone, subset, none).value for f in FIGURES} for subset in SUBSETS}
    if edges is not None:
        scores = edges.scores()
        values = (scores.ap, scores.dice) if scores else (None, None)
        figures["all"] |= dict(zip(EDGE_FIGURES, values, strict=True))
    return VideoFigures(
        name,
        int(total.frames[0]),
        int(total.frames[1]),
        figures,
        estimate(FIGURES[0], drawn, "all", bootstrap),
    )


def _notes(
    videos: list[VideoFigures], padded: int, units: Units, options: EvaluationOptions, clip: int
) -> Iterator[str]:
    frames, lesion = (sum(getattr(v, name) for v in videos) for name in ("frames", "lesion_frames"))
    if not lesion:
        yield "no true mask has a lesion, so only false alarms are measured"
    elif lesion < frames:
        yield (
            f"{frames - lesion} of {frames} frames have no lesion: their Dice is 1 without a mask, 0 with one, and in "
            "Table II their S-measure, E-measure and MAE are noise, since maps are stretched, and the others 0; the "
            "tables of frames with a lesion leave them out: read those"
        )
    if options.smooth > 1:
        yield f"masks are a mean over {options.smooth} frames, {Smoother(options.smooth).delay:g} frames late"
    if padded:
        yield f"{padded} of {len(videos)} videos are shorter than a clip of {clip}: their last frame was repeated"
    if options.bootstrap.resamples:
        if units.stretches:
            yield "there is one video: the intervals come from its stretches, and say nothing about other patients"
        elif len(units) <= 10:
            yield f"few videos: intervals from {len(units)} cover less than they say where one in many fails"
