"""`vivim-train boundary`: the affine regressor of the boundary-aware constraint, taught on outlines of masks."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.progress import track

from vivim.commands.clip_options import ClipOptions
from vivim.commands.fit import set_threads
from vivim.training.affine import RegressionScores, save_regressor, train_regressor
from vivim.training.batches import ClipSource
from vivim_runtime.commands.options import DataSet, FrameSize, Layout, Seed, SplitFile, Threads, parse_size
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import ConfigError

__all__ = ["boundary_command"]

# Outlines hardly change from frame to frame: of that many, the first and the last will do.
_FRAMES = 5

_console = terminal(stderr=True)


def boundary_command(
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")] = Path("runs/affine.safetensors"),
    data: DataSet = "phantom",
    layout: Layout = "auto",
    split_file: SplitFile = None,
    clips: Annotated[int, typer.Option("--phantoms", "--clips", help="Phantoms to learn from.")] = 400,
    imgsz: FrameSize = "256",
    steps: Annotated[int, typer.Option(help="Steps of training.")] = 4000,
    batch: Annotated[int, typer.Option(help="Pairs of outlines per step.")] = 128,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    seed: Seed = 0,
    threads: Threads = 0,
) -> None:
    """Train the affine regressor of Eq. 8, and report its error on held-out masks."""
    set_threads(threads)
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out is {out}; expected a name ending in .safetensors")
    if min(steps, batch) < 1:
        raise ConfigError(f"--steps is {steps} and --batch is {batch}; expected at least 1")
    source = ClipOptions(data, layout, split_file, seed=seed, frames=_FRAMES, size=parse_size(imgsz), hop=_FRAMES)
    masks = _masks(source.clips("train", clips), "masks to learn from")
    held_out = _masks(source.clips("validation", max(1, clips // 8)), "held-out masks")
    _console.print(f"{len(masks)} masks to learn from, {len(held_out)} held out")
    losses: list[float] = []
    regressor, scores = train_regressor(masks, held_out, steps, batch, lr, seed, lambda step, loss: losses.append(loss))
    notes = {"command": shlex.join(["vivim-train", *sys.argv[1:]]), "torch": torch.__version__}
    save_regressor(out, regressor, notes | {"scores": line(scores)})
    terminal().print(f"{out}: {line(scores)}", soft_wrap=True)
    for predicted, loss in scores.ladder.items():
        terminal().print(f"  L_affine of {predicted}: {loss:.3f}", soft_wrap=True)


def line(scores: RegressionScores) -> str:
    """The scores in one line."""
    return (
        f"error |theta' - theta|_F {scores.error:.3f}, of no regressor {scores.identity:.3f}; "
        f"correlation of |theta - I|_F {scores.correlation:.2f}; {scores.pairs} held-out pairs"
    )


def _masks(clips: ClipSource, what: str) -> npt.NDArray[np.bool_]:
    """Two masks of every clip, and class: (N, H, W)."""
    numbers = track(range(len(clips)), f"reading {what}", console=_console, transient=True)
    found = [clips.clip(index, 0).masks[:: _FRAMES - 1] for index in numbers]
    return np.concatenate([np.moveaxis(m, 1, 0).reshape(-1, *m.shape[2:]) if m.ndim == 4 else m for m in found])
