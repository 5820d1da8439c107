"""Training: the files, exact resume after every kind of end, averages, precision, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vivim
import vivim.training.fit
from tests.vivim.runs import ALONE, FILES, SMALL, differences, log_without_times, scores, weights_of, write_start
from vivim.checkpoint import read_metadata
from vivim.model import Vivim
from vivim.training.batches import NO_AUGMENTATION, phantom_clips
from vivim.training.fit import RunOptions, fit
from vivim.training.optimising import optimizer_of, set_rate
from vivim.training.recipe import FitConfig, learning_rate
from vivim.training.scores import Scores
from vivim_runtime.clips import Clip

NEVER = RunOptions(save_every=math.inf)
ALWAYS = RunOptions(save_every=0.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A network this small gains nothing from threads, and loses minutes where another program keeps the cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return phantom_clips("train", 6, 3, (64, 64))


@pytest.fixture(scope="module")
def validation() -> list[Clip]:
    return phantom_clips("validation", 1, 1, (64, 64))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_start(tmp_path_factory.mktemp("start") / "start.safetensors")


@pytest.fixture(scope="module")
def config(start: str) -> FitConfig:
    """Two epochs of three steps."""
    return FitConfig(init=start, epochs=2, batch=2, frames=2, seed=3)


@pytest.fixture
def quick(config: FitConfig) -> FitConfig:
    """One step an epoch, of the segmentation loss alone, for tests of what surrounds a step."""
    return replace(config, batch=1, frames=1, boundary=0.0, affine=0.0)


@pytest.fixture(scope="module")
def whole_run(
    config: FitConfig, clips: list[Clip], validation: list[Clip], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[tuple[int, int, float]]]:
    """The folder of an uninterrupted run, and what `on_step` was told."""
    folder = tmp_path_factory.mktemp("whole")
    steps: list[tuple[int, int, float]] = []
    options = replace(NEVER, metadata={"note": "test"})
    list(fit(config, clips, validation, folder, options, lambda *step: steps.append(step)))
    return folder, steps


def no_scores(*arguments: object) -> Scores:
    return scores(0.0)


def test_loss_decreases_on_one_clip(
    quick: FitConfig, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vivim.training.fit, "evaluate", no_scores)
    config = replace(quick, init=None, preset="tiny", epochs=8, frames=2, lr=3e-3, augmentation=NO_AUGMENTATION)
    losses = [report.loss for report in fit(config, clips[:1], [], tmp_path)]
    assert sum(losses[-3:]) / 3 < 0.85 * losses[0], losses


# What a resumed run may get wrong: moments of Adam, averaged weights, gradients that are added up, the random numbers
# of dropout, the rate, the sizes of clips, and sums of losses of the part of an epoch that is done.
KINDS = {
    "adam": {},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "warmup": 0.5, "lr": 1e-3, "max_norm": 0.5},
    "averaged and accumulated": {"ema": 0.9, "batch": 1, "accumulate": 2, "lr": 1e-3},
    "scales": {"scales": (1.0, 1.5), "lr": 1e-3},
}
# Where a run ends, as (epoch, step): on_step is called before the state of a step is saved, so the last state is the
# one of the step before. What a recipe has and where it ends do not depend on each other: all ends of the richest
# recipe, and one of each of the others.
ENDS = [
    *(("averaged and accumulated", *end) for end in ((1, 2), (1, 3), (2, 1), (2, 3))),
    ("adam", 2, 1),
    ("adamw", 1, 3),
    ("scales", 2, 3),
]


@pytest.fixture(scope="module")
def kind(
    request: pytest.FixtureRequest,
    config: FitConfig,
    clips: list[Clip],
    validation: list[Clip],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[FitConfig, Path]:
    """A recipe, and the folder of an uninterrupted run of it."""
    recipe = replace(config, **KINDS[request.param])
    folder = tmp_path_factory.mktemp("kind")
    list(fit(recipe, clips, validation, folder, NEVER))
    return recipe, folder


def interrupted(run: Iterator[Any], state: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(run)
    assert state.is_file()


def ending_at(epoch: int, step: int) -> Callable[[int, int, float], None]:
    """An `on_step` that ends a run there."""
    epochs = 1

    def on_step(done: int, steps: int, loss: float) -> None:
        nonlocal epochs
        if (epochs, done) == (epoch, step):
            raise KeyboardInterrupt
        epochs += done == steps

    return on_step


@pytest.mark.parametrize(("kind", "epoch", "step"), ENDS, indirect=["kind"])
def test_run_resumed_in_mid_epoch_is_bit_by_bit_an_uninterrupted_one(
    kind: tuple[FitConfig, Path], clips: list[Clip], validation: list[Clip], tmp_path: Path, epoch: int, step: int
) -> None:
    recipe, expected = kind
    interrupted(fit(recipe, clips, validation, tmp_path, ALWAYS, ending_at(epoch, step)), tmp_path / "state.pt")
    torch.rand(7)  # whatever else draws random numbers in between does not matter
    told: list[int] = []
    resumed = replace(NEVER, resume=True)
    list(fit(recipe, clips, validation, tmp_path, resumed, lambda step, steps, loss: told.append(step)))
    assert told == [*range(step, 4), *([1, 2, 3] if epoch == 1 else [])]
    assert differences(tmp_path, expected) == []


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_run_resumed_between_epochs_is_bit_by_bit_an_uninterrupted_one(
    kind: tuple[FitConfig, Path], clips: list[Clip], validation: list[Clip], tmp_path: Path
) -> None:
    recipe, expected = kind
    interrupted(fit(recipe, clips, validation, tmp_path, NEVER, ending_at(2, 2)), tmp_path / "state.pt")
    assert {path.name for path in tmp_path.iterdir()} == FILES
    torch.rand(7)
    resumed = list(fit(recipe, clips, validation, tmp_path, replace(NEVER, resume=True)))
    assert [report.epoch for report in resumed] == [2]
    assert differences(tmp_path, expected) == []


def test_run_that_ends_at_every_step_is_bit_by_bit_an_uninterrupted_one(
    whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip], validation: list[Clip], tmp_path: Path
) -> None:
    def second(step: int, steps: int, loss: float) -> None:
        told.append(step)
        if len(told) == 2:
            raise KeyboardInterrupt

    runs = 0
    while runs < 9:
        told: list[int] = []
        options = replace(ALWAYS, resume=runs > 0)
        runs += 1
        try:
            list(fit(config, clips, validation, tmp_path, options, second))
            break
        except KeyboardInterrupt:
            continue
    assert runs == 6  # of 6 steps, each run but the last keeps one
    assert differences(tmp_path, whole_run[0]) == []


@pytest.mark.parametrize("file", ["last.safetensors", "log.jsonl", "state.pt"])
def test_run_that_ends_while_an_epoch_is_written_down_loses_nothing(
    whole_run: tuple[Path, Any],
    config: FitConfig,
    clips: list[Clip],
    validation: list[Clip],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
) -> None:
    replaced, written = Path.replace, []

    def ending(self: Path, target: Path) -> Path:
        done = replaced(self, target)
        written.append(target.name)
        if written.count(file) == 2:  # that of the last epoch; what comes after it stays as it was
            raise KeyboardInterrupt
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", ending)
        interrupted(fit(config, clips, validation, tmp_path, NEVER), tmp_path / "state.pt")
    list(fit(config, clips, validation, tmp_path, replace(NEVER, resume=True)))
    assert differences(tmp_path, whole_run[0]) == []


def test_finished_run_has_nothing_left_to_resume(
    whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip], validation: list[Clip]
) -> None:
    before = (whole_run[0] / "log.jsonl").read_bytes()
    assert list(fit(config, clips, validation, whole_run[0], RunOptions(resume=True))) == []
    assert (whole_run[0] / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 5e-4}, r"lr was 0\.0001 and is 0\.0005"),
        ({"epochs": 3, "seed": 4}, "epochs was 2 and is 3, seed was 3"),
        ({"augmentation": NO_AUGMENTATION}, "augmentation was"),
        ({"boundary": 0.2}, "boundary was"),
    ],
)
def test_resume_with_other_options_is_refused(
    whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(vivim.CheckpointError, match=message):
        next(fit(replace(config, **changes), clips, [], whole_run[0], RunOptions(resume=True)))


def test_resume_with_other_clips_is_refused(whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip]) -> None:
    with pytest.raises(vivim.CheckpointError, match="clips was 6 and is 5"):
        next(fit(config, clips[:5], [], whole_run[0], RunOptions(resume=True)))


def test_resume_with_another_number_of_processes_is_refused(
    whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip]
) -> None:
    class Pair(type(ALONE)):  # type: ignore[misc]
        """Two processes as far as numbers go, without the other one."""

        def wrapped(self, model: nn.Module) -> nn.Module:
            return model

    two = RunOptions(resume=True, group=Pair(0, 2, torch.device("cpu")))
    with pytest.raises(vivim.CheckpointError, match="processes was 1 and is 2"):
        next(fit(config, clips, [], whole_run[0], two))


def test_a_run_is_not_overwritten_by_another(whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip]) -> None:
    with pytest.raises(vivim.ConfigError, match="holds a run; go on with it by --resume"):
        next(fit(config, clips, [], whole_run[0]))


def test_resume_from_a_damaged_state_is_refused(
    whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip], tmp_path: Path
) -> None:
    good = (whole_run[0] / "state.pt").read_bytes()
    torch.save({"epoch": 1}, tmp_path / "other.pt")
    for damaged in (b"hello", (tmp_path / "other.pt").read_bytes(), good[: len(good) // 2], b""):
        (tmp_path / "state.pt").write_bytes(damaged)
        with pytest.raises(vivim.CheckpointError, match="is damaged"):
            next(fit(config, clips, [], tmp_path, RunOptions(resume=True)))


def test_resume_without_a_state_is_refused(config: FitConfig, clips: list[Clip], tmp_path: Path) -> None:
    with pytest.raises(vivim.CheckpointError, match="nothing to resume"):
        next(fit(config, clips, [], tmp_path, RunOptions(resume=True)))


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("cyst", "lesion", "nerve"), "those of cyst, nerve are left out"),
        (
            ("a", "b"),
            "decoder.classifier.weight, decoder.classifier.bias of lesion start from chance and those of a, b",
        ),
        (("polyp",), ""),
    ],
)
def test_weights_of_other_classes_give_all_that_fits_and_the_rest_is_named(
    quick: FitConfig, clips: list[Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture, classes: Any, said: str
) -> None:
    start, path = vivim.Vivim(replace(SMALL, classes=classes)), tmp_path / "start.safetensors"
    vivim.save_checkpoint(path, start)
    config = replace(quick, init=str(path))
    (model, notes), before = vivim.training.fit._network(config), start.state_dict()
    assert [note for note in notes if said not in note] == [] and bool(said) == bool(notes)
    if said:
        assert notes[0].startswith(f"{path} knows {', '.join(classes)}; all else is taken, ")
    assert model.config.classes == (("lesion",) if len(classes) > 1 else classes)
    for key, value in model.state_dict().items():
        if not key.startswith("decoder.classifier.") or len(classes) == 1:
            assert torch.equal(value, before[key]), key
        elif "lesion" in classes:
            assert torch.equal(value, before[key][1:2]), key
    list(fit(replace(config, epochs=1), clips[:1], clips[:1], tmp_path / "run"))  # a whole run goes
    assert caplog.text.count(" knows ") == bool(said)


@pytest.mark.parametrize(
    ("changes", "needed"), [({"batch": 7}, 7), ({"batch": 3, "accumulate": 3}, 9), ({"batch": 4, "accumulate": 2}, 8)]
)
def test_fewer_clips_than_a_step_are_refused(
    config: FitConfig, clips: list[Clip], tmp_path: Path, changes: dict[str, Any], needed: int
) -> None:
    with pytest.raises(vivim.ConfigError, match=f"6 clips make no batch of {needed}"):
        next(fit(replace(config, **changes), clips, [], tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_frames_too_small_for_the_affine_constraint_are_refused(config: FitConfig, tmp_path: Path) -> None:
    small = phantom_clips("train", 2, 2, (48, 48))
    with pytest.raises(vivim.InputError, match=r"patches of 64x64.*affine = 0"):
        next(fit(config, small, [], tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"directions": ("forward",)},
        {"mamba_layers": 2},
        {"mamba_layers": 0},
        {"st_module": "self_attention"},
    ],
    ids=str,
)
def test_weights_to_start_from_of_another_network_are_refused(
    config: FitConfig, clips: list[Clip], tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(vivim.ConfigError, match=r"start\.safetensors does not fit the network that is asked for"):
        next(fit(replace(config, **changes), clips, [], tmp_path))


def test_edge_head_comes_and_goes_with_the_losses_that_need_it(
    whole_run: tuple[Path, Any], quick: FitConfig, clips: list[Clip], tmp_path: Path
) -> None:
    with_edges = whole_run[0] / "last.safetensors"  # from weights without
    assert vivim.load_checkpoint(with_edges).config.edge_head == "conv3"
    config = replace(quick, init=str(with_edges), epochs=1)
    list(fit(config, clips[:1], clips[:1], tmp_path))
    model = vivim.load_checkpoint(tmp_path / "last.safetensors")
    assert model.config.edge_head == "none" and model.config.frames == config.frames


def test_a_run_leaves_weights_log_and_state(whole_run: tuple[Path, Any], config: FitConfig) -> None:
    folder = whole_run[0]
    assert {path.name for path in folder.iterdir()} == FILES
    log = log_without_times(folder)
    assert [line["epoch"] for line in log] == [1, 2]
    assert [line["lr"] for line in log] == [learning_rate(config, step, 6) for step in (2, 5)]
    figures = {"dice", "lesion_dice", "iou", "precision", "recall", "hd95", "edge_ap", "edge_dice", "frames"}
    assert set(log[0]["scores"]) == figures and 0 < log[0]["scores"]["edge_ap"] < 1
    for line in log:
        terms = line["terms"]
        assert terms["total"] == line["loss"] > 0
        # Eq. 9; sums of float32 terms, each rounded once.
        total = terms["segmentation"] + 0.3 * terms["boundary"] + 0.3 * terms["affine"]
        assert total == pytest.approx(line["loss"], rel=1e-6)
    metadata = read_metadata(folder / "last.safetensors")
    assert metadata["note"] == "test" and metadata["epoch"] == "2"
    assert metadata["validation_dice"] == f"{log[1]['scores']['dice']:.4f}"
    network = vivim.load_checkpoint(folder / "last.safetensors").config
    assert (network.dropout, network.edge_head, network.frames) == (0.2, "conv3", 2)


def test_on_step_is_told_step_steps_and_loss(whole_run: tuple[Path, list[tuple[int, int, float]]]) -> None:
    folder, steps = whole_run
    assert [step[:2] for step in steps] == [(1, 3), (2, 3), (3, 3)] * 2
    means = [sum(loss for _, _, loss in epoch) / 3 for epoch in (steps[:3], steps[3:])]
    assert means == pytest.approx([line["loss"] for line in log_without_times(folder)])


def test_training_changes_every_weight(whole_run: tuple[Path, Any], config: FitConfig) -> None:
    before = weights_of(Path(str(config.init)))
    after = weights_of(whole_run[0] / "last.safetensors")
    assert [key for key in before if torch.equal(before[key], after[key])] == []


def test_same_seed_gives_the_same_run_and_another_one_another(
    whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip], validation: list[Clip], tmp_path: Path
) -> None:
    torch.rand(3)
    list(fit(config, clips, validation, tmp_path / "same"))
    assert differences(tmp_path / "same", whole_run[0]) == []
    list(fit(replace(config, seed=4, epochs=1), clips, validation, tmp_path / "other"))
    assert log_without_times(tmp_path / "other")[0]["loss"] != log_without_times(whole_run[0])[0]["loss"]


def test_seed_decides_the_weights_of_a_network_from_scratch(
    quick: FitConfig, clips: list[Clip], tmp_path: Path
) -> None:
    first = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(3)
        # A rate of 0 leaves the weights as they were drawn.
        config = replace(quick, init=None, preset="tiny", epochs=1, lr=0.0, min_lr=0.0, seed=seed)
        list(fit(config, clips[:1], clips[:1], tmp_path / name))
        first[name] = weights_of(tmp_path / name / "last.safetensors")["stages.0.patch_embed.proj.weight"]
    assert torch.equal(first["a"], first["b"]) and not torch.equal(first["a"], first["c"])


def test_workers_that_make_clips_ahead_change_nothing(
    whole_run: tuple[Path, Any], config: FitConfig, clips: list[Clip], validation: list[Clip], tmp_path: Path
) -> None:
    list(fit(config, clips, validation, tmp_path, replace(NEVER, workers=1)))
    assert differences(tmp_path, whole_run[0]) == []


def scored(monkeypatch: pytest.MonkeyPatch, *dice: float) -> list[Vivim]:
    """Let the validation of the epochs give these figures; returns the networks that were validated."""
    figures, seen = iter(dice), []

    def judged(model: Vivim, *rest: object) -> Scores:
        seen.append(model)
        return scores(next(figures))

    monkeypatch.setattr(vivim.training.fit, "evaluate", judged)
    return seen


def test_best_weights_stay_those_of_the_best_epoch(
    quick: FitConfig, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.2, 0.5, 0.3)
    assert len(list(fit(replace(quick, epochs=3), clips[:1], [], tmp_path))) == 3
    assert read_metadata(tmp_path / "best.safetensors")["epoch"] == "2"
    assert read_metadata(tmp_path / "last.safetensors")["epoch"] == "3"


@pytest.mark.parametrize(
    ("patience", "dice", "epochs"),
    [
        (2, (0.1, 0.5, 0.4, 0.5), 4),  # as good is not better
        (1, (0.1, 0.2, 0.3, 0.3), 4),
        (3, (0.0, 0.0, 0.0, 0.0), 4),  # the first epoch is better than none
        (0, (0.5, 0.4, 0.3, 0.2, 0.1), 5),
    ],
)
def test_patience_ends_a_run_after_so_many_epochs_without_a_better_dice(
    quick: FitConfig,
    clips: list[Clip],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patience: int,
    dice: tuple[float, ...],
    epochs: int,
) -> None:
    scored(monkeypatch, *dice)
    config = replace(quick, epochs=5, patience=patience)
    reports = list(fit(config, clips[:1], [], tmp_path))
    assert [report.epoch for report in reports] == list(range(1, epochs + 1))
    # A run that ended early is over: there is nothing to go on with.
    assert list(fit(config, clips[:1], [], tmp_path, RunOptions(resume=True))) == []


def test_patience_counts_on_after_a_resume(
    quick: FitConfig, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(quick, epochs=5, patience=2)
    scored(monkeypatch, 0.5, 0.4)
    run = fit(config, clips[:1], [], tmp_path)
    assert [next(run).epoch, next(run).epoch] == [1, 2]
    run.close()
    scored(monkeypatch, 0.4)
    assert [report.epoch for report in fit(config, clips[:1], [], tmp_path, RunOptions(resume=True))] == [3]


@dataclass(frozen=True)
class Step:
    """What an optimiser was given at a step, and what it made of it."""

    kind: str
    lr: float
    decay: float
    gradients: list[Tensor]
    weights: list[Tensor]

    @property
    def norm(self) -> float:
        return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in self.gradients))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps that optimisers take in this test."""
    taken: list[Step] = []

    def watched(kind: Any) -> type:
        class Watched(kind):  # type: ignore[misc]
            def step(self, *arguments: Any) -> Any:
                group = self.param_groups[0]
                gradients = [parameter.grad.clone() for parameter in group["params"]]
                result = super().step(*arguments)
                weights = [parameter.detach().clone() for parameter in group["params"]]
                taken.append(Step(kind.__name__, group["lr"], group["weight_decay"], gradients, weights))
                return result

        return Watched

    for kind in (torch.optim.Adam, torch.optim.AdamW):
        monkeypatch.setattr(torch.optim, kind.__name__, watched(kind))
    return taken


def test_every_step_has_the_rate_of_the_schedule(
    quick: FitConfig, clips: list[Clip], tmp_path: Path, steps: list[Step]
) -> None:
    config = replace(quick, epochs=2, warmup=0.5, lr=1e-3, min_lr=1e-5)
    list(fit(config, clips[:3], clips[:1], tmp_path))
    assert [step.lr for step in steps] == [learning_rate(config, number, 6) for number in range(6)]
    assert {(step.kind, step.decay) for step in steps} == {("Adam", 0.0)}


def test_adamw_decays_weights_as_it_is_told(
    quick: FitConfig, clips: list[Clip], tmp_path: Path, steps: list[Step]
) -> None:
    list(fit(replace(quick, epochs=1, optimizer="adamw", weight_decay=0.07), clips[:1], clips[:1], tmp_path))
    assert [(step.kind, step.decay) for step in steps] == [("AdamW", 0.07)]


def test_gradients_are_clipped_to_the_norm_and_no_further(
    quick: FitConfig, clips: list[Clip], tmp_path: Path, steps: list[Step]
) -> None:
    for number, max_norm in enumerate((0.0, 0.01, 1e6)):
        list(fit(replace(quick, epochs=1, max_norm=max_norm), clips[:1], clips[:1], tmp_path / str(number)))
    free, clipped, wide = (step.norm for step in steps)
    # clip_grad_norm_ divides by the norm plus 1e-6, a ten-thousandth of 0.01; the rest is float32.
    assert free > 0.02 and clipped == pytest.approx(0.01, rel=2e-4) and wide == free


def test_sizes_of_clips_are_drawn_step_by_step_and_masks_go_with_them(
    quick: FitConfig, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vivim.training.fit, "evaluate", no_scores)
    seen: list[tuple[int, ...]] = []
    forward = Vivim.forward
    monkeypatch.setattr(Vivim, "forward", lambda self, x: seen.append(tuple(x.shape[-2:])) or forward(self, x))
    run = replace(quick, epochs=4, accumulate=2, scales=(0.5, 1.0))
    list(fit(run, clips, [], tmp_path / "several"))
    pairs = list(zip(seen[::2], seen[1::2], strict=True))  # the batches of a step
    assert len(pairs) == 12 and all(one == other for one, other in pairs)
    assert set(seen) == {(32, 32), (64, 64)}
    again = seen.copy()
    seen.clear()
    list(fit(replace(run, seed=run.seed + 1), clips, [], tmp_path / "others"))
    assert seen != again and set(seen) == set(again)


def test_accumulated_gradients_are_the_mean_of_those_of_the_batches(
    quick: FitConfig, clips: list[Clip], tmp_path: Path, steps: list[Step]
) -> None:
    still = replace(quick, epochs=1, lr=0.0, min_lr=0.0)  # so that the second step starts from the same weights
    list(fit(still, clips[:2], clips[:1], tmp_path / "single"))
    list(fit(replace(still, accumulate=2), clips[:2], clips[:1], tmp_path / "double"))
    first, second, both = (step.gradients for step in steps)
    for a, b, mean in zip(first, second, both, strict=True):
        # Halves are exact, so what is left is the rounding of one sum: 2^-24 of its terms.
        assert ((a + b) / 2 - mean).abs().max() <= 1.2e-7 * torch.maximum(a.abs(), b.abs()).max()
    single, double = (log_without_times(tmp_path / name)[0]["loss"] for name in ("single", "double"))
    assert double == pytest.approx(single, rel=1e-6)


def test_averaged_weights_are_those_of_a_hand_computation_evaluated_and_saved(
    quick: FitConfig, clips: list[Clip], tmp_path: Path, steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = scored(monkeypatch, 0.5)
    list(fit(replace(quick, epochs=1, ema=0.2, lr=1e-2), clips[:4], [], tmp_path))
    assert len(steps) == 4
    for name in ("best", "last"):
        saved = weights_of(tmp_path / f"{name}.safetensors")
        for index, (key, parameter) in enumerate(judged[0].named_parameters()):
            first, second, third, fourth = (step.weights[index].double() for step in steps)
            # The decay is (1 + n) / (10 + n) after n steps, and 0.2 as soon as that is less.
            average = 2 / 11 * first + 9 / 11 * second
            average = 0.2 * (0.2 * average + 0.8 * third) + 0.8 * fourth
            # Three interpolations in float32, each of three operations on values that change by 0.01 a step.
            assert (saved[key].double() - average).abs().max() <= 9 * 6e-8 * (average.abs().max() + 0.04)
            assert torch.equal(saved[key], parameter)
    assert not torch.equal(saved[key], steps[-1].weights[-1])


def test_averages_hold_running_statistics_too(quick: FitConfig, clips: list[Clip], tmp_path: Path) -> None:
    config = replace(quick, epochs=1, lr=1e-2)
    list(fit(config, clips[:4], clips[:1], tmp_path / "plain"))
    list(fit(replace(config, ema=0.5), clips[:4], clips[:1], tmp_path / "averaged"))
    plain, averaged = (weights_of(tmp_path / name / "last.safetensors") for name in ("plain", "averaged"))
    for key in ("decoder.norm.running_mean", "decoder.norm.running_var"):
        assert averaged[key].isfinite().all() and not torch.equal(averaged[key], plain[key])
    assert averaged["decoder.norm.num_batches_tracked"] == plain["decoder.norm.num_batches_tracked"] == 4


def test_what_mamba_and_norms_are_made_of_does_not_decay_and_the_encoder_has_a_rate_of_its_own() -> None:
    model = Vivim(replace(SMALL, edge_head="conv3"))
    config = FitConfig(preset="tiny", optimizer="adamw", lr=0.1, weight_decay=0.2, encoder_rate=0.25)
    optimizer = optimizer_of(model, config)
    set_rate(optimizer, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["weight_decay"], group["lr"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found.keys() == set(names.values())
    mixer, block = "stages.0.mamba.0.mixer", "stages.1.blocks.0"
    for name in ("A_log", "D", "dt_bias", "conv_bias"):
        assert found[f"{mixer}.{name}"] == (0.0, 0.1)
    for name in ("in_proj.weight", "x_proj", "dt_weight", "conv_weight"):
        assert found[f"{mixer}.{name}"] == (0.2, 0.1)
    assert found[f"{block}.attention.query.weight"] == (0.2, 0.025)
    assert found[f"{block}.attention.query.bias"] == found[f"{block}.norm1.weight"] == (0.0, 0.025)
    assert (
        found["decoder.norm.weight"] == found["edge_head.4.bias"] == found["stages.0.mamba.0.norm2.weight"] == (0, 0.1)
    )
    assert found["decoder.fuse.weight"] == (0.2, 0.1)


def test_edge_head_alone_is_trained_on_features_that_stay_as_they_are(
    config: FitConfig, clips: list[Clip], validation: list[Clip], start: str, tmp_path: Path
) -> None:
    alone = replace(config, only="edge_head", epochs=1, affine=0.0, ema=0.5)
    list(fit(alone, clips, validation, tmp_path / "run", NEVER))
    before, after = weights_of(Path(start)), weights_of(tmp_path / "run" / "last.safetensors")
    moved = {key for key in after if key not in before or not torch.equal(before[key], after[key])}
    assert moved == {key for key in after if key.startswith("edge_head.")} and moved


def test_a_new_edge_head_replaces_that_of_the_weights_and_starts_at_the_share_of_outlines(
    config: FitConfig, tmp_path: Path
) -> None:
    start = vivim.Vivim(replace(SMALL, edge_head="conv3"))
    torch.nn.init.constant_(start.edge_head[-1].bias, 3.0)  # type: ignore[index]
    vivim.save_checkpoint(tmp_path / "start.safetensors", start)
    kept, new = (
        vivim.training.fit._network(replace(config, init=str(tmp_path / "start.safetensors"), new_edge_head=anew))[0]
        for anew in (False, True)
    )
    assert kept.edge_head[-1].bias.item() == 3.0  # type: ignore[index]
    assert new.edge_head[-1].bias.sigmoid().item() == pytest.approx(0.01)  # type: ignore[index]
    assert torch.equal(new.decoder.fuse.weight, start.decoder.fuse.weight)


def test_an_edge_head_of_another_kind_is_a_new_one(config: FitConfig, start: str) -> None:
    asked = replace(config, init=start, edge_head="decoder")
    model, _ = vivim.training.fit._network(asked)
    width = model.config.decoder_width
    assert model.edge_head[0].weight.shape == (width, width, 3, 3)  # type: ignore[index,union-attr]
    assert model.edge_head[-1].bias.sigmoid().item() == pytest.approx(0.01)  # type: ignore[index,union-attr]


def test_a_loss_that_is_not_finite_stops_the_run_names_the_clips_and_keeps_the_state_before(
    config: FitConfig, clips: list[Clip], validation: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, calls = vivim.training.fit.Objective.__call__, []

    def diverging(self: Any, output: Any, truth: Tensor) -> dict[str, Tensor]:
        calls.append(None)
        losses = objective(self, output, truth)
        return losses if len(calls) != 2 else {**losses, "total": losses["total"] * math.nan}

    with monkeypatch.context() as patch:
        patch.setattr(vivim.training.fit.Objective, "__call__", diverging)
        with pytest.raises(vivim.ConfigError, match=r"total nan.* step 2 of epoch 1, on clip \d, clip \d; .*state"):
            list(fit(config, clips, validation, tmp_path / "run", NEVER))
    # Gone on with, the run is the one that never met it.
    list(fit(config, clips, validation, tmp_path / "run", replace(NEVER, resume=True)))
    list(fit(config, clips, validation, tmp_path / "whole", NEVER))
    assert differences(tmp_path / "run", tmp_path / "whole") == []


@pytest.mark.parametrize(("criterion", "best"), [("lesion", 2), ("all", 1)])
def test_frames_that_choose_the_best_weights_are_those_of_the_recipe(
    quick: FitConfig, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, criterion: Any, best: int
) -> None:
    given = iter([replace(scores(0.9), lesion_dice=0.3), replace(scores(0.8), lesion_dice=0.6)])
    monkeypatch.setattr(vivim.training.fit, "evaluate", lambda *arguments: next(given))
    list(fit(replace(quick, criterion=criterion), clips[:1], clips[:1], tmp_path, NEVER))
    assert read_metadata(tmp_path / "best.safetensors")["epoch"] == str(best)


def test_initialisation_of_the_authors_has_small_projections_and_no_bias_of_dt() -> None:
    torch.manual_seed(0)
    network = FitConfig(preset="tiny", initialisation="authors")
    mixer = vivim.training.fit._network(network)[0].stages[3].mamba[0].mixer  # type: ignore[index, union-attr]
    for weight in (mixer.in_proj.weight, mixer.x_proj, mixer.dt_weight, mixer.out_proj.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)  # 6,000 numbers at least: within a few per cent
    assert not mixer.dt_bias.any()
    ours = vivim.training.fit._network(replace(network, initialisation="ours"))[0].stages[3].mamba[0].mixer  # type: ignore[index, union-attr]
    assert ours.dt_bias.all() and ours.in_proj.weight.std() > 0.04  # uniform in 1 / sqrt(128): 0.051


@pytest.fixture(scope="module")
def precise(config: FitConfig, clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The losses of a run of three epochs in float32."""
    recipe = replace(config, epochs=3, lr=1e-2, ema=0.5, accumulate=2, batch=1)
    return [report.terms for report in fit(recipe, clips, clips[:1], tmp_path_factory.mktemp("precise") / "run")]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_learns_with_weights_in_float32(
    config: FitConfig, clips: list[Clip], precise: list[dict[str, float]], tmp_path: Path, amp: Any
) -> None:
    recipe = replace(config, epochs=3, amp=amp, lr=1e-2, ema=0.5, accumulate=2, batch=1)
    mixed = [report.terms for report in fit(recipe, clips, clips[:1], tmp_path / amp)]
    saved = weights_of(tmp_path / amp / "last.safetensors")
    assert {value.dtype for value in saved.values() if value.is_floating_point()} == {torch.float32}
    # The same run but for the precision of products: 8 bits of mantissa.
    for a, b in zip(precise, mixed, strict=True):
        assert b["total"] != a["total"] and b["total"] == pytest.approx(a["total"], rel=0.05)
    assert mixed[-1]["total"] < mixed[0]["total"]
