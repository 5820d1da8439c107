"""What every screen does, and how people watch.

Recordings are sinks (vivim_runtime.sinks); a screen only ever shows the newest picture, and never slows the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from vivim_runtime.live.status import Shown

__all__ = ["Screen", "ScreenOptions"]


@dataclass(frozen=True)
class ScreenOptions:
    """How people watch.

    Attributes:
        fullscreen: of a window.
        notice: write that it is for research use only.
        token: what a web page asks for when it is not bound to this machine alone; None makes one up.
        snapshots: the folder for pictures that people keep.
    """

    fullscreen: bool = False
    notice: bool = True
    token: str | None = None
    snapshots: Path = Path()


class Screen(Protocol):
    """Shows pictures; a context manager.

    Attributes:
        name: for people: "display", "http://127.0.0.1:8080".
        needs_main_thread: whether `run_main` must be called, on the main thread (windows want that).
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_main_thread(self) -> bool: ...

    def show(self, shown: Shown) -> None:
        """Take the next picture. Called from one thread; returns at once: only the newest picture is kept."""
        ...

    def run_main(self) -> None:
        """Only where `needs_main_thread`: returns when `controls.quit` is set.

        When people close the screen, it sets `controls.quit` itself.
        """
        ...

    def __enter__(self) -> Screen: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
