"""`vivim-train` as its users meet it: what it writes, and one line and exit code 2 for what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

import vivim
import vivim.commands.fit
import vivim.training.affine
from tests.golden.cases import upstream_state
from tests.runtime.datasets.trees import write_image, write_video_folders, write_vtus
from tests.vivim.runs import differences, log_without_times, write_start
from vivim.checkpoint import read_metadata
from vivim.training.affine import load_regressor
from vivim.training.batches import Augmentation
from vivim.training.recipe import FitConfig
from vivim_runtime.commands import entry
from vivim_runtime.commands.entry import main
from vivim_runtime.files import sha256_file


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Train = Callable[..., Outcome]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Train]:
    """Runs `vivim-train ARGUMENTS` in this process."""
    threads = torch.get_num_threads()

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["vivim-train", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main("vivim-train", "vivim.commands.train")
        captured = capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return Outcome(exit.value.code, captured.out, captured.err)

    yield run
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authors' checkpoint with B3's widths and one SegFormer block a stage."""
    path = tmp_path_factory.mktemp("upstream") / "vivim.pth"
    torch.save({"state_dict": upstream_state((1, 1, 1, 1))}, path)
    return path


def same(a: vivim.Vivim, b: vivim.Vivim) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return a.config == b.config and ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_convert_turns_an_upstream_checkpoint_into_safetensors_and_back_again(
    train: Train, upstream: Path, tmp_path: Path
) -> None:
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    outcome = train("convert", upstream, once, "--frames", 8)
    assert (outcome.code, outcome.err) == (0, "")
    assert "T = 8" in outcome.out and "forward, backward, spatial" in outcome.out
    model = vivim.load_checkpoint(once)
    assert model.config.frames == 8
    assert same(model, vivim.load_checkpoint(upstream, frames=8))
    assert read_metadata(once)["converted_from_sha256"] == sha256_file(upstream)

    assert train("convert", once, twice).code == 0
    assert same(vivim.load_checkpoint(twice), model)


def test_convert_keeps_the_notes_of_our_checkpoints(train: Train, tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    vivim.save_checkpoint(source, vivim.Vivim(vivim.VivimConfig.preset("tiny")), {"trained_on": "phantom"})
    assert train("convert", source, target, "--frames", 3).code == 0
    metadata = read_metadata(target)
    assert metadata["trained_on"] == "phantom" and vivim.load_checkpoint(target).config.frames == 3


# The smallest run: one step of the tiny network on frames of 32 pixels, which the affine constraint cannot take.
SMALL = "--preset tiny --affine 0 --clips 1 --validation-clips 1 --frames 1 --imgsz 32 --batch 1 --epochs 1 --threads 1"


def recipe_of(run: Path) -> dict[str, Any]:
    """The recipe of a run, as its state tells it."""
    recipe = json.loads(torch.load(run / "state.pt", weights_only=True)["run"])
    assert isinstance(recipe, dict)
    return recipe


def test_fit_trains_and_evaluate_scores_what_it_wrote(train: Train, tmp_path: Path) -> None:
    outcome = train("fit", "--out", tmp_path, *SMALL.split(), "--clips", 2, "--batch", 2)
    assert outcome.code == 0, outcome.err
    assert "epoch 1/1" in outcome.err and "segmentation" in outcome.err and outcome.out == ""
    metadata = read_metadata(tmp_path / "best.safetensors")
    assert metadata["command"].startswith("vivim-train fit --out") and metadata["seed"] == "0"
    assert metadata["trained_on"] == "phantom train, 2 clips of 1x32x32, new in every epoch"

    figures = tmp_path / "scores" / "test.json"
    size = ("--frames", 1, "--imgsz", 32, "--threads", 1, "--no-speed")
    data = ("--data", "phantom:clips=2,frames=1,size=32", "--json", figures)
    outcome = train("evaluate", tmp_path / "best.safetensors", *data, *size)
    assert outcome.code == 0, outcome.err
    (found,) = json.loads(figures.read_text())["models"]
    scores = {name: figure["value"] for name, figure in found["overall"]["all"].items()}
    assert found["model"]["weights_sha256"] == sha256_file(tmp_path / "best.safetensors")
    assert f"{scores['dice']:.4f}" in outcome.out


def test_fit_is_by_default_the_papers_recipe(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    assert train("fit").code == 0
    ((recipe, size),) = seen
    assert recipe == FitConfig() and size == (256, 256)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[FitConfig, tuple[int, int]]]:
    """Record the recipe of a run and the size of its frames instead of training."""
    seen: list[tuple[FitConfig, tuple[int, int]]] = []

    def recorded(recipe: FitConfig, training: Any, *rest: Any) -> Sequence[Any]:
        seen.append((recipe, training.size))
        return ()

    monkeypatch.setattr(vivim.commands.fit, "fit", recorded)
    for check in ("check_run", "check_start"):
        monkeypatch.setattr(vivim.commands.fit, check, lambda *arguments: None)
    monkeypatch.setattr(vivim.commands.fit, "planned", lambda *arguments: ())
    return seen


OPTIONS = {
    "preset": ("b0", "b0"),
    "encoder": ("segformer.bin", "segformer.bin"),
    "directions": ("forward,spatial", ("forward", "spatial")),
    "mamba_layers": ("1", 1),
    "st_module": ("window_attention", "window_attention"),
    "only": ("edge_head", "edge_head"),
    "edge_head": ("decoder", "decoder"),
    "new_edge_head": ("", True),
    "epochs": ("7", 7),
    "batch": ("3", 3),
    "frames": ("2", 2),
    "accumulate": ("2", 2),
    "optimizer": ("adamw", "adamw"),
    "lr": ("0.5", 0.5),
    "min_lr": ("1e-5", 1e-5),
    "warmup": ("0.1", 0.1),
    "weight_decay": ("0.2", 0.2),
    "encoder_rate": ("0.3", 0.3),
    "max_norm": ("1.5", 1.5),
    "ema": ("0.99", 0.99),
    "boundary": ("0.1", 0.1),
    "affine": ("0.2", 0.2),
    "flicker": ("0.4", 0.4),
    "scales": ("1,0.5", (1.0, 0.5)),
    "delta_1": ("0.9", 0.9),
    "delta_2": ("0.02", 0.02),
    "weighting": ("authors", "authors"),
    "balanced": ("", True),
    "target": ("centre", "centre"),
    "regressor": ("r.safetensors", "r.safetensors"),
    "amp": ("bf16", "bf16"),
    "criterion": ("all", "all"),
    "initialisation": ("authors", "authors"),
    "patience": ("4", 4),
    "seed": ("5", 5),
}


def test_every_part_of_a_recipe_has_its_option(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    arguments = []
    for name, (text, _) in OPTIONS.items():
        option = name.replace("_", "-")
        arguments += [f"--{option}", text] if text else [f"--{option}"]
    outcome = train("fit", *arguments)
    assert outcome.code == 0, outcome.err
    assert seen[0][0] == FitConfig(**{name: value for name, (_, value) in OPTIONS.items()})
    # Augmentation has no options; weights to start from come in place of those of the encoder, and streaming networks
    # have directions of their own.
    # And `classes` are those of the clips (--classes names them there).
    assert {*OPTIONS, "augmentation", "init", "streaming", "classes"} == set(vars(FitConfig()))
    assert train("fit", "--init", "tiny").code == 0 and seen[1][0] == FitConfig(init="tiny")
    assert train("fit", "--streaming").code == 0 and seen[2][0] == FitConfig(streaming=True)


def test_every_part_of_a_recipe_may_stand_in_a_file(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def literal(value: Any) -> str:
        return json.dumps(list(value) if isinstance(value, tuple) else value)

    seen = watch(monkeypatch)
    lines = [f"{name} = {literal(value)}" for name, (_, value) in OPTIONS.items()]
    config = tmp_path / "recipe.toml"
    config.write_text("\n".join([*lines, "imgsz = 96", "[augmentation]", "flip = 0.25", "speckle = 0"]))
    outcome = train("fit", "--config", config)
    assert outcome.code == 0, outcome.err
    values = {name: value for name, (_, value) in OPTIONS.items()}
    assert seen[0] == (FitConfig(**values, augmentation=Augmentation(flip=0.25, speckle=0.0)), (96, 96))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("paper", {"epochs": 100, "batch": 4, "boundary": 0.3, "balanced": False, "target": "all"}),
        # Figures of the published script: 200 epochs of 8 clips, no edge head, the middle frame.
        (
            "authors",
            {"epochs": 200, "batch": 8, "boundary": 0.0, "affine": 0.0, "target": "centre", "criterion": "all"},
        ),
        ("ours", {"optimizer": "adamw", "ema": 0.999, "encoder_rate": 0.3, "max_norm": 1.0}),
    ],
)
def test_recipes_of_the_package_stand_where_neither_options_nor_a_file_do(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: dict[str, Any]
) -> None:
    seen = watch(monkeypatch)
    config = tmp_path / "mine.toml"
    config.write_text("seed = 7\nlr = 0.25\n")
    for arguments in (("--recipe", name, "--config", config), ("--config", config, "--recipe", name)):
        outcome = train("fit", *arguments, "--patience", 9)
        assert outcome.code == 0, outcome.err
        recipe, size = seen.pop()
        assert {key: getattr(recipe, key) for key in expected} == expected
        assert (recipe.seed, recipe.lr, recipe.patience, size) == (7, 0.25, 9, (256, 256))
    assert (recipe.augmentation == Augmentation()) == (name != "authors")


def test_the_recipe_paper_is_what_happens_without_one(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    assert train("fit", "--recipe", "paper").code == 0
    assert seen == [(FitConfig(), (256, 256))]
    outcome = train("fit", "--recipe", "papers")
    assert outcome.code == 2 and "paper, authors, ours" in outcome.err


def test_options_override_the_file(train: Train, tmp_path: Path) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text('preset = "tiny"\nepochs = 3\nlr = 0.5\nfresh = false\nseed = 4\n')
    outcome = train("fit", "--config", config, "--out", tmp_path / "run", *SMALL.split(), "--lr", 1e-3)
    assert outcome.code == 0, outcome.err
    recipe = recipe_of(tmp_path / "run")
    assert {"epochs": 1, "lr": 1e-3, "seed": 4, "boundary": 0.3, "affine": 0.0}.items() <= recipe.items()
    assert read_metadata(tmp_path / "run" / "last.safetensors")["trained_on"] == "phantom train, 1 clips of 1x32x32"


@pytest.mark.parametrize("name", ["1-small", "2-large", "3-long"])
def test_recipes_of_the_shipped_weights_are_taken(
    train: Train, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for run in ("tiny-1", "tiny-2"):  # what the run before leaves
        Path("runs", run).mkdir(parents=True)
        shutil.copyfile(Path(vivim.__file__).parent / "weights" / "tiny.safetensors", f"runs/{run}/best.safetensors")
    outcome = train("fit", "--config", Path(__file__).parents[3] / "examples" / "tiny" / f"{name}.toml", "--seed", 9)
    assert outcome.code == 0, outcome.err
    ((recipe, size),) = seen
    assert (recipe.preset, recipe.optimizer, recipe.max_norm, recipe.seed) == ("tiny", "adamw", 1.0, 9)
    assert size == ((128, 128) if name == "1-small" else (256, 256))


def test_fit_trains_on_a_folder_of_videos(train: Train, tmp_path: Path) -> None:
    write_vtus(tmp_path / "data", {"0001": 3, "0002": 2}, {"0003": 2})
    arguments = ("fit", "--data", tmp_path / "data", *SMALL.split(), "--frames", 2, "--batch", 3)
    outcome = train(*arguments, "--validation-split", "test", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert log_without_times(tmp_path / "run")[0]["scores"]["frames"] == 2
    trained_on = read_metadata(tmp_path / "run" / "last.safetensors")["trained_on"]
    assert trained_on == "VTUS train, 3 clips of 2x32x32"  # two of 0001 and one of 0002

    splits = tmp_path / "splits.txt"
    splits.write_text("train:\n0001\n0003\nvalidation:\n0002\n")
    outcome = train(*arguments, "--split-file", splits, "--out", tmp_path / "other", "--hop", 1, "--stride", 1)
    assert outcome.code == 0, outcome.err
    assert "3 clips" in read_metadata(tmp_path / "other" / "last.safetensors")["trained_on"]


def test_fit_trains_on_still_pictures_beside_videos(train: Train, tmp_path: Path) -> None:
    write_vtus(tmp_path / "data", {"0001": 3}, {"0003": 2})
    write_video_folders(tmp_path / "stills" / "images", tmp_path / "stills" / "masks", 4)
    arguments = ("fit", "--data", tmp_path / "data", *SMALL.split(), "--frames", 2, "--batch", 3)
    arguments += ("--validation-split", "test", "--stills")
    outcome = train(*arguments, tmp_path / "stills", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "6 clips (4 of them still pictures) of 2 x 32 x 32; 1 epochs of 2 steps" in outcome.err
    metadata = read_metadata(tmp_path / "run" / "last.safetensors")
    assert metadata["trained_on"] == f"VTUS train, 6 clips of 2x32x32, 4 of them stills of {tmp_path / 'stills'}"
    videos, stills = json.loads(metadata["training_data"])
    assert (videos["name"], stills["name"]) == ("VTUS", "stills") and "train" in stills["splits"]
    for folder, message in (
        (tmp_path / "data", "--stills and --data are both"),
        (tmp_path / "no", "there is no folder"),
    ):
        outcome = train(*arguments, folder, "--out", tmp_path / "other")
        assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--split nope", "has no split 'nope'; it has train, test"),
        ("--validation-split nope", "has no split 'nope'"),
        ("--validation-split test --frames 9", "no video of VTUS has the 9 frames of a clip"),
        ("--validation-split test --frames 3", "no video of VTUS has the 3 frames"),  # to validate on
        ("--validation-split test --batch 9", "make no batch of 9"),
        ("--validation-split test --layout plan", "--layout is plan; expected auto"),
        ("--split-file {}/nothing.txt", "cannot read the split file"),
        ("--validation-split test --hop 0", "hop 0"),
    ],
)
def test_folders_of_videos_that_cannot_be_trained_on_are_refused_in_one_line(
    train: Train, tmp_path: Path, options: str, message: str
) -> None:
    write_vtus(tmp_path / "data", {"0001": 3}, {"0003": 2})
    outcome = train(
        *("fit", "--data", tmp_path / "data", "--out", tmp_path / "run", *SMALL.split()),
        *options.replace("{}", str(tmp_path)).split(),
    )
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1 and outcome.err.startswith("error: ") and message in outcome.err
    assert not (tmp_path / "run").exists()


def test_killed_fit_resumes_without_loss(train: Train, tmp_path: Path) -> None:
    """SIGKILL, which no program hears of, in the middle of the first epoch."""
    start = write_start(tmp_path / "start.safetensors")
    common = f"--init {start} --epochs 2 --clips 8 --batch 2 --frames 2 --imgsz 64 --validation-clips 1 --ema 0.9"
    arguments = ["fit", *common.split(), "--threads", "1", "--save-every", "0", "--device", "cpu"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    program = [sys.executable, "-c", "from vivim_runtime.commands.entry import train; train()"]
    victim = subprocess.Popen([*program, *arguments, "--out", str(killed)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not (killed / "state.pt").exists() and victim.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(victim.pid, signal.SIGKILL)
    message = victim.communicate()[1].decode()
    assert victim.returncode == -signal.SIGKILL, message
    assert not (killed / "log.jsonl").exists()  # it did not reach the end of an epoch

    assert train(*arguments, "--out", whole).code == 0
    outcome = train(*arguments, "--out", killed, "--resume")
    assert outcome.code == 0, outcome.err
    assert differences(killed, whole) == []


def test_interrupted_fit_says_how_to_go_on(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(vivim.commands.fit, "fit", interrupted)
    outcome = train("fit", "--out", tmp_path, *SMALL.split())
    assert outcome.code == 130
    assert "--resume" in outcome.err and str(tmp_path) in outcome.err and "Traceback" not in outcome.err


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A regressor is judged by 64 pairs of outlines instead of thousands."""
    judged = partial(vivim.training.affine._scores, count=64)
    monkeypatch.setattr(vivim.training.affine, "_scores", judged)


@pytest.mark.usefixtures("few_pairs")
def test_boundary_teaches_a_regressor_that_fit_takes(train: Train, tmp_path: Path) -> None:
    out = tmp_path / "new" / "affine.safetensors"
    outcome = train(
        *("boundary", "--out", out, "--clips", 8, "--imgsz", 64, "--steps", 4, "--batch", 4, "--threads", 1)
    )
    assert outcome.code == 0, outcome.err
    # Two masks of every clip, an eighth of the clips held out.
    assert "16 masks to learn from, 2 held out" in outcome.err
    assert outcome.out.startswith(f"{out}: error |theta' - theta|_F ") and "held-out pairs" in outcome.out
    with safetensors.safe_open(out, framework="pt") as file:
        notes = file.metadata()
    assert notes["format"] == "vivim-affine" and notes["command"].startswith("vivim-train boundary --out")
    assert notes["scores"] in " ".join(outcome.out.split())
    assert not any(parameter.requires_grad for parameter in load_regressor(out).parameters())

    losses = {}
    for name, more in (("ours", ["--regressor", out]), ("shipped", [])):
        options = ("--imgsz", 64, "--affine", 0.3, *more)
        assert train("fit", "--out", tmp_path / name, *SMALL.split(), *options).code == 0
        losses[name] = log_without_times(tmp_path / name)[0]["terms"]
    assert losses["ours"]["affine"] != losses["shipped"]["affine"]
    assert losses["ours"]["segmentation"] == losses["shipped"]["segmentation"]


@pytest.mark.usefixtures("few_pairs")
def test_boundary_learns_from_a_folder_of_videos(train: Train, tmp_path: Path) -> None:
    write_vtus(tmp_path / "data", {"0001": 5, "0002": 5})
    splits = tmp_path / "splits.txt"
    splits.write_text("train:\n0001\nvalidation:\n0002\n")
    arguments = ("--data", tmp_path / "data", "--split-file", splits, "--imgsz", 64, "--steps", 1, "--batch", 2)
    outcome = train("boundary", "--out", tmp_path / "a.safetensors", *arguments, "--threads", 1)
    assert outcome.code == 0, outcome.err
    assert "2 masks to learn from, 2 held out" in outcome.err

    for path in (tmp_path / "data" / "Train_GT" / "0001").iterdir():
        write_image(path, torch.zeros(24, 32, dtype=torch.uint8).numpy())
    outcome = train("boundary", "--out", tmp_path / "b.safetensors", *arguments, "--threads", 1)
    assert outcome.code == 2 and not (tmp_path / "b.safetensors").exists()
    assert outcome.err.splitlines()[-1].startswith("error: no mask has an outline")


def test_ablate_writes_the_table_row_by_row_and_goes_on(train: Train, tmp_path: Path) -> None:
    common = f"ablate --variants basic,ours {SMALL.replace('--affine 0 ', '')} --imgsz 64 --test-clips 1 --device cpu"
    arguments = (*common.split(), "--out", tmp_path)
    outcome = train(*arguments)
    assert outcome.code == 0, outcome.err
    assert "basic: epoch 1/1" in outcome.err and "ours: epoch 1/1" in outcome.err
    table = (tmp_path / "table.md").read_text()
    assert outcome.out.strip() == table.strip()
    assert [line.split(" |")[0] for line in table.splitlines()[2:]] == ["| basic", "| ours"]
    content = json.loads((tmp_path / "table.json").read_text())
    assert [row["variant"] for row in content["rows"]] == ["basic", "ours"]
    assert content["test"] == "phantom test, 1 clips of 1x64x64" and content["recipe"]["preset"] == "tiny"
    assert content["command"].startswith("vivim-train ablate --variants basic,ours")

    shutil.rmtree(tmp_path / "ours")
    again = train(*arguments)
    assert "basic: epoch" not in again.err and "ours: epoch 1/1" in again.err
    assert [row["scores"] for row in json.loads((tmp_path / "table.json").read_text())["rows"]] == [
        row["scores"] for row in content["rows"]
    ]


# One line and nothing else: refused before any work begins. {} stands for the test's folder.
REFUSED = [
    pytest.param("convert {}/nothing.pth {}/out.safetensors", "there is no checkpoint", id="missing file"),
    pytest.param("convert {}/foreign.pth {}/out.safetensors", "not a Vivim checkpoint", id="foreign keys"),
    pytest.param("convert {}/text.pth {}/out.safetensors", "text.pth", id="text named as a checkpoint"),
    pytest.param("convert {}/half.safetensors {}/out.safetensors", "is it complete", id="truncated file"),
    pytest.param("convert {}/weights.h5 {}/out.safetensors", "expected a file ending in", id="source suffix"),
    pytest.param("convert {}/tiny.safetensors {}/out.onnx", "ending in .safetensors", id="target suffix"),
    pytest.param("convert {}/tiny.safetensors {}/text.pth/out.safetensors", "cannot create", id="unwritable target"),
    pytest.param("convert {}/tiny.safetensors {}/out.safetensors --frames 0", "frames is 0", id="no frames"),
    pytest.param(f"fit --out {{}}/run {SMALL} --data other", "there is no folder other", id="fit on other data"),
    pytest.param(f"fit --out {{}}/run {SMALL} --epochs 0", "--epochs is 0", id="no epochs"),
    pytest.param(f"fit --out {{}}/run {SMALL} --threads -1", "--threads is -1", id="negative threads"),
    pytest.param("evaluate tiny --data other", "there is no folder other", id="evaluate on other data"),
    pytest.param("evaluate {}/tiny.safetensors --split nope", "no split 'nope'", id="unknown split"),
    pytest.param("evaluate {}/tiny.safetensors --imgsz 16", "16x16", id="frames too small"),
    pytest.param("evaluate {}/nothing.safetensors", "there is no checkpoint", id="evaluate a missing file"),
    pytest.param(f"fit --out {{}}/run {SMALL} --imgsz 0", "--imgsz is 0; expected one number", id="no pixels"),
    pytest.param(f"fit --out {{}}/run {SMALL} --device gpu", "--device is gpu", id="unknown device"),
    pytest.param(f"fit --out {{}}/run {SMALL} --preset b9", "no preset 'b9'", id="unknown preset"),
    pytest.param(f"fit --out {{}}/run {SMALL} --directions up", "directions are ('up',)", id="unknown direction"),
    pytest.param(f"fit --out {{}}/run {SMALL} --init {{}}/no.pth", "there is no checkpoint", id="missing start"),
    pytest.param(f"fit --out {{}}/run {SMALL} --clips 0", "0 clips", id="no clips"),
    pytest.param(f"fit --out {{}}/run {SMALL} --validation-clips 0", "0 clips", id="nothing to validate on"),
    pytest.param(f"fit --out {{}}/run {SMALL} --batch 2", "make no batch of 2", id="fewer clips than a batch"),
    pytest.param(f"fit --out {{}}/run {SMALL} --resume", "nothing to resume", id="nothing to resume"),
    pytest.param(
        f"fit --out {{}}/run {SMALL} --affine 1 --imgsz 64 --regressor {{}}/text.pth",
        "text.pth holds no affine regressor",
        id="no regressor",
    ),
    pytest.param(
        f"fit --out {{}}/run {SMALL} --affine 1 --imgsz 64 --regressor {{}}/tiny.safetensors",
        "tiny.safetensors holds no affine regressor",
        id="weights of another network as a regressor",
    ),
    pytest.param("fit --config {}/nothing.toml", "cannot read --config", id="missing recipe"),
    pytest.param("fit --config {}/text.pth", "text.pth is no TOML file", id="recipe that is no TOML"),
    pytest.param("fit --config {}/momentum.toml", "has unknown options momentum", id="unknown option in a recipe"),
    pytest.param("fit --config {}/resume.toml", "has unknown options resume", id="resume in a recipe"),
    pytest.param("fit --config {}/many.toml", "Invalid value for '--epochs'", id="text for a number in a recipe"),
    pytest.param("fit --config {}/half.toml", "Invalid value for '--epochs'", id="half an epoch in a recipe"),
    pytest.param("fit --config {}/scale.toml", "scale is 0.0; expected at least 1", id="augmentation in a recipe"),
    pytest.param("fit --config {}/negative.toml", "--epochs is -3", id="value out of range in a recipe"),
    pytest.param("boundary --out {}/affine.pt", "ending in .safetensors", id="regressor's suffix"),
    pytest.param("boundary --out {}/a.safetensors --steps 0", "--steps is 0", id="boundary without steps"),
    pytest.param("boundary --out {}/a.safetensors --batch 0", "--batch is 0", id="boundary without pairs"),
    pytest.param("boundary --out {}/a.safetensors --clips 0", "0 clips", id="boundary without masks"),
    pytest.param("boundary --out {}/a.safetensors --threads -1", "--threads is -1", id="boundary's threads"),
    pytest.param("boundary --out {}/a.safetensors --data other", "there is no folder other", id="boundary on others"),
    pytest.param("ablate --out {}/run --variants basic,C9", "no variant 'C9'", id="unknown variant"),
    pytest.param("ablate --out {}/run --variants ,", "--variants is ','; expected some of basic", id="no variant"),
    pytest.param("ablate --out {}/run --epochs 0", "--epochs is 0", id="ablation without epochs"),
    pytest.param("ablate --out {}/run --data other", "there is no folder other", id="ablate on other data"),
    pytest.param("ablate --out {}/run --clips 3", "3 clips make no batch of 4", id="ablate on too few clips"),
]

# What a file of options may get wrong.
RECIPES = {
    "momentum": "momentum = 0.9",
    "resume": "resume = true",
    "many": 'epochs = "many"',
    "half": "epochs = 1.5",
    "scale": "[augmentation]\nscale = 0",
    "negative": "epochs = -3",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of files to refuse, and one good checkpoint."""
    vivim.save_checkpoint(tmp_path / "tiny.safetensors", vivim.Vivim(vivim.VivimConfig.preset("tiny")))
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "tiny.safetensors").read_bytes()[:9999])
    torch.save({f"layer{i}.weight": torch.zeros(1) for i in range(9)}, tmp_path / "foreign.pth")
    (tmp_path / "text.pth").write_text("weights\n")
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF")
    for name, text in RECIPES.items():
        (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(("command", "message"), REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(train: Train, command: str, message: str, folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    outcome = train(*command.replace("{}", str(folder)).split())
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1 and outcome.err.startswith("error: ") and message in outcome.err
    assert outcome.out == ""
    assert {path.name for path in folder.iterdir()} == before


def test_folders_that_cannot_be_written_are_refused(train: Train, folder: Path) -> None:
    outcome = train("fit", "--out", folder / "text.pth", *SMALL.split())
    assert outcome.code == 2 and outcome.err.strip().startswith("error: cannot create the folder")


def test_a_run_is_not_overwritten_by_another(train: Train, folder: Path) -> None:
    shutil.copy(folder / "text.pth", folder / "state.pt")
    outcome = train("fit", "--out", folder, *SMALL.split())
    assert outcome.code == 2 and "holds a run; go on with it by --resume" in outcome.err
    outcome = train("fit", "--out", folder, *SMALL.split(), "--resume")
    assert outcome.code == 2 and "state.pt is damaged" in outcome.err


@pytest.mark.parametrize("arguments", [["fit", "--momentum", "1"], ["convert"], ["train"], ["fit", "--epochs", "many"]])
def test_wrong_usage_ends_with_code_two(train: Train, arguments: list[str]) -> None:
    outcome = train(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1 and outcome.err.startswith("error: ") and "--help" in outcome.err


def test_installed_command_prints_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vivim-train", "convert", str(tmp_path / "nothing.pth"), "out.safetensors"])
    with pytest.raises(SystemExit) as exit:
        entry.train()
    out, err = capfd.readouterr()
    assert exit.value.code == 2 and out == ""
    assert err.count("\n") == 1 and err.startswith("error: there is no checkpoint")
