"""What a layout finds in a folder: videos, and the splits that its authors made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vivim_runtime.datasets.videos import TitledVideo
from vivim_runtime.errors import DataError
from vivim_runtime.sources.names import is_foreign, natural_key

__all__ = ["SPLIT_NAMES", "Listing", "folders_in", "split_name", "unique"]

# How folders call a split, in lower case, and how we do.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Listing:
    """The videos of a folder.

    Attributes:
        videos: all of them, each once.
        splits: names of videos by split, where the folders make splits; a video may stand in several (`test`, and the
            test set it is of).
        official: the public data set that it claims to be, see `vivim_runtime.datasets.official`; "" for none.
        notes: what a user should know about how it was read.
    """

    videos: tuple[TitledVideo, ...]
    splits: Mapping[str, tuple[str, ...]]
    official: str = ""
    notes: tuple[str, ...] = ()


def split_name(folder: str) -> str | None:
    """`Train` -> `train`, `Val` -> `validation`; None for a folder that is no split."""
    return SPLIT_NAMES.get(folder.lower())


def folders_in(folder: Path) -> Iterator[Path]:
    """The folders within a folder, in natural order, without hidden ones and those of other programs."""
    if folder.is_dir():
        yield from sorted((p for p in folder.iterdir() if p.is_dir() and not is_foreign(p)), key=natural_key)


def unique(found: Mapping[str, Sequence[TitledVideo]], official: str = "", notes: tuple[str, ...] = ()) -> Listing:
    """The listing of the videos of every split, "" for those of none; equal names get their split before them.

    Training comes first, then validation, test, and other splits.

    Raises:
        DataError: two videos of one split have one name.
    """
    order = {"": 0, "train": 1, "validation": 2, "test": 3}
    found = {split: found[split] for split in sorted(found, key=lambda split: order.get(split, len(order)))}
    counts = Counter(video.title for videos in found.values() for video in videos)
    named = {
        split: [v if counts[v.title] == 1 or not split else replace(v, title=f"{split}/{v.title}") for v in videos]
        for split, videos in found.items()
    }
    videos = tuple(video for members in named.values() for video in members)
    twice = [name for name, count in Counter(video.title for video in videos).items() if count > 1]
    if twice:
        raise DataError(f"several videos are called {', '.join(twice)}; give them names of their own")
    splits = {split: tuple(video.title for video in members) for split, members in named.items() if split}
    return Listing(videos, splits, official, notes)
