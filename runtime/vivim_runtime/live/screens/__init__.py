"""Where people watch a live run: a window or a web page; one interface, chosen by the name."""

from __future__ import annotations

from contextlib import suppress

from vivim_runtime.errors import MissingExtraError, SinkError
from vivim_runtime.live.screens.base import Screen, ScreenOptions
from vivim_runtime.live.screens.web import WebViewer
from vivim_runtime.live.screens.window import Window
from vivim_runtime.live.status import Controls
from vivim_runtime.sessions.base import ModelInfo

__all__ = ["SCREEN", "Screen", "ScreenOptions", "is_screen", "open_screen"]

# A window where there is a display, else a page.
SCREEN = "screen"
_PAGE = "http://127.0.0.1:8080"
_ANY_PORT = "http://127.0.0.1:0"


def is_screen(name: str) -> bool:
    """Whether an output's name means a screen, and not a file."""
    return name in (SCREEN, "display") or name.startswith(("http://", "display://"))


def open_screen(name: str, controls: Controls, model: ModelInfo, options: ScreenOptions) -> Screen:
    """The screen that a name stands for: "display", "http://host:port" for a page that is served here, or "screen".

    "screen" is a window where there is a display, else a page on port 8080 of this machine, or on another one where
    that is taken.

    Raises:
        SinkError: when it cannot be opened (no display, the port is taken).
        MissingExtraError: when what it needs is not installed.
    """
    if name == SCREEN:
        return _any_screen(controls, model, options)
    if name == "display" or name.startswith("display://"):
        return Window(controls, model, options)
    return WebViewer(name, controls, model, options)


def _any_screen(controls: Controls, model: ModelInfo, options: ScreenOptions) -> Screen:
    with suppress(SinkError, MissingExtraError):
        return Window(controls, model, options)
    with suppress(SinkError):
        return WebViewer(_PAGE, controls, model, options)
    return WebViewer(_ANY_PORT, controls, model, options)
