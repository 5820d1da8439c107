"""`vivim-run`: a source through a model to outputs. A thin layer over vivim_runtime.pipeline."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vivim_runtime.errors import UsageError
from vivim_runtime.files import writable_file, write_text
from vivim_runtime.overlay import parse_layers
from vivim_runtime.pipeline import RunOptions, RunReport, run
from vivim_runtime.session import ModelInfo, open_session
from vivim_runtime.sinks import open_sink
from vivim_runtime.sources import open_source

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True)
# File names are printed as they are: no markup.
_console = Console(stderr=True, markup=False, highlight=False)


class _Show(str, Enum):
    newest = "newest"
    centre = "centre"


def _hop(text: str, model: ModelInfo) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or not 1 <= int(text) <= model.frames:
        raise UsageError(f"--hop is {text}; expected auto, or 1 to {model.frames}, the frames of a clip")
    return int(text)


def _check_outputs(outputs: list[str], inputs: tuple[str, ...]) -> None:
    """Every output a file or folder of its own, and none of them what is read."""
    paths = [Path(name).resolve() for name in outputs]
    if len(set(paths)) != len(paths):
        raise UsageError("an output is named twice; expected different ones")
    for name in inputs:
        if Path(name).resolve() in paths:
            raise UsageError(f"{name} is both read and written; choose another output")


@app.command()
def run_command(
    source: Annotated[
        str, typer.Argument(help="Video file, image folder, DICOM file, or phantom:?seed=1&frames=90&size=480x640")
    ],
    outputs: Annotated[
        list[str] | None, typer.Argument(metavar="OUT", help="X.mp4, a folder for PNG masks, X.jsonl")
    ] = None,
    model: Annotated[str, typer.Option(help="Model file of vivim-export onnx.")] = "model.onnx",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<index>.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of the inference; 0 is automatic.")] = 0,
    hop: Annotated[str, typer.Option(help="Frames from one clip to the next; auto is a whole clip.")] = "auto",
    show: Annotated[
        _Show, typer.Option(help="Masks of overlapping clips: of their newest frames, or of their centre.")
    ] = _Show.newest,
    threshold: Annotated[float, typer.Option(help="Probability above which a pixel is marked.")] = 0.5,
    visualize: Annotated[str, typer.Option(help="Some of overlay,contour,mask.")] = "overlay,contour",
    alpha: Annotated[float, typer.Option(help="Opacity of the overlay, 0 to 1.")] = 0.45,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many frames.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the masks of an earlier run.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the summary to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Segment a video: masks, an overlay video and a ledger of every frame."""
    names = outputs or []
    _check_outputs([*names, str(json_file)] if json_file else names, (source, model))
    if json_file:
        writable_file(json_file)
    with ExitStack() as stack:
        opened = stack.enter_context(open_source(source))
        session = stack.enter_context(open_session(model, device, threads))
        options = RunOptions(
            hop=_hop(hop, session.info),
            show=show.value,
            threshold=threshold,
            layers=parse_layers(visualize),
            alpha=alpha,
            max_frames=max_frames,
        )
        settings = _settings(opened.name, session.info, session.device, options)
        sinks = [stack.enter_context(open_sink(name, opened, session.info, settings, overwrite)) for name in names]
        if not quiet:
            _console.print(_heading(opened.name, opened.size, session.info, session.device))
        session.warm_up()
        expected = min((n for n in (opened.frame_count, max_frames) if n is not None), default=None)
        columns = (TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=_console, transient=True, disable=quiet) as progress:
            task = progress.add_task("frames", total=expected)
            report = run(opened, session, sinks, options, lambda _: progress.advance(task))
        written = [sink.path for sink in sinks]
    if json_file:
        summary = {**settings, **asdict(report), "outputs": written}
        write_text(json_file, json.dumps(summary, indent=2) + "\n")
    if not quiet:
        _print_summary(report, written)
    if report.interrupted:
        sys.exit(130)


def _settings(source: str, model: ModelInfo, device: str, options: RunOptions) -> dict[str, Any]:
    """What ran, for the ledger and the summary file."""
    return {
        "source": source,
        "model": model.path.name,
        "preset": model.preset,
        "precision": model.precision,
        "weights_sha256": model.weights_sha256,
        "device": device,
        **asdict(options),
        "hop": options.hop or model.frames,
    }


def _heading(source: str, size: tuple[int, int], model: ModelInfo, device: str) -> str:
    height, width = model.size
    return (
        f"{source} ({size[1]}x{size[0]}) through {model.path.name} "
        f"({model.preset}, {model.precision}, {model.frames} frames of {width}x{height}) on {device}"
    )


def _print_summary(report: RunReport, written: list[str]) -> None:
    for note in report.notes:
        _console.print(f"note: {note}")
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("frames", f"{report.frames} in {report.seconds:.1f} s, {report.fps:.1f} fps")
    table.add_row("with a mask", f"{report.with_mask} of {report.frames}")
    if report.latency_ms:
        p50, p95, most = (report.latency_ms[key] for key in ("p50", "p95", "max"))
        table.add_row("a clip takes", f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, max {most:.1f} ms ({report.clips} clips)")
    table.add_row("ms a frame", ", ".join(f"{part} {value:.1f}" for part, value in report.stages_ms.items()))
    if report.padded_clips:
        table.add_row("padded", "the source is shorter than a clip; its last frame was repeated")
    for path in written:
        table.add_row("wrote", path)
    if report.interrupted:
        table.add_row("interrupted", "the outputs hold the frames up to here")
    _console.print(table)
