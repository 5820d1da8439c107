"""Tissue, and the echoes that come back from it: what a probe shows before a scanner puts its screen around it.

A frame is made as a scanner makes it. Tissue is a field of random scatterers whose strength follows an echogenicity map
in decibels (skin, wavy layers, fascia, vessels, and mostly one hypoechoic lesion). Probe and breathing move the tissue:
scatterers and map are sampled where each pixel's tissue was at rest, so speckle moves with the tissue and the mask is
exact. A point-spread function, wider across the beam than along it, blurs the complex signal; its envelope has Rayleigh
statistics (fully developed speckle). Attenuation, time-gain bands, shadows and enhancement act along depth; then comes
log compression.

The echoes are computed on a grid of beams (`Beams`): of a plain phantom the picture's own pixels, of a probe the depths
and directions that it really listens to, so that speckle widens with depth in a fan and shadows follow its beams.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.phantom.probe import Beams, Probe
from vivim_runtime.phantom.spec import PhantomSpec

__all__ = ["Lesion", "Scene"]

Field = npt.NDArray[np.float32]

# Lengths below are in the unit of a frame's height, decibels are of amplitude.
_DECORRELATION = 0.06  # share of the speckle's power that is new in every frame (out-of-plane motion, noise)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Field:
    """A smooth random field of about unit variance with `cells` independent values down and across."""
    coarse = rng.standard_normal((cells[0] + 3, cells[1] + 3)).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def _blurred(x: Field, vertical: float, horizontal: float) -> Field:
    """Gaussian blur with standard deviations in pixels."""
    return cv2.GaussianBlur(x, (0, 0), sigmaX=max(horizontal, 0.3), sigmaY=max(vertical, 0.3))


@dataclass(frozen=True)
class Lesion:
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
    def draw(cls, rng: np.random.Generator, aspect: float) -> Lesion:
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

    def below(self, probe: Probe, aspect: float) -> Lesion:
        """The same where depth and beam are what this one has for its centre; where a fan is narrow, deeper."""
        deep = self.centre[0] + (0.14 if probe.kind == "sector" else 0.0)
        lateral = 2 * self.centre[1] / aspect - 1
        y, x = probe.place(np.array([[deep]], np.float32), np.array([[lateral]], np.float32))
        return replace(self, centre=(float(y.item()), float(x.item())))

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


class Scene:
    """One patient and one scanner setting: everything that does not change during the video."""

    def __init__(self, spec: PhantomSpec, rng: np.random.Generator, beams: Beams) -> None:
        self.beams = beams
        self.scale = beams.scale
        height, width = beams.y.shape
        aspect = width / height
        # Tissue reaches beyond the picture, so that motion never brings in an edge.
        self.margin = int(0.16 * self.scale) + 2
        rows, columns = (round(side * self.scale) for side in beams.extent)
        shape = (rows + 2 * self.margin, columns + 2 * self.margin)
        tissue = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
        tissue_y, tissue_x = (tissue - self.margin) / self.scale

        share = 0.9 if spec.lesion is None else spec.lesion
        present = share if isinstance(share, bool) else rng.random() < share
        self.lesion = Lesion.draw(rng, aspect) if present else None
        self.scatterers = rng.standard_normal((*shape, 2)).astype(np.float32)
        if beams.probe is not None:
            self.lesion = self.lesion and self.lesion.below(beams.probe, aspect)
            tissue_y = beams.probe.layered(tissue_y, tissue_x)
        self.echo = self._echogenicity(rng, tissue_y, tissue_x, beams.extent[1])
        self.texture = _smooth_noise(rng, shape, (14, 14)) * rng.uniform(0.3, 2.2)
        self.psf = (rng.uniform(0.0024, 0.0045) * self.scale, rng.uniform(0.0045, 0.0105) * self.scale)

        # Motion: probe drift and sway, breathing, and a smooth deformation.
        self.sway = rng.normal(0.0, 0.018, (3, 2))
        self.rates = rng.uniform(0.15, 1.6, 3)
        self.offsets = rng.uniform(0, 2 * np.pi, 3)
        self.drift = rng.normal(0.0, 0.012, 2)
        self.bulge = [_smooth_noise(rng, (height, width), (2, 2)) * rng.uniform(0.002, 0.012) for _ in range(2)]
        self.pulse = (rng.uniform(0.6, 1.6), rng.uniform(0, 2 * np.pi))

        # The scanner.
        bands = _smooth_noise(rng, (height, 1), (6, 1)) * rng.uniform(0.5, 2.5)
        self.depth_gain = bands - beams.deep * rng.uniform(2.0, 14.0)
        self.shadows = self._shadows(rng, aspect)
        self.range_db = rng.uniform(44.0, 62.0)
        self.gain_db = rng.uniform(-11.0, 4.0)
        # Compounding and speckle reduction of the scanner, in pixels.
        self.smoothing = max(0.0, rng.uniform(-0.5, 1.3)) * self.scale / 256
        self.gamma = rng.uniform(0.85, 1.3)
        self.flicker = rng.uniform(0.0, 0.5)
        self.tint = 1.0 + np.array([0.0, 0.0, rng.uniform(-0.06, 0.06)]) * (rng.random() < 0.3)

        if not spec.contact:
            self.lose_contact()

    def lose_contact(self) -> None:
        """Lift the probe: sound goes to and fro between its face and the air, and nothing comes from below."""
        self.lesion, self.echo[:], self.texture[:], self.shadows[:] = None, 0, 0, 0
        rings = 8 * np.cos(2 * np.pi * self.beams.deep / 0.045)
        self.depth_gain = (2 + rings - 150 * self.beams.deep).astype(np.float32)

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
        total = np.zeros(self.beams.y.shape, np.float32)
        for _ in range(int(rng.integers(0, 2))):
            column, half = rng.uniform(0, aspect), rng.uniform(0.02, 0.07)
            top = rng.choice([0.0, rng.uniform(0.1, 0.6)])
            beyond = np.minimum(
                (np.abs(self.beams.across - column) - half) / 0.012, 80.0
            )  # e^80: zero, and no overflow
            across = 1 / (1 + np.exp(beyond))
            total -= (across * rng.uniform(3, 8) / (1 + np.exp(-(self.beams.deep - top) / 0.02))).astype(np.float32)
        return total

    def tissue_at(self, time: float) -> tuple[Field, Field]:
        """Where the tissue of each cell was at rest, at a time in seconds: y and x (rows, columns), in units."""
        swing = np.sin(2 * np.pi * self.rates * time + self.offsets) @ self.sway + self.drift * time
        swing = 0.13 * np.tanh(swing / 0.13)  # stay within the margin
        beat = np.float32(np.sin(2 * np.pi * self.pulse[0] * time + self.pulse[1]))
        y = self.beams.y + np.float32(swing[0]) + self.bulge[0] * beat
        return y, self.beams.x + np.float32(swing[1]) + self.bulge[1] * beat

    def echogenicity(
        self, time: float, y: Field, x: Field, lesion: Lesion | None, visibility: float = 1.0
    ) -> tuple[Field, Field | None]:
        """How strongly tissue scatters in each cell at a time in seconds, with a lesion in it.

        Args:
            y, x: of `tissue_at`.
            visibility: of the lesion, 1 as drawn and 0 like the tissue around it.

        Returns:
            decibels (rows, columns); depth below the lesion's outline, in units, positive inside, None without one.
        """
        echo, texture = self._moved(self.echo, y, x), self._moved(self.texture, y, x)
        echo += texture
        if lesion is None:
            return echo, None
        depth = lesion.inside(y, x, time)
        body = 0.5 + 0.5 * np.tanh(depth / (2 * lesion.edge))  # the logistic function, without overflow
        if visibility < 1.0:
            body = body * np.float32(visibility)
        inner = np.float32(-11.0 + lesion.contrast) + 1.3 * texture
        echo += body * (np.minimum(echo + lesion.contrast * 0.8, inner) - echo)
        # Sound that crossed the lesion was weakened less (enhancement) or more (shadow) than its surroundings.
        crossed = np.minimum(np.cumsum(body, axis=0) / self.scale / lesion.radius, 1.5) * (1 - body)
        echo += _blurred(crossed.astype(np.float32), 1, 0.006 * self.scale) * lesion.behind
        return echo, depth

    def _moved(self, field: Field, y: Field, x: Field) -> Field:
        """A field of the tissue at rest, where the tissue of each cell was."""
        columns, rows = x * self.scale + self.margin, y * self.scale + self.margin
        return cv2.remap(field, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)

    def backscatter(self, time: float, rng: np.random.Generator, visibility: float = 1.0) -> tuple[Field, Field | None]:
        """The envelope (rows, columns) of what comes back, before attenuation and the scanner; and depth, as above.

        Args:
            rng: the frame's own noise.
            visibility: of the lesion.
        """
        y, x = self.tissue_at(time)
        echo, depth = self.echogenicity(time, y, x, self.lesion, visibility)
        signal = self._moved(self.scatterers, y, x)
        fresh = rng.standard_normal(signal.shape, dtype=np.float32)
        signal = np.float32(np.sqrt(1 - _DECORRELATION)) * signal + np.float32(np.sqrt(_DECORRELATION)) * fresh
        signal *= np.exp(echo * np.float32(np.log(10) / 20))[..., None]
        signal = _blurred(signal, *self.psf)
        # The blur averages 4 pi s_y s_x independent scatterers; undo what that takes from the power.
        envelope = cv2.magnitude(signal[..., 0], signal[..., 1]) * np.float32(
            np.sqrt(4 * np.pi * self.psf[0] * self.psf[1])
        )
        return envelope, depth

    def echoes(
        self, time: float, rng: np.random.Generator, gain_db: float = 0.0, visibility: float = 1.0
    ) -> tuple[Field, Field | None]:
        """What the beams bring back at a time in seconds.

        Args:
            rng: the frame's own noise.
            gain_db: what the user has turned the gain up by.
            visibility: of the lesion, 1 as drawn and 0 like the tissue around it.

        Returns:
            grey: (rows, columns), of 0..1 but not clipped; depth below the lesion's outline, in units, positive inside,
            None where there is no lesion.
        """
        envelope, depth = self.backscatter(time, rng, visibility)
        level = 20 * np.log10(envelope + 1e-4) + self.depth_gain + self.shadows + (self.gain_db + gain_db)
        if self.smoothing > 0.3:
            level = _blurred(level, self.smoothing, self.smoothing)
        level += self.flicker * rng.standard_normal()
        grey = np.clip(1 + (level - 4.0) / self.range_db, 0, 1) ** self.gamma
        grey += rng.normal(0, 0.004)
        return grey, depth
