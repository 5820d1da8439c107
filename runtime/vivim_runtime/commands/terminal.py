"""Terminals: what is printed is text and nothing else, and a reader that goes away is nobody's fault."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from vivim_runtime.text import printable

__all__ = ["Terminal", "let_go", "terminal"]


class Terminal(Console):
    """A console that prints names of files, metadata and errors as they are, but for what a terminal would obey."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_shown(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Leave it to who prints; rich would end the program on the spot."""
        raise BrokenPipeError


def _shown(text: str) -> str:
    return text if text.isprintable() else "\n".join(printable(line, len(line) or 1) for line in text.split("\n"))


def terminal(stderr: bool = False, **options: Any) -> Terminal:
    """A console without markup: file names are printed as they are."""
    return Terminal(stderr=stderr, markup=False, highlight=False, **options)


def let_go() -> None:
    """Write to nowhere from now on: the reader of standard output or of standard error has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
