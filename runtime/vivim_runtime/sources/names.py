"""Names of files and folders: their natural order, and which of them belong to other programs."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "is_foreign", "natural_key"]

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm"}  # of whole folders
)
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts"})

# What file systems, network drives and archivers leave in folders: macOS, Synology, QNAP, Windows, ext4.
_FOREIGN = frozenset(
    {
        "__macosx",
        "@eadir",
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
    }
)


def is_foreign(path: Path) -> bool:
    """Whether a file or folder is another program's, or hidden, and no part of anybody's data."""
    return path.name.startswith(".") or path.name.lower() in _FOREIGN


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts frame2 before frame10. Digits that are no numbers (①, ²) are letters."""
    # Every second part is what matched: \d is a decimal digit of any script, which int() reads.
    parts = re.split(r"(\d+)", path.name.lower())
    return [(1, int(part), "") if place % 2 else (0, 0, part) for place, part in enumerate(parts)]
