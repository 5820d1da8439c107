"""Small data sets in memory, models whose masks are known, and a report made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from vivim_runtime.datasets import Dataset
from vivim_runtime.judging import EvaluationOptions, Report, evaluate
from vivim_runtime.judging.metrics import Masks
from vivim_runtime.sessions.base import ClassInfo, Clips, Logits, ModelInfo
from vivim_runtime.sources.base import Image

SIZE = (24, 32)


@dataclass(frozen=True)
class MadeVideo:
    """Frames whose brightness is 250 in the true mask, and 10 elsewhere; the red of the first pixel is the number."""

    name: str
    truth: Callable[[int], Masks]
    frames: int

    def __len__(self) -> int:
        return self.frames

    def read(self, index: int) -> tuple[Image, Masks]:
        mask = self.truth(index)
        image = np.where(mask[..., None], np.uint8(250), np.uint8(10)).repeat(3, axis=2)
        image[0, 0, 0] = index % 256
        return image, mask


def moving(index: int, size: tuple[int, int] = SIZE) -> Masks:
    """A rectangle that moves to and fro."""
    mask = np.zeros(size, bool)
    height, width = size
    left = width // 8 + index % 7
    mask[height // 4 : height // 4 * 3, left : left + width // 3] = True
    return mask


def nothing(index: int) -> Masks:
    return np.zeros(SIZE, bool)


def dataset(*videos: MadeVideo, split: str = "test") -> Dataset:
    return Dataset("made", split, videos)  # type: ignore[arg-type]


@dataclass
class KnownSession:
    """A session that answers with a function of the clips; it keeps the numbers of the frames of every clip."""

    answer: Callable[[Clips], np.ndarray]
    frames: int = 5
    size: tuple[int, int] = SIZE
    classes: Sequence[str] = ("lesion",)
    name: str = "known.onnx"
    backend: str = "known"
    device: str = "cpu"
    clips: list[list[int]] = field(default_factory=list)

    @property
    def info(self) -> ModelInfo:
        classes = tuple(ClassInfo(name, (0, 255, 0)) for name in self.classes)
        return ModelInfo(
            Path(self.name), "known", self.frames, self.size, classes, "fp32", "uint8", (), (), None, "0" * 64, {}
        )

    def __call__(self, clips: Clips) -> Logits:
        """Probabilities (B, T, H, W) of the answer as logits (B, T, 1, H, W)."""
        self.clips += clips[:, :, 0, 0, 0].tolist()
        probability = np.clip(self.answer(clips), 1e-3, 1 - 1e-3)
        return np.log(probability / (1 - probability))[:, :, None].astype(np.float32).repeat(len(self.classes), 2)

    def warm_up(self) -> None:
        return

    def __enter__(self) -> KnownSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


def brightness(clips: Clips) -> np.ndarray:
    """Marks what is bright: perfect."""
    return clips[..., 1] / 255.0


def shifted(clips: Clips) -> np.ndarray:
    """Marks what is bright two pixels further to the left."""
    return np.roll(clips[..., 1], -2, axis=-1) / 255.0


def report(*answers: Callable[[Clips], np.ndarray], videos: int = 3, names: Sequence[str] = ()) -> Report:
    """Models on videos of 11 frames, the first of which has no lesion in it."""
    made = [MadeVideo("a & b", nothing, 11), *(MadeVideo(f"v<{i}>", moving, 11) for i in range(1, videos))]
    options = EvaluationOptions()
    evaluations = tuple(evaluate(KnownSession(answer), dataset(*made), options) for answer in answers)
    chosen = tuple(names) or tuple(f"folder/m_{i}.onnx" for i in range(len(answers)))
    return Report("made", "test", options, chosen, evaluations)
