"""`vivim-eval`: models on annotated videos. A thin layer over vivim_runtime.judging."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivim_runtime.bench import BenchOptions, ModelResult, bench
from vivim_runtime.commands.application import Application
from vivim_runtime.commands.options import (
    AllowTrained,
    ClassesOption,
    CsvFile,
    DataSet,
    Device,
    FramesOfCheckpoint,
    HtmlFile,
    JsonFile,
    Layout,
    MarkdownFile,
    RegionOption,
    Seed,
    Show,
    ShownFrame,
    SizeOfCheckpoint,
    Smooth,
    SplitFile,
    Threads,
    Threshold,
    check_outputs,
    classes_or_none,
    region_or_none,
    size_or_none,
)
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.datasets import Dataset, open_dataset, refuse_trained
from vivim_runtime.errors import AccuracyError, UsageError
from vivim_runtime.files import atomic_path, writable_folder, write_text
from vivim_runtime.judging.evaluation import MEAN, Evaluation, EvaluationOptions, check_model, evaluate
from vivim_runtime.judging.figures import Bootstrap
from vivim_runtime.judging.page import html_page, png
from vivim_runtime.judging.plots import dice_at_threshold, dice_by_video, reliability_diagram
from vivim_runtime.judging.records import csv_text, record
from vivim_runtime.judging.report import Report, with_classes
from vivim_runtime.judging.reported import reported_dice
from vivim_runtime.judging.tables import latex, markdown, terminal_tables
from vivim_runtime.judging.worst import drawn_errors
from vivim_runtime.sessions import runner_of
from vivim_runtime.sessions.base import ModelInfo, Session
from vivim_runtime.sessions.flipped import FlippedSession

__all__ = ["app", "eval_command"]

app = Application(no_args_is_help=True)
# File names are printed as they are: no markup.
_console = terminal()
_progress = terminal(stderr=True)

_SECONDS, _CALLS = 2.0, 5  # of each model when its speed is measured, at least


@app.command()
def eval_command(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help=".onnx, .engine, a checkpoint, or tiny; several are compared."),
    ],
    data: DataSet = "phantom",
    split: Annotated[
        str | None, typer.Option(help="train, validation or test; default: all videos (phantoms: test).")
    ] = None,
    layout: Layout = "auto",
    split_file: SplitFile = None,
    classes: ClassesOption = None,
    hop: Annotated[
        int | None, typer.Option(help="Frames from one clip to the next; default: that of the training.")
    ] = None,
    show: ShownFrame = Show.newest,
    threshold: Threshold = 0.5,
    region: RegionOption = None,
    smooth: Smooth = 1,
    flips: Annotated[
        bool, typer.Option("--flips", help="Also evaluate the mean over each clip and its mirror image, in extra rows.")
    ] = False,
    resamples: Annotated[
        int, typer.Option("--bootstrap", help="Bootstrap draws for the intervals; 0: no intervals.")
    ] = 2000,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 0,
    imgsz: SizeOfCheckpoint = None,
    frames: FramesOfCheckpoint = None,
    allow_trained: AllowTrained = False,
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Also measure frames per second and memory.")
    ] = True,
    worst: Annotated[int, typer.Option(help="How many of the worst frames to show.")] = 6,
    min_dice: Annotated[
        float | None, typer.Option(help="Exit with code 3 if the mean Dice of a model is lower.", show_default=False)
    ] = None,
    json_file: JsonFile = None,
    markdown_file: MarkdownFile = None,
    latex_file: Annotated[Path | None, typer.Option("--latex", help="Write the paper's tables to this file.")] = None,
    csv_file: CsvFile = None,
    html_file: HtmlFile = None,
    plots: Annotated[
        Path | None, typer.Option(help="Write plots (SVG) and the worst frames (PNG) to this folder.")
    ] = None,
) -> None:
    """Evaluate models on annotated videos: the metrics of the paper with intervals, per video and overall."""
    options = EvaluationOptions(
        hop, show.value, threshold, Bootstrap(resamples, seed), worst, region_or_none(region), smooth
    )
    if min_dice is not None and not 0.0 <= min_dice <= 1.0:
        raise UsageError(f"--min-dice is {min_dice:g}; expected 0 to 1")
    opening = _Opening(device, threads, size_or_none(imgsz), frames)
    check_outputs((json_file, markdown_file, latex_file, csv_file, html_file), (*models, data))
    if plots:
        writable_folder(plots)
    if split is None:
        split = "test" if data.partition(":")[0] == "phantom" else ""
    named = classes_or_none(classes)
    open_dataset(data, "", layout, split_file, classes=named)  # what is wrong with it shows before a model is opened
    choice = partial(open_dataset, data, split, layout, split_file, classes=named)
    rows = [_Row(name, flipped) for name in models for flipped in ((False, True) if flips else (False,))]
    dataset, evaluations, notes = _evaluations(rows, choice, options, opening, allow_trained)
    speeds = _speeds(rows, opening) if speed else ()
    report = Report(
        dataset.name,
        split,
        options,
        *with_classes([row.name for row in rows], evaluations, speeds),
        (*dataset.notes, *notes),
    )
    for table in terminal_tables(report):
        _console.print(table)
    for note in report.notes:
        _console.print(f"note: {note}")
    if json_file:
        write_text(json_file, json.dumps(record(report), indent=1) + "\n")
    if plots:
        _write_plots(report, plots)
    for path, text in ((markdown_file, markdown), (latex_file, latex), (csv_file, csv_text), (html_file, html_page)):
        if path:
            write_text(path, text(report))
    if min_dice is not None:
        _check_dice(report, min_dice)


@dataclass(frozen=True)
class _Opening:
    """How models are opened; size (H, W) and frames are for checkpoints, None for those of their training."""

    device: str
    threads: int
    size: tuple[int, int] | None
    frames: int | None


@dataclass(frozen=True)
class _Row:
    """A model as it is, or with flips: a row of the tables."""

    model: str
    flips: bool

    @property
    def name(self) -> str:
        return f"{self.model} with flips" if self.flips else self.model

    def session(self, opened: Session) -> Session:
        """Its session, of that of the model."""
        return FlippedSession(opened) if self.flips else opened


def _evaluations(
    rows: list[_Row],
    choice: Callable[..., Dataset],
    options: EvaluationOptions,
    opening: _Opening,
    allow_trained: bool,
) -> tuple[Dataset, tuple[Evaluation, ...], list[str]]:
    """The data set, all models on it, and what to know of both. Models that cannot be evaluated are found out first.

    Args:
        choice: opens the data set, given what the models were trained on.
    """
    with ExitStack() as stack:
        opened: dict[str, Session] = {}
        for name in (row.model for row in rows):
            if name in opened:
                continue
            with _progress.status(f"opening {name}"):
                session = runner_of(name)(name, opening.size, opening.frames, opening.device, opening.threads)
            check_model(stack.enter_context(session).info, options)
            opened[name] = session
        infos = [session.info for session in opened.values()]
        dataset = choice(
            trained=tuple(entry for info in infos for entry in info.training_data), marked=_marked_by_all(infos)
        )
        notes = [
            f"{info.path.name}: {departure}"
            for info in infos
            for departure in (*info.departures, *info.departure_of(options.region))
        ]
        meetings = (infos[0].takes.meets(info.takes, infos[0].path.name, info.path.name) for info in infos[1:])
        notes += filter(None, meetings)
        for info in infos:
            notes += refuse_trained(dataset, info.training_data, info.path.name, allow_trained)
        for note in notes:
            _progress.print(f"note: {note}", soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=_progress, transient=True, disable=not _progress.is_terminal) as progress:
            tasks = [progress.add_task(row.name, total=len(dataset)) for row in rows]
            done = [
                evaluate(row.session(opened[row.model]), dataset, options, partial(progress.advance, task))
                for row, task in zip(rows, tasks, strict=True)
            ]
        for row, evaluation in zip(rows, done, strict=True):
            if not row.flips:
                notes += filter(None, [reported_dice(opened[row.model].info, dataset, evaluation, options)])
    if any(row.flips for row in rows):
        notes.append("with flips: logits are the mean of those of a clip and of its mirror image, two calls a clip")
    return dataset, tuple(done), notes


def _marked_by_all(infos: Sequence[ModelInfo]) -> tuple[str, ...]:
    """The classes that all models mark, in one order; UsageError where they do not."""
    of_each = [tuple(entry.name for entry in info.classes) for info in infos]
    for info, names in zip(infos, of_each, strict=True):
        # Models of one class are compared whatever they call it, where the masks know one object.
        if names != of_each[0] and max(len(names), len(of_each[0])) > 1:
            raise UsageError(
                f"{infos[0].path.name} marks {', '.join(of_each[0])}, {info.path.name} marks {', '.join(names)}: "
                "models that are judged side by side must mark the same classes in the same order"
            )
    return of_each[0]


def _speeds(rows: list[_Row], opening: _Opening) -> tuple[ModelResult, ...]:
    """Speed and memory as vivim-bench measures them, each model in a process of its own."""
    options = BenchOptions(
        duration=_SECONDS,
        iterations=_CALLS,
        threads=opening.threads,
        device=opening.device,
        size=opening.size,
        frames=opening.frames,
    )
    with _progress.status("measuring speed and memory") as status:
        return tuple(
            bench(
                [row.model for row in rows],
                options,
                lambda text: status.update(f"speed and memory: {text}"),
                flips=[row.flips for row in rows],
            )
        )


def _write_plots(report: Report, folder: Path) -> None:
    """The plots, and the worst frames of each model."""
    write_text(folder / "dice-by-video.svg", dice_by_video(report))
    write_text(folder / "dice-at-threshold.svg", dice_at_threshold(report))
    write_text(folder / "reliability.svg", reliability_diagram(report))
    for i, evaluation in enumerate(report.evaluations):
        for number, frame in enumerate(evaluation.worst, start=1):
            video = re.sub(r"[^\w.-]+", "-", frame.video)
            with atomic_path(folder / f"worst-{i + 1}-{number}-{video}-{frame.frame:04d}.png") as path:
                path.write_bytes(png(drawn_errors(frame)))


def _check_dice(report: Report, least: float) -> None:
    """AccuracyError where the mean Dice over all frames of a model is lower."""
    low = [
        f"{label} has Dice {dice:.4f}"
        for label, evaluation in zip(report.labels, report.evaluations, strict=True)
        if evaluation.of in ("", MEAN)
        and (dice := evaluation.overall["all"]["dice"].value) is not None
        and dice < least
    ]
    if low:
        raise AccuracyError(f"{', '.join(low)}; expected at least {least:g} (--min-dice)")
