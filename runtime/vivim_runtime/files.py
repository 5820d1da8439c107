"""Files that are whole or absent: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vivim_runtime.errors import SinkError

__all__ = [
    "atomic_path",
    "cache_folder",
    "json_value",
    "part_name",
    "sha256_file",
    "writable_file",
    "writable_folder",
    "write_text",
]


def writable_folder(folder: Path) -> Path:
    """Create `folder` if need be and return it; SinkError when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"cannot create the folder {folder}: {error.strerror}; choose another output") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SinkError(f"cannot write into the folder {folder}: permission denied; choose another output")
    return folder


def part_name(target: Path) -> Path:
    """Where a file that grows for long is written until it is complete: `film.mp4` -> `film.part.mp4`."""
    return target.with_name(f"{target.stem}.part{target.suffix}")


def writable_file(target: Path) -> Path:
    """Create the folder of `target` if need be and return `target`; SinkError when it cannot be written."""
    if target.is_dir():
        raise SinkError(f"{target} is a folder; expected a file name")
    writable_folder(target.parent)
    return target


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends, and is removed when it fails.

    The temporary name keeps the suffix of `target`, since libraries choose a format by it.
    """
    target = writable_file(Path(target))
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise SinkError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `target`, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_value(value: Any) -> Any:
    """What JSON can hold of a record: tuples become lists, and a number that is not finite becomes text."""
    if isinstance(value, dict):
        return {key: json_value(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def cache_folder() -> Path | None:
    """Where this package keeps what it can make again; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vivim-edge"
    except RuntimeError:
        return None


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file, as lower-case hexadecimal."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
