"""Is an artefact still the network that it was made from? Two sides, the same clips, figures, and a budget.

Figures and budgets are those of vivim_runtime.judging.agreement. A comparison fails when a figure is over its budget,
when either side gives a value that is not finite, and when the masks prove nothing. No option turns a failure into a
success. Pixels and logits of a clip are let go before the next one, but for the worst frames.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vivim_runtime.clips import Clip, Masks, cut_clips
from vivim_runtime.datasets import refuse_trained
from vivim_runtime.datasets.as_source import datasets_of, videos_of
from vivim_runtime.errors import UsageError
from vivim_runtime.files import json_value
from vivim_runtime.judging.agreement import (
    Agreement,
    AgreementMeter,
    Budget,
    MaskFigures,
    TensorFigures,
    budget_failures,
    budget_of,
    logits_of,
)
from vivim_runtime.provenance import joined
from vivim_runtime.regions import RegionRule
from vivim_runtime.sessions.base import ClassInfo, Logits, ModelInfo, Session, film_runner
from vivim_runtime.sources.base import Image

__all__ = ["Comparison", "Side", "WorstFrame", "compare", "default_sources"]

_SHOWN_WORST = 4

# Frames of each of the two films that a streaming model is compared on by default.
_STREAMED_FRAMES = 40


@dataclass(frozen=True)
class Side:
    """One side of a comparison, for people and for records."""

    name: str
    backend: str
    preset: str
    precision: str
    device: str
    weights_sha256: str

    @classmethod
    def of(cls, session: Session) -> Side:
        """The side that a session is."""
        info = session.info
        return cls(info.path.name, session.backend, info.preset, info.precision, session.device, info.weights_sha256)


@dataclass(frozen=True, eq=False)
class WorstFrame:
    """A frame that the sides see most differently; pixels and masks at the model's resolution."""

    source: str
    frame: int
    dice: float
    max_abs: float
    image: Image = field(repr=False)
    mask_a: Masks = field(repr=False)
    mask_b: Masks = field(repr=False)
    difference: npt.NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class Comparison:
    """The outcome: who, on what, the figures, the budget, and what is over it."""

    a: Side
    b: Side
    frames: int
    size: tuple[int, int]
    classes: tuple[ClassInfo, ...]
    sources: dict[str, int]
    tensor: TensorFigures
    masks: MaskFigures
    budget: Budget
    failures: tuple[str, ...]
    notes: tuple[str, ...]
    worst: tuple[WorstFrame, ...]

    @property
    def passed(self) -> bool:
        """Whether everything is within its budget."""
        return not self.failures

    def record(self) -> dict[str, Any]:
        """The outcome without pixels, for JSON; a value that is not finite becomes text."""
        worst = [{"source": w.source, "frame": w.frame, "dice": w.dice, "max_abs": w.max_abs} for w in self.worst]
        record: dict[str, Any] = {
            "passed": self.passed,
            "failures": list(self.failures),
            "notes": list(self.notes),
            "a": asdict(self.a),
            "b": asdict(self.b),
            "clip": {"frames": self.frames, "height": self.size[0], "width": self.size[1]},
            "frames_of_source": self.sources,
            "tensor": asdict(self.tensor),
            "masks": asdict(self.masks),
            "budget": asdict(self.budget),
            "worst_frames": worst,
        }
        return json_value(record)


def compare(
    a: Session,
    b: Session,
    sources: Sequence[str] | None = None,
    on_clip: Callable[[int], None] | None = None,
    allow_trained: bool = False,
    region: RegionRule | None = None,
) -> Comparison:
    """Run two sides on the same clips. `a` is the reference.

    Args:
        sources: names for vivim_runtime.datasets.as_source.videos_of; each video is cut into clips of T frames (what is
            left over at its end is dropped). Default two short phantoms.
        on_clip: called with the number of clips done.
        allow_trained: compare on videos of data sets that a side was trained on, too.
        region: which part of the frames both see; None is that of the contract of `a`.

    Raises:
        UsageError: the sides cannot be compared, or a source has no whole clip.
        DataError, SourceError: a source cannot be read.
    """
    _check_comparable(a.info, b.info)
    budget = budget_of(a.info.precision, b.info.precision)
    length, size = a.info.frames, a.info.size
    # Of a streaming model a clip is one frame; what it remembers must have had time to go wrong.
    default = default_sources(_STREAMED_FRAMES // 2 if a.info.streaming else length, size)
    meter, worst = AgreementMeter(), _WorstFrames()
    counts: dict[str, int] = {}
    done = 0
    names = list(sources or default)
    trained = joined(a.info.training_data, b.info.training_data)
    sides = " or ".join(dict.fromkeys((a.info.path.name, b.info.path.name)))
    seen: list[str] = []
    for dataset in datasets_of(names, "test", trained):
        seen += refuse_trained(dataset, trained, sides, allow_trained)
    marked = [entry.name for entry in a.info.classes]
    for name, opened in videos_of(names, "test", trained, marked).items():
        before = done
        runs = film_runner(a), film_runner(b)
        with opened() as source:
            for clip in cut_clips(source, length, a.info.framing(region)):
                worst.add(clip, meter, *(logits_of(s, clip.pixels, r) for s, r in zip((a, b), runs, strict=True)))
                counts[clip.source] = counts.get(clip.source, 0) + length
                done += 1
                if on_clip:
                    on_clip(done)
        if done == before:
            raise UsageError(
                f"{name} has fewer than {length} frames, the frames of a clip; give a longer one to --clips"
            )
    found = meter.value()
    return Comparison(
        Side.of(a),
        Side.of(b),
        length,
        size,
        a.info.classes,
        counts,
        found.tensor,
        found.masks,
        budget,
        tuple(budget_failures(found, budget)),
        (*_notes(a.info, b.info, found), *seen),
        worst.ranked(),
    )


def default_sources(frames: int, size: tuple[int, int]) -> list[str]:
    """Two phantoms of two clips each, at the model's size."""
    return [f"phantom:?seed={seed}&frames={2 * frames}&size={size[0]}x{size[1]}" for seed in (11, 12)]


def _check_comparable(a: ModelInfo, b: ModelInfo) -> None:
    def text(info: ModelInfo) -> str:
        names = ", ".join(c.name for c in info.classes)
        kind = "streams" if info.streaming else f"has T = {info.frames}"
        return f"{info.path.name} {kind}, {info.size[0]}x{info.size[1]}, classes {names}"

    same = [c.name for c in a.classes] == [c.name for c in b.classes] and a.streaming == b.streaming
    if a.frames != b.frames or a.size != b.size or not same:
        raise UsageError(f"{text(a)}; {text(b)}: the two can only be compared when these are the same")


def _notes(a: ModelInfo, b: ModelInfo, found: Agreement) -> Iterator[str]:
    masks = found.masks
    if a.weights_sha256 != b.weights_sha256:
        yield f"{b.path.name} was made from other weights than {a.path.name}"
    if meeting := a.takes.meets(b.takes, a.path.name, b.path.name):
        yield f"{meeting}; both were given what the first one takes"
    for info in (b,) if a.contract == b.contract else (a, b):
        yield from (f"{info.path.name}: {departure}" for departure in info.departures)
    if 0 < masks.empty < masks.frames:
        yield f"{masks.empty} of {masks.frames} frames have no mask on either side and do not count for Dice"
    if 0 < masks.truths < masks.frames:
        yield f"{masks.truths} of {masks.frames} frames have a true mask, and count for Dice with truth"


class _WorstFrames:
    """The frames that the sides see most differently: lowest Dice first, then the largest difference of the logits."""

    def __init__(self) -> None:
        self._kept: list[tuple[tuple[float, float], int, WorstFrame]] = []
        self._frames = 0

    def add(self, clip: Clip, meter: AgreementMeter, a: Logits, b: Logits) -> None:
        """Measure a clip, and keep what is worse than what is kept."""
        for index, agreement in enumerate(meter.add(clip, a, b)):
            badness = (1.0 - agreement.dice, agreement.max_abs)
            if len(self._kept) < _SHOWN_WORST or badness > self._kept[0][0]:
                frame = _frame(clip, index, agreement.dice, agreement.max_abs, a[index], b[index])
                heapq.heappush(self._kept, (badness, self._frames, frame))
                if len(self._kept) > _SHOWN_WORST:
                    heapq.heappop(self._kept)
            self._frames += 1

    def ranked(self) -> tuple[WorstFrame, ...]:
        """The worst first."""
        return tuple(frame for _, _, frame in sorted(self._kept, reverse=True))


def _frame(clip: Clip, index: int, dice: float, max_abs: float, a: Logits, b: Logits) -> WorstFrame:
    with np.errstate(invalid="ignore"):  # infinite on both sides
        difference = np.abs(b - a).max(axis=0)
    return WorstFrame(clip.source, clip.start + index, dice, max_abs, clip.pixels[index], a > 0, b > 0, difference)
