"""A model that runs: clips of pixels in, logits out, whatever the file behind it is.

A file says about itself what is needed (ModelInfo), and everything else in the runtime sees only `Session`.
Behind it stands ONNX Runtime (sessions.onnx), an engine of TensorRT (sessions.tensorrt), or PyTorch, which another
package registers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vivim_runtime.contract import CONTRACT_KEY, InputContract
from vivim_runtime.errors import ModelError
from vivim_runtime.provenance import DATA_KEY, TrainingData, data_from_json

__all__ = ["ClassInfo", "Clips", "Logits", "ModelInfo", "Session", "model_input"]

Clips = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]

# The newest description of itself (vivim.format) that this version reads.
_FORMAT = 1


@dataclass(frozen=True)
class ClassInfo:
    """One output class: its name, and the RGB colour to draw it in."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says about itself.

    Attributes:
        path: the file.
        preset: name of the network.
        frames: T, frames of a clip.
        size: (H, W) of the input in pixels.
        classes: the K output classes.
        precision: fp32, fp16, ...
        input: "uint8" pixels, or "float32" normalised outside (exported with --raw-input).
        mean, std: normalisation, RGB in 0..1.
        batch: clips a call; None takes any number.
        weights_sha256: of the checkpoint it was exported from.
        metadata: everything else, as text.
        contract: pictures and clips that the weights were trained on; None of files that do not say.
        training_data: what they were trained on.
    """

    path: Path
    preset: str
    frames: int
    size: tuple[int, int]
    classes: tuple[ClassInfo, ...]
    precision: str
    input: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch: int | None
    weights_sha256: str
    metadata: dict[str, str] = field(repr=False)
    contract: InputContract | None = None
    training_data: tuple[TrainingData, ...] = field(default=(), repr=False)

    @property
    def hop(self) -> int:
        """Frames from one clip to the next where nobody asks for others."""
        return self.contract.default_hop(self.frames) if self.contract else self.frames

    @property
    def departures(self) -> tuple[str, ...]:
        """In what its clips differ from those of the training, such as "trained at 128x128, exported at 256x256"."""
        done = "exported" if self.path.suffix in (".onnx", ".engine") else "used"
        return tuple(self.contract.departures(self.size, self.frames, done)) if self.contract else ()

    @classmethod
    def from_metadata(cls, path: Path, metadata: dict[str, str]) -> ModelInfo:
        """The description in a file's metadata; ModelError when vivim-export did not write it."""
        version = metadata.get("vivim.format")
        if version is None:
            raise ModelError(
                f"{path} was not written by vivim-export; make one with: vivim-export onnx --weights W -o M"
            )
        if not version.isdigit() or int(version) > _FORMAT:
            raise ModelError(f"{path} has format {version}, this version reads up to {_FORMAT}; update vivim-edge")
        contract = metadata.get(f"vivim.{CONTRACT_KEY}")
        try:
            text = {key.removeprefix("vivim."): value for key, value in metadata.items()}
            return cls(
                path=path,
                preset=text["preset"],
                frames=int(text["frames"]),
                size=(int(text["height"]), int(text["width"])),
                classes=tuple(ClassInfo(c["name"], tuple(c["color"])) for c in json.loads(text["classes"])),
                precision=text["precision"],
                input=text["input"],
                mean=tuple(json.loads(text["mean"])),
                std=tuple(json.loads(text["std"])),
                batch=None if text["batch"] == "dynamic" else int(text["batch"]),
                weights_sha256=text["weights_sha256"],
                metadata=metadata,
                contract=None if contract is None else InputContract.from_json(contract, str(path)),
                training_data=data_from_json(text.get(DATA_KEY, "[]"), str(path)),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(f"{path} describes itself wrongly ({error!r}); export it again") from None


class Session(Protocol):
    """A model ready to run; a context manager that gives back what it holds.

    Attributes:
        backend: what runs it, for people.
        device: where: cpu, cuda.
    """

    @property
    def backend(self) -> str: ...

    @property
    def info(self) -> ModelInfo: ...

    @property
    def device(self) -> str: ...

    def __call__(self, clips: Clips) -> Logits:
        """uint8 RGB (B, T, H, W, 3) at the model's size -> float32 logits (B, T, K, H, W)."""
        ...

    def warm_up(self) -> None:
        """Run once on black pixels, so that the first real clip is not the slow one."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def model_input(info: ModelInfo, clips: Clips) -> npt.NDArray[Any]:
    """What a model's input takes of clips: themselves, or float32 (B, T, 3, H, W) where it is normalised outside.

    Raises:
        ModelError: the clips have another shape or type than uint8 (B, T, H, W, 3).
    """
    if (
        clips.shape[1:] != (info.frames, *info.size, 3)
        or clips.dtype != np.uint8
        or info.batch not in (None, len(clips))
    ):
        raise ModelError(
            f"clips of {clips.dtype} {clips.shape}; {info.path} takes uint8 "
            f"({info.batch or 'B'}, {info.frames}, {info.size[0]}, {info.size[1]}, 3)"
        )
    if info.input != "float32":
        return clips
    mean, std = np.array(info.mean, np.float32), np.array(info.std, np.float32)
    scaled = (clips.astype(np.float32) / 255.0 - mean) / std
    return np.ascontiguousarray(np.moveaxis(scaled, -1, 2), np.float32)
