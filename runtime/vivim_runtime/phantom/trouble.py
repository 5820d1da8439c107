"""What hides the lesion of a phantom for a while: films in which what was seen before matters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vivim_runtime.phantom.spec import HIDING, PhantomSpec

__all__ = ["Trouble"]

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class Trouble:
    """What hides the lesion of a film, and when: stretches of 5 to 30 frames, with as many between them.

    shadow     a dark column over the lesion, as of gas or a rib that the probe crosses
    lift       the probe leaves the skin: reverberation of the gel, and nothing below
    contrast   the lesion becomes like the tissue around it, and comes back

    And all the time:

    drift      the gain creeps: brightness goes up and down, to less than a half and back within 60 to 120 frames
    """

    def __init__(self, spec: PhantomSpec) -> None:
        self._rng = np.random.default_rng([spec.seed, 0x5452])
        kinds = HIDING if spec.trouble == "any" else (spec.trouble,)
        self._stretches: list[tuple[int, int, str]] = []
        begin = int(self._rng.integers(3, 16))
        while begin < spec.frames:
            end = begin + int(self._rng.integers(5, 31))
            self._stretches.append((begin, end, str(self._rng.choice(kinds))))
            begin = end + int(self._rng.integers(5, 31))
        self._half, self._depth = self._rng.uniform(0.08, 0.18), self._rng.uniform(0.04, 0.2)
        self._bands = np.sort(self._rng.uniform(0.0, 0.12, 4))
        self._column = 0.5  # share of the width; follows the lesion
        self._creep: tuple[float, float] | None = None
        if spec.trouble == "drift":
            self._creep = self._rng.uniform(60.0, 120.0), self._rng.uniform(0.0, 2 * np.pi)

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
        if self._creep is not None:
            period, phase = self._creep
            factor = 1.4 ** np.sin(2 * np.pi * index / period + phase) / 1.4  # 0.5 to 1
            image = np.clip(image * factor, 0, 255).astype(np.uint8)
        return image, mask
