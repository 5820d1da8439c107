"""Small runs, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import vivim
from vivim.training.distributed import Group
from vivim.training.scores import Scores

# A few thousand weights that need a few milliseconds a step; in training, dropout and stochastic depth draw random
# numbers, which is what a resumed run must not get wrong.
SMALL = vivim.VivimConfig(
    widths=(8, 8, 8, 8),
    depths=(1, 1, 1, 1),
    heads=(1, 1, 2, 2),
    mamba_layers=1,
    state=4,
    decoder_width=8,
    mlp_ratio=2,
    drop_path=0.3,
    dropout=0.2,
)

FILES = {"best.safetensors", "last.safetensors", "log.jsonl", "state.pt"}
ALONE = Group(0, 1, torch.device("cpu"))


def write_start(path: Path, network: vivim.VivimConfig = SMALL) -> str:
    """Weights to start from, the same ones every time; returns their name."""
    torch.manual_seed(5)
    vivim.save_checkpoint(path, vivim.Vivim(network))
    return str(path)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


def log_without_times(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def differences(folder: Path, expected: Path) -> list[str]:
    """What two finished runs do not share bit by bit: weights, averaged weights and the state of the optimiser."""
    found = [] if _equal(log_without_times(folder), log_without_times(expected)) else ["log.jsonl"]
    for name in ("best.safetensors", "last.safetensors"):
        ours, theirs = weights_of(folder / name), weights_of(expected / name)
        assert ours.keys() == theirs.keys()
        found += [f"{name} {key}" for key in theirs if not torch.equal(ours[key], theirs[key])]
    ours, theirs = (torch.load(path / "state.pt", weights_only=True) for path in (folder, expected))
    return found + [
        f"state {name}" for name in ("model", "average", "optimizer") if not _equal(ours[name], theirs[name])
    ]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def scores(dice: float) -> Scores:
    """Made-up scores."""
    return Scores(dice, 0.0, 1.0, 0.0, None, 1)
