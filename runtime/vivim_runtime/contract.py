"""What a network was taught to see: one record that training writes and that all artefacts made of the weights carry.

In safetensors it is the metadata `input_contract`; in ONNX files, and so in the description within an engine's sidecar,
`vivim.input_contract`. What a file takes may differ from it (`vivim-export onnx --imgsz 512`), and then that is said.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vivim_runtime.errors import ModelError
from vivim_runtime.text import parse_json

__all__ = ["CONTRACT_KEY", "IMAGENET_MEAN", "IMAGENET_STD", "InputContract"]

CONTRACT_KEY = "input_contract"

# Statistics of RGB in 0..1: what the authors normalise frames with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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
    """

    size: tuple[int, int]
    frames: int
    hop: int
    stride: int = 1
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name, right, expected in (
            ("size", _are(self.size, 2, int) and min(self.size) > 0, "height and width of at least 1"),
            ("frames", type(self.frames) is int and self.frames > 0, "at least 1"),
            ("hop", type(self.hop) is int and 0 < self.hop <= self.frames, "1 to the frames of a clip"),
            ("stride", type(self.stride) is int and self.stride > 0, "at least 1"),
            ("mean", _are(self.mean, 3, int, float), "three numbers"),
            ("std", _are(self.std, 3, int, float) and min(self.std) > 0, "three numbers above 0"),
        ):
            if not right:
                raise ModelError(f"the input contract has {name} {getattr(self, name)!r}; expected {expected}")

    @classmethod
    def assumed(cls, frames: int = 5) -> InputContract:
        """What weights without a record were trained on: the authors' size, and normalisation."""
        return cls((256, 256), frames, frames)

    def to_json(self) -> str:
        """One line of JSON that `from_json` takes."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

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

    def default_hop(self, frames: int) -> int:
        """Frames from one clip to the next where nobody asks for others: as judged, or a whole clip of another T."""
        return self.hop if frames == self.frames else frames

    def departures(self, size: tuple[int, int], frames: int, done: str, stride: int = 1) -> Iterator[str]:
        """In what a use differs from the training, such as "trained at 128x128, exported at 256x256".

        Args:
            size, frames, stride: (H, W), T, and frames from one frame of a clip to the next, of the use.
            done: what is done with the network, as a participle.
        """
        if size != self.size:
            yield f"trained at {self.size[0]}x{self.size[1]}, {done} at {size[0]}x{size[1]}"
        if frames != self.frames:
            yield f"trained on clips of {self.frames} frames, {done} on clips of {frames}"
        if stride != self.stride:
            yield f"trained on every frame in {self.stride} of a video, {done} on every frame in {stride}"


def _are(values: Any, count: int, *kinds: type) -> bool:
    return isinstance(values, tuple) and len(values) == count and all(type(value) in kinds for value in values)
