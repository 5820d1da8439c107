"""What weights know of their training, from `vivim-train fit` to evaluation and export: end to end on a small run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests.runtime.datasets.trees import Pixels, write_image
from tests.vivim.runs import write_start
from vivim.checkpoint import read_training, save_checkpoint
from vivim.model import Vivim
from vivim.training.recipe import FitConfig
from vivim_runtime.commands.entry import main
from vivim_runtime.contract import InputContract

MODULES = {
    "vivim-train": "vivim.commands.train",
    "vivim-eval": "vivim_runtime.commands.evaluate",
    "vivim-export": "vivim_export.commands",
    "vivim-bench": "vivim_runtime.commands.bench",
}
# 7 frames of 64 x 64 in clips of 3 at 48 x 48: the last clip of a video shares frames with the one before, and masks
# are judged at another size than the network's. Both are where training and evaluation once went different ways.
VIDEOS, FRAMES, SIDE = 10, 7, 64
FIT = (
    "--frames",
    "3",
    "--imgsz",
    "48",
    "--batch",
    "2",
    "--seed",
    "3",
    "--threads",
    "1",
    "--affine",
    "0",
    "--lr",
    "3e-3",
)
QUICK = ("--bootstrap", "0", "--no-speed", "--threads", "1")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command in this process."""
    threads = torch.get_num_threads()

    def call(command: str, *arguments: object) -> Outcome:
        capfd.readouterr()
        code = called(monkeypatch, command, *arguments)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield call
    torch.set_num_threads(threads)


def called(monkeypatch: pytest.MonkeyPatch, command: str, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        main(command, MODULES[command])
    assert isinstance(exit.value.code, int)
    return exit.value.code


def disc(video: int, frame: int) -> Pixels:
    """A white disc that drifts."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    inside = (rows - 24 - 2 * video) ** 2 + (columns - 24 - 2 * frame) ** 2 < (8 + video) ** 2
    return inside.astype(np.uint8) * np.uint8(255)


def write_discs(root: Path) -> Path:
    """Noisy videos of bright discs, in the plain layout: without splits."""
    for video in range(VIDEOS):
        for frame in range(FRAMES):
            noise = np.random.default_rng([video, frame]).normal(60, 15, (SIDE, SIDE, 3))
            mask = disc(video, frame)
            pixels = np.clip(noise + mask[..., None] / 3, 0, 255).astype(np.uint8)
            write_image(root / "images" / f"v{video}" / f"{frame:03d}.png", pixels)
            write_image(root / "masks" / f"v{video}" / f"{frame:03d}.png", mask)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, and the run `run` on it: two epochs of a network of a few thousand weights."""
    folder = tmp_path_factory.mktemp("trained")
    write_discs(folder / "data")
    start = write_start(folder / "start.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ("--data", "data", "--init", start, "--epochs", "2", "--out", "run")
        assert called(patch, "vivim-train", "fit", *FIT, *arguments) == 0
    return folder


@pytest.fixture
def folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the working folder."""
    monkeypatch.chdir(trained)
    return trained


def best_epoch(folder: Path) -> dict[str, Any]:
    """What training reported of its best weights."""
    lines = [json.loads(line)["scores"] for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return max(lines, key=lambda scores: scores["dice"])


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "r.json").read_text())


def test_evaluation_gives_the_figures_that_training_reported(run: Run, folder: Path) -> None:
    outcome = run(
        *("vivim-eval", "run/best.safetensors", "--data", "data", "--split", "validation", *QUICK, "--json", "r.json")
    )
    assert outcome.code == 0, outcome.err
    content, expected = report(folder), best_epoch(folder)
    (model,) = content["models"]
    assert model["model"]["size"] == [48, 48] and (model["model"]["frames"], model["hop"]) == (3, 3)
    assert content["data"]["frames"] == expected["frames"] == FRAMES  # of the one video, those behind whole clips too
    found = model["overall"]["all"]
    for name in ("dice", "iou", "precision", "recall"):
        assert f"{found[name]['value']:.4f}" == f"{expected[name]:.4f}", name
    assert 0.05 < expected["dice"] < 0.999  # or equality would show little
    notes = [note for note in content["notes"] if "training reported Dice" in note]
    assert len(notes) == 1 and notes[0].endswith(f"{expected['dice']:.4f}, here it is {expected['dice']:.4f}")


def test_the_command_that_training_names_gives_its_dice(run: Run, folder: Path) -> None:
    again = ("--data", "data", "--epochs", "2", "--init", folder / "start.safetensors", "--out", "run", "--resume")
    outcome = run("vivim-train", "fit", *FIT, *again)
    assert outcome.code == 0, outcome.err
    named = outcome.err.split("its Dice again: vivim-eval ")[1].split("\n")[0].split()
    assert run("vivim-eval", *named, *QUICK, "--json", "r.json").code == 0
    value = report(folder)["models"][0]["overall"]["all"]["dice"]["value"]
    assert f"{value:.4f}" == f"{best_epoch(folder)['dice']:.4f}"


def test_evaluation_says_in_what_it_differs_from_training(run: Run, folder: Path) -> None:
    outcome = run(
        *("vivim-eval", "run/best.safetensors", "--data", "data", "--split", "validation", *QUICK),
        *("--imgsz", "64", "--frames", "4", "--hop", "2", "--threshold", "0.4", "--json", "r.json"),
    )
    assert outcome.code == 0, outcome.err
    notes = " | ".join(report(folder)["notes"])
    assert "trained at 48x48, used at 64x64" in notes and "trained on clips of 3 frames, used on clips of 4" in notes
    for difference in ("frames of 64x64 instead of 48x48", "hop 2 instead of 4", "threshold 0.4 instead of 0.5"):
        assert difference in notes
    assert "note: best.safetensors: trained at 48x48, used at 64x64" in outcome.err


def test_videos_that_were_trained_on_are_refused_in_one_line(run: Run, folder: Path) -> None:
    outcome = run("vivim-eval", "run/best.safetensors", "--data", "data", *QUICK)
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert outcome.err.startswith("error: best.safetensors was trained on 7 of the 10 videos of data (")
    assert run("vivim-train", "evaluate", "run/best.safetensors", "--data", "data", *QUICK).code == 2


def test_reports_say_that_videos_were_trained_on(run: Run, folder: Path) -> None:
    outputs = ("--json", "r.json", "--html", "r.html", "--markdown", "r.md")
    outcome = run("vivim-eval", "run/best.safetensors", "--data", "data", *QUICK, "--allow-trained", *outputs)
    assert outcome.code == 0, outcome.err
    said = "was trained on 7 of the 10 videos of data"
    assert said in outcome.err and any(said in note for note in report(folder)["notes"])
    assert said in (folder / "r.html").read_text() and said in (folder / "r.md").read_text()


def test_the_test_videos_are_those_that_training_left(run: Run, folder: Path) -> None:
    outcome = run("vivim-eval", "run/best.safetensors", "--data", "data", "--split", "test", *QUICK, "--json", "r.json")
    assert outcome.code == 0, outcome.err
    (record,) = read_training("run/best.safetensors").data
    videos = [video["name"] for video in report(folder)["models"][0]["videos"]]
    assert videos == [video.label for video in record.splits["test"]] and len(videos) == 2
    assert record.origin == "drawn with seed 3"
    split = json.loads((folder / "run" / "split.json").read_text())
    assert split == {name: [video.label for video in found] for name, found in record.splits.items()}
    assert not set(videos) & set(split["train"] + split["validation"])


def test_weights_say_what_they_were_trained_at(folder: Path) -> None:
    for name in ("best", "last"):
        training = read_training(f"run/{name}.safetensors")
        assert training.contract == InputContract((48, 48), 3, 3)
    (best,) = read_training("run/best.safetensors").data
    assert best.validation_dice == best_epoch(folder)["dice"]


def test_exported_files_carry_the_record_on(run: Run, folder: Path) -> None:
    outcome = run("vivim-export", "onnx", "--weights", "run/best.safetensors", "-o", "m.onnx", "--json", "c.json")
    assert outcome.code == 0, outcome.err
    assert "trained at" not in outcome.err + outcome.out
    metadata = {entry.key: entry.value for entry in onnx.load("m.onnx").metadata_props}
    training = read_training("run/best.safetensors")
    assert (metadata["vivim.height"], metadata["vivim.frames"]) == ("48", "3")
    assert {key: metadata[key] for key in training.metadata("vivim.")} == training.metadata("vivim.")
    refused = run("vivim-eval", "m.onnx", "--data", "data", *QUICK)
    assert refused.code == 2 and refused.err.startswith("error: m.onnx was trained on 7 of the 10 videos of data")
    data = ("--data", "data", "--split", "validation")
    assert run("vivim-eval", "m.onnx", *data, *QUICK, "--json", "r.json").code == 0
    value = report(folder)["models"][0]["overall"]["all"]["dice"]["value"]
    # ONNX Runtime adds up in another order, which may turn a pixel or two of some 300 of a mask.
    assert value == pytest.approx(best_epoch(folder)["dice"], abs=0.005)


def test_another_size_is_said_where_it_is_chosen_and_in_every_report(run: Run, folder: Path) -> None:
    said = "trained at 48x48, exported at 64x64"
    outcome = run(
        *("vivim-export", "onnx", "--weights", "run/best.safetensors", "-o", "n.onnx", "--imgsz", "64"),
        *("--json", "c.json", "--html", "c.html"),
    )
    assert outcome.code == 0 and said in outcome.err
    assert any(said in note for note in json.loads((folder / "c.json").read_text())["notes"])
    assert said in (folder / "c.html").read_text()
    data = ("--data", "data", "--split", "test")
    outcome = run("vivim-eval", "n.onnx", *data, *QUICK, "--json", "r.json", "--html", "r.html")
    assert outcome.code == 0 and said in outcome.err and said in (folder / "r.html").read_text()
    assert report(folder)["models"][0]["model"]["departures"] == [said]
    brief = ("--duration", "0", "--iterations", "1", "--warm-up", "0", "--threads", "1", "--json", "b.json")
    outcome = run("vivim-bench", "n.onnx", "run/best.safetensors", *brief)
    assert outcome.code == 0 and f"note: n.onnx: {said}" in outcome.err
    models = json.loads((folder / "b.json").read_text())["models"]
    assert [(m["size"], m["departures"]) for m in models] == [([64, 64], [said]), ([48, 48], [])]


def test_training_that_goes_on_from_weights_keeps_their_split(run: Run, folder: Path, tmp_path: Path) -> None:
    other = ("--seed", "11", "--data", "data", "--epochs", "1", "--init", "run/best.safetensors", "--out", tmp_path)
    outcome = run("vivim-train", "fit", *FIT, *other)
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "split.json").read_text()) == json.loads((folder / "run/split.json").read_text())
    assert "is that of the training (drawn with seed 3)" in outcome.err


def test_what_earlier_weights_saw_is_refused_too(run: Run, folder: Path, tmp_path: Path) -> None:
    arguments = ("--clips", "2", "--validation-clips", "1", "--epochs", "1", "--init", "run/best.safetensors")
    assert run("vivim-train", "fit", *FIT, *arguments, "--out", tmp_path).code == 0
    weights = tmp_path / "best.safetensors"
    assert [entry.name for entry in read_training(weights).data] == ["phantom", "data"]
    refused = run("vivim-eval", weights, "--data", "data", *QUICK)
    assert refused.code == 2 and "was trained on 7 of the 10 videos of data" in refused.err
    phantoms = ("--data", "phantom:clips=3,frames=3,size=48", "--split", "train")
    refused = run("vivim-eval", weights, *phantoms, *QUICK)
    assert refused.code == 2 and "was trained on 2 of the 3 videos of phantom" in refused.err


def test_a_run_is_not_resumed_on_other_videos(run: Run, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    shutil.copytree(folder / "run", tmp_path / "run")
    write_image(tmp_path / "data/masks/v0/000.png", disc(3, 3))
    data = ("--data", tmp_path / "data", "--out", tmp_path / "run", "--epochs", "2", "--resume")
    outcome = run("vivim-train", "fit", *FIT, *data, "--init", folder / "start.safetensors")
    assert outcome.code == 2 and "with other options (the videos' fingerprint was" in outcome.err


def test_weights_without_a_record_say_what_the_authors_used(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "old.safetensors", Vivim(FitConfig(preset="tiny", frames=3).network()))
    assert read_training(tmp_path / "old.safetensors").contract == InputContract((256, 256), 3, 3)
    torch.save({}, tmp_path / "authors.ckpt")
    assert read_training(tmp_path / "authors.ckpt").contract == InputContract((256, 256), 5, 5)


def test_the_shipped_weights_have_their_record() -> None:
    training = read_training("tiny")
    assert training.contract == InputContract((256, 256), 5, 5)
    (phantoms,) = training.data
    assert (phantoms.name, phantoms.phantoms) == ("phantom", 9600)  # examples/tiny: 600 clips in 16 epochs, from 0 on
