"""The screens of made-up scanners: where each shows its picture, and what it has around it.

Eight layouts are to learn from, four are held out: no name but `held-out` and their own ever gives one of those, so
that a network or a finder of regions which saw `any` or `mixed` has not seen them. Places are shares of the screen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["LAYOUTS", "SCREENS", "Layout", "layouts_of"]

Colour = tuple[int, int, int]

_WHITE, _GREY, _CYAN, _AMBER, _GREEN = (235, 235, 235), (150, 155, 160), (90, 190, 220), (230, 190, 90), (90, 220, 120)


@dataclass(frozen=True)
class Layout:
    """A scanner's screen.

    Attributes:
        probes: kinds of probes that it shows, of `Probe.kind`.
        area: top, left, bottom and right of where the picture has its place.
        held_out: whether it is kept from learning.
        ground: what is around the picture; panel: of bars and menus.
        header: `bar` (a coloured strip), `lines` (letters in both corners), `thin` (one line) or `none`.
        header_height: of a strip or of lines.
        columns: sides with settings of the scanner, of `left` and `right`.
        keys: `bottom` (soft keys), `left` or `right` (a menu), or "".
        bar: side of the grey bar, or "".
        ruler: side of the depth marks; width_ruler: whether there are marks below the picture too.
        ecg: how often there is an electrocardiogram.
        inside: whether settings and marks may lie over the picture.
        ink: of letters, accent: of titles and marks.
        font: of OpenCV's.
        text: height of letters.
    """

    probes: tuple[str, ...]
    area: tuple[float, float, float, float]
    held_out: bool = False
    ground: Colour = (0, 0, 0)
    panel: Colour = (40, 44, 50)
    header: str = "lines"
    header_height: float = 0.08
    columns: tuple[str, ...] = ("left",)
    keys: str = ""
    bar: str = "right"
    ruler: str = "right"
    width_ruler: bool = False
    ecg: float = 0.0
    inside: bool = False
    ink: Colour = _WHITE
    accent: Colour = _CYAN
    font: int = 0
    text: float = 0.019


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "ward-convex": Layout(
            ("convex",), (0.17, 0.2, 0.97, 0.93), panel=(36, 62, 98), header="bar", header_height=0.15, accent=_AMBER
        ),
        "room-convex": Layout(
            ("convex",), (0.1, 0.16, 0.86, 0.9), ground=(14, 14, 16), keys="bottom",
            columns=("left", "right"), bar="left",
        ),
        "tablet-convex": Layout(
            ("convex",), (0.08, 0.04, 0.98, 0.8), ground=(4, 5, 8), header="thin", header_height=0.05, keys="right",
            columns=(), bar="left", ruler="left", ink=_GREY,
        ),
        "console-linear": Layout(
            ("linear",), (0.2, 0.03, 0.8, 0.97), header_height=0.17, columns=(), bar="left", ruler="left",
            width_ruler=True, font=2, text=0.022, inside=True,
        ),
        "small-parts": Layout(
            ("linear", "trapezoid"), (0.12, 0.2, 0.93, 0.8), ground=(8, 8, 8), header="bar", header_height=0.09,
            columns=("left", "right"), accent=_GREEN, panel=(52, 52, 56), width_ruler=True,
        ),
        "bedside-linear": Layout(
            ("linear",), (0.06, 0.22, 0.96, 0.78), header="none", columns=("left",), keys="right", bar="right",
            ruler="left", ink=_GREY, panel=(24, 40, 44),
        ),
        "cardiac-sector": Layout(
            ("sector",), (0.07, 0.16, 0.86, 0.88), header="thin", header_height=0.05, ecg=0.85, bar="right",
            columns=("left", "right"), inside=True,
        ),
        "pocket-sector": Layout(
            ("sector",), (0.05, 0.12, 0.84, 0.9), ground=(6, 6, 8), header="none", keys="bottom",
            columns=("left", "right"), bar="", ecg=0.2, ink=_GREY, panel=(26, 52, 84), text=0.026,
        ),
        "theatre-convex": Layout(
            ("convex",), (0.09, 0.27, 0.95, 0.99), held_out=True, ground=(22, 24, 28), header="thin", keys="left",
            columns=(), bar="right", ruler="right", accent=_GREEN, panel=(58, 62, 70), font=2,
        ),
        "older-linear": Layout(
            ("linear", "trapezoid"), (0.14, 0.08, 0.88, 0.86), held_out=True, header_height=0.13, columns=("right",),
            bar="left", ruler="right", width_ruler=True, ink=_AMBER, accent=_AMBER, text=0.024, inside=True,
        ),
        "echo-room": Layout(
            ("sector",), (0.12, 0.06, 0.92, 0.74), held_out=True, ground=(0, 0, 10), header="bar", header_height=0.1,
            columns=("right",), ecg=0.7, bar="left", ruler="left", panel=(70, 30, 36), accent=_GREEN,
        ),
        "endocavity": Layout(
            ("endocavity",), (0.1, 0.14, 0.9, 0.95), held_out=True, ground=(10, 10, 10), header="lines",
            columns=("left",), keys="bottom", bar="right", ruler="right", ink=_GREY, accent=_AMBER, font=2,
        ),
    }
)  # fmt: skip

_FAMILIES = ("convex", "linear", "sector")

# What `screen=` may say.
SCREENS = ("none", "any", "mixed", "held-out", *_FAMILIES, *LAYOUTS)


def layouts_of(screen: str) -> tuple[str, ...]:
    """The names of the layouts that a value of `screen` draws from; none of `none`."""
    if screen in LAYOUTS:
        return (screen,)
    learnt = [name for name, layout in LAYOUTS.items() if not layout.held_out]
    if screen in ("any", "mixed"):
        return tuple(learnt)
    if screen == "held-out":
        return tuple(name for name, layout in LAYOUTS.items() if layout.held_out)
    return tuple(name for name in learnt if screen in LAYOUTS[name].probes)
