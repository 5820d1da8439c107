"""A phantom on the screen of a scanner: the picture in its place, all that a screen has around it, and the truth.

The probe's beams are computed and then put into the shape of its picture, as a scanner converts them; the lesion and
the region that shows tissue are known in the same pixels. A screen is drawn in pixels of its own and squeezed into the
size that was asked for, as a picture of a whole screen is when a network is fed with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.phantom.layouts import LAYOUTS, layouts_of
from vivim_runtime.phantom.painter import Painter
from vivim_runtime.phantom.plain import PlainPhantom
from vivim_runtime.phantom.probe import Probe
from vivim_runtime.phantom.spec import PhantomSpec
from vivim_runtime.phantom.tissue import Scene

__all__ = ["PhantomScreen", "phantom_frames", "phantom_screen"]

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float32]

# Height of a screen that is squeezed, in its own pixels.
_OWN_HEIGHT = 720
# From this height on, and where they are shaped like a screen, asked sizes are a screen's own.
_LEAST_HEIGHT = 360
_SHAPES = (1.2, 2.0)
# Pictures of fewer rows are sampled twice as densely and averaged, from beams that are finer by this factor: a
# scanner's picture that is made smaller has its speckle averaged too.
_FINE_BELOW = 220
_FINER = 1.4
_MOST_ROWS = 720


@dataclass(frozen=True)
class _Draws:
    """What the seed decides about a screen.

    Attributes:
        layout: its name.
        probe: the shape of the picture.
        canvas: height and width, in the screen's own pixels.
        rectangle: around the picture, x, y, width and height in the same.
        depth_mm: along a beam.
        frozen_from: when the user freezes the picture, seconds.
        gain_steps: when the user turns the gain by how many decibels.
        grain: noise of a video output that was digitised, grey levels.
        gain_db: how much darker the user likes it than a plain phantom's.
        fade_db: what the time-gain control leaves uncompensated over the depth.
        whole: whether the whole screen is seen.
    """

    layout: str
    probe: Probe
    canvas: tuple[int, int]
    rectangle: tuple[int, int, int, int]
    depth_mm: float
    frozen_from: float
    gain_steps: tuple[tuple[float, float], ...]
    grain: float
    gain_db: float
    fade_db: float
    whole: bool


def phantom_frames(spec: PhantomSpec) -> Iterator[tuple[Image, Mask]]:
    """The frames (H, W, 3) and masks (H, W) of `spec`, one by one."""
    screen = phantom_screen(spec)
    return PlainPhantom(spec).frames() if screen is None else screen.frames()


def phantom_screen(spec: PhantomSpec) -> PhantomScreen | None:
    """The screen around the phantom of `spec`, with the truth about its region; None where it is a plain one."""
    drawn = _drawn(spec)
    return None if drawn is None else PhantomScreen(spec, drawn)


def _drawn(spec: PhantomSpec) -> _Draws | None:
    if spec.screen == "none":
        return None
    rng = np.random.default_rng([spec.seed, 0x5363])
    whole = spec.view == "whole"
    if spec.screen == "mixed":
        kind = rng.integers(0, 3)
        if kind == 0:
            return None
        whole = bool(kind == 1)
    layout = str(rng.choice(layouts_of(spec.screen)))
    top, left, bottom, right = LAYOUTS[layout].area
    height, width = spec.size
    own = whole and height >= _LEAST_HEIGHT and _SHAPES[0] <= width / height <= _SHAPES[1]
    shape = float(rng.choice([4 / 3, 1.6, 16 / 9]))
    canvas = (height, width) if own else (_OWN_HEIGHT, round(_OWN_HEIGHT * shape))
    room = ((bottom - top) * canvas[0], (right - left) * canvas[1])
    probe = _probe(rng, str(rng.choice(LAYOUTS[layout].probes)), room[1] / room[0])
    # As large as its place allows, mostly; towards the middle or, as many scanners do, to the top of it.
    unit = min(room[0] / probe.extent[0], room[1] / probe.extent[1]) * rng.uniform(0.88, 1.0)
    rows, columns = round(unit * probe.extent[0]), round(unit * probe.extent[1])
    y = top * canvas[0] + (room[0] - rows) * rng.choice([0.0, rng.uniform(0, 0.6)])
    x = left * canvas[1] + (room[1] - columns) * rng.uniform(0.4, 0.6)
    steps = [(float(rng.uniform(0.2, 6.0)), float(rng.choice([-3, -2, 2, 3]))) for _ in range(int(rng.integers(0, 4)))]
    shallow = probe.kind in ("linear", "trapezoid")
    return _Draws(
        layout,
        probe,
        canvas,
        (int(x), int(y), columns, rows),
        depth_mm=10.0 * float(rng.integers(3, 7) if shallow else rng.integers(6, 19)),
        frozen_from=float(rng.uniform(1.5, 4.0)) if rng.random() < 0.1 else float("inf"),
        gain_steps=tuple(sorted(steps)) if rng.random() < 0.4 else (),
        grain=float(rng.uniform(0.5, 2.0)) if rng.random() < 0.3 else 0.0,
        gain_db=float(rng.uniform(-7.0, 2.0)),
        fade_db=float(rng.uniform(5.0, 20.0)) if rng.random() < 0.4 else 0.0,
        whole=whole,
    )


def _probe(rng: np.random.Generator, kind: str, room: float) -> Probe:
    """A probe of a kind, for a place of `room` times its height in width."""
    if kind == "linear":
        return Probe("linear", width=float(np.clip(rng.uniform(0.75, 1.0) * room, 0.6, 2.2)))
    if kind == "trapezoid":
        return Probe("trapezoid", width=float(rng.uniform(0.6, 0.95)), half_angle=float(rng.uniform(0.15, 0.35)))
    if kind == "convex":
        cut, flat = float(rng.choice([1.0, rng.uniform(0.82, 0.97)])), bool(rng.random() < 0.2)
        return Probe(
            "convex",
            radius=float(rng.uniform(0.3, 0.8)),
            half_angle=float(rng.uniform(0.42, 0.62)),
            shown=cut,
            flat=flat,
        )
    if kind == "endocavity":
        return Probe("convex", radius=float(rng.uniform(0.12, 0.25)), half_angle=float(rng.uniform(0.95, 1.3)))
    return Probe("sector", radius=float(rng.uniform(0.0, 0.035)), half_angle=float(rng.uniform(0.55, 0.8)))


class PhantomScreen:
    """A phantom on a scanner's screen.

    Attributes:
        spec: what was asked for.
        layout: the name of the screen's layout.
        probe: the kind of probe.
    """

    def __init__(self, spec: PhantomSpec, drawn: _Draws) -> None:
        self.spec = spec
        self.layout = drawn.layout
        self.probe = drawn.probe.kind
        self._drawn = drawn
        x, y, columns, rows = drawn.rectangle
        height, width = drawn.canvas
        # From the screen's own pixels to those of the frames.
        view = (0, 0, width, height) if drawn.whole else (x, y, columns, rows)
        self._view = view
        self._zoom = (spec.size[0] / view[3], spec.size[1] / view[2])
        # The part of the frames that the picture's rectangle covers.
        self._top = max(0, int((y - view[1]) * self._zoom[0]))
        self._left = max(0, int((x - view[0]) * self._zoom[1]))
        self._bottom = min(spec.size[0], int(np.ceil((y + rows - view[1]) * self._zoom[0])))
        self._right = min(spec.size[1], int(np.ceil((x + columns - view[0]) * self._zoom[1])))

    @property
    def mm_per_pixel(self) -> tuple[float, float]:
        """Height and width of a frame's pixel in the tissue, millimetres."""
        a_unit = self._drawn.rectangle[3] / self._drawn.probe.extent[0]
        return tuple(self._drawn.depth_mm / (a_unit * zoom) for zoom in self._zoom)  # type: ignore[return-value]

    @cached_property
    def shown(self) -> Mask:
        """(H, W): the pixels that show tissue."""
        result = np.zeros(self.spec.size, bool)
        result[self._top : self._bottom, self._left : self._right] = self._drawn.probe.shows(*self._places(1))
        return result

    @cached_property
    def region(self) -> tuple[int, int, int, int]:
        """The smallest rectangle around what shows tissue: x, y, width and height in pixels of a frame."""
        x, y, width, height = cv2.boundingRect(self.shown.astype(np.uint8))
        return x, y, width, height

    def _places(self, fine: int) -> tuple[Field, Field]:
        """Where in the probe's picture its rectangle's pixels are, `fine` times as dense; (rows, columns) twice."""
        x, y, columns, _ = self._drawn.rectangle
        unit = columns / self._drawn.probe.extent[1]
        rows = (np.arange(self._top * fine, self._bottom * fine, dtype=np.float32) + np.float32(0.5)) / fine
        across = (np.arange(self._left * fine, self._right * fine, dtype=np.float32) + np.float32(0.5)) / fine
        down = ((rows / self._zoom[0] + self._view[1] - y) / unit).astype(np.float32)
        along = ((across / self._zoom[1] + self._view[0] - x) / unit).astype(np.float32)
        return np.broadcast_to(down[:, None], (len(rows), len(across))), np.broadcast_to(
            along, (len(rows), len(across))
        )

    def frames(self) -> Iterator[tuple[Image, Mask]]:
        """The frames (H, W, 3) and masks (H, W), one by one."""
        spec, drawn = self.spec, self._drawn
        part = (slice(self._top, self._bottom), slice(self._left, self._right))
        fine = 2 if self._bottom - self._top < _FINE_BELOW else 1
        finer = _FINER if fine > 1 else 1.0
        scale = int(np.clip((self._bottom - self._top) * finer / drawn.probe.extent[0], 64, _MOST_ROWS))
        beams = drawn.probe.beams(scale)
        scene = Scene(spec, spec.scene_rng(), beams)
        scene.gain_db += drawn.gain_db
        scene.depth_gain = scene.depth_gain - np.float32(drawn.fade_db) * beams.deep
        painter = Painter(
            spec.seed, LAYOUTS[drawn.layout], drawn.canvas, drawn.rectangle, drawn.depth_mm, scene.gain_db
        )
        fine_maps = self._maps(beams.y.shape, fine)
        maps = self._maps(beams.y.shape, 1) if fine > 1 else fine_maps
        ground = np.empty((*spec.size, 3), np.float32)
        ground[:] = LAYOUTS[drawn.layout].ground
        shown = drawn.probe.shows(*self._places(fine)).astype(np.float32)
        size = (self._right - self._left, self._bottom - self._top)
        share = cv2.resize(shown, size, interpolation=cv2.INTER_AREA) if fine > 1 else shown
        picture, mask = np.zeros(size[::-1], np.float32), np.zeros(spec.size, bool)
        for index in range(spec.frames):
            time = index / spec.fps
            rng = spec.frame_rng(index)
            if time < drawn.frozen_from or index == 0:
                gain = sum(step for start, step in drawn.gain_steps if start <= time)
                grey, depth = scene.echoes(time, rng, gain)
                picture = cv2.remap(
                    np.clip(grey, 0, 1) * 255, *fine_maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
                )
                picture *= shown
                if fine > 1:
                    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
                mask = np.zeros(spec.size, bool)
                if depth is not None:
                    inside = cv2.remap(depth, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                    mask[part] = (inside > 0) & self.shown[part]
            frame = ground.copy()
            frame[part] *= 1 - share[..., None]
            frame[part] += picture[..., None] * scene.tint.astype(np.float32)
            ink, cover = painter.at(time, gain, time >= drawn.frozen_from, self._view, spec.size)
            frame = frame * (1 - cover) + ink
            if drawn.grain:  # of a screen whose video output was digitised
                frame += np.float32(drawn.grain) * rng.standard_normal((*spec.size, 1), dtype=np.float32)
            yield np.clip(np.rint(frame), 0, 255).astype(np.uint8), mask.copy()

    def _maps(self, shape: tuple[int, ...], fine: int) -> tuple[Field, Field]:
        """Columns and rows of the beams' grid for the pixels of the rectangle, as cv2.remap takes them."""
        deep, lateral = self._drawn.probe.beam_of(*self._places(fine))
        columns = (lateral + 1) / 2 * shape[1] - 0.5
        rows = deep * shape[0] - 0.5
        return columns.astype(np.float32), rows.astype(np.float32)
