"""`vivim-train check-data`, and the same check before training: everything that is wrong with a data set, at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vivim_runtime.commands.options import (
    ClassesOption,
    ClipFrames,
    JsonFile,
    Layout,
    SplitFile,
    check_outputs,
    classes_or_none,
)
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.datasets import Dataset, open_dataset
from vivim_runtime.datasets.check import CheckReport, check
from vivim_runtime.datasets.report import class_lines, problem_lines, summary, videos_table
from vivim_runtime.datasets.sheet import contact_sheet
from vivim_runtime.errors import DataError
from vivim_runtime.files import atomic_path, write_text
from vivim_runtime.judging.page import png

__all__ = ["check_command", "refuse_bad_data"]

_console = terminal()
_progress = terminal(stderr=True)


def check_command(
    data: Annotated[str, typer.Argument(help="The folder of a data set, or phantom.")],
    layout: Layout = "auto",
    split: Annotated[str, typer.Option(help="Check only the videos of one split; default: all.")] = "",
    split_file: SplitFile = None,
    classes: ClassesOption = None,
    frames: ClipFrames = 5,
    stride: Annotated[int, typer.Option(help="Frames from one frame of a clip to the next.")] = 1,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet (PNG) with the outlines of masks.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Check a data set: count it, list everything that is wrong, draw a contact sheet; exit code 2 for errors."""
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise DataError(f"--sheet is {sheet}; expected a name ending in .png")
    check_outputs((sheet, json_file), (data,))
    dataset = open_dataset(data, split, layout, split_file, classes=classes_or_none(classes))
    report = _read(dataset, frames, stride)
    _console.print(videos_table(report))
    for line in class_lines(report):
        _console.print(line, soft_wrap=True, highlight=False)
    for note in report.notes:
        _console.print(f"note: {note}", soft_wrap=True)
    for line in problem_lines(report.problems):
        _console.print(line, soft_wrap=True)
    _console.print(summary(report), soft_wrap=True)
    if json_file is not None:
        write_text(json_file, json.dumps(report.record(), indent=2) + "\n")
    if sheet is not None:
        with atomic_path(sheet) as temporary:
            temporary.write_bytes(png(contact_sheet(dataset)))
    if report.errors:
        raise DataError(f"{len(report.errors)} errors in {data} must be mended before training")


def _read(dataset: Dataset, frames: int, stride: int) -> CheckReport:
    with _progress.status(f"reading {dataset.name}") as status:
        return check(dataset, frames, stride, lambda video: status.update(f"reading {dataset.name}: {video.name}"))


def refuse_bad_data(datasets: list[Dataset], frames: int, stride: int) -> None:
    """Refuse data sets that have errors, after listing all of them on standard error, where notes are told too.

    Raises:
        DataError: naming how many, and the command that shows more.
    """
    for note in dict.fromkeys(note for dataset in datasets for note in dataset.notes):
        _progress.print(f"note: {note}", soft_wrap=True)
    count = 0
    for dataset in datasets:
        report = _read(dataset, frames, stride)
        for line in problem_lines(report.errors):
            _progress.print(line, soft_wrap=True)
        count += len(report.errors)
    if count:
        raise DataError(f"{count} errors in the data must be mended before training (vivim-train check-data shows all)")
