"""A model on a data set: every frame through the pipeline that `vivim-run` uses, measured against its true mask.

Of several classes each is judged like a model of its own, against the true mask of its name; what is told of the model
itself is the mean over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vivim_runtime.clips import Show, threshold_logit
from vivim_runtime.datasets import Dataset, Video
from vivim_runtime.datasets.as_source import VideoSource
from vivim_runtime.errors import DataError, NotFiniteError, UsageError
from vivim_runtime.framing import planes_of
from vivim_runtime.judging.class_judge import ClassJudge
from vivim_runtime.judging.figures import FIGURES, Bootstrap, ClassUnits, Estimate, Units, estimate
from vivim_runtime.judging.maps import THRESHOLDS
from vivim_runtime.judging.metrics import Figures
from vivim_runtime.judging.outlines import EDGE_FIGURES, EdgeTally, edge_estimates
from vivim_runtime.judging.reliability import Reliability, ReliabilityTally
from vivim_runtime.judging.tally import SUBSETS, Stretches
from vivim_runtime.judging.worst import WorstFrame
from vivim_runtime.offline import RunOptions, run
from vivim_runtime.regions import RegionRule
from vivim_runtime.sessions.base import ModelInfo, Outlining, Session
from vivim_runtime.sinks.base import Segmented
from vivim_runtime.smoothing import Smoother

__all__ = ["MEAN", "Evaluation", "EvaluationOptions", "ModelFacts", "VideoFigures", "check_model", "evaluate"]

MEAN = "mean over classes"


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
        frames, lesion_frames: how many, and how many of them have a lesion in the true mask (over classes: any).
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
        of: of which class, or `MEAN`; "" of a model of one.
        classes: of a model of several, each in its order.
    """

    model: ModelFacts
    hop: int
    videos: tuple[VideoFigures, ...]
    overall: dict[str, dict[str, Estimate]]
    units: Units | ClassUnits
    drawn: str
    dice_at: Figures = field(repr=False)
    worst: tuple[WorstFrame, ...] = field(repr=False)
    reliability: Reliability = field(repr=False)
    temperature: float = 1.0
    notes: tuple[str, ...] = ()
    of: str = ""
    classes: tuple[Evaluation, ...] = ()

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
    """UsageError where a model cannot be evaluated: the hop is longer than its clips."""
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
    names = [entry.name for entry in info.classes]
    temperature = info.confidence.temperature if info.confidence else 1.0
    judges = [ClassJudge(threshold_logit(options.threshold), options.worst, temperature) for _ in names]
    together = ReliabilityTally(temperature)
    lesion_frames, padded = [], 0
    edges: list[EdgeTally] = []
    for video in videos:
        edges.append(EdgeTally())
        found, is_padded = _judged(session, video, options, judges, edges[-1], together, on_frame)
        lesion_frames.append(found)
        padded += is_padded
    told, facts, hop = edges if outlined else [], ModelFacts.of(session), options.hop or info.hop
    of_one = told if len(names) == 1 else []
    done = [_of_class(judge, facts, hop, videos, options.bootstrap, of_one) for judge in judges]
    whole = done[0]
    if len(names) > 1:
        classes = tuple(replace(e, of=name) for e, name in zip(done, names, strict=True))
        whole = _over_classes(classes, lesion_frames, judges, options.bootstrap, told, together)
    return replace(whole, notes=tuple(_notes(whole, padded, options, info.frames)))


def _of_class(
    judge: ClassJudge,
    model: ModelFacts,
    hop: int,
    videos: Sequence[Video],
    bootstrap: Bootstrap,
    edges: Sequence[EdgeTally],
) -> Evaluation:
    """The outcome of one class; `edges`, one a video, where it is the only one and outlines are told."""
    units = judge.units()
    overall = {subset: {f.key: estimate(f, units, subset, bootstrap) for f in FIGURES} for subset in SUBSETS}
    if edges:
        overall["all"] |= edge_estimates(edges, bootstrap)
    length = judge.stretches[0].length
    return Evaluation(
        model,
        hop,
        tuple(
            _video_figures(video.name, stretches, edges[i] if edges else None, bootstrap)
            for i, (video, stretches) in enumerate(zip(videos, judge.stretches, strict=True))
        ),
        overall,
        units,
        f"{len(units)} stretches of {length} frames of one video" if units.stretches else f"{len(units)} videos",
        units.over_frames("all", "dice_at", np.ones((1, len(units))))[0],
        judge.worst.ranked(),
        judge.sure.reliability(),
        judge.sure.temperature,
    )


def _over_classes(
    classes: tuple[Evaluation, ...],
    lesion_frames: list[int],
    judges: Sequence[ClassJudge],
    bootstrap: Bootstrap,
    edges: Sequence[EdgeTally],
    sure: ReliabilityTally,
) -> Evaluation:
    """The mean over classes; what an edge head marks is the outlines of all."""
    first, units = classes[0], ClassUnits([judge.units() for judge in judges])
    overall = {subset: {f.key: estimate(f, units, subset, bootstrap) for f in FIGURES} for subset in SUBSETS}
    if edges:
        overall["all"] |= edge_estimates(edges, bootstrap)
    videos = []
    for i, video in enumerate(first.videos):
        alone = ClassUnits([Units([judge.stretches[i].total()], stretches=True) for judge in judges])
        drawn = ClassUnits([Units(judge.stretches[i].tallies, stretches=True) for judge in judges])
        figures = _figures(alone, edges[i] if edges else None)
        dice = estimate(FIGURES[0], drawn, "all", bootstrap)
        videos.append(VideoFigures(video.name, video.frames, lesion_frames[i], figures, dice))
    dice_at = np.mean([e.dice_at for e in classes], axis=0)
    return Evaluation(
        first.model,
        first.hop,
        tuple(videos),
        overall,
        units,
        first.drawn,
        dice_at,
        (),
        sure.reliability(),
        first.temperature,
        of=MEAN,
        classes=classes,
    )


def _judged(
    session: Session,
    video: Video,
    options: EvaluationOptions,
    judges: Sequence[ClassJudge],
    edges: EdgeTally,
    together: ReliabilityTally,
    on_frame: Callable[[], None],
) -> tuple[int, bool]:
    """How many frames of a video have a true mask of any class, and whether it is shorter than a clip.

    `edges` counts where the session tells outlines, `together` all classes where there are several.
    """
    lesion_frames = 0
    for judge in judges:
        judge.begin(video)

    def add(item: Segmented) -> None:
        nonlocal lesion_frames
        frame = item.frame
        assert frame.truth is not None
        truths = planes_of(frame.truth)
        if len(truths) != len(judges):
            marks = f"{session.info.path.name} marks {len(judges)} classes"
            raise DataError(f"{marks}, and the masks of {video.name} have {len(truths)}")
        for k, (judge, truth) in enumerate(zip(judges, truths, strict=True)):
            judge.add(frame, item.logits[k], item.masks[k], truth)
            if len(judges) > 1:
                together.add(item.logits[k], truth)
        lesion_frames += bool(frame.truth.any())
        for outline in item.logits[len(judges) :]:
            edges.add(outline, frame.truth)
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
    return lesion_frames, report.padded_clips > 0


def _video_figures(name: str, stretches: Stretches, edges: EdgeTally | None, bootstrap: Bootstrap) -> VideoFigures:
    total, drawn = stretches.total(), Units(stretches.tallies, stretches=True)
    return VideoFigures(
        name,
        int(total.frames[0]),
        int(total.frames[1]),
        _figures(Units([total], stretches=True), edges),
        estimate(FIGURES[0], drawn, "all", bootstrap),
    )


def _figures(alone: Units | ClassUnits, edges: EdgeTally | None) -> dict[str, dict[str, float | None]]:
    """Of one video, by subset and key."""
    none = Bootstrap(0)
    figures = {subset: {f.key: estimate(f, alone, subset, none).value for f in FIGURES} for subset in SUBSETS}
    if edges is not None:
        scores = edges.scores()
        values = (scores.ap, scores.dice) if scores else (None, None)
        figures["all"] |= dict(zip(EDGE_FIGURES, values, strict=True))
    return figures


def _notes(whole: Evaluation, padded: int, options: EvaluationOptions, clip: int) -> Iterator[str]:
    videos, units = whole.videos, whole.units
    frames, lesion = whole.frames, whole.lesion_frames
    if whole.classes:
        rare = [f"{e.of} in {e.lesion_frames}" for e in whole.classes if e.lesion_frames < frames]
        if rare:
            yield (
                f"of {frames} frames, {', '.join(rare)}: a frame without a class counts for it as one without a lesion "
                "does, 1 without a mask, 0 with one; the tables of frames that have it leave those out"
            )
    elif not lesion:
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
