"""Several classes in training: clips, augmentation, cache, losses, scores, and what weights are told of them."""

from __future__ import annotations

import json
import logging
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vivim
from tests.vivim.runs import SMALL
from tests.vivim.shapes import NAMES, write_shapes
from tests.vivim.training.test_scores import LEFT, NOTHING, TOP
from vivim.checkpoint import Training, load_checkpoint
from vivim.commands.clip_options import ClipOptions
from vivim.commands.fit import report_line
from vivim.model import Vivim, VivimOutput
from vivim.session import open_runner
from vivim.training.batches import (
    NO_AUGMENTATION,
    Augmentation,
    DatasetClips,
    JudgedVideos,
    StillClips,
    TrainingBatches,
    augmented,
)
from vivim.training.cache import CacheOptions
from vivim.training.confidence import judged_frames
from vivim.training.fit import EpochReport, check_start, fit
from vivim.training.losses import boundary_loss, segmentation_loss, sobel_edges
from vivim.training.monitor import compared
from vivim.training.objective import Objective
from vivim.training.recipe import FitConfig
from vivim.training.scores import evaluate
from vivim_runtime import judging
from vivim_runtime.clips import Clip
from vivim_runtime.contract import InputContract
from vivim_runtime.datasets import Classes, open_dataset, read_clip
from vivim_runtime.errors import ConfigError, DataError
from vivim_runtime.judging.outlines import outline_of

SIZE = (32, 32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), videos=3, frames=3, size=48)


def clips_of(data: Path, **options: object) -> DatasetClips:
    return DatasetClips(open_dataset(str(data)), 2, SIZE, **options)  # type: ignore[arg-type]


def test_clips_batches_stills_and_judged_clips_have_a_mask_for_each_class(data: Path) -> None:
    clips = clips_of(data)
    clip = clips.clip(0, 0)
    assert clip.masks.shape == (2, 2, *SIZE) and clip.masks.any(axis=(0, 2, 3)).all()
    assert np.array_equal(clip.masks, read_clip(clips.dataset.videos[0], (0, 1), clips.framing).masks)
    (batch,) = TrainingBatches(clips, 2, 0, NO_AUGMENTATION).of(0, [[0, 1]])
    assert batch[1].shape == (2, 2, 2, *SIZE) and torch.equal(batch[1][0], torch.from_numpy(clip.masks).float())
    judged = JudgedVideos(open_dataset(str(data)), 2, SIZE).judged(0)
    assert [truth.shape for truth in judged.truths] == [(2, 48, 48)] * 2  # at the size of the frames
    assert StillClips(open_dataset(str(data)), 2, SIZE).clip(0, 0).masks.shape == (2, 2, *SIZE)


@pytest.mark.parametrize(
    "options",
    [
        Augmentation(),
        replace(NO_AUGMENTATION, upside_down=1.0),
        replace(NO_AUGMENTATION, half_turn=1.0),
        replace(NO_AUGMENTATION, quarter_turns=1.0, backwards=1.0, flip=1.0),
        replace(NO_AUGMENTATION, mask_noise=0.5),
    ],
)
def test_augmentation_moves_every_class_as_it_moves_a_single_one(data: Path, options: Augmentation) -> None:
    clip = clips_of(data).clip(1, 0)
    both = augmented(clip, np.random.default_rng(1), options)
    for k in range(2):
        alone = augmented(Clip(clip.pixels, clip.masks[:, k]), np.random.default_rng(1), options)
        assert np.array_equal(alone.pixels, both.pixels)
        if not options.mask_noise:  # which draws anew for each
            assert np.array_equal(alone.masks, both.masks[:, k])
    assert both.masks.shape == clip.masks.shape


def test_a_cache_gives_the_same_masks_and_knows_what_labels_stood_for(data: Path, tmp_path: Path) -> None:
    options = CacheOptions(memory=10**7, folder=tmp_path, disk=10**7)
    plain, kept = clips_of(data), clips_of(data, cache=options)
    for _ in range(2):
        assert np.array_equal(kept.clip(0, 0).masks, plain.clip(0, 0).masks)
    again = pickle.loads(pickle.dumps(kept))
    assert np.array_equal(again.clip(0, 0).masks, plain.clip(0, 0).masks) and again.cache.decoded == 0
    swapped = open_dataset(str(data), classes=Classes.parse("7=disc,3=square"))
    other = DatasetClips(swapped, 2, SIZE, cache=options)
    assert np.array_equal(other.clip(0, 0).masks, plain.clip(0, 0).masks[:, ::-1]) and other.cache.decoded == 2


def test_the_loss_of_several_classes_is_the_mean_of_those_of_each() -> None:
    g = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(2, 2, 3, 16, 16, generator=g), (torch.rand(2, 2, 3, 16, 16, generator=g) > 0.7).float()
    each = [segmentation_loss(logits[:, :, k : k + 1], truth[:, :, k : k + 1]).item() for k in range(3)]
    assert segmentation_loss(logits, truth).item() == pytest.approx(sum(each) / 3, rel=1e-6)  # float32 means


def test_outlines_are_those_of_every_class_also_where_two_touch() -> None:
    truth = torch.zeros(1, 1, 2, 16, 16)
    truth[..., 0, 4:12, 2:8] = truth[..., 1, 4:12, 8:14] = 1
    edge = torch.randn(1, 1, 1, 16, 16)
    expected = torch.maximum(sobel_edges(truth[0, :, :1]), sobel_edges(truth[0, :, 1:]))[None]
    assert expected[0, 0, 0, 8, 7:9].all() and not sobel_edges(truth[0].amax(1, keepdim=True))[0, 0, 8, 7:9].any()
    terms = Objective(FitConfig(preset="tiny", affine=0), torch.device("cpu"))(VivimOutput(truth, edge), truth)
    assert terms["boundary"] == boundary_loss(edge, expected)
    assert np.array_equal(outline_of(truth[0, 0].numpy() > 0), expected[0, 0, 0].numpy() > 0)  # as evaluation has them


class Bright(nn.Module):
    """Marks where the red channel is bright as the first class, where green is as the second."""

    config = SimpleNamespace(classes=("a", "b"))

    def forward(self, clip: Tensor) -> VivimOutput:
        return VivimOutput(0.01 * clip[:, :, :2], None)


def test_scores_are_means_over_classes_and_each_stands_beside_them() -> None:
    truth = np.stack([np.stack([LEFT, NOTHING]), np.stack([TOP, TOP])])  # (T, K, H, W)
    said = np.stack([np.stack([LEFT, TOP]), np.stack([TOP, TOP])])
    pixels = np.zeros((2, *LEFT.shape, 3), np.uint8)
    pixels[..., :2] = np.moveaxis(said, 1, -1) * np.uint8(255)
    scores = evaluate(Bright(), [Clip(pixels, truth)])
    a, b = scores.classes["a"], scores.classes["b"]
    assert (a.dice, a.lesion_dice, b.dice, b.lesion_dice) == (1.0, 1.0, 0.5, 1.0)
    assert (scores.dice, scores.lesion_dice, scores.frames, scores.edge_ap) == (0.75, 1.0, 2, None)
    line = report_line(EpochReport(1, 1.0, {}, scores, 1e-3, 1.0), 2)
    assert "Dice 0.7500 (1.0000 of frames with it) [a 1.0000 (1.0000), b 0.5000 (1.0000)]" in line
    with pytest.raises(DataError, match="the network has 2 classes, and the clips have 1"):
        evaluate(Bright(), [Clip(pixels, truth[:, 0])])


@pytest.fixture
def quick() -> FitConfig:
    """One step an epoch."""
    return FitConfig(preset="tiny", epochs=1, batch=2, frames=2, boundary=0.3, affine=0.0, classes=NAMES)


def test_a_run_writes_weights_of_its_classes_and_logs_each(quick: FitConfig, data: Path, tmp_path: Path) -> None:
    judged = JudgedVideos(open_dataset(str(data)), 2, SIZE)
    (report,) = fit(quick, [clips_of(data).clip(i, 0) for i in range(2)], judged, tmp_path)
    model = load_checkpoint(tmp_path / "best.safetensors")
    assert model.config.classes == NAMES and set(report.scores.classes) == set(NAMES)
    (line,) = (json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines())
    assert line["scores"]["classes"]["square"] == asdict(report.scores.classes["square"])
    assert report.scores.edge_ap is not None
    assert compared(model, clips_of(data).clip(0, 0)).shape == (*SIZE, 3)


def test_an_edge_head_is_judged_on_the_outlines_of_all_classes(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Vivim(replace(SMALL, classes=NAMES, edge_head="conv1x1"))
    path = tmp_path / "w.safetensors"
    vivim.save_checkpoint(path, model, Training(InputContract((32, 32), 2, 2)).metadata())
    with open_runner(str(path), threads=1) as session:
        found = judging.evaluate(session, open_dataset(str(data), marked=NAMES), judging.EvaluationOptions())
    value = found.overall["all"]["edge_ap"].value
    assert value is not None and 0 < value < 1 and found.videos[0].figures["all"]["edge_ap"] is not None
    assert not any("edge_ap" in each.overall["all"] for each in found.classes)  # nothing tells them apart


def test_other_classes_than_the_clips_have_are_refused(quick: FitConfig, data: Path, tmp_path: Path) -> None:
    for classes in (None, ("a", "b", "c")):
        with pytest.raises(ConfigError, match="the masks of the clips have 2 classes"):
            next(fit(replace(quick, classes=classes), [clips_of(data).clip(0, 0)] * 2, [], tmp_path / "run"))


def test_what_is_said_of_other_classes_is_said_once(
    quick: FitConfig, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = Vivim(replace(SMALL, classes=("square", "nerve")))
    vivim.save_checkpoint(tmp_path / "start.safetensors", start)
    config = replace(quick, init=str(tmp_path / "start.safetensors"), frames=1)
    clips = [Clip(clip.pixels[:1], clip.masks[:1]) for clip in (clips_of(data).clip(i, 0) for i in range(2))]
    with caplog.at_level(logging.WARNING, "vivim"):
        check_start(config)
        next(fit(config, clips, clips[:1], tmp_path / "run"))
    said = [record.getMessage() for record in caplog.records if "knows" in record.getMessage()]
    assert len(said) == 1 and "of disc start from chance and those of nerve are left out" in said[0]
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").config.classes == NAMES


def test_options_of_clips_name_the_classes_of_the_network(data: Path, tmp_path: Path) -> None:
    assert ClipOptions(str(data)).class_names("train") == NAMES  # by the table
    assert ClipOptions(str(data), classes="3=a,7=background").class_names("train") == ("a",)
    assert ClipOptions(classes="nodule").class_names("train") == ("nodule",)
    assert ClipOptions().class_names("train") is None
    with pytest.raises(DataError, match="phantoms have one class"):
        ClipOptions(classes="a,b").class_names("train")
    stills = write_shapes(tmp_path / "stills", videos=1, frames=1, first=9)
    (stills / "classes.json").write_text('{"3": "square", "7": "disc"}')  # another order than the videos have
    beside = ClipOptions(str(data), stills=stills).still_pictures()
    assert beside is not None and beside.classes is not None and beside.classes.names == NAMES
    with pytest.raises(DataError, match="have classes, and those of phantom none"):
        ClipOptions(stills=stills).still_pictures()


def test_confidence_is_learnt_from_all_classes(data: Path) -> None:
    class Session:
        info = SimpleNamespace(size=(48, 48))

        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            return np.stack([pixels[..., 0] - 160.0, 60.0 - pixels[..., 0]], axis=2).astype(np.float32)

    judged = judged_frames(Session(), JudgedVideos(open_dataset(str(data)), 3, (48, 48)))  # type: ignore[arg-type]
    assert judged.logits.shape == (9, 2 * 2048) == judged.truth.shape and judged.whole[0].shape == (2, 24, 24)
    # Noise of 20 about 210 and 20: nearly all of either class is on its side of the thresholds, and little else.
    assert judged.dice.min() > 0.8
    assert ((judged.logits > 0) == judged.truth).mean() > 0.97
