"""`vivim-train`: train, evaluate, and convert checkpoints. A thin layer over vivim.training and vivim.checkpoint."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vivim.checkpoint import load_checkpoint, read_metadata, resolve_weights, save_checkpoint
from vivim.data import phantom_clips
from vivim.errors import ConfigError, DataError
from vivim.training import EpochReport, FitConfig, Scores, check_run, evaluate, fit
from vivim_runtime.files import sha256_file, write_text

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Train and evaluate Vivim, and convert checkpoints.")
# File names are printed as they are: no markup.
_console = Console(stderr=True, markup=False, highlight=False)

Threads = Annotated[int, typer.Option(help="CPU threads; 0 takes all.")]


def _set_threads(threads: int) -> None:
    if threads < 0:
        raise ConfigError(f"--threads is {threads}; expected 0 or more")
    torch.set_num_threads(threads or os.cpu_count() or 1)


def _only_phantom(data: str) -> None:
    if data != "phantom":
        raise DataError(f"--data is {data}; this version trains on 'phantom' only")


@app.command("fit")
def fit_command(
    out: Annotated[Path, typer.Option(help="Folder for weights, log and state.")] = Path("runs/fit"),
    data: Annotated[str, typer.Option(help="phantom: synthetic ultrasound, made on the fly.")] = "phantom",
    preset: Annotated[str, typer.Option(help="Network: tiny, b0 .. b5.")] = "tiny",
    init: Annotated[str | None, typer.Option(help="Weights to start from instead of chance.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the clips.")] = 20,
    batch: Annotated[int, typer.Option(help="Clips a step.")] = 4,
    frames: Annotated[int, typer.Option(help="Frames of a clip, T.")] = 5,
    imgsz: Annotated[int, typer.Option(help="Height and width of the frames, pixels.")] = 256,
    clips: Annotated[int, typer.Option(help="Training clips.")] = 200,
    validation_clips: Annotated[int, typer.Option(help="Validation clips.")] = 24,
    lr: Annotated[float, typer.Option(help="Learning rate after the warm-up.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, order and augmentation.")] = 0,
    threads: Threads = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
) -> None:
    """Train a network; Ctrl-C stops it, --resume goes on with the same numbers."""
    _only_phantom(data)
    _set_threads(threads)
    config = FitConfig(preset=preset, init=init, epochs=epochs, batch=batch, frames=frames, lr=lr, seed=seed)
    check_run(config, out, resume, clips)
    _console.print(f"making {clips} training and {validation_clips} validation clips of {frames} x {imgsz} x {imgsz}")
    workers = torch.get_num_threads()
    train_set = phantom_clips("train", clips, frames, (imgsz, imgsz), workers)
    validation = phantom_clips("validation", validation_clips, frames, (imgsz, imgsz), workers)
    metadata = {
        "trained_on": f"phantom {clips} clips of {frames}x{imgsz}x{imgsz}",
        "command": shlex.join(["vivim-train", *sys.argv[1:]]),
        "seed": str(seed),
        "torch": torch.__version__,
    }
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    started = time.monotonic()
    try:
        with Progress(*columns, console=_console, transient=True) as progress:
            task = progress.add_task("training")

            def on_step(step: int, steps: int, loss: float) -> None:
                progress.update(task, completed=step, total=steps, description=f"loss {loss:.3f}")

            for report in fit(config, train_set, validation, out, resume, on_step, metadata):
                _console.print(_line(report, epochs))
    except KeyboardInterrupt:
        _console.print(f"interrupted; go on with the same command and --resume (state in {out})")
        raise
    _console.print(f"{out}/best.safetensors after {(time.monotonic() - started) / 60:.1f} min")


def _line(report: EpochReport, epochs: int) -> str:
    s = report.scores
    return (
        f"epoch {report.epoch}/{epochs}  loss {report.loss:.4f}  Dice {s.dice:.4f}  IoU {s.iou:.4f}  "
        f"precision {s.precision:.4f}  recall {s.recall:.4f}  {report.seconds:.0f} s"
    )


@app.command("evaluate")
def evaluate_command(
    weights: Annotated[str, typer.Argument(help="Checkpoint, or tiny for the shipped weights.")] = "tiny",
    data: Annotated[str, typer.Option(help="phantom.")] = "phantom",
    split: Annotated[str, typer.Option(help="train, validation or test; their clips never meet.")] = "test",
    clips: Annotated[int, typer.Option(help="Clips.")] = 40,
    frames: Annotated[int, typer.Option(help="Frames of a clip, T.")] = 5,
    imgsz: Annotated[int, typer.Option(help="Height and width of the frames, pixels.")] = 256,
    threads: Threads = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Dice, IoU, precision and recall of a checkpoint on held-out phantoms."""
    _only_phantom(data)
    _set_threads(threads)
    model = load_checkpoint(weights)
    scores = evaluate(model, phantom_clips(split, clips, frames, (imgsz, imgsz), torch.get_num_threads()))
    figures: dict[str, Any] = {
        **asdict(scores),
        "clips": clips,
        "data": f"phantom {split}, {frames}x{imgsz}x{imgsz}",
        "weights_sha256": sha256_file(resolve_weights(weights)),
    }
    if json_file:
        write_text(json_file, json.dumps(figures, indent=2) + "\n")
    Console().print(_scores_table(scores, figures["data"]))


def _scores_table(scores: Scores, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("Dice", "IoU", "precision", "recall", "frames"):
        table.add_column(name, justify="right")
    figures = (scores.dice, scores.iou, scores.precision, scores.recall)
    table.add_row(*(f"{value:.4f}" for value in figures), str(scores.frames))
    return table


@app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="An authors' .pth/.pt/.ckpt, or any checkpoint of ours.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    frames: Annotated[int | None, typer.Option(help="Frames of a clip, T, to export for.")] = None,
) -> None:
    """Turn a checkpoint into safetensors with its configuration inside."""
    if target.suffix != ".safetensors":
        raise ConfigError(f"the target is {target}; expected a name ending in .safetensors")
    model = load_checkpoint(source, frames)
    kept = {k: v for k, v in read_metadata(source).items() if k not in ("format", "config")}
    save_checkpoint(target, model, {**kept, "converted_from_sha256": sha256_file(resolve_weights(source))})
    config = model.config
    count = sum(p.numel() for p in model.parameters())
    Console(markup=False, highlight=False).print(
        f"{target}: {config.preset_name}, {count / 1e6:.2f} M parameters, T = {config.frames}, "
        f"directions {', '.join(config.directions)}, edge head {config.edge_head}, classes {', '.join(config.classes)}"
    )
