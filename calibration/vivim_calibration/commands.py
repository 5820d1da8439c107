"""`vivim-calibrate`: int8 files that have earned their place. A thin layer over vivim_calibration.procedure.

What needs onnx is imported when the command runs: its help is for base installs too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from vivim_runtime.commands.application import Application
from vivim_runtime.commands.options import (
    AllowTrained,
    Device,
    JsonFile,
    RegionOption,
    Seed,
    Threads,
    check_outputs,
    region_or_none,
    spread_names,
)
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import UsageError, VerdictError
from vivim_runtime.files import write_text

if TYPE_CHECKING:
    from vivim_calibration.procedure import Outcome

__all__ = ["app"]

app = Application(no_args_is_help=True, extra="quant")
# File names are printed as they are: no markup.
_console = terminal()
_progress = terminal(stderr=True)


class _Command(typer.core.TyperCommand):
    """Options that take several names: `--calib-data a.mp4 b.dcm`, as in other tools."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread_names(args, ("--calib-data", "--eval-data"), words=1))


@app.command(cls=_Command)
def calibrate_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="fp32 file of vivim-export onnx.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The int8 file to write; without it, only reports are made.")
    ] = None,
    calib_data: Annotated[
        list[str] | None,
        typer.Option(metavar="SRC...", help="Videos, image folders, DICOM, folders of these, data sets, phantom:..."),
    ] = None,
    eval_data: Annotated[
        list[str] | None,
        typer.Option(metavar="SRC...", help="Clips to judge on; default: a quarter of --calib-data, set apart."),
    ] = None,
    fraction: Annotated[float, typer.Option(help="Share of the clips of each source to calibrate on.")] = 1.0,
    max_clips: Annotated[int, typer.Option(help="Clips to calibrate on, spread evenly over the sources.")] = 32,
    eval_clips: Annotated[int, typer.Option(help="Clips to judge on, at most.")] = 16,
    seed: Seed = 0,
    method: Annotated[
        str | None, typer.Option(help="minmax, percentile, entropy or mse (default).", show_default=False)
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="JSON file of ranges: read if it exists, otherwise written.")
    ] = None,
    analyse: Annotated[bool, typer.Option("--analyse", help="Rank the layers by how much accuracy they cost.")] = False,
    analyse_clips: Annotated[int, typer.Option(help="Calibration clips to rank on.")] = 4,
    budget: Annotated[
        float | None,
        typer.Option(help="Dice points that may be lost on unseen clips; keeps as few layers as possible in float."),
    ] = None,
    choose_clips: Annotated[
        int, typer.Option(help="With --budget: clips of --calib-data held out to choose layers on, at most.")
    ] = 12,
    exclude: Annotated[list[str] | None, typer.Option(help="A layer to keep in float, as --analyse names it.")] = None,
    depthwise: Annotated[
        bool, typer.Option("--depthwise", help="Also quantise depthwise convolutions; TensorRT may refuse such a file.")
    ] = False,
    fp16: Annotated[
        Path | None, typer.Option("--fp16-model", help="The fp16 file of the model: int8 must be faster.")
    ] = None,
    old_fp16: Annotated[Path | None, typer.Option("--fp16", hidden=True, help="The same as --fp16-model.")] = None,
    target: Annotated[
        str, typer.Option("--for-device", help="The file is for another device: do not judge latency here.")
    ] = "",
    old_target: Annotated[str, typer.Option("--target", hidden=True, help="The same as --for-device.")] = "",
    device: Device = "auto",
    threads: Threads = 0,
    runs: Annotated[int, typer.Option(help="Calls to measure latency; their median counts.")] = 10,
    allow_trained: AllowTrained = False,
    region: RegionOption = None,
    json_file: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="Write the ranking to this SVG file.")] = None,
) -> None:
    """Quantise to int8 on your own clips and judge the result; exit code 3 if it is over budget or no faster."""
    from vivim_calibration.clips import DrawOptions
    from vivim_calibration.procedure import Options, calibrate

    if plot is not None and plot.suffix != ".svg":
        raise UsageError(f"--plot is {plot}; expected a name ending in .svg")
    if plot is not None and not (analyse or budget is not None):
        raise UsageError("--plot shows the ranking of the layers; add --analyse")
    fp16, target = fp16 or old_fp16, target or old_target
    read = (model, *(calib_data or ()), *(eval_data or ()), *((fp16,) if fp16 else ()))
    check_outputs((output, json_file, plot, cache), read)
    options = Options(
        method=method,
        draw=DrawOptions(fraction, max_clips, seed),
        eval_clips=eval_clips,
        cache=cache,
        analyse=analyse,
        analyse_clips=analyse_clips,
        budget=budget,
        choose_clips=choose_clips,
        left_in_float=tuple(exclude or ()),
        depthwise=depthwise,
        fp16=fp16,
        target=target,
        device=device,
        threads=threads,
        runs=runs,
        allow_trained=allow_trained,
        region=region_or_none(region),
    )
    try:
        with _progress.status("reading the model") as status:
            outcome = calibrate(model, output, calib_data or (), eval_data or (), options, status.update)
    except VerdictError as error:
        if error.outcome is not None:
            _publish(error.outcome, json_file, plot)
        raise
    _publish(outcome, json_file, plot)
    if output is not None:
        _console.print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def _publish(outcome: Outcome, json_file: Path | None, plot: Path | None) -> None:
    from vivim_calibration.plot import sensitivity_svg
    from vivim_calibration.report import sensitivity_table, verdict_table

    if outcome.analysis is not None:
        _console.print(sensitivity_table(outcome.analysis, outcome.left_in_float))
    _console.print(verdict_table(outcome))
    if json_file is not None:
        write_text(json_file, json.dumps(outcome.record(), indent=2) + "\n")
    if plot is not None and outcome.analysis is not None:
        write_text(plot, sensitivity_svg(outcome.analysis.costs, outcome.left_in_float))
