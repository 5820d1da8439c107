"""`vivim-train` as its users meet it: what it writes, and one line and exit code 2 for what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import vivim
import vivim.cli
from tests.golden.cases import upstream_state
from vivim.checkpoint import read_metadata
from vivim_runtime.entry import main
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
            main("vivim-train", "vivim.cli")
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


def test_fit_trains_and_evaluate_scores_what_it_wrote(train: Train, tmp_path: Path) -> None:
    size = ("--frames", 1, "--imgsz", 32, "--threads", 1)
    outcome = train(
        *("fit", "--out", tmp_path, "--clips", 2, "--validation-clips", 1, "--epochs", 1, "--batch", 2, *size)
    )
    assert outcome.code == 0, outcome.err
    assert "epoch 1/1" in outcome.err and outcome.out == ""
    metadata = read_metadata(tmp_path / "best.safetensors")
    assert metadata["command"].startswith("vivim-train fit --out") and metadata["seed"] == "0"

    figures = tmp_path / "scores" / "test.json"
    outcome = train("evaluate", tmp_path / "best.safetensors", "--clips", 2, *size, "--json", figures)
    assert (outcome.code, outcome.err) == (0, "")
    scores = json.loads(figures.read_text())
    assert {"dice", "iou", "precision", "recall"} < set(scores) and (scores["clips"], scores["frames"]) == (2, 2)
    assert scores["weights_sha256"] == sha256_file(tmp_path / "best.safetensors")
    assert f"{scores['dice']:.4f}" in outcome.out


def test_interrupted_fit_says_how_to_go_on(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(vivim.cli, "fit", interrupted)
    outcome = train(
        "fit", "--out", tmp_path, "--clips", 1, "--batch", 1, "--validation-clips", 1, "--frames", 1, "--imgsz", 32
    )
    assert outcome.code == 130
    assert "--resume" in outcome.err and "Traceback" not in outcome.err


# Should one of these be let through one day, it must not keep the tests busy for hours.
SMALL = "--clips 1 --validation-clips 1 --frames 1 --imgsz 32 --batch 1 --threads 1"

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
    pytest.param(f"fit --out {{}}/run {SMALL} --data other", "'phantom' only", id="fit on other data"),
    pytest.param(f"fit --out {{}}/run {SMALL} --epochs 0", "--epochs is 0", id="no epochs"),
    pytest.param(f"fit --out {{}}/run {SMALL} --threads -1", "--threads is -1", id="negative threads"),
    pytest.param("evaluate {}/tiny.safetensors --clips 1 --data other", "'phantom' only", id="evaluate on other data"),
    pytest.param("evaluate {}/tiny.safetensors --clips 1 --split nope", "no split 'nope'", id="unknown split"),
    pytest.param("evaluate {}/tiny.safetensors --clips 1 --imgsz 16", "16x16", id="frames too small"),
    pytest.param("evaluate {}/nothing.safetensors", "there is no checkpoint", id="evaluate a missing file"),
]

# Refused after `fit` has said that it makes clips, which only its last line may follow.
REFUSED_LATER = [
    pytest.param("--preset b9", "no preset 'b9'", id="unknown preset"),
    pytest.param("--init {}/nothing.pth", "there is no checkpoint", id="missing weights to start from"),
    pytest.param("--clips 0", "0 clips", id="no clips"),
    pytest.param("--batch 2", "make no batch of 2", id="fewer clips than a batch"),
    pytest.param("--resume", "nothing to resume", id="nothing to resume"),
    pytest.param("--out {}/text.pth", "cannot create the folder", id="unwritable folder"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of files to refuse, and one good checkpoint."""
    vivim.save_checkpoint(tmp_path / "tiny.safetensors", vivim.Vivim(vivim.VivimConfig.preset("tiny")))
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "tiny.safetensors").read_bytes()[:9999])
    torch.save({f"layer{i}.weight": torch.zeros(1) for i in range(9)}, tmp_path / "foreign.pth")
    (tmp_path / "text.pth").write_text("weights\n")
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF")
    return tmp_path


@pytest.mark.parametrize(("command", "message"), REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(train: Train, command: str, message: str, folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    outcome = train(*command.replace("{}", str(folder)).split())
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1 and outcome.err.startswith("error: ") and message in outcome.err
    assert outcome.out == ""
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize(("command", "message"), REFUSED_LATER)
def test_training_that_cannot_begin_is_refused_in_one_line(
    train: Train, command: str, message: str, folder: Path
) -> None:
    outcome = train("fit", "--out", folder / "run", *SMALL.split(), *command.replace("{}", str(folder)).split())
    assert outcome.code == 2
    lines = outcome.err.splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1]
    assert [line for line in lines[:-1] if line.strip() and not line.startswith("making ")] == []


@pytest.mark.parametrize("arguments", [["fit", "--momentum", "1"], ["convert"], ["train"], ["fit", "--epochs", "many"]])
def test_wrong_usage_ends_with_code_two(train: Train, arguments: list[str]) -> None:
    outcome = train(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1 and outcome.err.startswith("error: ") and "--help" in outcome.err


def test_installed_command_prints_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from vivim_runtime.entry import train; train()"]
    done = subprocess.run(
        [*command, "convert", str(tmp_path / "nothing.pth"), "out.safetensors"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: there is no checkpoint")
