"""What a network was taught to see: one record that training writes and that all artefacts made of the weights carry.

In safetensors it is the metadata `input_contract`; in ONNX files, and so in the description within an engine's sidecar,
`vivim.input_contract`. What a file takes may differ from it (`vivim-export onnx --imgsz 512`), and then that is said.

A picture is made of a frame in this order: its region is cut out, what lies outside the outline of that is blacked
(`outside`), it is brought to `size` (`shape`), its colours are taken (`colour`, `levels`), and it is normalised
(`mean`, `std`). vivim_runtime.framing does it, for runs, evaluation, calibration, parity, benchmarks and training.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vivim_runtime.errors import ModelError, UsageError
from vivim_runtime.regions import RegionRule
from vivim_runtime.text import parse_json

__all__ = ["COLOURS", "CONTRACT_KEY", "IMAGENET_MEAN", "IMAGENET_STD", "OUTSIDES", "SHAPES", "InputContract"]

CONTRACT_KEY = "input_contract"

# Statistics of RGB in 0..1: what the authors normalise frames with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# How a region becomes a picture of `size`: stretched to it as the authors do, or its shape kept and filled with black.
SHAPES = ("stretched", "kept")
COLOURS = ("rgb", "grey")
# What becomes of the pixels of a region's rectangle that lie outside its outline.
OUTSIDES = ("kept", "black")
_FASTEST = 10_000.0


@dataclass(frozen=True)
class InputContract:
    """Pictures and clips of the training.

    A field that is added later gets a default, which says what files of before it meant. A field that this version does
    not know is refused: whoever wrote it prepared pictures in a way that cannot be repeated here.

    Attributes:
        size: (H, W) of the frames, pixels.
        frames: T, frames of a clip.
        hop: frames from one clip to the next when the network was judged.
        stride: frames of a video from one frame of a clip to the next.
        mean, std: normalisation, RGB in 0..1.
        region: what was cut out of the frames: `whole`, `dicom`, `auto`, or `X,Y,WIDTH,HEIGHT`
            (vivim_runtime.regions).
        shape: of SHAPES.
        colour: `rgb`, or `grey`: the luminance in all three channels.
        levels: pixel values of black and white.
        outside: of OUTSIDES.
        fps: frames a second of the videos; None where nobody said.
    """

    size: tuple[int, int]
    frames: int
    hop: int
    stride: int = 1
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    region: str = "whole"
    shape: str = "stretched"
    colour: str = "rgb"
    levels: tuple[int, int] = (0, 255)
    outside: str = "kept"
    fps: float | None = None

    def __post_init__(self) -> None:
        for name, right, expected in (
            ("size", _are(self.size, 2, int) and min(self.size) > 0, "height and width of at least 1"),
            ("frames", type(self.frames) is int and self.frames > 0, "at least 1"),
            ("hop", type(self.hop) is int and 0 < self.hop <= self.frames, "1 to the frames of a clip"),
            ("stride", type(self.stride) is int and self.stride > 0, "at least 1"),
            ("mean", _are(self.mean, 3, int, float), "three numbers"),
            ("std", _are(self.std, 3, int, float) and min(self.std) > 0, "three numbers above 0"),
            ("region", _is_rule(self.region), "whole, dicom, auto, or X,Y,WIDTH,HEIGHT"),
            ("shape", self.shape in SHAPES, " or ".join(SHAPES)),
            ("colour", self.colour in COLOURS, " or ".join(COLOURS)),
            ("levels", _are(self.levels, 2, int) and 0 <= self.levels[0] < self.levels[1] <= 255, "two of 0 to 255"),
            ("outside", self.outside in OUTSIDES, " or ".join(OUTSIDES)),
            ("fps", self.fps is None or _is_rate(self.fps), f"more than 0, at most {_FASTEST:g}"),
        ):
            if not right:
                raise ModelError(f"the input contract has {name} {getattr(self, name)!r}; expected {expected}")

    @classmethod
    def assumed(cls, frames: int = 5) -> InputContract:
        """What weights without a record were trained on: whole pictures, stretched to the authors' size."""
        return cls((256, 256), frames, frames)

    def to_json(self) -> str:
        """One line of JSON that `from_json` takes.

        A field that came later is written where it says something else than its absence: what older versions can keep,
        they may read.
        """
        values = dataclasses.asdict(self)
        for field in dataclasses.fields(self):
            if field.name in _LATER and values[field.name] == field.default:
                del values[field.name]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, origin: str) -> InputContract:
        """The record that `to_json` wrote; ModelError, which begins with `origin`, where it is none or a newer one."""
        try:
            values: dict[str, Any] = dict(parse_json(text))
            unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
            if not unknown:
                fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
                return cls(**fields)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{origin}: the input contract cannot be read ({error}); train or export again") from None
        except ModelError as error:
            raise ModelError(f"{origin}: {error}") from None
        raise ModelError(
            f"{origin}: the input contract has {', '.join(unknown)}, which this version cannot keep; update vivim-edge"
        )

    @property
    def rule(self) -> RegionRule:
        """Where the region of a picture comes from."""
        return RegionRule.parse(self.region)

    @property
    def clip_fps(self) -> float | None:
        """Frames a second of a clip; None where nobody said."""
        return None if self.fps is None else self.fps / self.stride

    def default_hop(self, frames: int) -> int:
        """Frames from one clip to the next where nobody asks for others: as judged, or a whole clip of another T."""
        return self.hop if frames == self.frames else frames

    def at(self, size: tuple[int, int], frames: int) -> InputContract:
        """The contract of a file that takes frames of another size (H, W), or clips of another T."""
        return dataclasses.replace(self, size=size, frames=frames, hop=self.default_hop(frames))

    def departures(
        self, size: tuple[int, int], frames: int, done: str, stride: int = 1, region: RegionRule | None = None
    ) -> Iterator[str]:
        """In what a use differs from the training, such as "trained at 128x128, exported at 256x256".

        Args:
            size, frames, stride: (H, W), T, and frames from one frame of a clip to the next, of the use.
            done: what is done with the network, as a participle.
            region: what is cut out of frames; None as in the training.
        """
        if size != self.size:
            yield f"trained at {self.size[0]}x{self.size[1]}, {done} at {size[0]}x{size[1]}"
        if frames != self.frames:
            yield f"trained on clips of {self.frames} frames, {done} on clips of {frames}"
        if stride != self.stride:
            yield f"trained on every frame in {self.stride} of a video, {done} on every frame in {stride}"
        if region is not None and region != self.rule:
            yield f"trained on {self.rule.describe()}, {done} on {region.describe()}"

    def differences(self, other: InputContract) -> Iterator[str]:
        """In which fields two contracts differ: each name with both values, such as "size 128x128 and 256x256"."""
        for field in dataclasses.fields(self):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if ours != theirs:
                yield f"{field.name} {_shown(field.name, ours)} and {_shown(field.name, theirs)}"

    def meets(self, other: InputContract, name: str, other_name: str) -> str | None:
        """One line where two artefacts that meet do not take the same pictures; None where they do."""
        found = ", ".join(self.differences(other))
        return f"{name} and {other_name} were taught to see other pictures: {found}" if found else None


# Fields that came after the first version of the record.
_LATER = ("region", "shape", "colour", "levels", "outside", "fps")


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "unknown"
    joint = "x" if name == "size" else ","
    return joint.join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def _are(values: Any, count: int, *kinds: type) -> bool:
    return isinstance(values, tuple) and len(values) == count and all(type(value) in kinds for value in values)


def _is_rule(value: Any) -> bool:
    try:
        return isinstance(value, str) and str(RegionRule.parse(value)) == value
    except UsageError:
        return False


def _is_rate(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 < value <= _FASTEST
