"""The grain of a picture: statistics by which ultrasound differs from other grey pictures, and who judges them.

Echoes are speckle: fluctuations that are there wherever there is tissue, about as strong everywhere (log compression
makes them so), finer along the beam than across it. Slices of CT and MR are smooth between sharp edges, or have noise
that is alike in all directions; photographs and pages are other still. So a picture less its local mean says much
about its kind, in whatever contrast it is shown: how unlike the fluctuations of different places are, how they are
distributed, and how far they reach across and down, in the picture and at half its size.

`Texture` judges them in two ways, both learnt by `vivim-train calibrate-confidence` (vivim/training/domain.py): the
odds that a picture is of another kind rather than of the training's, a quadratic discriminant, and how far it lies
from those of the training.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["TEXTURE_FEATURES", "TEXTURE_PRODUCTS", "Texture", "squared", "texture_features"]

Array = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

# Side of the squares, in pixels, whose mean is local. Longer than grain, shorter than organs.
_WINDOW = 15
# Of the mean of a square that has something to say: neither black nor white.
_DARK, _BRIGHT = 12.0, 243.0
# What lies around a picture has the most frequent of the levels below this, which need not be black.
_GROUND = 64
_FLAT = 1.5  # levels; compression leaves so much where all was alike
_LAGS = ((0, 1), (0, 2), (0, 4), (1, 0), (2, 0), (4, 0), (1, 1))  # down, across
_EACH = 15  # of one size of the picture
TEXTURE_FEATURES = 3 + 2 * _EACH
TEXTURE_PRODUCTS = 1 + TEXTURE_FEATURES + TEXTURE_FEATURES * (TEXTURE_FEATURES + 1) // 2  # of `squared`
# Features further out than this, in standard deviations of what was learnt from, say no more than these.
_FURTHEST = 4.0


@dataclass(frozen=True, eq=False)
class Texture:
    """Judges the kind of pictures by their grain.

    Attributes:
        centre, scale: (D,), of every feature.
        weights: (1 + D + D (D + 1) / 2), of `squared` features: log odds of another kind.
        odds: log odds beyond which a picture is of another kind.
        whitening: (D, D), to independent directions of variance 1 over the pictures of the training.
        middle: (D,), of these, standardised.
        far: root mean square over the directions beyond which a picture is of another kind.
    """

    centre: Array
    scale: Array
    weights: Array
    odds: float
    whitening: Array
    middle: Array
    far: float

    def standardised(self, features: Wide) -> Wide:
        """Features (N, D) less their centre, by their scale, and not beyond what was seen when they were learnt."""
        return np.clip((features - self.centre) / self.scale, -_FURTHEST, _FURTHEST)

    def judged(self, features: Wide) -> tuple[Wide, Wide]:
        """Of features (N, D): log odds of another kind (N,), and distances (N,)."""
        z = self.standardised(features)
        odds = squared(z) @ self.weights.astype(np.float64)
        apart = (z - self.middle) @ self.whitening.astype(np.float64).T
        return odds, np.sqrt(np.mean(apart * apart, axis=1))

    def knows(self, picture: Picture) -> bool:
        """Whether the picture (H, W, 3) is of the kind of the training."""
        odds, distance = self.judged(texture_features(picture)[None])
        return bool(odds[0] <= self.odds and distance[0] <= self.far)


def squared(z: Wide) -> Wide:
    """(N, D) -> (N, 1 + D + D (D + 1) / 2): one, the features, and all their products."""
    rows, columns = np.triu_indices(z.shape[1])
    return np.concatenate((np.ones((len(z), 1)), z, z[:, rows] * z[:, columns]), axis=1)


def texture_features(picture: Picture) -> Wide:
    """The statistics (TEXTURE_FEATURES,) of a picture uint8 (H, W, 3)."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    colour = cv2.absdiff(picture, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)).mean()
    height, width = grey.shape
    half = cv2.resize(grey, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    ground = int(np.bincount(grey.ravel(), minlength=256)[:_GROUND].argmax())
    shares = ((grey <= ground + 8).mean(), (grey >= 250).mean(), np.log1p(colour))
    return np.array((*shares, *_grain(grey, ground), *_grain(half, ground)), np.float64)


def _grain(grey: npt.NDArray[np.uint8], ground: int) -> tuple[float, ...]:
    """Statistics (_EACH) of what a picture (H, W) is less its local mean, where it is not the ground."""
    picture = grey.astype(np.float32)
    mean = cv2.blur(picture, (_WINDOW, _WINDOW))
    rest = picture - mean
    # A running sum of squares is below zero by its rounding where all are zero.
    strength = np.sqrt(np.maximum(cv2.blur(rest * rest, (_WINDOW, _WINDOW)), 0))
    seen = (mean > _DARK) & (mean < _BRIGHT) & ((strength > _FLAT) | (np.abs(mean - ground) > _FLAT))
    if np.count_nonzero(seen) < 64:
        seen = np.ones_like(seen)
    count = int(np.count_nonzero(seen))
    sparse = seen[::2, ::2]
    if not sparse.any():
        sparse = np.ones_like(sparse)
    strong, level = strength[::2, ::2][sparse], np.log1p(mean[::2, ::2][sparse])
    low, middle, high = np.log1p(np.percentile(strong, (10, 50, 90)))
    level -= level.mean()
    slope = float((level * np.log1p(strong)).mean() / ((level * level).mean() + 0.02))

    z = np.clip(rest / (strength + 2), -6, 6) * seen  # of variance 1 wherever it is not flat
    power = z * z
    spread = float(power.sum()) / count + 1e-6
    skewness = float((power * z).sum()) / count / spread**1.5
    kurtosis = np.log(float((power * power).sum()) / count / spread**2 + 1e-3)
    height, width = z.shape
    moved = [(z[y:, x:], z[: max(0, height - y), : max(0, width - x)]) for y, x in _LAGS]
    along = [float((one * other).sum()) / count / spread for one, other in moved]
    down, across = (
        float(np.square(np.diff(z, axis=axis)).mean()) + 1e-4 if z.shape[axis] > 1 else 1e-4 for axis in (0, 1)
    )
    brightness = float(np.log1p(mean[seen].mean()))
    flat = float((strong < _FLAT).mean())
    return (
        low - middle,
        high - middle,
        middle - brightness,
        kurtosis,
        skewness,
        slope,
        *along,
        np.log(down / across),
        flat,
    )
