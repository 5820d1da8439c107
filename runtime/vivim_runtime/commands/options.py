"""The options that several commands have, each declared once: its name, its help, and how its text is read.

A command takes one as `device: Device = "auto"`. What a text means is read by the function beside it, so that one
grammar holds everywhere; a file that is to be written is found out about before the work (`check_outputs`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vivim_runtime.files import check_names, writable_file
from vivim_runtime.regions import RegionRule
from vivim_runtime.sizes import parse_size

if TYPE_CHECKING:
    from vivim_runtime.datasets import Classes

__all__ = [
    "AllowTrained",
    "ClassesOption",
    "ClipFrames",
    "CsvFile",
    "DataSet",
    "Device",
    "FrameSize",
    "FramesOfCheckpoint",
    "HtmlFile",
    "JsonFile",
    "Layout",
    "MarkdownFile",
    "MmPerPixel",
    "Overwrite",
    "Quiet",
    "RegionOption",
    "Seed",
    "Show",
    "ShownFrame",
    "SizeOfCheckpoint",
    "Smooth",
    "SplitFile",
    "Threads",
    "Threshold",
    "TorchDevice",
    "check_outputs",
    "classes_or_none",
    "parse_size",
    "region_or_none",
    "size_or_none",
    "spread_names",
]

# --- where a model runs ---------------------------------------------------------------------------------------------

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:<index>, openvino or openvino:bf16.")]
TorchDevice = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<index>.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 is automatic.")]

# --- what a clip is -------------------------------------------------------------------------------------------------

_SIZE_HELP = "Size of the frames, pixels: 256, or height x width as 256x320"

SizeOfCheckpoint = Annotated[
    str | None,
    typer.Option("--imgsz", metavar="N | HxW", help=f"{_SIZE_HELP}. For checkpoints; default: that of their training."),
]
FramesOfCheckpoint = Annotated[
    int | None,
    typer.Option("--frames", min=1, help="Frames of a clip, T. For checkpoints; default: that of their training."),
]
ClipFrames = Annotated[int, typer.Option("--frames", min=1, help="Frames of a clip, T.")]
FrameSize = Annotated[str, typer.Option("--imgsz", metavar="N | HxW", help=f"{_SIZE_HELP}.")]


def size_or_none(text: str | None) -> tuple[int, int] | None:
    """(H, W) of what --imgsz was given; None where it was not."""
    return None if text is None else parse_size(text)


class Show(str, Enum):
    """Which frames of overlapping clips give their masks."""

    newest = "newest"
    centre = "centre"


ShownFrame = Annotated[
    Show, typer.Option(help="Which masks of overlapping clips to use: of their newest frames, or of their centre.")
]
Threshold = Annotated[float, typer.Option(help="Probability above which a pixel is marked.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is random.")]

_REGION_HELP = "What the model sees of each picture: whole, dicom, auto, or X,Y,W,H; default: as it was trained."

RegionOption = Annotated[str | None, typer.Option("--region", help=_REGION_HELP)]
Smooth = Annotated[
    int, typer.Option("--smooth", help="Average masks over about this many frames: steadier, but later; 1 is off.")
]
MmPerPixel = Annotated[
    str | None,
    typer.Option(
        "--mm-per-pixel", help="Size of a pixel: 0.2, or width x height as 0.2x0.3; default: what DICOM says."
    ),
]


def region_or_none(text: str | None) -> RegionRule | None:
    """What --region was given; None where it was not."""
    return None if text is None else RegionRule.parse(text)


# --- what a model is judged on --------------------------------------------------------------------------------------

AllowTrained = Annotated[
    bool,
    typer.Option("--allow-trained", help="Also accept videos that the model was trained on; the report says so."),
]

# --- annotated data -------------------------------------------------------------------------------------------------

DataSet = Annotated[
    str, typer.Option("--data", help="Folder of a data set, or phantom: synthetic ultrasound (docs/data.md).")
]
Layout = Annotated[str, typer.Option(help="Layout of the folder, if it cannot be detected; docs/data.md.")]
SplitFile = Annotated[Path | None, typer.Option(help="Which videos belong to which split; docs/data.md.")]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="A,B",
        help="Classes that mask values stand for: 1=lesion,2=vessel; default: classes.json of the data.",
    ),
]


def classes_or_none(text: str | None) -> Classes | None:
    """What --classes was given; None where it was not."""
    from vivim_runtime.datasets import Classes  # later: most commands read no data sets

    return None if text is None else Classes.parse(text)


# --- what is written ------------------------------------------------------------------------------------------------

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the results to this JSON file.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Write the results to this HTML page.")]
CsvFile = Annotated[Path | None, typer.Option("--csv", help="Write one line per figure to this CSV file.")]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write the tables to this Markdown file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist already.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]


def check_outputs(outputs: Iterable[Path | None], inputs: Sequence[str | Path] = ()) -> None:
    """Find out before the work that a file could not be written after it, or would replace what is read.

    Raises:
        SinkError: a file that cannot be written.
        UsageError: a file that is read, too, or that is named twice.
    """
    paths = [path for path in outputs if path]
    check_names(paths, inputs)
    for path in paths:
        writable_file(path)


def spread_names(args: list[str], options: Collection[str], words: int) -> list[str]:
    """More names behind an option, each its own: `--clips a b` becomes `--clips a --clips b`, as in other tools.

    Args:
        options: those that take several names.
        words: arguments of the command; only where so many came first are names behind an option not among them.
    """
    if len(args) < words or any(arg.startswith("-") for arg in args[:words]):
        return args
    result: list[str] = []
    option = ""
    for arg in args:
        if option in options and not arg.startswith("-") and result[-1] != option:
            result += [option, arg]
        else:
            result.append(arg)
        option = arg if arg.startswith("-") else option
    return result
