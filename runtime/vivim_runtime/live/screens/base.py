"""Where people watch: a window or a web page; one interface, chosen by the name.

Recordings are sinks (vivim_runtime.sinks); a screen only ever shows the newest picture, and never slows the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from vivim_runtime.live.status import Controls, Shown
from vivim_runtime.sessions.base import ModelInfo

__all__ = ["Screen", "ScreenOptions", "is_screen", "open_screen"]


@dataclass(frozen=True)
class ScreenOptions:
    """How people watch.

    Attributes:
        fullscreen: of a window.
        token: what a web page asks for when it is not bound to this machine alone; None makes one up.
        snapshots: the folder for pictures that people keep.
    """

    fullscreen: bool = False
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


def is_screen(name: str) -> bool:
    """Whether an output's name means a screen, and not a file."""
    return name == "display" or name.startswith("http://")


def open_screen(name: str, controls: Controls, model: ModelInfo, options: ScreenOptions) -> Screen:
    """The screen that a name stands for: "display", or "http://host:port" for a page that this program serves.

    Raises:
        SinkError: when it cannot be opened (no display, the port is taken).
        MissingExtraError: when what it needs is not installed.
    """
    if name == "display":
        from vivim_runtime.live.screens.window import Window

        return Window(controls, model, options)
    from vivim_runtime.live.screens.web import WebViewer

    return WebViewer(name, controls, model, options)
