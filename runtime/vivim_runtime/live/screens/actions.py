"""What people may do while it runs: one table for the window's keys, the web page's buttons and the help panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Event

from vivim_runtime.live.status import Controls, View
from vivim_runtime.overlay import Layer

__all__ = ["ACTIONS", "SETTINGS", "Action"]

_THRESHOLD_STEP, _OPACITY_STEP = 0.05, 0.05


@dataclass(frozen=True)
class Action:
    """Something that viewers may do.

    Attributes:
        name: for programs.
        key: the character that the key gives, whatever the keyboard's layout.
        text: for people.
        apply: does it; None where each kind of screen does it in its own way.
        remote: whether a web page may ask for it.
    """

    name: str
    key: str
    text: str
    apply: Callable[[Controls], None] | None = None
    remote: bool = True


def _flip(name: str, controls: Controls) -> None:
    event: Event = getattr(controls, name)
    (event.clear if event.is_set() else event.set)()


def _toggle(layer: Layer, controls: Controls) -> None:
    controls.toggle(layer)


def _move(step: float, controls: Controls) -> None:
    controls.change_threshold(step)


def _forget(controls: Controls) -> None:
    controls.forget.set()


def _see_all(controls: Controls) -> None:
    controls.see(None)


def _fade(step: float, controls: Controls) -> None:
    controls.set_alpha(controls.alpha + step)


def _show(view: View, controls: Controls) -> None:
    controls.switch_view(view)


def _quit(controls: Controls) -> None:
    controls.quit.set()


ACTIONS: tuple[Action, ...] = (
    Action("pause", " ", "pause the picture", partial(_flip, "paused")),
    Action("overlay", "o", "filled masks", partial(_toggle, "overlay")),
    Action("contour", "c", "outlines", partial(_toggle, "contour")),
    Action("mask", "m", "masks alone", partial(_toggle, "mask")),
    Action("threshold_up", "+", "higher threshold", partial(_move, _THRESHOLD_STEP)),
    Action("threshold_down", "-", "lower threshold", partial(_move, -_THRESHOLD_STEP)),
    Action("opacity_up", "]", "filled masks stronger", partial(_fade, _OPACITY_STEP)),
    Action("opacity_down", "[", "filled masks fainter", partial(_fade, -_OPACITY_STEP)),
    Action("side", "d", "original frame beside the one with masks", partial(_show, View.side)),
    Action("probability", "p", "probability map", partial(_show, View.probability)),
    Action("hud", "i", "more or less text", Controls.next_hud),
    Action("move_hud", "k", "text in another corner", Controls.move_hud),
    Action("record", "r", "record", partial(_flip, "recording")),
    Action("forget", "n", "reset the memory of a streaming model", _forget),
    Action("region_reset", "x", "remove the drawn region (drag to draw one)", _see_all),
    Action("again", "l", "the last ten seconds again", remote=False),
    Action("snapshot", "s", "save the picture", remote=False),
    Action("fullscreen", "f", "full screen", remote=False),
    Action("help", "h", "this help", remote=False),
    Action("quit", "q", "quit", _quit, remote=False),
)

# What a page may set to a number.
SETTINGS: Mapping[str, Callable[[Controls, float], None]] = {"opacity": Controls.set_alpha}
