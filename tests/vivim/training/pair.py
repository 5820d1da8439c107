"""What each of the two processes of test_distributed does: `torchrun --nproc-per-node 2 pair.py FOLDER`."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tests.vivim.runs import write_start
from vivim.checkpoint import load_checkpoint
from vivim.training.batches import phantom_clips
from vivim.training.distributed import Group, process_group
from vivim.training.fit import RunOptions, fit
from vivim.training.recipe import FitConfig
from vivim.training.scores import evaluate
from vivim_runtime.clips import Clip


def recipe(folder: Path) -> FitConfig:
    """Two epochs of three steps in two processes, or in one that accumulates two batches."""
    return FitConfig(init=str(folder / "start.safetensors"), epochs=2, batch=1, frames=2, seed=3, lr=1e-3, ema=0.5)


def clips() -> tuple[list[Clip], list[Clip]]:
    """To train on, and to validate on: not the same number for both processes."""
    return phantom_clips("train", 6, 3, (64, 64)), phantom_clips("validation", 3, 2, (64, 64))


def train(group: Group, folder: Path) -> dict[str, Any]:
    """The runs of one process, and what it saw of them."""
    config, (training, validation) = recipe(folder), clips()
    never, always = RunOptions(save_every=math.inf, group=group), RunOptions(save_every=0.0, group=group)
    # A folder for each: that of the second process tells what it wrote.
    reports = [asdict(report) for report in fit(config, training, validation, folder / f"two-{group.rank}", never)]
    steps = 0

    def in_second_epoch(step: int, of: int, loss: float) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        list(fit(config, training, validation, folder / "resumed", always, in_second_epoch))
    list(fit(config, training, validation, folder / "resumed", replace(never, resume=True)))
    list(fit(replace(config, accumulate=2, epochs=1), training, validation, folder / "four", never))
    scores = evaluate(load_checkpoint(folder / "start.safetensors"), validation, group)
    return {"reports": reports, "scores": asdict(scores), "gathered": group.gathered(group.rank * 10)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group("cpu") as group:
        if group.leads:
            write_start(Path(sys.argv[1]) / "start.safetensors")
        group.gathered(None)  # the other one needs them, too
        rank, folder, seen = group.rank, Path(sys.argv[1]), train(group, Path(sys.argv[1]))
    (folder / f"seen-{rank}.json").write_text(json.dumps(seen))
