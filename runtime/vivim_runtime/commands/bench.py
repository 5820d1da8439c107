"""`vivim-bench`: models side by side, a thin layer over vivim_runtime.bench; and the study that vivim registers."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from vivim_runtime.bench import BenchOptions, bench, layer_profile, markdown_table, record, terminal_table
from vivim_runtime.commands.application import Application
from vivim_runtime.commands.options import (
    Device,
    FramesOfCheckpoint,
    JsonFile,
    MarkdownFile,
    SizeOfCheckpoint,
    Threads,
    check_outputs,
    size_or_none,
)
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import MissingExtraError, UsageError
from vivim_runtime.files import write_text

__all__ = ["app"]

# Distributions register commands of other packages here, as Typer applications; ours does so for `paper`, which needs
# PyTorch: this package imports none of it.
_STUDIES = "vivim.studies"


class _Commands(TyperGroup):
    """Models need no command before them: `vivim-bench a.onnx` is `vivim-bench models a.onnx`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] not in (["models"], ["paper"], ["--version"], ["--install-completion"], ["--show-completion"]):
            args = ["models", *args]
        return super().parse_args(ctx, args)


app = Application(cls=_Commands)
# File names are printed as they are: no markup.
_console = terminal()
_progress = terminal(stderr=True)


@app.command("models", epilog="vivim-bench paper --help: the paper's study of efficiency.")
def bench_command(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help=".onnx, .engine, a checkpoint, or tiny; several take turns.")
    ],
    batch: Annotated[int, typer.Option(help="Clips per call.")] = 1,
    device: Device = "auto",
    threads: Threads = 0,
    warm_up: Annotated[float, typer.Option(help="Milliseconds of warm-up for each model, not measured.")] = 200.0,
    duration: Annotated[float, typer.Option(help="Seconds to measure each model, at least.")] = 3.0,
    iterations: Annotated[int, typer.Option(help="Calls to measure of each model, at least.")] = 10,
    imgsz: SizeOfCheckpoint = None,
    frames: FramesOfCheckpoint = None,
    json_file: JsonFile = None,
    markdown: MarkdownFile = None,
    export_profile: Annotated[
        Path | None, typer.Option(help="Write the time of every layer to this file, as trtexec does; one model only.")
    ] = None,
) -> None:
    """Measure models side by side: latency, throughput, start, memory."""
    options = BenchOptions(warm_up, duration, iterations, batch, threads, device, size_or_none(imgsz), frames)
    if export_profile and len(models) != 1:
        raise UsageError(f"--export-profile takes one model; there are {len(models)}")
    check_outputs((json_file, markdown, export_profile), models)
    with _progress.status("starting") as status:
        results = bench(models, options, status.update, profile=export_profile is not None)
    for result in results:
        for departure in result.opened.departures:
            _progress.print(f"note: {result.name}: {departure}", soft_wrap=True)
    first = results[0]
    for result in results[1:]:
        one, other = first.opened.contract, result.opened.contract
        if one and other and (meeting := one.meets(other, first.name, result.name)):
            _progress.print(f"note: {meeting}", soft_wrap=True)
    _console.print(terminal_table(results))
    if json_file:
        content = {"machine": _machine(), "options": asdict(options), "models": record(results)}
        write_text(json_file, json.dumps(content, indent=1) + "\n")
    if markdown:
        write_text(markdown, markdown_table(results))
    if export_profile:
        layers = results[0].layers
        assert layers is not None
        write_text(export_profile, json.dumps(layer_profile(layers), indent=1) + "\n")


@app.command(
    "paper",
    add_help_option=False,  # these three leave all options to the study
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def paper_command(context: typer.Context) -> int | None:
    """Measure again what the paper says of the efficiency of ST-Mamba and attention."""
    code = _study("paper")(context.args, prog_name=context.command_path, standalone_mode=False)
    return cast("int | None", code)


def _study(name: str) -> typer.Typer:
    """The application that is registered for a study."""
    try:
        for distribution in distributions():  # not entry_points(), as in vivim_runtime.bench.worker
            for registered in distribution.entry_points.select(group=_STUDIES, name=name):
                return cast(typer.Typer, registered.load())
    except ModuleNotFoundError:
        pass
    raise MissingExtraError(f"vivim-bench {name}", "train")


def _machine() -> dict[str, Any]:
    """What the figures depend on, besides the models."""
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", cpu.read_text(), re.MULTILINE) if cpu.is_file() else []
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "vivim-edge": version("vivim-edge"),
    }
