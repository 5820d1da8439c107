"""Several processes: two on this CPU, over gloo, do what one does; and which device a process takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vivim
from tests.vivim.runs import FILES, differences, log_without_times, weights_of
from tests.vivim.training.pair import clips, recipe
from vivim.training.distributed import Group, process_group
from vivim.training.fit import fit
from vivim.training.scores import evaluate

pytestmark = pytest.mark.slow  # networks are calibrated, or two processes started: a minute

RATE = 1e-3
WEIGHTS = ("decoder.norm.weight", "decoder.norm.bias")


@dataclass(frozen=True)
class Pair:
    """The folder of what two processes wrote, and what each of them saw."""

    folder: Path
    seen: tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the two processes
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    done = torchrun(str(Path(__file__).with_name("pair.py")), str(folder))
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((folder / f"seen-{rank}.json").read_text()) for rank in (0, 1))
    return Pair(folder, (first, second))


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in two processes that find each other on this machine."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def alone(pair: Pair) -> Path:
    """The folder of the run of one process that accumulates two batches a step."""
    list(fit(replace(recipe(pair.folder), accumulate=2), *clips(), pair.folder / "alone"))
    return pair.folder / "alone"


def farthest(a: Path, b: Path) -> dict[str, float]:
    """The largest difference of every tensor."""
    ours, theirs = weights_of(a), weights_of(b)
    assert ours.keys() == theirs.keys()
    return {key: float((ours[key] - theirs[key]).abs().max()) for key in ours}


def test_two_processes_train_the_weights_of_one_that_accumulates(pair: Pair, alone: Path) -> None:
    apart = farthest(pair.folder / "two-0" / "last.safetensors", alone / "last.safetensors")
    statistics = {key: apart.pop(key) for key in [*apart] if key.startswith("decoder.norm.") and key not in WEIGHTS}
    # Both add up the same two gradients, and halves are exact, so nothing needs to differ at all, and nothing did where
    # this was written. Six steps move a weight by up to 6 rates; a hundredth of one is room for sums in another order.
    assert max(apart.values()) <= 0.01 * RATE
    # BatchNorm normalises each batch by itself in both. But one process lets the two of a step move its running
    # statistics one after the other, and two processes each move theirs and take the mean: 6 moves and not 12. Outputs
    # in evaluation follow them, those in training do not.
    assert statistics.pop("decoder.norm.num_batches_tracked") == 6
    assert len(statistics) == 2 and all(0.001 < value < 0.5 for value in statistics.values())
    for ours, theirs in zip(log_without_times(pair.folder / "two-0"), log_without_times(alone), strict=True):
        assert ours["lr"] == theirs["lr"]
        # Float32 sums and means of a few numbers near 1.
        assert ours["terms"] == pytest.approx(theirs["terms"], rel=1e-6)


def test_processes_that_accumulate_train_the_weights_of_one_that_accumulates_more(pair: Pair, tmp_path: Path) -> None:
    config = replace(recipe(pair.folder), accumulate=4, epochs=1)
    list(fit(config, *clips(), tmp_path))
    ours, theirs = weights_of(pair.folder / "four" / "last.safetensors"), weights_of(tmp_path / "last.safetensors")
    apart = torch.cat(
        [(ours[k] - theirs[k]).abs().flatten() for k in ours if "decoder.norm.r" not in k and "batches" not in k]
    )
    # The sums of four gradients are in another order. Adam divides a gradient by its own size in a first step, so where
    # rounding is all that there is to it, such as in the bias of a key, the step may be any of -1 to 1 rates.
    assert apart.quantile(0.97) <= 0.001 * RATE and apart.max() <= 2.0 * RATE
    ((mine,), (other,)) = (log_without_times(folder) for folder in (pair.folder / "four", tmp_path))
    assert mine["terms"] == pytest.approx(other["terms"], rel=1e-6)


def test_two_processes_that_end_in_mid_epoch_resume_without_loss(pair: Pair) -> None:
    assert differences(pair.folder / "resumed", pair.folder / "two-0") == []


def test_first_process_alone_writes_files(pair: Pair) -> None:
    assert {path.name for path in (pair.folder / "two-0").iterdir()} == FILES
    assert list((pair.folder / "two-1").iterdir()) == []


def test_every_process_sees_the_same_reports(pair: Pair) -> None:
    first, second = ([{**r, "seconds": 0} for r in seen["reports"]] for seen in pair.seen)
    assert first == second and [report["epoch"] for report in first] == [1, 2]
    assert [seen["gathered"] for seen in pair.seen] == [[0, 10], [0, 10]]


def test_evaluation_shared_out_gives_the_very_scores(pair: Pair) -> None:
    expected = asdict(evaluate(vivim.load_checkpoint(pair.folder / "start.safetensors"), clips()[1]))
    assert expected["frames"] == 6 and 0 < expected["dice"] < 1
    assert expected["classes"] == {}  # one class
    given = {name: value for name, value in expected.items() if isinstance(value, float | int)}  # there is no edge head
    for seen in pair.seen:
        assert {name for name, value in seen["scores"].items() if value is not None} == {*given, "classes"}
        # The frames are in another order: means of six numbers in float64.
        assert {name: seen["scores"][name] for name in given} == pytest.approx(given, rel=1e-14)


def test_command_runs_in_two_processes_of_which_one_speaks(tmp_path: Path) -> None:
    program = ("--no-python", sys.executable, "-c", "from vivim_runtime.commands.entry import train; train()")
    options = "--preset tiny --affine 0 --epochs 1 --clips 4 --batch 1 --frames 1 --imgsz 32 --validation-clips 1"
    done = torchrun(*program, "fit", *options.split(), "--threads", "1", "--device", "cpu", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1/1") == done.stderr.count("best.safetensors after") == 1
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert json.loads((tmp_path / "log.jsonl").read_text())["epoch"] == 1


def test_a_process_alone_leads_and_leaves_networks_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with process_group("cpu") as group:
        assert group == Group(0, 1, torch.device("cpu")) and group.leads
        model = torch.nn.BatchNorm1d(2)
        assert group.wrapped(model) is model and group.gathered("x") == ["x"]
        group.average_buffers(model)
    assert not torch.distributed.is_initialized()
    assert not Group(1, 2, torch.device("cpu")).leads


@pytest.mark.parametrize(
    ("cuda", "rank", "device", "expected"),
    [
        (0, 0, "auto", "cpu"),
        (2, 1, "auto", "cuda:1"),
        (2, 1, "cuda", "cuda:1"),
        (2, 1, "cuda:0", "cuda:0"),
        (2, 1, "cpu", "cpu"),
    ],
)
def test_each_process_takes_the_device_of_its_number(
    monkeypatch: pytest.MonkeyPatch, cuda: int, rank: int, device: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group(device) as group:
        assert group.device == torch.device(expected)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "--device is cuda:0; this machine has 0 CUDA devices"),
        ("cuda:1", "--device is cuda:1; this machine has 0 CUDA devices"),
        ("gpu", "--device is gpu; expected auto, cpu, cuda or cuda:<index>"),
        ("meta", "--device is meta; expected auto, cpu"),
    ],
)
def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch, device: str, message: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(vivim.ConfigError, match=message), process_group(device):
        pass
