"""Videos known again: fingerprints of their files, and what weights know of a data set that lies here.

A fingerprint is cheap: the sizes of all files, and samples of at most a mebibyte of their bytes. It does not hang on
names, so that a copy under another name is recognised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vivim_runtime.datasets.phantom import PHANTOM_SPLITS, PhantomVideo
from vivim_runtime.datasets.videos import AnnotatedVideo, Dataset, Part
from vivim_runtime.errors import DataError
from vivim_runtime.provenance import TrainingData, VideoPrint

__all__ = [
    "changes",
    "known_data",
    "recorded_split",
    "refuse_trained",
    "trained_videos",
    "training_data",
    "video_print",
]

# At most so many files are sampled, and so many blocks of bytes over all of them.
_FILES, _BLOCKS, _BLOCK_BYTES = 16, 64, 16384


def video_print(video: AnnotatedVideo) -> VideoPrint:
    """The fingerprint of a video, or of the part of one. DataError where a file cannot be read."""
    if isinstance(video, Part):
        return replace(video_print(video.whole), start=video.start, stop=video.stop)
    pictures, masks = (_digest(files) for files in (video.picture_files, video.mask_files))
    return VideoPrint(video.name, len(video), 0, len(video), pictures, masks)


def _digest(files: Sequence[Path]) -> str:
    if not files:
        return ""
    digest = hashlib.sha256()
    try:
        for path in files:
            digest.update(path.stat().st_size.to_bytes(8, "big"))
        for index in _evenly(len(files), _FILES):
            _add_samples(digest, files[index], _BLOCKS // min(len(files), _FILES))
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
    return digest.hexdigest()[:16]


def _add_samples(digest: hashlib._Hash, path: Path, blocks: int) -> None:
    with path.open("rb") as file:
        last = max(0, path.stat().st_size - _BLOCK_BYTES)
        for start in _evenly(last + 1, blocks):
            file.seek(start)
            digest.update(file.read(_BLOCK_BYTES))


def _evenly(count: int, most: int) -> Iterator[int]:
    """At most `most` of the numbers from 0 to `count`, the first and the last among them."""
    yield from np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def training_data(name: str, origin: str, splits: Mapping[str, Sequence[AnnotatedVideo]]) -> TrainingData:
    """The record of a data set that is trained on; a video stands in the first split only that has frames of it."""
    seen: list[VideoPrint] = []
    result: dict[str, tuple[VideoPrint, ...]] = {}
    for split, videos in splits.items():
        prints = [video_print(video) for video in videos]
        result[split] = tuple(p for p in prints if not any(p.name == s.name and p.overlaps(s) for s in seen))
        seen += result[split]
    return TrainingData(name, origin, result)


def known_data(
    name: str, videos: Sequence[AnnotatedVideo], trained: Sequence[TrainingData]
) -> tuple[TrainingData, tuple[VideoPrint, ...]] | None:
    """The record that is of this very data set, and the fingerprints of its videos; None where no record is.

    A data set is known by a video of the same contents, or by its own name and that of a video.
    """
    entries = [entry for entry in trained if entry.splits]
    if not entries:
        return None
    prints = tuple(video_print(video) for video in videos)
    contents, names = {p.pictures for p in prints if p.pictures}, {p.name for p in prints}
    for entry in entries:
        recorded = [video for found in entry.splits.values() for video in found]
        if any(v.pictures in contents for v in recorded) or (
            entry.name == name and any(v.name in names for v in recorded)
        ):
            return entry, prints
    return None


def recorded_split(
    recorded: Sequence[VideoPrint], videos: Sequence[AnnotatedVideo], prints: Sequence[VideoPrint]
) -> tuple[AnnotatedVideo, ...]:
    """The videos here that a split of a record means: of its names, or of the same contents under others."""
    by_name = {p.name: video for p, video in zip(prints, videos, strict=True)}
    by_contents = {p.pictures: video for p, video in zip(prints, videos, strict=True) if p.pictures}
    result: list[AnnotatedVideo] = []
    for wanted in recorded:
        video = by_contents.get(wanted.pictures) if wanted.name not in by_name else by_name[wanted.name]
        if video is None or wanted.start >= len(video):
            continue
        whole = (wanted.start, wanted.stop) == (0, wanted.frames)
        result.append(video if whole else Part(video, wanted.start, min(wanted.stop, len(video))))
    return tuple(result)


def changes(entry: TrainingData, prints: Sequence[VideoPrint]) -> Iterator[str]:
    """How a data set differs from what it was when the weights were trained."""
    recorded = {video.name: video for videos in entry.splits.values() for video in videos}
    here = {video.name: video for video in prints}
    moved = {video.pictures for video in prints if video.name not in recorded}
    gone = [name for name, video in recorded.items() if name not in here and video.pictures not in moved]
    known = {video.pictures for video in recorded.values()}
    new = [name for name, video in here.items() if name not in recorded and video.pictures not in known]
    both = [name for name in recorded if name in here]
    for names, what in (
        (gone, "gone"),
        (new, "new, and in no split"),
        ([n for n in both if recorded[n].pictures != here[n].pictures], "of other frames"),
        ([n for n in both if recorded[n].masks != here[n].masks], "of other masks"),
    ):
        if names:
            yield f"{entry.name} has changed since the training: {_some(names)} {'are' if names[1:] else 'is'} {what}"


def trained_videos(dataset: Dataset, trained: Sequence[TrainingData]) -> list[str]:
    """The videos of a data set that weights were trained on, by name.

    Those of the same contents; and those of the same name where the data set has that of the record, so that a video
    whose masks or frames have been mended is still known.
    """
    phantoms = max((entry.phantoms for entry in trained), default=0)
    found = [
        video.name
        for video in dataset.videos
        if isinstance(video, PhantomVideo) and 0 <= video.spec.seed - PHANTOM_SPLITS["train"] < phantoms
    ]
    learnt = [(entry, video) for entry in trained for video in entry.splits.get("train", ())]
    if not learnt:
        return found
    for video in dataset.videos:
        if isinstance(video, PhantomVideo):
            continue
        here = video_print(video)
        for entry, there in learnt:
            same_contents = bool(here.pictures) and here.pictures == there.pictures
            same_name = entry.name == dataset.name and here.name == there.name
            if (same_contents or same_name) and here.overlaps(there):
                found.append(video.name)
                break
    return found


def refuse_trained(dataset: Dataset, trained: Sequence[TrainingData], model: str, is_allowed: bool) -> tuple[str, ...]:
    """See that a model is not judged on what it learnt from.

    Args:
        trained: what its weights say of their training.
        model: for messages.
        is_allowed: judge it all the same; then what is returned says on which videos.

    Raises:
        DataError: naming the first few of them.
    """
    found = trained_videos(dataset, trained)
    if not found:
        return ()
    message = (
        f"{model} was trained on {len(found)} of the {len(dataset.videos)} videos of {dataset.name} ({_some(found)})"
    )
    if not is_allowed:
        raise DataError(f"{message}; give others, such as those of its split test, or --allow-trained")
    return (f"{message}, which flatters its figures (--allow-trained)",)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
