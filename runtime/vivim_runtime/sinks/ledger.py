"""Ledgers: JSON lines, one a frame, so that every frame's fate can be looked up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from vivim_runtime.errors import SinkError
from vivim_runtime.files import part_name, writable_file
from vivim_runtime.sessions.base import ClassInfo
from vivim_runtime.sinks.base import Segmented

__all__ = ["JsonLines", "Ledger"]

_Self = TypeVar("_Self", bound="JsonLines")


class JsonLines:
    """A file of JSON lines: `run` (what ran) first, `summary` last; `line` adds what lies between. A context manager.

    Lines go to `NAME.part.jsonl`, which takes the place of `NAME.jsonl` at the end.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self._target, self._part = writable_file(path), part_name(path)
        try:
            # Line buffered: a killed run leaves whole lines.
            self._file: IO[str] = self._part.open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise SinkError(f"cannot write {path}: {error.strerror}") from None
        self._lines = 0
        self.line("run", run)

    @property
    def path(self) -> str:
        return str(self._target)

    def line(self, kind: str, values: Mapping[str, Any]) -> None:
        """Add a line of a kind; SinkError when it cannot be written."""
        try:
            self._file.write(json.dumps({"type": kind, **values}) + "\n")
        except OSError as error:
            raise SinkError(f"cannot go on writing {self._part}: {error.strerror}") from None
        self._lines += 1

    def summary(self) -> Mapping[str, Any]:
        """What the last line says."""
        return {}

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        empty = self._lines < 2
        if kind is None:
            self.line("summary", self.summary())
        try:
            self._file.close()
        except OSError:
            # Behind a failed write (a full disk) nothing more can be said; the first error tells.
            if kind is None:
                raise
        if kind is None:
            self._part.replace(self._target)
        elif empty:
            self._part.unlink(missing_ok=True)


class Ledger(JsonLines):
    """A line a frame (`frame`); the counts of the summary sum to the number of these lines.

    Frames that could not be read are missing among the lines, and are counted in the summary (`lost`).

    Args:
        lost: how many these are, asked at the end.
    """

    def __init__(
        self,
        path: Path,
        classes: Sequence[ClassInfo],
        run: Mapping[str, Any],
        lost: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(path, run)
        self._lost = lost
        self._classes = classes
        self._counts = {"frames": 0, "with_mask": 0, "without_mask": 0, "in_padded_clip": 0}

    def write(self, item: Segmented) -> None:
        areas = {info.name: int(mask.sum()) for info, mask in zip(self._classes, item.masks, strict=True)}
        self._counts["frames"] += 1
        self._counts["with_mask" if any(areas.values()) else "without_mask"] += 1
        self._counts["in_padded_clip"] += item.padded
        self.line(
            "frame",
            {
                "index": item.frame.index,
                "time_s": round(item.frame.time, 6),
                "clip": item.clip,
                "position": item.position,
                "padded": item.padded,
                "latency_ms": round(item.latency_ms, 3),
                "area_px": areas,
            },
        )

    def summary(self) -> Mapping[str, Any]:
        return {**self._counts, "lost": self._lost()}
