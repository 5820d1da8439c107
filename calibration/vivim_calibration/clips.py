"""Which clips ranges are learnt from, and which the result is judged on: drawn evenly over sources, never shared.

A source is cut into clips of T frames (what is left over at its end is dropped) that are read again whenever they are
needed: one clip is in memory at a time, however many there are. Clips to judge on are set apart before any is drawn:
whole sources where there are at least four, since clips of one video resemble each other, else the end of every source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vivim_runtime.clips import Clip, cut_clips
from vivim_runtime.datasets.as_source import Opener, VideoSource, videos_of
from vivim_runtime.errors import DataError, UsageError
from vivim_runtime.framing import Framing
from vivim_runtime.provenance import TrainingData

__all__ = ["ClipSet", "DrawOptions", "check_disjoint", "drawn_clips", "whole_clips"]

# From this many sources on, whole ones are held out: one in four.
_SOURCES_TO_HOLD_OUT = 4
_HELD_OUT_SHARE = 0.25


@dataclass(frozen=True)
class DrawOptions:
    """Which clips of the sources calibrate.

    Attributes:
        fraction: share of every source's clips, above 0 to 1; of any source at least one clip.
        max_clips: of all sources together.
        seed: of the draw; the same seed, sources and options give the same clips.
    """

    fraction: float = 1.0
    max_clips: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise UsageError(f"--fraction is {self.fraction:g}; expected more than 0, at most 1")
        if self.max_clips < 1:
            raise UsageError(f"--max-clips is {self.max_clips}; expected at least 1")


@dataclass(frozen=True)
class ClipSet:
    """Clips by source and number; iterating reads them, in this order.

    Attributes:
        chosen: (source, number of the clip), grouped by source.
        videos: of every source by name, how it is opened.
        frames: T of the clips.
        framing: how frames become pictures.
        notes: what a user should know about the sources.
    """

    chosen: tuple[tuple[str, int], ...]
    videos: Mapping[str, Opener] = field(repr=False)
    frames: int
    framing: Framing
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, each once."""
        return tuple(dict.fromkeys(source for source, _ in self.chosen))

    def first(self, count: int) -> ClipSet:
        """At most `count` of them, evenly over the sources."""
        numbers = {name: [n for source, n in self.chosen if source == name] for name in self.sources}
        return replace(self, chosen=_evenly(numbers, count), notes=())

    def halves(self) -> tuple[ClipSet, ClipSet]:
        """Two sets without a clip in common: of other sources where there are two or more, else of its own halves."""
        names = self.sources
        if len(names) > 1:
            first = set(names[::2])
            parts = [tuple(c for c in self.chosen if (c[0] in first) == wanted) for wanted in (True, False)]
        else:
            middle = len(self.chosen) // 2
            parts = [self.chosen[:middle], self.chosen[middle:]]
        if not all(parts):
            raise DataError(
                "one clip is left to choose layers and to judge them on, and each needs its own; "
                "give more with --calib-data, or others with --eval-data"
            )
        return replace(self, chosen=parts[0], notes=()), replace(self, chosen=parts[1])

    def __iter__(self) -> Iterator[Clip]:
        """Read the clips. SourceError where a source cannot be read, DataError where one has become shorter."""
        for name in self.sources:
            wanted, found = {number for source, number in self.chosen if source == name}, 0
            with self.videos[name]() as source:
                for clip in cut_clips(source, self.frames, self.framing, wanted):
                    yield clip
                    found += 1
            if found < len(wanted):
                raise DataError(f"{name} has fewer clips than when they were counted; is it still being written?")


def whole_clips(
    names: Sequence[str],
    frames: int,
    framing: Framing | tuple[int, int],
    most: int | None = None,
    trained: Sequence[TrainingData] = (),
    marked: Sequence[str] | None = None,
) -> ClipSet:
    """The clips of sources, in order; of at most `most`, evenly over the sources.

    Args:
        framing: how frames become pictures; or (H, W), to which whole ones are stretched.
        trained: what the weights were trained on: of a data set that they know, the test videos of the training.
        marked: the classes that the model marks; see vivim_runtime.datasets.as_source.videos_of.

    Raises:
        DataError: no source has a whole clip.
        SourceError: a source cannot be read.
    """
    videos = videos_of(names, "test", trained, marked)
    counts, notes = _counted(videos, frames)
    numbers = {name: list(range(count)) for name, count in counts.items()}
    return ClipSet(_evenly(numbers, most or sum(counts.values())), videos, frames, _framing(framing), notes)


def drawn_clips(
    names: Sequence[str],
    frames: int,
    framing: Framing | tuple[int, int],
    options: DrawOptions,
    held_out: int = 0,
    trained: Sequence[TrainingData] = (),
    marked: Sequence[str] | None = None,
) -> tuple[ClipSet, ClipSet]:
    """Clips to calibrate with, and up to `held_out` others to judge on.

    Args:
        names: see vivim_runtime.datasets.as_source.videos_of.
        frames: T of a clip.
        framing: as of `whole_clips`.
        trained: what the weights were trained on: of a data set that they know, the videos that trained.
        marked: as of `whole_clips`.

    Raises:
        DataError: too few clips.
        SourceError: a source cannot be read.
        UsageError: a camera or a stream.
    """
    videos = videos_of(names, "train", trained, marked)
    counts, notes = _counted(videos, frames)
    generator = np.random.default_rng(options.seed)
    rest, apart = _set_apart(counts, generator) if held_out else (counts, {})
    if held_out and not any(apart.values()):
        raise DataError(
            f"{', '.join(counts)} gives one clip of {frames} frames, and another one is needed to judge the result on; "
            "give more with --calib-data, or others with --eval-data"
        )
    drawn: dict[str, list[int]] = {}
    for name, count in rest.items():
        if count:
            order = generator.permutation(count)[: max(1, math.ceil(options.fraction * count))]
            drawn[name] = [int(number) for number in order]
    calibration = ClipSet(_evenly(drawn, options.max_clips), videos, frames, _framing(framing), notes)
    return calibration, ClipSet(_evenly(apart, held_out) if held_out else (), videos, frames, _framing(framing))


def _framing(framing: Framing | tuple[int, int]) -> Framing:
    return framing if isinstance(framing, Framing) else Framing.stretched(framing)


def check_disjoint(digests: Sequence[str], judged: ClipSet) -> None:
    """DataError where a clip to judge on has the very pixels of one that calibrated."""
    known = set(digests)
    for clip in judged:
        if clip.digest in known:
            raise DataError(
                f"{clip.label} are also among the calibration clips, so they cannot judge them; "
                "give other clips with --eval-data"
            )


def _counted(videos: Mapping[str, Opener], frames: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """Whole clips of every source that has one, and a note for each that has none."""
    counts: dict[str, int] = {}
    notes = []
    for name, opened in videos.items():
        with opened() as source:
            # What a container says about its length may be wrong.
            length = len(source) if isinstance(source, VideoSource) else sum(1 for _ in source)
        if length >= frames:
            counts[name] = length // frames
        else:
            notes.append(f"{name} has {length} frames, fewer than the {frames} of a clip, and is left out")
    if not counts:
        raise DataError(f"{'; '.join(notes)}; nothing is left: give longer ones" if notes else "no clips were given")
    return counts, tuple(notes)


def _set_apart(counts: dict[str, int], generator: np.random.Generator) -> tuple[dict[str, int], dict[str, list[int]]]:
    """How many clips of every source may calibrate, and the numbers of those that may not."""
    if len(counts) >= _SOURCES_TO_HOLD_OUT:
        names = list(counts)
        chosen = generator.permutation(len(names))[: math.ceil(_HELD_OUT_SHARE * len(names))]
        apart = {names[i]: list(range(counts[names[i]])) for i in sorted(chosen)}
        return {name: count for name, count in counts.items() if name not in apart}, apart
    ends = {name: math.ceil(_HELD_OUT_SHARE * count) if count > 1 else 0 for name, count in counts.items()}
    if not any(ends.values()) and len(counts) > 1:  # one clip each
        *rest, last = counts
        return dict.fromkeys(rest, 1), {last: [0]}
    return (
        {name: count - ends[name] for name, count in counts.items()},
        {name: list(range(count - ends[name], count)) for name, count in counts.items()},
    )


def _evenly(numbers: dict[str, list[int]], most: int) -> tuple[tuple[str, int], ...]:
    """At most `most` clips, one of every source in turn; in the order of sources and numbers."""
    turns = [(turn, index, number) for index, clips in enumerate(numbers.values()) for turn, number in enumerate(clips)]
    names = list(numbers)
    kept = sorted((index, number) for _, index, number in sorted(turns)[:most])
    return tuple((names[index], number) for index, number in kept)
