"""Which videos train, validate and test: split files, and splits drawn at random where there is none.

A split file names videos, or parts of videos, by split. As JSON:

    {"train": ["0001", "0002[:45]"], "test": ["0002[45:]"]}

or as text, a video a line, `#` before a comment:

    train:
    0001
    0002[:45]
    test:
    0002[45:]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vivim_runtime.datasets.videos import AnnotatedVideo, Dataset, Part
from vivim_runtime.errors import DataError, UsageError
from vivim_runtime.text import parse_json

__all__ = ["RANDOM_SHARES", "held_out", "random_split", "read_split_file", "split_by_file"]

# Of videos, where nobody made splits; two thirds of what does not train tests.
RANDOM_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}

_PART = re.compile(r"(?P<name>.+)\[(?P<start>[0-9]{0,9}):(?P<stop>[0-9]{0,9})\]")


@dataclass(frozen=True)
class _Entry:
    """A line of a split file: where it stands, and the frames of a video that it means."""

    split: str
    text: str
    video: AnnotatedVideo
    start: int
    stop: int


def read_split_file(path: Path) -> dict[str, list[str]]:
    """Entries by split, as they are written; DataError when the file cannot be read or is of another form."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the split file {path}: {getattr(error, 'strerror', None) or error}") from None
    splits = _from_json(path, text) if text.lstrip().startswith(("{", "[")) else _from_lines(path, text)
    if not any(splits.values()):
        raise DataError(f"the split file {path} names no videos")
    return splits


def _from_json(path: Path, text: str) -> dict[str, list[str]]:
    expected = 'expected {"train": ["video", ...], "test": [...]}'
    try:
        splits = parse_json(text, pairs=list)
    except ValueError as error:
        raise DataError(f"the split file {path} is no JSON ({error}); {expected}") from None
    result: dict[str, list[str]] = {}
    for pair in splits:
        if not (isinstance(pair, tuple) and isinstance(pair[1], list) and all(isinstance(n, str) for n in pair[1])):
            raise DataError(f"the split file {path} is of another form; {expected}")
        if pair[0] in result:
            raise DataError(f"the split file {path} has {pair[0]!r} twice; {expected}")
        result[pair[0]] = pair[1]
    return result


def _from_lines(path: Path, text: str) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    split = None
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if entry.endswith(":"):
            split = entry[:-1].strip()
            result.setdefault(split, [])
        elif entry and split is None:
            raise DataError(f"line {number} of the split file {path} belongs to no split; expected `train:` before it")
        elif entry and split is not None:
            result[split].append(entry)
    return result


def split_by_file(path: Path, videos: Sequence[AnnotatedVideo]) -> dict[str, tuple[AnnotatedVideo, ...]]:
    """The videos of every split of a file.

    Raises:
        DataError: naming every entry that is no video, has no such frames, or shares frames with another entry.
    """
    by_name = {video.name: video for video in videos}
    splits = read_split_file(path)
    entries: list[_Entry] = []
    problems: list[str] = []
    for split, texts in splits.items():
        for text in texts:
            entry = _entry(split, text, by_name)
            if isinstance(entry, str):
                problems.append(entry)
            else:
                entries.append(entry)
    problems += _shared(entries)
    if problems:
        known = ", ".join(list(by_name)[:5]) + (", ..." if len(by_name) > 5 else "")
        raise DataError(f"the split file {path}: {'; '.join(problems)}; the data set's videos are {known}")
    return {split: tuple(_meant(entry) for entry in entries if entry.split == split) for split in splits}


def _entry(split: str, text: str, videos: Mapping[str, AnnotatedVideo]) -> _Entry | str:
    """An entry, or what is wrong with it."""
    if text in videos:
        return _Entry(split, text, videos[text], 0, len(videos[text]))
    match = _PART.fullmatch(text)
    video = videos.get(match["name"]) if match else None
    if match is None or video is None:
        return f"{text} ({split}) is no video"
    start, stop = int(match["start"] or 0), int(match["stop"] or len(video))
    if not start < stop <= len(video):
        return f"{text} ({split}) means frames {start} to {stop} of a video of {len(video)}"
    return _Entry(split, text, video, start, stop)


def _shared(entries: list[_Entry]) -> Iterator[str]:
    """Entries that have frames in common: nothing is judged on what it learnt from, nor counts frames twice."""
    for index, one in enumerate(entries):
        for other in entries[index + 1 :]:
            if one.video is other.video and one.start < other.stop and other.start < one.stop:
                yield f"{one.text} ({one.split}) and {other.text} ({other.split}) share frames"


def _meant(entry: _Entry) -> AnnotatedVideo:
    whole = (entry.start, entry.stop) == (0, len(entry.video))
    return entry.video if whole else Part(entry.video, entry.start, entry.stop)


def random_split(
    videos: Sequence[AnnotatedVideo], seed: int = 0, shares: Mapping[str, float] = RANDOM_SHARES
) -> dict[str, tuple[AnnotatedVideo, ...]]:
    """Videos by split, drawn by the seed: whole videos, since frames of one resemble each other.

    The draw depends on the names alone, not on their order. Every split gets at least one video.

    Raises:
        DataError: fewer videos than splits.
    """
    if len(videos) < len(shares):
        raise DataError(
            f"{len(videos)} videos cannot be drawn into {', '.join(shares)}; give a split file, "
            'in which parts of a video can stand ("name[:45]" and "name[45:]")'
        )
    ordered = sorted(videos, key=lambda video: video.name)
    drawn = [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
    first, *others = shares
    counts = {split: max(1, round(shares[split] * len(drawn))) for split in others}
    counts = {first: len(drawn) - sum(counts.values()), **counts}
    result: dict[str, tuple[AnnotatedVideo, ...]] = {}
    for split, count in counts.items():
        names = {video.name for video in drawn[:count]}
        result[split], drawn = tuple(video for video in videos if video.name in names), drawn[count:]
    return result


def held_out(dataset: Dataset, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """A data set without, and the validation set made of, a share of its videos drawn by the seed.

    For data that have no validation split. Of a single video, the last frames are held out; DataError where there are
    fewer than two.
    """
    if not 0.0 < share < 1.0:
        raise UsageError(f"a share of {share:g} cannot be held out; expected a number between 0 and 1, both left out")
    if len(dataset.videos) > 1:
        parts = random_split(dataset.videos, seed, {"kept": 1.0 - share, "validation": share})
    else:
        (video,) = dataset.videos
        if len(video) < 2:
            raise DataError(f"nothing can be held out of {video.name}, which has {len(video)} frames")
        cut = min(max(1, round(len(video) * (1.0 - share))), len(video) - 1)
        parts = {"kept": (Part(video, 0, cut),), "validation": (Part(video, cut, len(video)),)}
    return (
        replace(dataset, videos=parts["kept"]),
        replace(dataset, split="validation", videos=parts["validation"], origin=f"held out of train with seed {seed}"),
    )
