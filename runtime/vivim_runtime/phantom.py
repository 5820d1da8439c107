"""Synthetic B-mode ultrasound video with exact ground truth: data that ships, and a source that is always there.

A frame is made as a scanner makes it. Tissue is a field of random scatterers whose strength follows an echogenicity map
in decibels (skin, wavy layers, fascia, vessels, and mostly one hypoechoic lesion). Probe and breathing move the tissue:
scatterers and map are sampled where each pixel's tissue was at rest, so speckle moves with the tissue and the mask is
exact. A point-spread function, wider across the beam than along it, blurs the complex signal; its envelope has Rayleigh
statistics (fully developed speckle). Attenuation, time-gain bands, shadows and enhancement act along depth; then come
log compression, the sector of a curved probe, and the furniture of a screen.

Everything is a function of `PhantomSpec`; the draws of different seeds are independent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import UsageError
from vivim_runtime.sizes import parse_size

__all__ = ["TROUBLES", "PhantomName", "PhantomSpec", "phantom_frames"]

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float32]

# Lengths below are in the unit of a frame's height, decibels are of amplitude.
_DECORRELATION = 0.06  # share of the speckle's power that is new in every frame (out-of-plane motion, noise)


# What hides a lesion for a while (PhantomSpec.trouble); `any` is one of the others, stretch by stretch.
TROUBLES = ("shadow", "lift", "contrast", "any")


@dataclass(frozen=True)
class PhantomSpec:
    """What to synthesise.

    Attributes:
        seed: everything else about the video follows from it.
        frames: how many frames.
        size: (H, W) in pixels, each at least 32.
        fps: frames per second; motion is per second.
        lesion: whether there is one; None lets the seed decide (nine in ten have one).
        trouble: what hides the lesion for 5 to 30 frames at a time, one of TROUBLES; "" for nothing. Through a shadow
            and where contrast goes, the truth stays where the lesion is; while the probe is lifted there is none.
    """

    seed: int = 0
    frames: int = 5
    size: tuple[int, int] = (256, 256)
    fps: float = 25.0
    lesion: bool | None = None
    trouble: str = ""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.seed < 0 or not 0.0 < self.fps < float("inf"):  # which also refuses NaN
            raise UsageError(
                f"phantom with seed {self.seed}, {self.frames} frames, {self.fps} fps: expected a seed of at least 0, "
                "at least 1 frame and a positive, finite rate"
            )
        if self.trouble not in ("", *TROUBLES):
            raise UsageError(f"phantom with trouble={self.trouble}: expected {', '.join(TROUBLES)}")
        if min(self.size) < 32 or max(self.size) > 4096:
            raise UsageError(f"phantom of {self.size[0]}x{self.size[1]}: expected height and width of 32 to 4096")


@dataclass(frozen=True)
class PhantomName:
    """What a name of phantoms asks for: `phantom`, or `phantom:seed=1,frames=90,size=480x640,fps=25`.

    One grammar for sources and data sets: keys and values, commas between them, each key at most once, sizes as height
    x width. The form of a web address, `phantom:?seed=1&frames=90`, says the same.

    Attributes:
        text: the name.
        values: what it says, key by key.
        example: what to expect, for messages.
    """

    text: str
    values: Mapping[str, str]
    example: str

    @classmethod
    def parse(cls, text: str, keys: Iterable[str], example: str) -> PhantomName:
        """UsageError where a key is not one of `keys`, comes twice, or has no value."""
        values: dict[str, str] = {}
        asked = text.partition(":")[2].removeprefix("?")
        for part in filter(None, re.split("[,&]", asked)):
            key, equals, value = part.partition("=")
            if key not in set(keys) or not equals:
                raise UsageError(f"{text}: unknown {key or part}; expected something like {example}")
            if key in values:
                raise UsageError(f"{text}: {key} is there twice; expected something like {example}")
            values[key] = value
        return cls(text, values, example)

    def number(self, key: str, default: float) -> float:
        """A value as a number; UsageError where it is none."""
        try:
            return float(self.values.get(key, default))
        except ValueError:
            raise self._no_number(key) from None

    def whole(self, key: str, default: int) -> int:
        """A value as a whole number; UsageError where it is none."""
        try:
            return int(self.values.get(key, default))
        except ValueError:
            raise self._no_number(key) from None

    def size(self, default: str) -> tuple[int, int]:
        """The value of `size` as (H, W); UsageError where it is none."""
        return parse_size(self.values.get("size", default), f"size of {self.text}")

    def _no_number(self, key: str) -> UsageError:
        return UsageError(
            f"{self.text} has a value that is no number ({key}={self.values[key]}); "
            f"expected something like {self.example}"
        )


def phantom_frames(spec: PhantomSpec) -> Iterator[tuple[Image, Mask]]:
    """The frames (H, W, 3) and masks (H, W) of `spec`, one by one."""
    rng = np.random.default_rng([spec.seed, 0x5641])
    scene = _Scene(spec, rng)
    trouble = _Trouble(spec) if spec.trouble else None
    for index in range(spec.frames):
        noise = np.random.default_rng([spec.seed, 0x4652, index])
        if trouble is None:
            yield scene.frame(index / spec.fps, noise)
        else:
            yield trouble.upon(index, *scene.frame(index / spec.fps, noise, trouble.visibility(index)))


class _Trouble:
    """What hides the lesion of a film, and when: stretches of 5 to 30 frames, with as many between them.

    shadow     a dark column over the lesion, as of gas or a rib that the probe crosses
    lift       the probe leaves the skin: reverberation of the gel, and nothing below
    contrast   the lesion becomes like the tissue around it, and comes back
    """

    def __init__(self, spec: PhantomSpec) -> None:
        self._rng = np.random.default_rng([spec.seed, 0x5452])
        kinds = TROUBLES[:-1] if spec.trouble == "any" else (spec.trouble,)
        self._stretches: list[tuple[int, int, str]] = []
        begin = int(self._rng.integers(3, 16))
        while begin < spec.frames:
            end = begin + int(self._rng.integers(5, 31))
            self._stretches.append((begin, end, str(self._rng.choice(kinds))))
            begin = end + int(self._rng.integers(5, 31))
        self._half, self._depth = self._rng.uniform(0.08, 0.18), self._rng.uniform(0.04, 0.2)
        self._bands = np.sort(self._rng.uniform(0.0, 0.12, 4))
        self._column = 0.5  # share of the width; follows the lesion

    def _at(self, index: int, kind: str) -> float:
        """How much of a kind there is, 0 to 1: it comes and goes within two frames, contrast within five."""
        ramp = 5.0 if kind == "contrast" else 2.0
        strengths = [
            min(1.0, (index - begin + 1) / ramp, (end - index) / ramp)
            for begin, end, what in self._stretches
            if what == kind and begin <= index < end
        ]
        return max(strengths, default=0.0)

    def visibility(self, index: int) -> float:
        """Of the lesion itself."""
        return 1.0 - self._at(index, "contrast")

    def upon(self, index: int, image: Image, mask: Mask) -> tuple[Image, Mask]:
        """A frame and its mask, with what hides them."""
        height, width = mask.shape
        shadow, lift = self._at(index, "shadow"), self._at(index, "lift")
        if mask.any():
            self._column = float(np.flatnonzero(mask.any(axis=0)).mean()) / width
        if shadow > 0.0:
            beyond = np.abs(np.arange(width) / width - self._column) - self._half
            across = 1.0 / (1.0 + np.exp(np.clip(beyond / 0.02, -60.0, 60.0)))
            factor = 1.0 - shadow * (1.0 - self._depth) * across
            image = np.clip(image * factor[None, :, None], 0, 255).astype(np.uint8)
        if lift > 0.0:
            depth = np.arange(height)[:, None] / height
            bands = sum(np.exp(-(((depth - at) / 0.012) ** 2)) for at in self._bands) * 140.0 * np.exp(-depth / 0.2)
            noise = self._rng.normal(0.0, 3.0, (height, width))
            air = np.clip(bands + noise + 4.0, 0, 255)[..., None]
            image = np.clip((1.0 - lift) * image + lift * air, 0, 255).astype(np.uint8)
            mask = mask & (lift <= 0.5)
        return image, mask


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Field:
    """A smooth random field of about unit variance with `cells` independent values down and across."""
    coarse = rng.standard_normal((cells[0] + 3, cells[1] + 3)).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def _blurred(x: Field, vertical: float, horizontal: float) -> Field:
    """Gaussian blur with standard deviations in pixels."""
    return cv2.GaussianBlur(x, (0, 0), sigmaX=max(horizontal, 0.3), sigmaY=max(vertical, 0.3))


@dataclass(frozen=True)
class _Lesion:
    """A star-shaped outline r(angle) = radius (1 + sum of harmonics), stretched and tilted, that pulses in time."""

    centre: tuple[float, float]
    radius: float
    stretch: float
    tilt: float
    amplitudes: npt.NDArray[np.float64]
    phases: npt.NDArray[np.float64]
    speeds: npt.NDArray[np.float64]
    contrast: float
    edge: float
    behind: float

    @classmethod
    def draw(cls, rng: np.random.Generator, aspect: float) -> _Lesion:
        harmonics = np.arange(2, 7)
        radius = rng.uniform(0.07, 0.21)
        return cls(
            centre=(rng.uniform(0.28, 0.66), aspect * rng.uniform(0.27, 0.73)),
            radius=radius,
            stretch=rng.uniform(1.0, 1.6),
            tilt=rng.uniform(-0.5, 0.5),
            amplitudes=rng.normal(0.0, rng.uniform(0.03, 0.2), 5) / (harmonics - 1.0),
            phases=rng.uniform(0, 2 * np.pi, 5),
            speeds=rng.normal(0.0, 0.6, 5),
            contrast=-rng.uniform(8.0, 18.0),
            edge=rng.uniform(0.003, 0.012),
            behind=rng.uniform(-7.0, 5.0),
        )

    def inside(self, y: Field, x: Field, time: float) -> Field:
        """Signed depth below the outline (positive inside), in units of height, at tissue positions."""
        dy, dx = y - self.centre[0], x - self.centre[1]
        along = (dx * np.cos(self.tilt) + dy * np.sin(self.tilt)) / self.stretch
        across = dy * np.cos(self.tilt) - dx * np.sin(self.tilt)
        angle = np.arctan2(across, along)
        outline = np.ones_like(angle)
        for k in range(5):
            outline += self.amplitudes[k] * np.cos((k + 2) * angle + self.phases[k] + self.speeds[k] * time)
        return (self.radius * outline - np.hypot(along, across)).astype(np.float32)


class _Scene:
    """One patient and one scanner setting: everything that does not change during the video."""

    def __init__(self, spec: PhantomSpec, rng: np.random.Generator) -> None:
        self.height, self.width = spec.size
        self.scale = self.height  # pixels per unit
        aspect = self.width / self.height
        # Tissue reaches beyond the frame, so that motion never brings in an edge.
        self.margin = int(0.16 * self.scale) + 2
        shape = (self.height + 2 * self.margin, self.width + 2 * self.margin)
        grid = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32) / self.scale
        self.y, self.x = grid[0], grid[1]
        tissue = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
        tissue_y, tissue_x = (tissue - self.margin) / self.scale

        present = rng.random() < 0.9 if spec.lesion is None else spec.lesion
        self.lesion = _Lesion.draw(rng, aspect) if present else None
        self.scatterers = rng.standard_normal((*shape, 2)).astype(np.float32)
        self.echo = self._echogenicity(rng, tissue_y, tissue_x, aspect)
        self.texture = _smooth_noise(rng, shape, (14, 14)) * rng.uniform(0.3, 2.2)
        self.psf = (rng.uniform(0.0024, 0.0045) * self.scale, rng.uniform(0.0045, 0.0105) * self.scale)

        # Motion: probe drift and sway, breathing, and a smooth deformation.
        self.sway = rng.normal(0.0, 0.018, (3, 2))
        self.rates = rng.uniform(0.15, 1.6, 3)
        self.offsets = rng.uniform(0, 2 * np.pi, 3)
        self.drift = rng.normal(0.0, 0.012, 2)
        self.bulge = [_smooth_noise(rng, spec.size, (2, 2)) * rng.uniform(0.002, 0.012) for _ in range(2)]
        self.pulse = (rng.uniform(0.6, 1.6), rng.uniform(0, 2 * np.pi))

        # The scanner.
        bands = _smooth_noise(rng, (self.height, 1), (6, 1)) * rng.uniform(0.5, 2.5)
        self.depth_gain = bands - self.y[:, :1] * rng.uniform(2.0, 14.0)
        self.shadows = self._shadows(rng, aspect)
        self.range_db = rng.uniform(44.0, 62.0)
        self.gain_db = rng.uniform(-11.0, 4.0)
        # Compounding and speckle reduction of the scanner, in pixels.
        self.smoothing = max(0.0, rng.uniform(-0.5, 1.3)) * self.scale / 256
        self.gamma = rng.uniform(0.85, 1.3)
        self.flicker = rng.uniform(0.0, 0.5)
        self.tint = 1.0 + np.array([0.0, 0.0, rng.uniform(-0.06, 0.06)]) * (rng.random() < 0.3)
        self.sector = self._sector(rng, aspect)
        self.furniture = self._furniture(rng)

    def _echogenicity(self, rng: np.random.Generator, y: Field, x: Field, aspect: float) -> Field:
        """Decibels over the tissue: skin, layers with wavy borders, fascia, and vessels with bright walls."""
        echo = np.full(y.shape, rng.uniform(-16, -8), np.float32)
        border = np.full(y.shape[1], rng.uniform(0.02, 0.06), np.float32)
        line = rng.uniform(0.003, 0.007)
        echo[y < border] = rng.uniform(-6, 0)
        for _ in range(int(rng.integers(2, 6))):
            wave = _smooth_noise(rng, (1, y.shape[1]), (1, int(rng.integers(2, 6))))[0]
            border = border + rng.uniform(0.05, 0.3) + wave * rng.uniform(0.004, 0.03)
            below = y > border
            echo[below] = rng.uniform(-17, -4)
            fascia = np.exp(-(((y - border) / line) ** 2)) * rng.uniform(0, 11)
            echo += fascia * (1 + 0.4 * _smooth_noise(rng, y.shape, (2, 12)))
        streaks = _smooth_noise(rng, y.shape, (int(rng.integers(20, 60)), 5)) * rng.uniform(0, 2.5)
        echo += streaks * (_smooth_noise(rng, y.shape, (3, 2)) > 0)
        for _ in range(int(rng.integers(0, 4))):
            cy, cx = rng.uniform(0.1, 0.95), rng.uniform(0.02, 0.98) * aspect
            ry = rng.uniform(0.012, 0.045)
            rx = ry * rng.choice([rng.uniform(0.8, 1.3), rng.uniform(3.0, 9.0)])
            tilt = rng.uniform(-0.5, 0.5)
            along = (x - cx) * np.cos(tilt) + (y - cy) * np.sin(tilt)
            across = (y - cy) * np.cos(tilt) - (x - cx) * np.sin(tilt)
            distance = (np.hypot(along / rx, across / ry) - 1.0) * ry
            echo += np.exp(-((distance / 0.006) ** 2)) * rng.uniform(2, 9)
            echo = np.where(distance < 0, rng.uniform(-45, -30), echo)
        return echo.astype(np.float32)

    def _shadows(self, rng: np.random.Generator, aspect: float) -> Field:
        """Decibels (H, W) of the shadows behind bone or bad contact: dark columns from some depth on."""
        total = np.zeros((self.height, self.width), np.float32)
        for _ in range(int(rng.integers(0, 2))):
            column, half = rng.uniform(0, aspect), rng.uniform(0.02, 0.07)
            top = rng.choice([0.0, rng.uniform(0.1, 0.6)])
            beyond = np.minimum((np.abs(self.x - column) - half) / 0.012, 80.0)  # e^80: zero, and no overflow
            across = 1 / (1 + np.exp(beyond))
            total -= (across * rng.uniform(3, 8) / (1 + np.exp(-(self.y - top) / 0.02))).astype(np.float32)
        return total

    def _sector(self, rng: np.random.Generator, aspect: float) -> Mask:
        """The visible area: the whole frame, a rectangle with margins, or the sector of a curved probe."""
        kind = rng.choice(["full", "margins", "sector"], p=[0.45, 0.3, 0.25])
        if kind == "full":
            return np.ones(self.y.shape, bool)
        if kind == "margins":
            top, bottom = rng.uniform(0, 0.08), 1 - rng.uniform(0, 0.1)
            left, right = rng.uniform(0, 0.14) * aspect, (1 - rng.uniform(0, 0.14)) * aspect
            return (self.y >= top) & (self.y < bottom) & (self.x >= left) & (self.x < right)
        apex, inner = -rng.uniform(0.15, 0.6), rng.uniform(0.02, 0.08)
        radius = np.hypot(self.y - apex, self.x - aspect / 2)
        angle = np.abs(np.arctan2(self.x - aspect / 2, self.y - apex))
        return (radius > inner - apex) & (radius < 1.0 - apex - 0.02) & (angle < rng.uniform(0.5, 0.8))

    def _furniture(self, rng: np.random.Generator) -> Image:
        """What a screen shows over the image: depth ticks, a grey bar, letters. Grey levels; 0 is see-through."""
        canvas = np.zeros((self.height, self.width), np.uint8)
        if rng.random() < 0.5:
            return canvas
        unit = self.scale / 256
        grey = int(rng.integers(120, 240))
        if rng.random() < 0.6:
            side = int(rng.choice([1, self.width - 2 - int(5 * unit)]))
            for tick in np.arange(rng.uniform(0.02, 0.08), 1.0, rng.uniform(0.05, 0.12)):
                y = int(tick * self.height)
                cv2.line(canvas, (side, y), (side + int(4 * unit), y), grey, max(1, int(unit)))
        if rng.random() < 0.35:
            x, y0, y1 = int(self.width * 0.96), int(self.height * 0.15), int(self.height * 0.5)
            bar = np.linspace(255, 20, y1 - y0).astype(np.uint8)
            canvas[y0:y1, x : x + max(2, int(5 * unit))] = bar[:, None]
        for _ in range(int(rng.integers(0, 4))):
            text = "".join(rng.choice(list("ABDEFGHMRT0123456789.:"), int(rng.integers(2, 9))))
            at = (int(rng.uniform(0.01, 0.7) * self.width), int(rng.choice([0.05, 0.1, 0.94, 0.98]) * self.height))
            size = rng.uniform(0.25, 0.42) * unit
            cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, grey, max(1, round(unit)), cv2.LINE_AA)
        return canvas

    def _tissue_at(self, time: float) -> tuple[Field, Field]:
        """Where the tissue of each pixel was at rest: (H, W) twice, in units of height."""
        swing = np.sin(2 * np.pi * self.rates * time + self.offsets) @ self.sway + self.drift * time
        swing = 0.13 * np.tanh(swing / 0.13)  # stay within the margin
        beat = np.float32(np.sin(2 * np.pi * self.pulse[0] * time + self.pulse[1]))
        return self.y + np.float32(swing[0]) + self.bulge[0] * beat, self.x + np.float32(swing[1]) + self.bulge[
            1
        ] * beat

    def frame(self, time: float, rng: np.random.Generator, visibility: float = 1.0) -> tuple[Image, Mask]:
        """The frame uint8 (H, W, 3) and the mask bool (H, W) at a time in seconds; `rng` is the frame's own noise.

        `visibility`: of the lesion, 1 as drawn and 0 like the tissue around it; the mask is the same.
        """
        y, x = self._tissue_at(time)
        map_x, map_y = x * self.scale + self.margin, y * self.scale + self.margin
        echo = cv2.remap(self.echo, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        texture = cv2.remap(self.texture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        echo += texture
        mask = np.zeros(echo.shape, bool)
        if self.lesion is not None:
            depth = self.lesion.inside(y, x, time)
            mask = depth > 0
            body = 0.5 + 0.5 * np.tanh(depth / (2 * self.lesion.edge))  # the logistic function, without overflow
            if visibility < 1.0:
                body = body * np.float32(visibility)
            inner = np.float32(-11.0 + self.lesion.contrast) + 1.3 * texture
            echo += body * (np.minimum(echo + self.lesion.contrast * 0.8, inner) - echo)
            # Sound that crossed the lesion was weakened less (enhancement) or more (shadow) than its surroundings.
            crossed = np.minimum(np.cumsum(body, axis=0) / self.scale / self.lesion.radius, 1.5) * (1 - body)
            echo += _blurred(crossed.astype(np.float32), 1, 0.006 * self.scale) * self.lesion.behind
        signal = cv2.remap(self.scatterers, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        fresh = rng.standard_normal(signal.shape, dtype=np.float32)
        signal = np.float32(np.sqrt(1 - _DECORRELATION)) * signal + np.float32(np.sqrt(_DECORRELATION)) * fresh
        signal *= np.exp(echo * np.float32(np.log(10) / 20))[..., None]
        signal = _blurred(signal, *self.psf)
        # The blur averages 4 pi s_y s_x independent scatterers; undo what that takes from the power.
        envelope = cv2.magnitude(signal[..., 0], signal[..., 1]) * np.float32(
            np.sqrt(4 * np.pi * self.psf[0] * self.psf[1])
        )
        level = 20 * np.log10(envelope + 1e-4) + self.depth_gain + self.shadows + self.gain_db
        if self.smoothing > 0.3:
            level = _blurred(level, self.smoothing, self.smoothing)
        level += self.flicker * rng.standard_normal()
        grey = np.clip(1 + (level - 4.0) / self.range_db, 0, 1) ** self.gamma
        grey += rng.normal(0, 0.004)
        image = np.where(self.sector, np.clip(grey, 0, 1) * 255, 0)
        image = np.where(self.furniture > 0, np.maximum(image, self.furniture), image)
        rgb = np.clip(image[..., None] * self.tint, 0, 255).astype(np.uint8)
        return rgb, mask & self.sector
