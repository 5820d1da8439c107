"""Which pictures a network knows, learnt from those of its training; the record goes with its weights.

Two judges (vivim_runtime/confidence.py, texture.py): how far the encoder's first features lie from those of the
training, and the grain of the picture, which is learnt against pictures of other kinds (vivim/training/strangers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vivim.training.strangers import stranger, varied
from vivim_runtime.confidence import Domain, first_features
from vivim_runtime.texture import TEXTURE_FEATURES, TEXTURE_PRODUCTS, Texture, squared, texture_features

__all__ = ["learn_domain", "learn_texture"]

Array = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

# A threshold is so much beyond the 99th percentile of what pictures of the validation have.
_MARGIN = 1.25
# Known pictures, in settings that vary, and pictures of other kinds that grain is learnt from.
_KNOWN, _STRANGERS = 500, 800
# Of the sum of squares of the weights, against a mean loss of each of the two kinds of pictures.
_DECAY = 3e-3
_STEPS = 25  # of Newton's method, which needs about ten
_SHRUNK = 0.1  # share of the covariance that is as if features were independent, since they are many


def learn_domain(
    learnt: Sequence[Picture],
    held_out: Sequence[Picture],
    kernel: Array,
    stride: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seen: Callable[[Picture], Picture] = lambda picture: picture,
    directions: int = 16,
) -> Domain:
    """Which pictures a network knows, from pictures (H, W, 3) of its training, and others that say how far they lie.

    Args:
        seen: what the input contract makes of a picture of that size: strangers go through it.
    """
    features = np.stack([first_features(p, kernel, stride, mean, std) for p in learnt]).astype(np.float64)
    centre = features.mean(axis=0)
    _, scale, axes = np.linalg.svd(features - centre, full_matrices=False)
    kept = min(directions, int((scale > 1e-6 * scale[0]).sum()))
    deviation = scale[:kept] / np.sqrt(len(features) - 1)
    whitening = axes[:kept] / deviation[:, None]

    found = Domain(
        kernel.astype(np.float32), stride, mean, std, centre.astype(np.float32), whitening.astype(np.float32), 1.0, 0.0
    )
    threshold = _MARGIN * float(np.percentile([found.distance(p) for p in held_out], 99))
    found = replace(found, threshold=threshold, texture=learn_texture(learnt, held_out, seen))
    return replace(found, false_alarms=float(np.mean([not found.knows(p) for p in held_out])))


def learn_texture(
    learnt: Sequence[Picture], held_out: Sequence[Picture], seen: Callable[[Picture], Picture] = lambda picture: picture
) -> Texture:
    """The judge of grain; arguments as of `learn_domain`.

    Known pictures are shown as they are, and in other settings of a scanner. The odds must be even at least, and pass
    97 % of the held-out pictures, in such settings too, which reach further than those of real ones; the distance is
    a margin beyond that of 99 %.
    """
    size = (learnt[0].shape[0], learnt[0].shape[1])
    known = _features(learnt, _KNOWN)
    others = np.stack([texture_features(seen(stranger(n, size))) for n in range(_STRANGERS)])
    both = np.concatenate((known, others))
    found = Texture(
        both.mean(axis=0).astype(np.float32),
        (both.std(axis=0) + 1e-3).astype(np.float32),
        np.zeros(TEXTURE_PRODUCTS, np.float32),
        0.0,
        np.eye(TEXTURE_FEATURES, dtype=np.float32),
        np.zeros(TEXTURE_FEATURES, np.float32),
        1.0,
    )
    z = found.standardised(known)
    weights = _discriminant(squared(z), squared(found.standardised(others)))
    covariance = np.cov(z.T)
    shrunk = (1 - _SHRUNK) * covariance + _SHRUNK * np.eye(TEXTURE_FEATURES) * np.trace(covariance) / TEXTURE_FEATURES
    found = replace(
        found,
        weights=weights.astype(np.float32),
        whitening=np.linalg.inv(np.linalg.cholesky(shrunk)).astype(np.float32),
        middle=z.mean(axis=0).astype(np.float32),
    )
    odds, distances = found.judged(_features(held_out, 3 * len(held_out)))
    return replace(
        found,
        odds=max(0.0, float(np.percentile(odds, 97))),
        far=_MARGIN * float(np.percentile(distances, 99)),
    )


def _features(pictures: Sequence[Picture], count: int) -> Wide:
    """Of all pictures (H, W, 3), and of so many more, in turn, in other settings: (N + count, D)."""
    shown = [texture_features(picture) for picture in pictures]
    for number in range(count):
        rng = np.random.default_rng([0x5641, number])
        shown.append(texture_features(varied(pictures[number % len(pictures)], rng)))
    return np.stack(shown)


def _discriminant(known: Wide, others: Wide) -> Wide:
    """Weights of the log odds, of rows (N, Q) of either kind: logistic regression, the kinds being as frequent.

    The first column is constant, and its weight free.
    """
    rows = np.concatenate((known, others))
    other = np.concatenate((np.zeros(len(known)), np.ones(len(others))))
    share = np.concatenate((np.full(len(known), 0.5 / len(known)), np.full(len(others), 0.5 / len(others))))
    decay = np.full(rows.shape[1], _DECAY)
    decay[0] = 1e-6
    weights = np.zeros(rows.shape[1])
    for _ in range(_STEPS):
        probability = 1 / (1 + np.exp(-np.clip(rows @ weights, -30, 30)))
        slope = rows.T @ (share * (probability - other)) + decay * weights
        bend = (rows * (share * probability * (1 - probability))[:, None]).T @ rows + np.diag(decay)
        weights -= np.linalg.solve(bend, slope)
    return weights
