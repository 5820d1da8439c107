"""What weights say of the pictures that they learnt from, from the options of `fit` to the ONNX file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from vivim.checkpoint import Training, load_checkpoint, resolve_weights
from vivim.commands.clip_options import ClipOptions
from vivim.session import describe
from vivim.training.batches import DatasetClips, JudgedVideos
from vivim.training.fit import RunOptions, _training
from vivim.training.recipe import FitConfig
from vivim_runtime.contract import InputContract
from vivim_runtime.datasets import open_dataset
from vivim_runtime.errors import ModelError, UsageError
from vivim_runtime.framing import Framing
from vivim_runtime.regions import Region
from vivim_runtime.sessions.base import ModelInfo

REGION = Region(10, 6, 40, 30)


def written(root: Path) -> Path:
    """A data set of screens with one colour a frame in the region, and its mask the left half of the region."""
    for name, count in (("a", 4), ("b", 3)):
        for kind in ("images", "masks"):
            (root / kind / name).mkdir(parents=True)
        for index in range(count):
            screen = np.full((48, 64, 3), 255, np.uint8)
            screen[REGION.slices] = (10, 20 * index, 200)
            mask = np.zeros((48, 64), np.uint8)
            mask[6:36, 10:30] = 255
            cv2.imwrite(str(root / "images" / name / f"{index}.png"), screen[..., ::-1])
            cv2.imwrite(str(root / "masks" / name / f"{index}.png"), mask)
    return root


def test_clips_of_a_region_show_it_alone_and_are_judged_in_the_whole_frame(tmp_path: Path) -> None:
    dataset = open_dataset(str(written(tmp_path)))
    framing = Framing(InputContract((30, 40), 3, 3, region=str(REGION), colour="grey"))
    clip = DatasetClips(dataset, 3, framing).clip(0, 0)
    assert clip.pixels.shape == (3, 30, 40, 3) and clip.pixels.max() < 100  # nothing of the white screen, and grey
    assert (clip.pixels[..., :1] == clip.pixels).all()
    assert clip.masks[:, :, :20].all() and not clip.masks[:, :, 20:].any()
    judged = JudgedVideos(dataset, 3, framing).judged(0)
    logits = np.where(clip.masks[0], 5.0, -5.0)[None].astype(np.float32)
    assert judged.truths[0].shape == (48, 64)
    assert np.array_equal(judged.framing.logits(logits, (48, 64))[0] > 0, judged.truths[0])


def test_options_become_the_record_and_the_record_goes_on_into_the_file() -> None:
    source = ClipOptions(frames=3, size=(32, 48), stride=2, region="DICOM", shape="kept", outside="black", fps=30.0)
    options = RunOptions(stride=2, contract=source.contract)
    clips = source.clips("train", 2)
    contract = _training(FitConfig(frames=3), clips, options).contract
    assert contract == InputContract(
        (32, 48), 3, 3, 2, region="dicom", shape="kept", outside="black", fps=30.0, mean=contract.mean, std=contract.std
    )
    described = describe(load_checkpoint(resolve_weights("tiny"), 3), (64, 64), "0" * 64, Training(contract))
    info = ModelInfo.from_metadata(Path("m.onnx"), described)
    assert info.contract == contract and info.takes == replace(contract, size=(64, 64))
    assert info.takes.clip_fps == 15.0
    assert json.loads(described["vivim.input_contract"])["region"] == "dicom"


def test_without_options_the_record_is_what_it_was() -> None:
    source = ClipOptions(frames=3, size=(32, 48))
    contract = _training(FitConfig(frames=3), source.clips("train", 2), RunOptions(contract=source.contract)).contract
    assert contract == InputContract((32, 48), 3, 3)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"shape": "cut"}, ModelError), ({"colour": "bgr"}, ModelError), ({"region": "x"}, UsageError)],
)
def test_what_no_contract_has_is_refused(options: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        _ = ClipOptions(**options).contract  # type: ignore[arg-type]
