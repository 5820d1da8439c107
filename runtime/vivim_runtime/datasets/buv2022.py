"""BUV2022, breast lesions in ultrasound: `images/<video>/*` and `labels/<video>/*.png`.

63 videos of 63 patients, 4619 frames (Li et al., MICCAI 2022). Vivim was measured on frames that had been cropped to
300x200, and on the authors' split (paper IV.A). No public code says which crops and which split: crop the frames first,
and put the names of the videos into `train.txt` and `test.txt` beside `images`, one a line, or give a split file.
"""

from __future__ import annotations

from pathlib import Path

from vivim_runtime.datasets.folder import FolderVideo
from vivim_runtime.datasets.listing import Listing, folders_in, split_name, unique
from vivim_runtime.errors import DataError

__all__ = ["is_buv2022", "list_buv2022"]


def is_buv2022(root: Path) -> bool:
    """Whether a folder is laid out like BUV2022."""
    return (root / "labels").is_dir() and any(folders_in(root / "images"))


def list_buv2022(root: Path) -> Listing:
    """The videos of BUV2022, by split where lists make splits.

    Raises:
        DataError: naming every entry of a list that is no video, or stands in two lists.
    """
    frames, masks = root / "images", root / "labels"
    names = dict.fromkeys(folder.name for parent in (frames, masks) for folder in folders_in(parent))
    listing = unique({"": [FolderVideo.listed(name, frames / name, masks / name) for name in names]}, "BUV2022")
    return Listing(listing.videos, _lists(root, set(names)), listing.official)


def _lists(root: Path, names: set[str]) -> dict[str, tuple[str, ...]]:
    """Names of videos by split, of `train.txt` and the like."""
    files = {name: path for path in sorted(root.glob("*.txt")) if (name := split_name(path.stem))}
    splits = {split: _names(path) for split, path in files.items()}
    entries = [name for listed in splits.values() for name in listed]
    problems = [f"{name} is no video" for name in dict.fromkeys(entries) if name not in names]
    problems += [f"{name} stands in them twice" for name in dict.fromkeys(entries) if entries.count(name) > 1]
    if problems:
        raise DataError(f"the lists {', '.join(path.name for path in files.values())}: {'; '.join(problems)}")
    return splits


def _names(path: Path) -> tuple[str, ...]:
    """The lines of a list that are not empty."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())
