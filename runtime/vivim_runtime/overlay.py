"""Masks drawn on frames: filled, outlined, or alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import UsageError
from vivim_runtime.sessions.base import ClassInfo, Logits
from vivim_runtime.sources.base import Image

__all__ = ["Layer", "Marks", "drawn", "label_image", "parse_layers"]

Layer = Literal["overlay", "contour", "mask"]


def parse_layers(text: str) -> tuple[Layer, ...]:
    """`overlay,contour` -> its layers; UsageError for an unknown one."""
    layers = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [layer for layer in layers if layer not in get_args(Layer)]
    if unknown or not layers:
        raise UsageError(f"--visualize is {text!r}; expected some of {', '.join(get_args(Layer))}, joined by commas")
    return layers  # type: ignore[return-value]


def drawn(
    image: Image,
    masks: npt.NDArray[np.bool_],
    classes: Sequence[ClassInfo],
    layers: Sequence[Layer],
    alpha: float,
    within: npt.NDArray[np.bool_] | None = None,
) -> Image:
    """The frame (H, W, 3) with the masks (K, H, W) on it, in a new array.

    Layers: `mask` replaces the frame by the masks on black; `overlay` fills them with opacity `alpha`; `contour`
    outlines them in their colour between dark lines, so that the outline shows on white and on black.

    Args:
        within: (H, W), where something may be drawn; None is everywhere.
    """
    return Marks(masks, classes, within).on(image, layers, alpha)


class Marks:
    """Masks (K, H, W) ready to be drawn on many frames of their size: what depends on the masks alone is done once.

    Nothing is drawn outside of `within` (H, W), where that is given.
    """

    def __init__(
        self,
        masks: npt.NDArray[np.bool_],
        classes: Sequence[ClassInfo],
        within: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        pairs = zip(masks, classes, strict=True)
        self._marks = [_Mark(mask.view(np.uint8), info.color, within) for mask, info in pairs if mask.any()]

    def prepare(self, layers: Sequence[Layer]) -> None:
        """Do now what `on` would do when it first draws these layers."""
        for mark in self._marks:
            mark.prepare("contour" in layers, "overlay" in layers or "mask" in layers)

    def on(self, image: Image, layers: Sequence[Layer], alpha: float) -> Image:
        """The frame (H, W, 3) with the masks on it, in a new array; see `drawn`."""
        canvas = np.zeros_like(image) if "mask" in layers else image.copy()
        for mark in self._marks:
            if "mask" in layers:
                mark.fill(canvas, 1.0)
            if "overlay" in layers:
                mark.fill(canvas, alpha)
            if "contour" in layers:
                mark.outline(canvas)
        return canvas


class _Mark:
    """One mask that is not empty, uint8 (H, W) of 0 and 1, and its colour."""

    def __init__(
        self, mask: npt.NDArray[np.uint8], color: tuple[int, int, int], within: npt.NDArray[np.bool_] | None
    ) -> None:
        self._within = within
        x, y, width, height = cv2.boundingRect(mask)
        self._height = mask.shape[0]
        self._area = (slice(y, y + height), slice(x, x + width))
        self._mask = mask
        self._inside = mask[self._area]
        self._color = color

    def prepare(self, outline: bool, fill: bool) -> None:
        """Work out what `outline` and `fill` need, once."""
        _ = (outline and self._line, fill and self._tint)

    def fill(self, canvas: Image, alpha: float) -> None:
        """Mix the colour into the masked pixels of a canvas (H, W, 3), in place, rounding down."""
        area = canvas[self._area]
        cv2.copyTo(cv2.addWeighted(area, 1.0 - alpha, self._tint, alpha, -0.499), self._inside, area)

    def outline(self, canvas: Image) -> None:
        """Draw the outline into a canvas (H, W, 3), in place."""
        indices, keep, add = self._line
        pixels = canvas.reshape(-1, 3)
        pixels[indices] = (pixels[indices] * keep + add) >> 8

    @cached_property
    def _tint(self) -> Image:
        height, width = self._inside.shape
        tint = np.empty((height, width, 3), np.uint8)
        cv2.rectangle(tint, (0, 0), (width, height), self._color, cv2.FILLED)  # ten times as fast as NumPy's filling
        return tint

    @cached_property
    def _line(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
        """The outline, about 1/256 of the frame's height wide, with dark borders.

        Returns:
            indices (N,) of its pixels; keep (N, 1) and add (N, 3): a pixel p becomes (p * keep + add) / 256.
        """
        width = max(1, round(self._height / 256))
        rows, columns = (
            slice(max(0, part.start - width - 2), min(end, part.stop + width + 2))
            for part, end in zip(self._area, self._mask.shape, strict=True)
        )
        contours, _ = cv2.findContours(self._mask[rows, columns], cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        # How much of each pixel the dark line covers, and the bright one on top of it.
        dark, bright = np.zeros((2, rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        cv2.drawContours(dark, contours, -1, 255, width + 2, cv2.LINE_AA)
        cv2.drawContours(bright, contours, -1, 255, width, cv2.LINE_AA)
        if self._within is not None:
            dark[~self._within[rows, columns]] = 0
        found = np.flatnonzero(dark)
        under, over = dark.ravel()[found].astype(np.uint16), bright.ravel()[found].astype(np.uint16)
        y, x = np.divmod(found, dark.shape[1])
        indices = (y + rows.start) * self._mask.shape[1] + x + columns.start
        # Of 256, so that 255 of 255 leaves nothing of the pixel; every sum fits into 16 bits.
        cover = over + under * (255 - over) // 255
        keep = 256 - cover * 257 // 255
        add = over[:, None] * np.array(self._color, np.uint16)
        return indices, keep[:, None].astype(np.uint16), add + 255


def label_image(masks: npt.NDArray[np.bool_], logits: Logits) -> npt.NDArray[np.uint8]:
    """Masks (K, H, W) as one grey image (H, W): 0 and 255 for one class; else 0, or 1 + the most probable class.

    Args:
        logits: (K, H, W); they decide where masks of several classes overlap.
    """
    if len(masks) == 1:
        return masks[0].astype(np.uint8) * 255
    strength = np.where(masks, logits, -np.inf)
    return np.where(masks.any(axis=0), 1 + strength.argmax(axis=0), 0).astype(np.uint8)
