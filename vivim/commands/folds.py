"""`vivim-train folds`: split files for cross-validation by patient. A thin layer over vivim.training.folds."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from vivim.training.folds import folds, patients_by_pattern, patients_by_table
from vivim_runtime.commands.options import ClassesOption, Layout, Seed, classes_or_none
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.datasets import open_dataset
from vivim_runtime.errors import UsageError
from vivim_runtime.files import writable_folder, write_text

__all__ = ["folds_command"]


def folds_command(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Folder of a data set; all its videos are assigned to folds.")
    ],
    count: Annotated[int, typer.Option("--folds", help="Number of folds.")] = 5,
    patient: Annotated[
        str | None, typer.Option(help="Regular expression for the patient in a video's name; default: the whole name.")
    ] = None,
    patients: Annotated[Path | None, typer.Option(help="CSV table of `video,patient`, instead of --patient.")] = None,
    layout: Layout = "auto",
    classes: ClassesOption = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for fold-1.json, ..., which --split-file takes.")] = Path("folds"),
) -> None:
    """Split the videos into folds by patient, and print the commands that train and evaluate each."""
    if patient is not None and patients is not None:
        raise UsageError("--patient and --patients both say who is who; give one of them")
    videos = [video for video in open_dataset(data, "", layout, classes=classes_or_none(classes)).videos if len(video)]
    names = [video.name for video in videos]
    known = patients_by_table(names, patients) if patients else patients_by_pattern(names, patient or "^.*$")
    splits = folds(known, {video.name: len(video) for video in videos}, count, seed)
    writable_folder(out)
    console = terminal()
    console.print(f"{len(names)} videos of {len(set(known.values()))} patients", soft_wrap=True)
    for number, split in enumerate(splits, 1):
        path, run = out / f"fold-{number}.json", out / f"run-{number}"
        write_text(path, json.dumps(split, indent=1) + "\n")
        sizes = ", ".join(f"{len(members)} {name}" for name, members in split.items())
        same = ["--data", data, "--split-file", str(path), *(["--classes", classes] if classes else [])]
        console.print(f"{path}: {sizes}", soft_wrap=True)
        console.print(f"  {shlex.join(['vivim-train', 'fit', *same, '--out', str(run)])}", soft_wrap=True)
        judged = ["vivim-eval", str(run / "best.safetensors"), *same, "--split", "test"]
        console.print(f"  {shlex.join([*judged, '--csv', str(run / 'test.csv')])}", soft_wrap=True)
