"""Ledgers: JSON lines, one a frame, so that every frame's fate can be looked up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from vivim_runtime.errors import SinkError
from vivim_runtime.files import GrowingFile
from vivim_runtime.sessions.base import ClassInfo
from vivim_runtime.sinks.base import MaskedFrame, Segmented

__all__ = ["JsonLines", "Ledger", "found_in"]

_Self = TypeVar("_Self", bound="JsonLines")


class JsonLines:
    """A file of JSON lines: `run` (what ran) first, `summary` last; `line` adds what lies between. A context manager.

    Lines go to `NAME.part.jsonl`, which takes the place of `NAME.jsonl` at the end.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self._file = GrowingFile(path)
        self._lines = 0
        self.line("run", run)

    @property
    def path(self) -> str:
        return str(self._file.target)

    def line(self, kind: str, values: Mapping[str, Any]) -> None:
        """Add a line of a kind; SinkError when it cannot be written."""
        try:
            # At once: a killed run leaves whole lines.
            self._file.write((json.dumps({"type": kind, **values}) + "\n").encode())
        except OSError as error:
            raise SinkError(f"cannot go on writing {self._file.path}: {error.strerror}") from None
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
        try:
            if kind is None:
                self.line("summary", self.summary())
                self._file.complete()
        finally:
            if empty and kind is not None:
                self._file.discard()
            else:
                self._file.keep()


def found_in(item: MaskedFrame, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """What a line says of the regions and lesions of a frame; nothing where there are none of them."""
    lesions = [{"class": classes[lesion.label].name, **lesion.record()} for lesion in item.lesions]
    return {
        **({"region": [str(region) for region in item.regions]} if item.regions else {}),
        **({"lesions": lesions} if lesions else {}),
        **({"state": item.state} if item.state else {}),
        **({"at_edge": True} if item.at_edge else {}),
        **({} if item.confidence is None else {"confidence": round(item.confidence, 4)}),
    }


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
        if item.reset:
            self._counts["resets"] = self._counts.get("resets", 0) + 1
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
                **({"reset": item.reset} if item.reset else {}),
                **found_in(item, self._classes),
            },
        )

    def summary(self) -> Mapping[str, Any]:
        return {**self._counts, "lost": self._lost()}
