"""Where people watch a live run: a window or a web page; one interface, chosen by the name."""

from __future__ import annotations

from vivim_runtime.live.screens.base import Screen, ScreenOptions
from vivim_runtime.live.screens.web import WebViewer
from vivim_runtime.live.screens.window import Window
from vivim_runtime.live.status import Controls
from vivim_runtime.sessions.base import ModelInfo

__all__ = ["Screen", "ScreenOptions", "is_screen", "open_screen"]


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
        return Window(controls, model, options)
    return WebViewer(name, controls, model, options)
