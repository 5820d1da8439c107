"""Training: the rate, the files, exact resume, and the scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import vivim
import vivim.training
from vivim.checkpoint import read_metadata
from vivim.data import Clip, phantom_clips
from vivim.model import VivimOutput
from vivim.training import FitConfig, Scores, evaluate, fit, learning_rate

FILES = {"best.safetensors", "last.safetensors", "log.jsonl", "state.pt"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A network this small gains nothing from threads, and loses minutes where another program keeps the cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return phantom_clips("train", 4, 3, (64, 64))


@pytest.fixture(scope="module")
def validation() -> list[Clip]:
    return phantom_clips("validation", 1, 1, (64, 64))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FitConfig:
    """Two epochs of two steps, from weights whose network draws random numbers in training (tiny itself does not)."""
    path = tmp_path_factory.mktemp("init") / "init.safetensors"
    torch.manual_seed(5)
    vivim.save_checkpoint(path, vivim.Vivim(vivim.VivimConfig.preset("tiny", dropout=0.2, drop_path=0.2)))
    return FitConfig(init=str(path), epochs=2, batch=2, frames=2, seed=3)


@pytest.fixture(scope="module")
def whole_run(
    config: FitConfig, clips: list[Clip], validation: list[Clip], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[tuple[int, int, float]]]:
    """The folder of an uninterrupted run, and what `on_step` was told."""
    folder, steps = tmp_path_factory.mktemp("whole"), []
    list(fit(config, clips, validation, folder, on_step=lambda *step: steps.append(step), metadata={"note": "test"}))
    return folder, steps


def log_without_times(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def no_scores(model: nn.Module, clips: list[Clip]) -> Scores:
    return Scores(0.0, 0.0, 1.0, 0.0, 1)


class Oracle(nn.Module):
    """Finds the lesion where the red channel is bright; `sign` -1 finds everything else."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign
        self.was_training: list[bool] = []

    def forward(self, clip: Tensor) -> VivimOutput:
        self.was_training.append(self.training)
        return VivimOutput(0.01 * self.sign * clip[:, :, :1], None)  # -0.02 to 0.02


def bright(*masks: np.ndarray) -> Clip:
    """A clip whose frames are white on the mask."""
    stack = np.stack(masks)
    return Clip(np.repeat(stack[..., None] * np.uint8(255), 3, axis=-1), stack)


LEFT = np.arange(8)[None, :].repeat(6, axis=0) < 4
TOP = np.arange(6)[:, None].repeat(8, axis=1) < 3


def test_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    config = FitConfig(lr=1.0, min_lr=0.1, warmup=0.1)
    rates = [learning_rate(config, step, 100) for step in range(101)]
    # One figure each from the formula, in float64.
    assert rates[0] == pytest.approx(0.1) and rates[4] == pytest.approx(0.5)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx((1.0 + 0.1) / 2)
    assert rates[100] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 10), (0.05, 1), (1.0, 4)])
def test_rate_is_defined_without_warm_up_and_for_a_single_step(warmup: float, steps: int) -> None:
    rates = [learning_rate(FitConfig(lr=1.0, warmup=warmup), step, steps) for step in range(steps + 1)]
    assert all(0 < rate <= 1 for rate in rates) and max(rates) == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs is 0"),
        ({"batch": 0}, "--batch is 0"),
        ({"frames": -1}, "--frames is -1"),
        ({"seed": -1}, "--seed is -1"),
        ({"preset": "b9"}, "there is no preset 'b9'"),
        ({"lr": 1e-7}, "lowest"),
        ({"min_lr": -1e-6}, "lowest"),
    ],
)
def test_runs_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(vivim.ConfigError, match=message):
        FitConfig(**changes)


def test_loss_decreases_on_one_clip(clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vivim.training, "evaluate", no_scores)
    config = FitConfig(epochs=8, batch=1, frames=2, lr=3e-3)
    losses = [report.loss for report in fit(config, clips[:1], [], tmp_path)]
    # Augmented anew in every epoch, so the loss is noisy: measured 1.44 at first and 1.05 over the last three.
    assert np.mean(losses[-3:]) < 0.85 * losses[0]


def test_interrupted_and_resumed_run_gives_the_very_weights_of_an_uninterrupted_one(
    whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip], validation: list[Clip], tmp_path: Path
) -> None:
    def interrupt(step: int, steps: int, loss: float) -> None:
        if (tmp_path / "state.pt").exists():  # in the first step of the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(fit(config, clips, validation, tmp_path, on_step=interrupt, metadata={"note": "test"}))
    assert {path.name for path in tmp_path.iterdir()} == FILES
    torch.rand(7)  # whatever else draws random numbers in between does not matter
    resumed = list(fit(config, clips, validation, tmp_path, resume=True, metadata={"note": "test"}))

    assert [report.epoch for report in resumed] == [2]
    folder = whole_run[0]
    for name in ("best.safetensors", "last.safetensors"):
        expected = safetensors.torch.load_file(folder / name)
        value = safetensors.torch.load_file(tmp_path / name)
        assert value.keys() == expected.keys() and all(torch.equal(value[key], expected[key]) for key in expected)
        assert read_metadata(tmp_path / name) == read_metadata(folder / name)
    assert log_without_times(tmp_path) == log_without_times(folder)


def test_finished_run_has_nothing_left_to_resume(
    whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip], validation: list[Clip]
) -> None:
    before = (whole_run[0] / "log.jsonl").read_bytes()
    assert list(fit(config, clips, validation, whole_run[0], resume=True)) == []
    assert (whole_run[0] / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"lr": 5e-4}, r"lr was 0\.001 and is 0\.0005"), ({"epochs": 3, "seed": 4}, "epochs was 2 and is 3, seed was 3")],
)
def test_resume_with_other_options_is_refused(
    whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip], changes: dict[str, Any], message: str
) -> None:
    changed = FitConfig(**{**vars(config), **changes})
    with pytest.raises(vivim.CheckpointError, match=message):
        next(fit(changed, clips, [], whole_run[0], resume=True))


def test_resume_with_other_clips_is_refused(whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip]) -> None:
    with pytest.raises(vivim.CheckpointError, match="clips was 4 and is 3"):
        next(fit(config, clips[:3], [], whole_run[0], resume=True))


def test_a_run_is_not_overwritten_by_another(whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip]) -> None:
    with pytest.raises(vivim.ConfigError, match="holds a run; go on with it by --resume"):
        next(fit(config, clips, [], whole_run[0]))


def test_resume_from_a_damaged_state_is_refused(config: FitConfig, clips: list[Clip], tmp_path: Path) -> None:
    torch.save({"epoch": 1}, tmp_path / "state.pt")
    with pytest.raises(vivim.CheckpointError, match="is damaged"):
        next(fit(config, clips, [], tmp_path, resume=True))
    (tmp_path / "state.pt").write_bytes(b"hello")
    with pytest.raises(vivim.CheckpointError, match="is damaged"):
        next(fit(config, clips, [], tmp_path, resume=True))


def test_networks_of_several_classes_are_refused(clips: list[Clip], tmp_path: Path) -> None:
    path = tmp_path / "two.safetensors"
    model = vivim.Vivim(vivim.VivimConfig.preset("tiny", classes=("a", "b")))
    vivim.save_checkpoint(path, model)
    with pytest.raises(vivim.ConfigError, match="has the classes a, b"):
        next(fit(FitConfig(init=str(path), batch=1), clips, [], tmp_path / "run"))
    with pytest.raises(vivim.DataError, match="2 classes"):
        evaluate(model, clips[:1])


def test_resume_without_a_state_is_refused(config: FitConfig, clips: list[Clip], tmp_path: Path) -> None:
    with pytest.raises(vivim.CheckpointError, match="nothing to resume"):
        next(fit(config, clips, [], tmp_path, resume=True))


def test_fewer_clips_than_a_batch_are_refused(clips: list[Clip], tmp_path: Path) -> None:
    with pytest.raises(vivim.ConfigError, match="1 clips make no batch of 2"):
        next(fit(FitConfig(batch=2), clips[:1], [], tmp_path))


def test_a_run_leaves_weights_log_and_state(whole_run: tuple[Path, Any], config: FitConfig) -> None:
    folder = whole_run[0]
    assert {path.name for path in folder.iterdir()} == FILES
    log = log_without_times(folder)
    assert [line["epoch"] for line in log] == [1, 2]
    assert [line["lr"] for line in log] == [learning_rate(config, step, 4) for step in (1, 3)]
    assert log[0]["loss"] > 0 and set(log[0]["scores"]) == {"dice", "iou", "precision", "recall", "frames"}
    metadata = read_metadata(folder / "last.safetensors")
    assert metadata["note"] == "test" and metadata["epoch"] == "2"
    assert metadata["validation_dice"] == f"{log[1]['scores']['dice']:.4f}"
    assert vivim.load_checkpoint(folder / "last.safetensors").config.dropout == 0.2


def test_on_step_is_told_step_steps_and_loss(whole_run: tuple[Path, list[tuple[int, int, float]]]) -> None:
    folder, steps = whole_run
    assert [step[:2] for step in steps] == [(1, 2), (2, 2), (1, 2), (2, 2)]
    means = [(steps[0][2] + steps[1][2]) / 2, (steps[2][2] + steps[3][2]) / 2]
    assert means == pytest.approx([line["loss"] for line in log_without_times(folder)])


def test_every_epoch_deals_the_clips_anew(clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dealt, deal = [], vivim.training.batches

    def recorded(*arguments: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, truth in deal(*arguments):
            dealt.append(pixels)
            yield pixels, truth

    monkeypatch.setattr(vivim.training, "batches", recorded)
    monkeypatch.setattr(vivim.training, "evaluate", no_scores)
    list(fit(FitConfig(epochs=2, batch=1, frames=1), clips[:1], [], tmp_path / "a"))
    list(fit(FitConfig(epochs=1, batch=1, frames=1, seed=1), clips[:1], [], tmp_path / "b"))
    first, second, other_seed = dealt
    assert not torch.equal(first, second) and not torch.equal(first, other_seed)


def test_training_changes_every_weight(whole_run: tuple[Path, Any], config: FitConfig) -> None:
    before = safetensors.torch.load_file(str(config.init))
    after = safetensors.torch.load_file(whole_run[0] / "last.safetensors")
    assert [key for key in before if torch.equal(before[key], after[key])] == []


def test_best_weights_stay_those_of_the_best_epoch(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = iter([0.2, 0.5, 0.3])
    monkeypatch.setattr(vivim.training, "evaluate", lambda model, clips: Scores(next(dice), 0.0, 1.0, 0.0, 1))
    config = FitConfig(epochs=3, batch=1, frames=1)
    assert len(list(fit(config, clips[:1], [], tmp_path))) == 3
    assert read_metadata(tmp_path / "best.safetensors")["epoch"] == "2"
    assert read_metadata(tmp_path / "last.safetensors")["epoch"] == "3"


def test_network_that_tells_the_truth_scores_one() -> None:
    model = Oracle().train()
    assert evaluate(model, [bright(LEFT, TOP), bright(TOP)]) == Scores(1.0, 1.0, 1.0, 1.0, 3)
    assert model.was_training == [False, False]
    assert evaluate(Oracle(-1.0), [bright(LEFT)]) == Scores(0.0, 0.0, 0.0, 0.0, 1)


def test_scores_are_means_over_frames_not_over_clips() -> None:
    right = bright(LEFT)
    wrong = Clip(bright(LEFT, LEFT, LEFT).frames, np.stack([~LEFT] * 3))
    assert evaluate(Oracle(), [right, wrong]).dice == pytest.approx(1 / 4)


def test_scores_are_not_confused_with_each_other() -> None:
    two_rows = np.arange(6)[:, None].repeat(8, axis=1) < 2
    scores = evaluate(Oracle(), [Clip(bright(LEFT).frames, two_rows[None])])
    # 24 pixels predicted, 16 true, 8 in both: Dice 16 / 40, IoU 8 / 32, precision 8 / 24, recall 8 / 16.
    assert (scores.dice, scores.iou, scores.precision, scores.recall) == pytest.approx((0.4, 0.25, 1 / 3, 0.5))
