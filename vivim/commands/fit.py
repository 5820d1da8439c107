"""`vivim-train fit`: a thin layer over vivim.training.fit."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivim.checkpoint import load_checkpoint, read_training
from vivim.commands.check_data import refuse_bad_data
from vivim.commands.clip_options import ClipOptions
from vivim.training.batches import ClipSource
from vivim.training.distributed import Group, process_group
from vivim.training.fit import SPLIT_FILE, EpochReport, RunOptions, check_run, fit
from vivim.training.monitor import Monitor
from vivim.training.recipe import FitConfig, read_recipe
from vivim_runtime.commands.fields import options_of
from vivim_runtime.commands.options import Device, FrameSize, Threads, parse_size
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import ConfigError

__all__ = ["Workers", "fit_command", "report_line", "set_threads"]

# File names are printed as they are: no markup.
_console = terminal(stderr=True)

Workers = Annotated[int, typer.Option(help="Processes that make clips ahead.")]


def set_threads(threads: int) -> None:
    """Let PyTorch use that many threads; 0 takes all."""
    if threads < 0:
        raise ConfigError(f"--threads is {threads}; expected 0 or more")
    torch.set_num_threads(threads or os.cpu_count() or 1)


def _from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Let the options of a file stand where the command line gives none."""
    if path is not None:
        known = {parameter.name for parameter in context.command.params if parameter.name} - {"config", "resume"}
        values = read_recipe(path, known | {"augmentation"})
        context.obj = values.pop("augmentation", None)
        context.default_map = values
    return path


@options_of(ClipOptions, "source")
@options_of(FitConfig, "recipe")
def fit_command(
    context: typer.Context,
    source: ClipOptions,
    recipe: FitConfig,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of options, which those of the command line override.", is_eager=True, callback=_from_file
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for weights, log and state.")] = Path("runs/fit"),
    split: Annotated[str, typer.Option(help="Videos to train on.")] = "train",
    validation_split: Annotated[str, typer.Option(help="Videos to validate on.")] = "validation",
    imgsz: FrameSize = "256",
    clips: Annotated[int, typer.Option(help="Phantoms an epoch, new ones in every epoch.")] = 200,
    fresh: Annotated[bool, typer.Option(help="New phantoms in every epoch, or the same ones.")] = True,
    validation_clips: Annotated[int, typer.Option(help="Phantoms to validate on.")] = 24,
    device: Device = "auto",
    workers: Workers = 0,
    threads: Threads = 0,
    save_every: Annotated[float, typer.Option(help="Seconds after which the state is saved in mid-epoch.")] = 300.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves and overlays.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
) -> None:
    """Train a network, by default as in the paper; Ctrl-C stops it, --resume goes on with the same numbers."""
    set_threads(threads)
    if context.obj:
        recipe = dataclasses.replace(recipe, augmentation=context.obj)
    # Phantoms have splits of their own.
    before = read_training(recipe.init).data if recipe.init and not source.is_phantom else ()
    source = source.for_recipe(recipe, parse_size(imgsz), validation_split, before)
    with process_group(device) as group:
        options = RunOptions(resume, workers, save_every, group, stride=source.stride)
        training = source.clips(split, clips, fresh)
        check_run(recipe, out, options, len(training))
        judging = source.judged(validation_split, validation_clips)
        if group.leads and not source.is_phantom and not resume:
            refuse_bad_data([source.dataset(name) for name in (split, validation_split)], recipe.frames, source.stride)
        metadata = {
            "trained_on": source.described(training, split)
            + (", new in every epoch" if source.is_phantom and fresh else ""),
            "command": shlex.join(["vivim-train", *sys.argv[1:]]),
            "seed": str(recipe.seed),
            "torch": torch.__version__,
        }
        record = source.record(split, clips * recipe.epochs if fresh else clips)
        _train(
            recipe, training, judging, out, dataclasses.replace(options, metadata=metadata, data=record), tensorboard
        )
        if group.leads:
            _console.print(
                f"its Dice again: {_evaluation(source, out, validation_split, validation_clips)}", soft_wrap=True
            )


def _train(
    recipe: FitConfig, training: ClipSource, judging: ClipSource, out: Path, options: RunOptions, tensorboard: bool
) -> None:
    began = time.monotonic()
    try:
        with _progress(options.group) as on_step, ExitStack() as stack:
            monitor: Monitor | None = None
            for report in fit(recipe, training, judging, out, options, on_step):
                if not options.group.leads:
                    continue
                _console.print(report_line(report, recipe.epochs), soft_wrap=True)
                if tensorboard:
                    monitor = monitor or stack.enter_context(Monitor(out / "tensorboard", judging))
                    monitor.add(report, load_checkpoint(out / "last.safetensors"))
    except KeyboardInterrupt:
        _console.print(f"interrupted; go on with the same command and --resume (state in {out})", soft_wrap=True)
        raise
    if options.group.leads:
        minutes = (time.monotonic() - began) / 60
        _console.print(f"{out}/best.safetensors after {minutes:.1f} min", soft_wrap=True)


def _evaluation(source: ClipOptions, out: Path, split: str, clips: int) -> str:
    """The command that judges the best weights on the videos that chose them."""
    data = source.data
    if source.is_phantom:
        height, width = source.size
        data = f"phantom:clips={clips},frames={source.frames},size={height}x{width}"
    files = [] if source.is_phantom else ["--split-file", str(out / SPLIT_FILE)]
    split = split if source.is_phantom else "validation"
    return shlex.join(["vivim-eval", str(out / "best.safetensors"), "--data", data, *files, "--split", split])


@contextmanager
def _progress(group: Group) -> Iterator[Callable[[int, int, float], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=_console, transient=True, disable=not group.leads or not _console.is_terminal
    ) as progress:
        task = progress.add_task("training")

        def on_step(step: int, steps: int, loss: float) -> None:
            progress.update(task, completed=step, total=steps, description=f"loss {loss:.3f}")

        yield on_step


def report_line(report: EpochReport, epochs: int) -> str:
    """An epoch in one line."""
    s = report.scores
    terms = "  ".join(f"{name} {value:.4f}" for name, value in report.terms.items() if name != "total")
    distance = "" if s.hd95 is None else f"  HD95 {s.hd95:.1f} px"
    return (
        f"epoch {report.epoch}/{epochs}  loss {report.loss:.4f} ({terms})  Dice {s.dice:.4f}  IoU {s.iou:.4f}  "
        f"precision {s.precision:.4f}  recall {s.recall:.4f}{distance}  {report.seconds:.0f} s"
    )
