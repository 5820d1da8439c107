"""Polyps in colonoscopy, as they are prepared for video polyp segmentation (PNS-Net, Ji et al., MICCAI 2021).

A folder `Frame` beside a folder `GT`, at any depth, is a video, or a folder of videos:

    VPS-TrainSet/<set>/Train/<video>/Frame/*.jpg      with  .../GT/*.png        train (CVC-300, CVC-612, ASU-Mayo)
    Train/<video>/Frame/*.jpg                         with  .../GT/*.png        train (as Vivim's code has it)
    Kvasir-SEG/Frame/*.jpg, IVPS-TrainSet/Frame/*     with  .../GT/*.png        train (still images)
    VPS-TestSet/CVC-ColonDB-300/Frame/<video>/*       with  .../GT/<video>/*    CVC-300-TV
    VPS-TestSet/CVC-ClinicDB-612-Valid/Frame/...      with  .../GT/...          CVC-612-V
    VPS-TestSet/CVC-ClinicDB-612-Test/Frame/...       with  .../GT/...          CVC-612-T

The paper trains on all training videos and reports on each of the three test sets; `test` is the three together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vivim_runtime.datasets.folder import FolderVideo, image_names
from vivim_runtime.datasets.listing import Listing, folders_in, unique

__all__ = ["TEST_SETS", "is_polyp", "list_polyp"]

# Test sets by the names of their folders in lower case, and as the paper calls them (Table II).
TEST_SETS = {
    "cvc-colondb-300": "CVC-300-TV",
    "cvc-clinicdb-612-valid": "CVC-612-V",
    "cvc-clinicdb-612-test": "CVC-612-T",
}

_FRAMES, _MASKS = "Frame", "GT"
_DEPTH = 4  # of a `Frame` below the root: VPS-TrainSet/<set>/Train/<video>
# Folders that say which split or collection it is, and add nothing to a video's name.
_COLLECTIONS = {"train", "test", "trainset", "testset", "vps-trainset", "vps-testset"}


def is_polyp(root: Path) -> bool:
    """Whether a folder is laid out like the polyp sets."""
    return next(_pairs(root, _DEPTH), None) is not None


def _pairs(folder: Path, depth: int) -> Iterator[Path]:
    """The folders that hold `Frame` and `GT`."""
    if (folder / _FRAMES).is_dir() and (folder / _MASKS).is_dir():
        yield folder
    elif depth:
        for child in folders_in(folder):
            yield from _pairs(child, depth - 1)


def list_polyp(root: Path) -> Listing:
    """The videos of the polyp sets; the splits are `train`, `test` and the test sets that it consists of."""
    found: dict[str, list[FolderVideo]] = {}
    notes = []
    for pair in _pairs(root, _DEPTH):
        part = "train" if _trains(root, pair) else TEST_SETS.get(pair.resolve().name.lower(), pair.resolve().name)
        found.setdefault(part, []).extend(_videos(root, pair))
        if "kvasir" in pair.name.lower():
            notes.append(f"{pair.name} holds still images: the frames of a clip of it do not belong together")
    listing = unique(found, "polyp", tuple(notes))
    tests = tuple(name for part, names in listing.splits.items() if part != "train" for name in names)
    return Listing(listing.videos, {**listing.splits, "test": tests}, listing.official, listing.notes)


def _trains(root: Path, pair: Path) -> bool:
    """Whether a pair of folders is for training: as their names say, else those of test sets have videos within."""
    for names in (pair.relative_to(root).parts, (root.resolve().name,)):
        lowered = " ".join(names).lower()
        if "train" in lowered:
            return True
        if "test" in lowered or "valid" in lowered:
            return False
    return bool(image_names(pair / _FRAMES))


def _videos(root: Path, pair: Path) -> list[FolderVideo]:
    """The video of a pair of folders, or the videos within."""
    frames, masks = pair / _FRAMES, pair / _MASKS
    parts = [part for part in pair.relative_to(root).parts if part.lower() not in _COLLECTIONS]
    title = "/".join(parts) or root.resolve().name
    inner = list(dict.fromkeys(folder.name for parent in (frames, masks) for folder in folders_in(parent)))
    if image_names(frames) or not inner:
        return [FolderVideo.listed(title, frames, masks)]
    return [FolderVideo.listed(f"{title}/{name}", frames / name, masks / name) for name in inner]
