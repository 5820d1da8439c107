"""What is wrong with a data set: every frame and mask is read once, and every problem is listed, not the first."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from vivim_runtime.datasets.alignment import Alignment
from vivim_runtime.datasets.classes import union
from vivim_runtime.datasets.official import OFFICIAL, Counts
from vivim_runtime.datasets.videos import AnnotatedVideo, Dataset, Mask, Values, area_labels, binary, one_class
from vivim_runtime.errors import DataError
from vivim_runtime.sources.base import Image

__all__ = ["CheckReport", "ClassFigures", "Problem", "VideoFigures", "check"]

# An object that fills more of the frame than this is rather a mask whose colours are swapped.
_FULL = 0.95
# Compression leaves a few grey pixels at an outline; more than this share of a mask is worth a word.
_GREY = 0.001


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: the same for all problems of this kind, in words.
        level: an `error` must be mended before training, a `warning` should be looked at.
        where: the video, the frame, or the data set.
        what: the particulars, "" where the kind says all.
    """

    kind: str
    level: Literal["error", "warning"]
    where: str
    what: str = ""


@dataclass(frozen=True)
class ClassFigures:
    """One class, of one video or of several.

    Attributes:
        frames: whose mask has it.
        area: sum over these of the share of the frame that it fills.
    """

    frames: int = 0
    area: float = 0.0

    def __add__(self, other: ClassFigures) -> ClassFigures:
        return ClassFigures(self.frames + other.frames, self.area + other.area)


@dataclass(frozen=True)
class VideoFigures:
    """What one video consists of.

    Attributes:
        name: of the video.
        frames: how many.
        masks: of them with a mask that can be read.
        empty: masks without object.
        clips: that can be cut from it, one behind the other.
        sizes: frames by size, (H, W).
        area: mean share of the frame that the object fills, over the masks that are not empty; None where all are.
        classes: by name; none where the labels of masks have no names.
    """

    name: str
    frames: int
    masks: int
    empty: int
    clips: int
    sizes: dict[tuple[int, int], int]
    area: float | None
    classes: dict[str, ClassFigures] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckReport:
    """What a data set consists of, and what is wrong with it.

    Attributes:
        name, split, layout: of the data set.
        clip_frames, stride: of the clips that were counted.
        videos: their figures.
        problems: all of them, in the order of the videos.
        notes: what a user should know about how it is read.
    """

    name: str
    split: str
    layout: str
    clip_frames: int
    stride: int
    videos: tuple[VideoFigures, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What must be mended before training."""
        return tuple(problem for problem in self.problems if problem.level == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What should be looked at."""
        return tuple(problem for problem in self.problems if problem.level == "warning")

    @property
    def frames(self) -> int:
        return sum(video.frames for video in self.videos)

    @property
    def empty_share(self) -> float:
        """Of the masks that can be read, the share without object; 0 where there are none."""
        return sum(video.empty for video in self.videos) / max(1, sum(video.masks for video in self.videos))

    @property
    def classes(self) -> dict[str, ClassFigures]:
        """Of all videos, by name; none where the labels of masks have no names."""
        total: dict[str, ClassFigures] = {}
        for video in self.videos:
            for name, figures in video.classes.items():
                total[name] = total.get(name, ClassFigures()) + figures
        return total

    def shares(self, name: str) -> tuple[float, float]:
        """Of the masks that can be read, the share that has a class; of all their area, the share that it fills."""
        masks, found = max(1, sum(video.masks for video in self.videos)), self.classes[name]
        return found.frames / masks, found.area / masks

    @property
    def sizes(self) -> dict[tuple[int, int], int]:
        """Frames by size, (H, W), the most frequent first."""
        total: Counter[tuple[int, int]] = Counter()
        for video in self.videos:
            total.update(video.sizes)
        return dict(total.most_common())

    def record(self) -> dict[str, Any]:
        """For JSON: all figures and all problems."""
        return {
            "name": self.name,
            "split": self.split,
            "layout": self.layout,
            "clip_frames": self.clip_frames,
            "stride": self.stride,
            "frames": self.frames,
            "clips": sum(video.clips for video in self.videos),
            "empty_share": self.empty_share,
            "sizes": _listed(self.sizes),
            "classes": {
                name: dict(
                    zip(("frames", "share_of_masks", "share_of_area"), (f.frames, *self.shares(name)), strict=True)
                )
                for name, f in self.classes.items()
            },
            "videos": [{**asdict(video), "sizes": _listed(video.sizes)} for video in self.videos],
            "errors": [asdict(problem) for problem in self.errors],
            "warnings": [asdict(problem) for problem in self.warnings],
            "notes": list(self.notes),
        }


def _listed(sizes: dict[tuple[int, int], int]) -> list[dict[str, int]]:
    return [{"height": height, "width": width, "frames": count} for (height, width), count in sizes.items()]


def check(
    dataset: Dataset, frames: int = 5, stride: int = 1, progress: Callable[[AnnotatedVideo], None] | None = None
) -> CheckReport:
    """Read all of a data set and report.

    Args:
        frames, stride: of the clips that it is for; a video too short for one is a warning.
        progress: called with every video when it has been read.
    """
    figures: list[VideoFigures] = []
    problems: list[Problem] = []
    notes = dict.fromkeys(dataset.notes)
    seen: dict[bytes, tuple[str, str]] = {}
    of_ones = 0
    for video in dataset.videos:
        reading = _Reading(video, frames, stride, seen)
        figures.append(reading.figures)
        problems += reading.problems
        notes.update(dict.fromkeys(reading.notes))
        if reading.highest == {1}:
            of_ones += 1
        if progress is not None:
            progress(video)
    problems += _of_all(dataset, figures)
    if of_ones:
        notes[f"the masks of {of_ones} of {len(figures)} videos are 0 and 1, not 0 and 255, and read as such"] = None
    return CheckReport(
        dataset.name,
        dataset.split,
        dataset.layout,
        frames,
        stride,
        tuple(figures),
        tuple(dict.fromkeys(problems)),  # parts of a video share its strays
        tuple(notes),
    )


class _Reading:
    """One video, read from its first to its last frame.

    Attributes:
        figures, problems, notes: what was found.
        highest: the largest values of its masks, one of them for every mask that is not empty.
    """

    def __init__(self, video: AnnotatedVideo, frames: int, stride: int, seen: dict[bytes, tuple[str, str]]) -> None:
        self._video, self._seen = video, seen
        self.problems: list[Problem] = []
        self.notes: tuple[str, ...] = ()
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._areas: list[float] = []
        self._classes = video.classes if video.classes is not None and video.classes.labels else None
        self._found = {name: ClassFigures() for name in self._classes.names} if self._classes else {}
        self.highest: set[int] = set()
        self._alignment = Alignment()
        length = self._length()
        for index in range(length):
            self._frame(index)
        if length:
            self.notes = video.notes  # some are known once frames have been read
        clips = length // ((frames - 1) * stride + 1)
        filled = [area for area in self._areas if area > 0]
        self.figures = VideoFigures(
            video.name,
            length,
            len(self._areas),
            len(self._areas) - len(filled),
            clips,
            dict(self._sizes.most_common()),
            float(np.mean(filled)) if filled else None,
            self._found,
        )
        if length:
            self._of_the_whole(clips, (frames - 1) * stride + 1)

    def _error(self, kind: str, where: str, what: str = "") -> None:
        self.problems.append(Problem(kind, "error", where, what))

    def _warning(self, kind: str, where: str, what: str = "") -> None:
        self.problems.append(Problem(kind, "warning", where, what))

    def _length(self) -> int:
        """How many frames there are, having listed what belongs to none."""
        try:
            length = len(self._video)
            for stray in self._video.strays:
                self._error("mask without frame", stray)
            self.notes = self._video.notes
        except DataError as error:
            self._error("unreadable video", self._video.name, str(error))
            return 0
        if not length:
            self._error("no frames", self._video.name)
        return length

    def _frame(self, index: int) -> None:
        label = self._video.label(index)
        image, values, planes = None, None, None
        try:
            image = self._video.frame(index)
        except DataError as error:
            self._error("unreadable frame", label, str(error))
        try:
            if self._classes is not None:
                planes = self._video.planes(index)
            else:
                values = self._video.mask(index)
            if values is None and planes is None:
                self._error("frame without mask", label, self._video.about_missing)
        except DataError as error:
            self._error("unreadable mask", label, str(error))
        if image is not None:
            self._sizes[image.shape[0], image.shape[1]] += 1
            self._compare(label, image)
        mask = None
        if planes is not None:
            mask = self._of_classes(label, planes)
        elif values is not None:
            self._mask(label, values)
            mask = binary(values)
        if mask is None or image is None:
            return
        if image.shape[:2] != mask.shape:
            self._error("frame and mask of different sizes", label, f"{_size(image)} and {_size(mask)}")
        else:
            self._alignment.add(image, mask)

    def _compare(self, label: str, image: Image) -> None:
        """Note a frame that has been seen before; a shape belongs to a picture, so it is part of the digest."""
        digest = hashlib.blake2b(f"{image.shape}".encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image).data)
        name, first = self._seen.setdefault(digest.digest(), (self._video.name, label))
        if first != label:
            kind = "frame twice in a video" if name == self._video.name else "frame in two videos"
            self._warning(kind, label, f"the same as {first}")

    def _of_classes(self, label: str, planes: Mask) -> Mask:
        """Count classes (K, H, W); the pixels that belong to any."""
        mask = union(planes)
        for name, plane in zip(self._found, planes, strict=True):
            if plane.any():
                self._found[name] += ClassFigures(1, float(plane.mean()))
        self._areas.append(float(mask.mean()))
        if self._areas[-1] > _FULL and len(planes) == 1:  # organs may fill a frame together
            self._warning("mask that fills the frame", label, f"{self._areas[-1]:.0%}: is it the background?")
        return mask

    def _mask(self, label: str, values: Values) -> None:
        mask = binary(values)
        reason = one_class(values)
        if reason and (mask.any() or len(area_labels(values)) > 1):
            self._error("mask of several classes", label, f"it {reason}")
            return
        area = float(mask.mean())
        self._areas.append(area)
        highest = int(values.max())
        self.highest |= {highest} - {0}
        if not area and highest:
            self._error("mask without white", label, f"its largest value is {highest}; expected 255, or 0 and 1 alone")
        elif area > _FULL:
            self._warning("mask that fills the frame", label, f"{area:.0%}: are black and white swapped?")
        grey = float(np.mean((values != 0) & (values != highest)))
        if area and grey > _GREY:
            self._warning("mask of more than two values", label, f"{grey:.1%} of it is neither 0 nor {highest}")

    def _of_the_whole(self, clips: int, span: int) -> None:
        name, length = self._video.name, self.figures.frames
        if not clips:
            self._warning("too short for a clip", name, f"{length} frames; a clip spans {span}")
        if len(self._sizes) > 1:
            found = ", ".join(f"{width}x{height} ({count})" for (height, width), count in self._sizes.most_common())
            self._warning("frames of several sizes in a video", name, found)
        if self._areas and not any(self._areas):
            self._warning("no object in a video", name, f"all {len(self._areas)} masks are empty")
        turn = self._alignment.suspected()
        if turn is not None:
            self._warning("masks fit their frames only after a turn", name, f"they fit when they are {turn}")
        if 1 in self.highest and len(self.highest) > 1:
            self._warning("masks of 0 and 1 beside others", name, "1 counts as white where it is the largest value")


def _size(pixels: Image | Mask) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _of_all(dataset: Dataset, videos: list[VideoFigures]) -> Iterator[Problem]:
    """What only the data set as a whole shows."""
    if not any(video.frames for video in videos):
        yield Problem("nothing to read", "error", dataset.name, "no video has a frame")
    elif not any(video.clips for video in videos):
        yield Problem("no clips", "error", dataset.name, "every video is too short for a clip")
    for name in dataset.classes.names if dataset.classes is not None and dataset.classes.labels else ():
        if not any(name in video.classes and video.classes[name].frames for video in videos):
            yield Problem("class in no mask", "warning", dataset.name, name)
    counts = OFFICIAL.get((dataset.name, dataset.split), Counts())
    frames = sum(video.frames for video in videos)
    for what, found, expected in (("videos", len(videos), counts.videos), ("frames", frames, counts.frames)):
        if expected is not None and found != expected:
            yield Problem("not the data set as published", "warning", dataset.name, f"{found} of {expected} {what}")
    others = {size for video in videos for size in video.sizes if size != counts.size}
    if counts.size is not None and others:
        height, width = counts.size
        found_sizes = ", ".join(f"{w}x{h}" for h, w in sorted(others))
        yield Problem(
            "not the crops of the paper", "warning", dataset.name, f"{found_sizes}; its figures are of {width}x{height}"
        )
