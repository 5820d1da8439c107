"""What several workers of pytest need is made by the first that asks for it; the others wait, and find it made."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["Shared", "alone"]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Work on a folder while nobody else does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Shared:
    """Folders of this run of pytest, which all of its workers see."""

    def __init__(self, temporary: pytest.TempPathFactory, worker: str) -> None:
        base = temporary.getbasetemp()
        self._root = (base.parent if worker else base) / "shared"  # each worker has a folder of its own below the run's

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of that name, filled once by `make`; it is for reading."""
        folder = self._root / name
        with alone(folder):
            if not folder.exists():
                being_made = folder.with_name(f"{name}.part")
                shutil.rmtree(being_made, ignore_errors=True)  # of a test that failed while it was made
                being_made.mkdir()
                make(being_made)
                being_made.rename(folder)
        return folder
