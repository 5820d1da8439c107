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
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivim.checkpoint import load_checkpoint, read_training
from vivim.commands.check_data import checked
from vivim.commands.clip_options import ClipOptions
from vivim.training.batches import Augmentation, ClipSource
from vivim.training.distributed import Group, process_group
from vivim.training.fit import SPLIT_FILE, EpochReport, RunOptions, check_run, fit
from vivim.training.monitor import Monitor
from vivim.training.recipe import FitConfig, read_recipe
from vivim_runtime.errors import ConfigError

__all__ = ["fit_command", "report_line", "set_threads"]

# File names are printed as they are: no markup.
_console = Console(stderr=True, markup=False, highlight=False)

Threads = Annotated[int, typer.Option(help="CPU threads; 0 takes all.")]


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


def fit_command(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of options, which those of the command line override.", is_eager=True, callback=_from_file
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for weights, log and state.")] = Path("runs/fit"),
    data: Annotated[str, typer.Option(help="phantom (synthetic ultrasound), or the folder of a data set.")] = "phantom",
    layout: Annotated[str, typer.Option(help="How the data set lies; docs/data.md.")] = "auto",
    split_file: Annotated[Path | None, typer.Option(help="Which videos train and validate; docs/data.md.")] = None,
    split: Annotated[str, typer.Option(help="Videos to train on.")] = "train",
    validation_split: Annotated[str, typer.Option(help="Videos to validate on.")] = "validation",
    stride: Annotated[int, typer.Option(help="Frames from one frame of a clip to the next.")] = 1,
    hop: Annotated[int, typer.Option(help="Frames from one training clip to the next.")] = 1,
    preset: Annotated[str, typer.Option(help="Network: tiny, b0 .. b5 (b3 is the paper's).")] = "b3",
    init: Annotated[str | None, typer.Option(help="Weights to start from instead of chance.")] = None,
    encoder: Annotated[str | None, typer.Option(help="SegFormer weights for the encoder (paper: of ADE20K).")] = None,
    directions: Annotated[str | None, typer.Option(help="Scans, such as forward,backward,spatial (all).")] = None,
    mamba_layers: Annotated[int | None, typer.Option(help="Temporal Mamba layers a stage.")] = None,
    st_module: Annotated[str | None, typer.Option(help="st_mamba, or a rival of the paper's Table IV.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the clips.")] = 100,
    batch: Annotated[int, typer.Option(help="Clips a step (and process).")] = 4,
    accumulate: Annotated[int, typer.Option(help="Batches a step.")] = 1,
    frames: Annotated[int, typer.Option(help="Frames of a clip, T.")] = 5,
    imgsz: Annotated[int, typer.Option(help="Height and width of the frames, pixels.")] = 256,
    clips: Annotated[int, typer.Option(help="Phantoms an epoch, new ones in every epoch.")] = 200,
    fresh: Annotated[bool, typer.Option(help="New phantoms in every epoch, or the same ones.")] = True,
    validation_clips: Annotated[int, typer.Option(help="Phantoms to validate on.")] = 24,
    optimizer: Annotated[str, typer.Option(help="adam or adamw.")] = "adam",
    lr: Annotated[float, typer.Option(help="Learning rate after the warm-up.")] = 1e-4,
    min_lr: Annotated[float, typer.Option(help="Learning rate at the end of its cosine.")] = 1e-6,
    warmup: Annotated[float, typer.Option(help="Share of the steps over which the rate rises.")] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="Of adamw.")] = 0.01,
    max_norm: Annotated[float, typer.Option(help="Gradients are clipped to this norm; 0 leaves them.")] = 0.0,
    ema: Annotated[float, typer.Option(help="Decay of averaged weights, such as 0.999; 0 keeps none.")] = 0.0,
    boundary: Annotated[float, typer.Option(help="Weight of the boundary cross-entropy (Eq. 9).")] = 0.3,
    affine: Annotated[float, typer.Option(help="Weight of the affine constraint (Eq. 8).")] = 0.3,
    delta_1: Annotated[float, typer.Option(help="Of Eq. 8: towards the outline of the frame.")] = 1.0,
    delta_2: Annotated[float, typer.Option(help="Of Eq. 8: away from that of the first frame.")] = 0.01,
    regressor: Annotated[str | None, typer.Option(help="Affine regressor of vivim-train boundary.")] = None,
    weighting: Annotated[str, typer.Option(help="intended, or authors: their code's cross-entropy.")] = "intended",
    balanced: Annotated[bool, typer.Option(help="Outline and other pixels count alike, or each pixel.")] = True,
    target: Annotated[str, typer.Option(help="Frames that are learnt from: all, or centre (authors).")] = "all",
    amp: Annotated[str, typer.Option(help="Mixed precision: off, bf16 or fp16.")] = "off",
    patience: Annotated[int, typer.Option(help="Epochs without a better Dice after which to stop; 0: never.")] = 0,
    seed: Annotated[int, typer.Option(help="Of initialisation, order, augmentation and dropout.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<index>.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that make clips ahead.")] = 0,
    threads: Threads = 0,
    save_every: Annotated[float, typer.Option(help="Seconds after which the state is saved in mid-epoch.")] = 300.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves and overlays.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
) -> None:
    """Train a network, by default as in the paper; Ctrl-C stops it, --resume goes on with the same numbers."""
    set_threads(threads)
    given = context.params
    names = {field.name for field in dataclasses.fields(FitConfig)} & set(given)
    chosen: dict[str, Any] = {name: given[name] for name in names}
    chosen["directions"] = tuple(directions.split(",")) if directions else None
    recipe = FitConfig(**chosen, augmentation=context.obj or Augmentation())
    before = read_training(init).data if init and data != "phantom" else ()  # phantoms have splits of their own
    source = ClipOptions(data, layout, split_file, seed, frames, (imgsz, imgsz), stride, hop, validation_split, before)
    with process_group(device) as group:
        options = RunOptions(resume, workers, save_every, group, stride=stride)
        training = source.clips(split, clips, fresh)
        check_run(recipe, out, options, len(training))
        judging = source.judged(validation_split, validation_clips)
        if group.leads and not source.is_phantom and not resume:
            checked([source.dataset(name) for name in (split, validation_split)], frames, stride)
        metadata = {
            "trained_on": source.described(training, split)
            + (", new in every epoch" if source.is_phantom and fresh else ""),
            "command": shlex.join(["vivim-train", *sys.argv[1:]]),
            "seed": str(seed),
            "torch": torch.__version__,
        }
        record = source.record(split, clips * epochs if fresh else clips)
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
        _console.print(f"interrupted; go on with the same command and --resume (state in {out})")
        raise
    if options.group.leads:
        _console.print(f"{out}/best.safetensors after {(time.monotonic() - began) / 60:.1f} min")


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
    with Progress(*columns, console=_console, transient=True, disable=not group.leads) as progress:
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
