"""What TensorBoard is told of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

import vivim
from vivim.training.fit import EpochReport
from vivim.training.monitor import Monitor, compared
from vivim.training.scores import Scores
from vivim_runtime.clips import Clip


def events(folder: Path) -> list[Event]:
    """The records of the one event file: length (8 bytes), its checksum (4), content, checksum (4)."""
    (file,) = folder.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def clip(seed: int) -> Clip:
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, 64, 64), bool)
    masks[:, 20:40, 20:40] = True
    return Clip(rng.integers(0, 40, (2, 64, 64, 3), np.uint8), masks)


def report(epoch: int, hd95: float | None) -> EpochReport:
    terms = {"segmentation": 0.5, "affine": 0.25, "total": 0.575}
    return EpochReport(epoch, 0.575, terms, Scores(0.9, 0.8, 0.7, 0.6, hd95, 4), 1e-3, 2.0)


@pytest.fixture
def model() -> vivim.Vivim:
    torch.manual_seed(0)
    return vivim.Vivim(vivim.VivimConfig.preset("tiny")).eval()


def test_curves_and_pictures_of_every_epoch_are_written(tmp_path: Path, model: vivim.Vivim) -> None:
    with Monitor(tmp_path, [clip(seed) for seed in range(3)]) as monitor:
        monitor.add(report(1, 4.0), model)
        monitor.add(report(2, None), model)
    values = {(e.step, v.tag): v for e in events(tmp_path) for v in e.summary.value}
    curves = {tag: value.simple_value for (step, tag), value in values.items() if step == 1 and not value.image.width}
    assert curves == pytest.approx(
        {
            "loss/segmentation": 0.5,
            "loss/affine": 0.25,
            "loss/total": 0.575,
            "learning_rate": 1e-3,
            "validation/dice": 0.9,
            "validation/iou": 0.8,
            "validation/precision": 0.7,
            "validation/recall": 0.6,
            "validation/hd95": 4.0,
        }
    )
    assert (2, "validation/hd95") not in values and (2, "validation/dice") in values
    pictures = [tag for (step, tag), value in values.items() if step == 2 and value.image.width == 64]
    assert sorted(pictures) == ["validation/0", "validation/1", "validation/2"]


def test_picture_shows_the_truth_in_white_and_the_prediction_in_red(model: vivim.Vivim) -> None:
    with torch.no_grad():
        model.decoder.classifier.weight.zero_()  # type: ignore[union-attr]
        model.decoder.classifier.bias.fill_(-9.0)  # type: ignore[union-attr]
    nothing = compared(model, clip(1))
    assert nothing[20, 22:38].min() > 200  # the outline of the truth, with soft edges
    assert nothing[0:10].max() < 40  # far from it, the frame
    with torch.no_grad():
        model.decoder.classifier.bias.fill_(9.0)  # type: ignore[union-attr]
    everything = compared(model, clip(1))
    red = everything[0, 2:60].astype(int)
    assert (red[:, 0] - red[:, 1] > 120).all()
