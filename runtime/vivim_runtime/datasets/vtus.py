"""VTUS, thyroid nodules in ultrasound: `Train/<case>/*.jpg` and `Train_GT/<case>/*.png`, the same for `Test`.

The layout of the authors' sample (100 videos of 100 patients, 9342 frames, 70 for training and 30 to test; paper IV.A).
"""

from __future__ import annotations

from pathlib import Path

from vivim_runtime.datasets.folder import FolderVideo
from vivim_runtime.datasets.listing import Listing, folders_in, split_name, unique

__all__ = ["is_vtus", "list_vtus"]

_MASKS = "_GT"


def _splits(root: Path) -> dict[str, Path]:
    """Folders of frames by split: those that have a folder of masks beside them."""
    named = ((split_name(folder.name), folder) for folder in folders_in(root))
    return {split: folder for split, folder in named if split and _masks(folder).is_dir()}


def _masks(frames: Path) -> Path:
    return frames.with_name(frames.name + _MASKS)


def is_vtus(root: Path) -> bool:
    """Whether a folder is laid out like VTUS."""
    return bool(_splits(root))


def list_vtus(root: Path) -> Listing:
    """The videos of VTUS: a folder a case, on the side of the frames or of the masks."""
    found: dict[str, list[FolderVideo]] = {}
    for split, frames in _splits(root).items():
        masks = _masks(frames)
        cases = dict.fromkeys(folder.name for parent in (frames, masks) for folder in folders_in(parent))
        found[split] = [FolderVideo.listed(case, frames / case, masks / case) for case in cases]
    return unique(found, "VTUS")
