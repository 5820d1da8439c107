"""Where a run goes: what is taken when no output is named, and which files are not replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from vivim_runtime.errors import SinkError
from vivim_runtime.live.screens import SCREEN

__all__ = ["destinations", "film_name", "refuse_taken"]

_LONGEST = 80  # letters of a name that is made of a source's


def destinations(
    names: Sequence[str], source: str, live: bool, save: bool | None, overwrite: bool
) -> tuple[list[str], str]:
    """The outputs of a run, and one line about those that were chosen for the user; "" where none were.

    Args:
        names: what the user gave.
        source: the source's name, as the user gave it.
        live: whether pictures come in their own time.
        save: write a video named after the source, or do not; None does where a recorded source has no other output.
        overwrite: the video may replace an earlier one; else it gets a number.
    """
    chosen, said = list(names), ""
    if live and not names:
        chosen.append(SCREEN)
    if save if save is not None else not (live or names):
        film = film_name(source, overwrite)
        chosen.append(film)
        said = f"writing {film}"
    return chosen, said


def film_name(source: str, overwrite: bool) -> str:
    """`clip.mp4` -> `clip-vivim.mp4`, in the working directory; with a number where that is there already."""
    stem = f"{_stem(source)}-vivim"
    name, number = f"{stem}.mp4", 1
    while not overwrite and os.path.lexists(name):
        number += 1
        name = f"{stem}-{number}.mp4"
    return name


def _stem(source: str) -> str:
    """What to call a source; of an address only its kind, since it may hold a password."""
    scheme = urlsplit(source).scheme if "://" in source else ""
    if scheme in ("rtsp", "rtsps", "http", "https", "udp", "tcp", "rtmp", "srt"):
        return scheme
    name = source.partition(":")[0] if source.startswith(("phantom:", "gst:")) else Path(source).stem
    name = f"camera{name}" if name.isdigit() else name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:_LONGEST] or "video"


def refuse_taken(names: Iterable[str | Path], overwrite: bool) -> None:
    """Refuse, before anything is opened, to replace a file that is there.

    A folder for masks looks after itself: other files in it are left alone.

    Raises:
        SinkError: naming the file and the two ways out.
    """
    for name in names:
        if not overwrite and Path(name).is_file():
            raise SinkError(f"{name} is there already; add --overwrite to replace it, or name another output")
