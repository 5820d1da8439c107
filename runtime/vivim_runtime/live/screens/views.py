"""What a screen shows of a picture: the masks on it, both beside each other, or how probable each pixel is."""

from __future__ import annotations

import cv2
import numpy as np

from vivim_runtime.live.screens.hud import Hud, legible
from vivim_runtime.live.status import Controls, Shown, View
from vivim_runtime.sources.base import Image

__all__ = ["legibly_drawn", "viewed"]

# Of the colours: a probability of 0 leaves the frame as it is, so that what is unlikely does not hide it.
_STRENGTH = 0.6


def viewed(shown: Shown, view: View) -> Image:
    """The picture (H, W, 3) of a view, or (H, 2W, 3) beside its frame; the plain one where a view needs a frame."""
    frame = shown.frame
    if view is View.masks or frame is None or frame.image.shape != shown.picture.shape:
        return shown.picture
    if view is View.side:
        return cv2.hconcat([frame.image, shown.picture])
    if shown.logits is None:  # nothing is known: a map of zeros would say "no lesion"
        return shown.picture
    return _probability_map(frame.image, shown)


def legibly_drawn(hud: Hud, shown: Shown, controls: Controls) -> Image:
    """What people see of a picture as they have asked for it, with its status, large enough to be read."""
    return hud.draw(
        legible(viewed(shown, controls.view)),
        shown.status,
        threshold=controls.threshold,
        level=controls.hud,
        corner=controls.hud_corner,
    )


def _probability_map(image: Image, shown: Shown) -> Image:
    """The frame, and over it from blue (unlikely) to red (certain) the probability of the most probable class."""
    assert shown.logits is not None
    strongest = shown.logits.max(axis=0)
    # Beyond +-20 the probability is 0 or 1 in float32, and exp() of more would overflow.
    probability = 1.0 / (1.0 + np.exp(-np.clip(strongest, -20.0, 20.0)))
    levels = np.rint(probability * 255.0).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    weight = (_STRENGTH * probability)[..., None].astype(np.float32)
    return (image + (colors.astype(np.float32) - image) * weight).astype(np.uint8)
