"""From a frame to the picture that a network takes, and from its logits back to the frame.

A `Framing` is an input contract applied to one region. Frames, and the true masks that belong to them, go through the
same filters; logits come back bilinear, with pixel centres aligned, to where they belong in the whole frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.contract import InputContract
from vivim_runtime.regions import Region

__all__ = ["OUTSIDE_LOGIT", "WHITE_FROM", "Framing", "Views", "logits_at", "mask_at", "planes_of", "resized"]

Image = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]
Logits = npt.NDArray[np.float32]

# A mask is white on black, 0 and 255; what compression or interpolation left between goes to the nearer one.
WHITE_FROM = 128
# What is said of pixels that no network has seen: below every threshold, and such that exp() of its size is finite in
# float32, so that probabilities can be computed as of all others.
OUTSIDE_LOGIT = np.float32(-80.0)


@dataclass(frozen=True)
class Framing:
    """How frames become pictures.

    Attributes:
        contract: size, shape, colours; its `region` is where `region` came from.
        region: what is seen of the frames; None is all of them.
    """

    contract: InputContract
    region: Region | None = None

    @classmethod
    def stretched(cls, size: tuple[int, int]) -> Framing:
        """Whole frames, stretched to (H, W)."""
        return cls(replace(InputContract.assumed(), size=size))

    def at(self, regions: Sequence[Region]) -> Framing:
        """The same of the largest of some regions; of all of a frame where there are none."""
        return replace(self, region=max(regions, key=lambda r: r.width * r.height, default=None))

    def picture(self, image: Image) -> Image:
        """A frame uint8 RGB (h, w, 3) -> (H, W, 3)."""
        contract, region = self.contract, self.region
        if region is not None:
            image = region.check(image.shape[:2], "a frame").cut(image)
            if contract.outside == "black" and region.inside is not None:
                image = np.where(region.inside[..., None], image, np.uint8(0))
            image = np.ascontiguousarray(image)
        picture = self._fitted(image)
        if contract.colour == "grey":
            picture = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        if contract.levels != (0, 255):
            picture = cv2.LUT(picture, _levels(*contract.levels))
        return picture

    def truth(self, mask: Masks) -> Masks:
        """A true mask of a frame, bool (h, w) -> (H, W), set where at least half of a pixel's area was.

        Of several classes, (K, h, w) -> (K, H, W), each for itself.
        """
        if mask.ndim == 3:
            return np.stack([self.truth(plane) for plane in mask])
        if self.region is not None:
            mask = self.region.cut(mask)
        if self.contract.shape == "stretched":
            return mask_at(mask, self.contract.size)
        return self._fitted(mask.astype(np.uint8) * np.uint8(255)) >= WHITE_FROM

    def logits(self, logits: Logits, size: tuple[int, int]) -> Logits:
        """Logits (K, H, W) of a picture -> (K, h, w) of the frame; outside the region they are OUTSIDE_LOGIT."""
        region = self.region
        inner = self.inner(size if region is None else region.size)
        if self.contract.shape != "stretched":
            logits = np.ascontiguousarray(logits[:, inner.slices[0], inner.slices[1]])
        if region is None:
            return logits_at(logits, size)
        result = np.full((len(logits), *size), OUTSIDE_LOGIT, np.float32)
        at_size = logits_at(logits, region.size)
        inside = region.inside
        result[:, region.slices[0], region.slices[1]] = (
            at_size if inside is None else np.where(inside, at_size, OUTSIDE_LOGIT)
        )
        return result

    def inner(self, size: tuple[int, int]) -> Region:
        """Which part of the picture a region of (h, w) fills: all of it, or what keeps its shape, in the middle."""
        height, width = self.contract.size
        if self.contract.shape == "stretched":
            return Region.of(self.contract.size)
        scale = min(height / size[0], width / size[1])
        inner_height = min(height, max(1, round(size[0] * scale)))
        inner_width = min(width, max(1, round(size[1] * scale)))
        return Region((width - inner_width) // 2, (height - inner_height) // 2, inner_width, inner_height)

    def _fitted(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """uint8 (h, w[, 3]) -> (H, W[, 3])."""
        size = self.contract.size
        inner = self.inner((image.shape[0], image.shape[1]))
        if inner.size == size:
            return resized(image, size)
        canvas = np.zeros((*size, *image.shape[2:]), np.uint8)
        canvas[inner.slices] = resized(image, inner.size)
        return canvas


@dataclass(frozen=True)
class Views:
    """What a network sees of a frame: one picture for each region, mostly one.

    Attributes:
        framings: of each.
    """

    framings: tuple[Framing, ...]

    @classmethod
    def of(cls, contract: InputContract, regions: Sequence[Region] = ()) -> Views:
        """The views of regions; without any, that of the whole frame."""
        return cls(tuple(Framing(contract, region) for region in regions or (None,)))

    def __len__(self) -> int:
        return len(self.framings)

    @property
    def regions(self) -> tuple[Region, ...]:
        """What is seen; () where that is all of a frame."""
        return tuple(framing.region for framing in self.framings if framing.region is not None)

    def pictures(self, image: Image) -> list[Image]:
        """A frame uint8 RGB (h, w, 3) as each view has it, (H, W, 3)."""
        return [framing.picture(image) for framing in self.framings]

    def logits(self, logits: Sequence[Logits], size: tuple[int, int]) -> Logits:
        """Logits (K, H, W) of each view -> (K, h, w) of the frame, the higher where regions overlap."""
        pairs = zip(self.framings, logits, strict=True)
        return reduce(np.maximum, (framing.logits(values, size) for framing, values in pairs))

    def inside(self, size: tuple[int, int]) -> Masks | None:
        """Which pixels of a frame (h, w) are seen; None where all are."""
        return _inside(self.regions, size) if self.regions else None

    def blanked(self, image: Image) -> Image:
        """A frame uint8 (h, w, 3) with all that is not seen black, in a new array.

        All of it where that is not known: there is no region, it is all of the frame, or it is of other frames.
        """
        size = (image.shape[0], image.shape[1])
        whole = Region.of(size)
        inside = None
        if all(region.fits(size) and region != whole for region in self.regions):
            inside = self.inside(size)
        return np.zeros_like(image) if inside is None else cv2.bitwise_and(image, image, mask=inside.view(np.uint8))

    def grain(self, size: tuple[int, int]) -> float:
        """The larger side of a pixel of the network in pixels of a frame (h, w), at least 1."""
        sides = [1.0]
        for framing in self.framings:
            seen = size if framing.region is None else framing.region.size
            inner = framing.inner(seen).size
            sides += [seen[0] / inner[0], seen[1] / inner[1]]
        return max(sides)


@lru_cache(maxsize=8)
def _inside(regions: tuple[Region, ...], size: tuple[int, int]) -> Masks:
    inside = reduce(np.logical_or, (region.mask(size) for region in regions))
    inside.flags.writeable = False
    return inside


def _levels(black: int, white: int) -> npt.NDArray[np.uint8]:
    """A table (256,) from full range to pixel values between black and white."""
    return np.rint(black + np.arange(256) * ((white - black) / 255.0)).astype(np.uint8)


def resized(image: Image, size: tuple[int, int]) -> Image:
    """uint8 (h, w[, 3]) -> (H, W[, 3]): averaged over areas when shrinking, else bilinear; the aspect is not kept."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def mask_at(mask: Masks, size: tuple[int, int]) -> Masks:
    """A true mask, bool (h, w) -> (H, W), set where at least half of a pixel's area was.

    It goes through the filter of the frames: nearest neighbours would shift outlines against them by half a pixel. Of
    several classes, (K, h, w) -> (K, H, W).
    """
    if mask.ndim == 3:
        return np.stack([mask_at(plane, size) for plane in mask])
    if mask.shape == size:
        return mask
    return resized(mask.astype(np.uint8) * np.uint8(255), size) >= WHITE_FROM


def planes_of(mask: Masks) -> Masks:
    """A true mask (H, W) or (K, H, W) -> (K, H, W): of one class, it is one plane."""
    return mask if mask.ndim == 3 else mask[None]


def logits_at(logits: Logits, size: tuple[int, int]) -> Logits:
    """Logits (K, h, w) of one frame -> (K, H, W), bilinear with pixel centres aligned, as the network upsamples."""
    if logits.shape[1:] == size:
        return logits
    height, width = size
    return np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in logits])
