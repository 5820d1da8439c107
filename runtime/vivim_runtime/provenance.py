"""On which videos a network was trained: a record that its weights, and every artefact made of them, carry.

In safetensors it is the metadata `training_data`; in ONNX files `vivim.training_data`. Videos are known by their names
and by fingerprints of their files (vivim_runtime.datasets.fingerprints), so that they are recognised in another folder
and under other names, and that a change is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vivim_runtime.errors import ModelError
from vivim_runtime.text import parse_json

__all__ = ["DATA_KEY", "TrainingData", "VideoPrint", "data_from_json", "data_to_json", "joined"]

DATA_KEY = "training_data"


@dataclass(frozen=True)
class VideoPrint:
    """A video, or a part of one.

    Attributes:
        name: of the whole video within its data set.
        frames: of the whole video.
        start, stop: the frames that are meant; stop is left out.
        pictures, masks: fingerprints of the files of the whole video; "" where there are none.
    """

    name: str
    frames: int
    start: int
    stop: int
    pictures: str
    masks: str

    @property
    def label(self) -> str:
        """As a split file names it: `0002`, or `0002[:45]`."""
        if (self.start, self.stop) == (0, self.frames):
            return self.name
        return f"{self.name}[{self.start}:{self.stop}]"

    def overlaps(self, other: VideoPrint) -> bool:
        """Whether the two mean a common frame, if they are of one video."""
        return self.start < other.stop and other.start < self.stop


@dataclass(frozen=True)
class TrainingData:
    """One data set that a network was trained on, and how it was split.

    Attributes:
        name: of the data set.
        origin: who made the split, for people: "drawn with seed 3".
        splits: the videos that trained (`train`), chose the best weights (`validation`), and that neither did (`test`).
        phantoms: of synthetic data, which have splits by their seeds: how many of the split `train` were seen.
        validation_dice: of these very weights on the split `validation`; None where it was not measured.
    """

    name: str
    origin: str
    splits: Mapping[str, tuple[VideoPrint, ...]] = field(default_factory=dict)
    phantoms: int = 0
    validation_dice: float | None = None

    def split_file(self) -> str:
        """The splits as a split file (vivim_runtime.datasets.splits)."""
        content = {split: [video.label for video in videos] for split, videos in self.splits.items()}
        return json.dumps(content, indent=1) + "\n"


def data_to_json(data: Iterable[TrainingData]) -> str:
    """One line of JSON that `data_from_json` takes."""
    return json.dumps([asdict(entry) for entry in data], sort_keys=True)


def data_from_json(text: str, origin: str) -> tuple[TrainingData, ...]:
    """The record that `data_to_json` wrote; ModelError, which begins with `origin`, where it is none or a newer one."""
    try:
        return tuple(_entry(**values) for values in parse_json(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{origin}: the record of the training data cannot be read ({error}); update vivim-edge, or train again"
        ) from None


def _entry(splits: dict[str, list[dict[str, Any]]], **values: Any) -> TrainingData:
    videos = {split: tuple(VideoPrint(**video) for video in found) for split, found in splits.items()}
    return TrainingData(splits=videos, **values)


def joined(own: Iterable[TrainingData], before: Iterable[TrainingData]) -> tuple[TrainingData, ...]:
    """What a training saw, and what the weights that it started from had seen, without its Dice; each once."""
    result: list[TrainingData] = []
    for entry in (*own, *(replace(entry, validation_dice=None) for entry in before)):
        same = next((i for i, known in enumerate(result) if replace(known, phantoms=entry.phantoms) == entry), None)
        if same is None:
            result.append(entry)
        else:
            result[same] = replace(entry, phantoms=max(entry.phantoms, result[same].phantoms))
    return tuple(result)
