"""What to synthesise, and how a name on the command line says it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vivim_runtime.errors import UsageError
from vivim_runtime.phantom.layouts import SCREENS
from vivim_runtime.sizes import parse_size

__all__ = ["DRAWN", "HIDING", "TROUBLES", "VIEWS", "PhantomName", "PhantomSpec"]

VIEWS = ("whole", "region")
# What hides a lesion for a while; `any` is one of the first three, stretch by stretch (vivim_runtime.phantom.trouble).
TROUBLES = ("shadow", "lift", "contrast", "drift", "any")
HIDING = TROUBLES[:3]


# Fields of a specification that a name may give wherever phantoms are named: sources, data sets, training.
DRAWN = ("lesion", "screen", "view", "trouble")


@dataclass(frozen=True)
class PhantomSpec:
    """What to synthesise.

    Attributes:
        seed: everything else about the video follows from it.
        frames: how many frames.
        size: (H, W) in pixels, each at least 32.
        fps: frames per second; motion is per second.
        lesion: whether there is one; a share of 0 to 1 lets the seed decide, and None is 0.9. Videos that have one at
            two shares are the same.
        screen: the scanner's screen around it, one of `SCREENS`: `none`; a layout by its name; `convex`, `linear` or
            `sector`, the layouts of such probes, of `any` probe, or those that are `held-out` from these; `mixed`: by
            the seed a third each of plain ones, of whole screens, and of regions of screens.
        contact: whether the probe touches anything; without, there are the reverberations of air, and no lesion.
        view: `whole` screen, or only the `region` that shows tissue, cut out by the smallest rectangle around it.
        trouble: what hides the lesion for 5 to 30 frames at a time, one of TROUBLES; "" for nothing. Through a shadow
            and where contrast goes, the truth stays where the lesion is; while the probe is lifted there is none.
            `drift` hides nothing: the gain creeps up and down.
    """

    seed: int = 0
    frames: int = 5
    size: tuple[int, int] = (256, 256)
    fps: float = 25.0
    lesion: bool | float | None = None
    screen: str = "none"
    view: str = "whole"
    contact: bool = True
    trouble: str = ""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.seed < 0 or not 0.0 < self.fps < float("inf"):  # which also refuses NaN
            raise UsageError(
                f"phantom with seed {self.seed}, {self.frames} frames, {self.fps} fps: expected a seed of at least 0, "
                "at least 1 frame and a positive, finite rate"
            )
        if self.lesion is not None and not 0.0 <= self.lesion <= 1.0:
            raise UsageError(f"phantom with lesion={self.lesion:g}: expected a share of 0 to 1")
        if min(self.size) < 32 or max(self.size) > 4096:
            raise UsageError(f"phantom of {self.size[0]}x{self.size[1]}: expected height and width of 32 to 4096")
        for key, value, known in (("screen", self.screen, SCREENS), ("view", self.view, VIEWS)):
            if value not in known:
                raise UsageError(f"phantom with {key}={value}: expected one of {', '.join(known)}")
        if self.trouble not in ("", *TROUBLES):
            raise UsageError(f"phantom with trouble={self.trouble}: expected {', '.join(TROUBLES)}")
        if self.trouble and self.screen != "none":
            raise UsageError(f"phantom with trouble={self.trouble} and screen={self.screen}: expected one of the two")

    def scene_rng(self) -> np.random.Generator:
        """What a scene is drawn with, from its beginning."""
        return np.random.default_rng([self.seed, 0x5641])

    def frame_rng(self, index: int) -> np.random.Generator:
        """The noise of a frame's own."""
        return np.random.default_rng([self.seed, 0x4652, index])


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

    @property
    def drawn(self) -> dict[str, Any]:
        """The values of `DRAWN`, defaults where the name says nothing."""
        return {key: getattr(self, key) for key in DRAWN}

    @property
    def screen(self) -> str:
        """The value of `screen`."""
        return self.values.get("screen", "none")

    @property
    def view(self) -> str:
        """The value of `view`."""
        return self.values.get("view", "whole")

    @property
    def lesion(self) -> float | None:
        """The value of `lesion`, a share; None where there is none."""
        return self.number("lesion", 0.0) if "lesion" in self.values else None

    @property
    def trouble(self) -> str:
        """The value of `trouble`."""
        return self.values.get("trouble", "")

    def _no_number(self, key: str) -> UsageError:
        return UsageError(
            f"{self.text} has a value that is no number ({key}={self.values[key]}); "
            f"expected something like {self.example}"
        )
