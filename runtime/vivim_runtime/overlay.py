"""Masks drawn on frames: filled, outlined, or alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import UsageError
from vivim_runtime.session import ClassInfo, Logits
from vivim_runtime.sources.base import Image

__all__ = ["Layer", "drawn", "label_image", "parse_layers"]

Layer = Literal["overlay", "contour", "mask"]


def parse_layers(text: str) -> tuple[Layer, ...]:
    """`overlay,contour` -> its layers; UsageError for an unknown one."""
    layers = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [layer for layer in layers if layer not in get_args(Layer)]
    if unknown or not layers:
        raise UsageError(f"--visualize is {text!r}; expected some of {', '.join(get_args(Layer))}, joined by commas")
    return layers  # type: ignore[return-value]


def drawn(
    image: Image, masks: npt.NDArray[np.bool_], classes: Sequence[ClassInfo], layers: Sequence[Layer], alpha: float
) -> Image:
    """The frame (H, W, 3) with the masks (K, H, W) on it, in a new array.

    Layers: `mask` replaces the frame by the masks on black; `overlay` fills them with opacity `alpha`; `contour`
    outlines them in their colour between dark lines, so that the outline shows on white and on black.
    """
    canvas = np.zeros_like(image) if "mask" in layers else image.copy()
    for mask, info in zip(masks, classes, strict=True):
        if not mask.any():
            continue
        if "mask" in layers:
            canvas[mask] = info.color
        if "overlay" in layers:
            filled = canvas[mask] * (1.0 - alpha) + np.array(info.color) * alpha
            canvas[mask] = filled.astype(np.uint8)
        if "contour" in layers:
            _outline(canvas, mask, info.color)
    return canvas


def _outline(canvas: Image, mask: npt.NDArray[np.bool_], color: tuple[int, int, int]) -> None:
    """Draw the outline of a mask in place, about 1/256 of the frame's height wide, with dark borders."""
    width = max(1, round(canvas.shape[0] / 256))
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, (0, 0, 0), width + 2, cv2.LINE_AA)
    cv2.drawContours(canvas, contours, -1, color, width, cv2.LINE_AA)


def label_image(masks: npt.NDArray[np.bool_], logits: Logits) -> npt.NDArray[np.uint8]:
    """Masks (K, H, W) as one grey image (H, W): 0 and 255 for one class; else 0, or 1 + the most probable class.

    Args:
        logits: (K, H, W); they decide where masks of several classes overlap.
    """
    if len(masks) == 1:
        return masks[0].astype(np.uint8) * 255
    strength = np.where(masks, logits, -np.inf)
    return np.where(masks.any(axis=0), 1 + strength.argmax(axis=0), 0).astype(np.uint8)
