"""`vivim-train fit`: a thin layer over vivim.training.fit."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import torch
import typer

from vivim.checkpoint import load_checkpoint, read_training
from vivim.commands.check_data import refuse_bad_data
from vivim.commands.clip_options import ClipOptions
from vivim.commands.progress import RunProgress
from vivim.training.batches import ClipSource
from vivim.training.curve import read_log
from vivim.training.distributed import default_workers, process_group
from vivim.training.fit import SPLIT_FILE, EpochReport, RunOptions, check_run, check_start, fit
from vivim.training.monitor import Monitor
from vivim.training.plan import planned
from vivim.training.recipe import FitConfig, read_recipe, recipe_file
from vivim.training.scores import Scores
from vivim_runtime.commands.fields import options_of
from vivim_runtime.commands.options import FrameSize, Threads, TorchDevice, parse_size
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import ConfigError
from vivim_runtime.files import writable_folder

__all__ = ["Workers", "fit_command", "report_line", "set_threads"]

# File names are printed as they are: no markup.
_console = terminal(stderr=True)

Workers = Annotated[int, typer.Option(help="Processes that prepare clips; -1: as many as help on this machine.")]


def set_threads(threads: int) -> None:
    """Let PyTorch use that many threads; 0 takes all."""
    if threads < 0:
        raise ConfigError(f"--threads is {threads}; expected 0 or more")
    torch.set_num_threads(threads or os.cpu_count() or 1)


def _from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Let the options of a file stand where the command line gives none."""
    if path is not None:
        _take(context, "file", path)
    return path


def _from_recipe(context: typer.Context, name: str | None) -> str | None:
    """Let a recipe stand where neither the command line nor --config gives an option."""
    if name is not None:
        _take(context, "recipe", recipe_file(name))
    return name


def _take(context: typer.Context, kind: str, path: Path) -> None:
    """Options of a file, into `default_map`, and its augmentation into `obj`; those of --config before a recipe's."""
    known = {parameter.name for parameter in context.command.params if parameter.name} - {"config", "recipe", "resume"}
    context.meta[kind] = read_recipe(path, known | {"augmentation"})
    values = {**context.meta.get("recipe", {}), **context.meta.get("file", {})}
    context.obj = values.pop("augmentation", None)
    context.default_map = values


@options_of(ClipOptions, "source")
@options_of(FitConfig, "options")
def fit_command(
    context: typer.Context,
    source: ClipOptions,
    options: FitConfig,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="paper (the defaults), authors or ours; docs/training.md.", is_eager=True, callback=_from_recipe
        ),
    ] = None,
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
    clips: Annotated[
        int, typer.Option("--phantoms", "--clips", help="Phantoms per epoch, new ones in every epoch.")
    ] = 200,
    fresh: Annotated[bool, typer.Option(help="Draw new phantoms in every epoch, or use the same ones.")] = True,
    validation_clips: Annotated[int, typer.Option(help="Phantoms to validate on.")] = 24,
    device: TorchDevice = "auto",
    workers: Workers = -1,
    threads: Threads = 0,
    save_every: Annotated[float, typer.Option(help="Save the state within an epoch every so many seconds.")] = 300.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves and overlays.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
) -> None:
    """Train a network, by default as in the paper; Ctrl-C stops it, --resume continues exactly where it stopped."""
    set_threads(threads)
    chosen = dataclasses.replace(options, augmentation=context.obj) if context.obj else options
    # Phantoms have splits of their own.
    before = read_training(chosen.init) if chosen.init else None
    source = source.for_recipe(
        chosen, parse_size(imgsz), validation_split, before.data if before and not source.is_phantom else ()
    )
    with process_group(device) as group:
        makers = default_workers(group) if workers < 0 else workers
        run = RunOptions(resume, makers, save_every, group, stride=source.stride, contract=source.contract)
        training = source.with_stills(source.clips(split, clips, fresh, makers), makers)
        chosen = dataclasses.replace(chosen, classes=source.class_names(split))
        check_run(chosen, out, run, len(training))
        check_start(chosen)
        if before and group.leads:
            meeting = source.contract.meets(before.contract, "this training", str(chosen.init))
            if meeting:
                _console.print(f"note: {meeting}", soft_wrap=True)
        judging = source.judged(validation_split, validation_clips)
        if group.leads and not source.is_phantom and not resume:
            refuse_bad_data([source.dataset(name) for name in (split, validation_split)], chosen.frames, source.stride)
        pictures = source.still_pictures()
        if group.leads and pictures is not None and not resume:
            refuse_bad_data([pictures], 1, 1)
        metadata = {
            "trained_on": source.described(training, split)
            + (", new in every epoch" if source.is_phantom and fresh else ""),
            "command": shlex.join(["vivim-train", *sys.argv[1:]]),
            "seed": str(chosen.seed),
            "torch": torch.__version__,
        }
        record = source.record(split, clips * chosen.epochs if fresh else clips)
        run = dataclasses.replace(run, metadata=metadata, data=record, stills=source.record_of_stills())
        _train(chosen, training, judging, out, run, tensorboard)
        if group.leads:
            _console.print(
                f"its Dice again: {_evaluation(source, out, validation_split, validation_clips)}", soft_wrap=True
            )


def _train(
    recipe: FitConfig, training: ClipSource, judging: ClipSource, out: Path, options: RunOptions, tensorboard: bool
) -> None:
    began = time.monotonic()
    if options.group.leads:
        writable_folder(out)
        for line in planned(recipe, training, judging, options):
            _console.print(line, soft_wrap=True)
    done = len(read_log(out)) if options.resume and (out / "log.jsonl").is_file() else 0
    try:
        with RunProgress(_console, recipe.epochs, done, not options.group.leads) as progress, ExitStack() as stack:
            monitor: Monitor | None = None
            for report in fit(recipe, training, judging, out, options, progress.on_step):
                progress.on_epoch()
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
        drawn = source.drawn.items() if "=" in source.data else ()
        asked = "".join(f",{key}={value}" for key, value in drawn if value not in (None, ""))
        data = f"phantom:clips={clips},frames={source.frames},size={height}x{width}{asked}"
    files = [] if source.is_phantom else ["--split-file", str(out / SPLIT_FILE)]
    files += ["--classes", source.classes] if source.classes else []
    split = split if source.is_phantom else "validation"
    return shlex.join(["vivim-eval", str(out / "best.safetensors"), "--data", data, *files, "--split", split])


def _of_class(scores: Scores) -> str:
    found = "" if scores.lesion_dice is None else f" ({scores.lesion_dice:.4f})"
    return f"{scores.dice:.4f}{found}"


def report_line(report: EpochReport, epochs: int) -> str:
    """An epoch in one line."""
    s = report.scores
    terms = "  ".join(f"{name} {value:.4f}" for name, value in report.terms.items() if name != "total")
    distance = "" if s.hd95 is None else f"  HD95 {s.hd95:.1f} px"
    each = ", ".join(f"{name} {_of_class(scores)}" for name, scores in s.classes.items())
    lesions = "" if s.lesion_dice is None else f" ({s.lesion_dice:.4f} of frames with {'it' if each else 'a lesion'})"
    lesions += f" [{each}]" if each else ""
    edges = "" if s.edge_ap is None else f"  edge AP {s.edge_ap:.3f}, Dice {s.edge_dice:.3f}"
    return (
        f"epoch {report.epoch}/{epochs}  loss {report.loss:.4f} ({terms})  Dice {s.dice:.4f}{lesions}  IoU {s.iou:.4f}"
        f"  precision {s.precision:.4f}  recall {s.recall:.4f}{distance}{edges}  {report.seconds:.0f} s"
    )
