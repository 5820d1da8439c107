"""`vivim-check`: two models on the same clips, logits and masks. A thin layer over vivim_runtime.judging.parity."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from vivim_runtime.commands.application import Application
from vivim_runtime.commands.options import (
    AllowTrained,
    Device,
    FramesOfCheckpoint,
    HtmlFile,
    JsonFile,
    RegionOption,
    SizeOfCheckpoint,
    Threads,
    check_outputs,
    region_or_none,
    size_or_none,
    spread_names,
)
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import ParityError
from vivim_runtime.files import write_text
from vivim_runtime.judging.parity import Comparison, compare
from vivim_runtime.judging.parity_report import html_report, terminal_table
from vivim_runtime.sessions import is_model_file, runner_of
from vivim_runtime.sessions.base import Session

__all__ = ["ClipsCommand", "app", "check_command", "publish"]

app = Application(no_args_is_help=True)
# File names are printed as they are: no markup.
_console = terminal()
_progress = terminal(stderr=True)


class ClipsCommand(typer.core.TyperCommand):
    """Options that take several values: `--imgsz 256 320` and `--clips a.mp4 b.dcm`, as in other exporters."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = sum(not parameter.opts[0].startswith("-") for parameter in self.params)
        return super().parse_args(ctx, _spread(args, words))


def _spread(args: list[str], words: int) -> list[str]:
    """Two numbers behind --imgsz become `HxW`; more names behind --clips, each its own --clips."""
    result: list[str] = []
    option = ""
    for arg in args:
        if option == "--imgsz" and arg.isdecimal() and result[-1].isdecimal():
            result[-1] += f"x{arg}"
        else:
            result.append(arg)
        option = arg if arg.startswith("-") else option
    return spread_names(result, ("--clips",), words)


def publish(comparison: Comparison, json_file: Path | None, html_file: Path | None) -> None:
    """Show a comparison, and write the reports that were asked for."""
    _console.print(terminal_table(comparison))
    if json_file:
        write_text(json_file, json.dumps(comparison.record(), indent=2) + "\n")
    if html_file:
        write_text(html_file, html_report(comparison))


def _opened(name: str, size: tuple[int, int] | None, frames: int | None, device: str, threads: int) -> Session:
    return runner_of(name)(name, size, frames, device, threads)


def check_command(opened: Callable[..., Session]) -> Callable[..., None]:
    """The command, given what opens a side: function(name, size, frames, device, threads) -> Session."""

    def check(
        a: Annotated[str, typer.Argument(metavar="A", help="The reference: a model file, or a checkpoint (PyTorch).")],
        b: Annotated[str, typer.Argument(metavar="B", help="The model to compare with it.")],
        clips: Annotated[
            list[str] | None,
            typer.Option(help="Videos, image folders, DICOM, data sets, phantom:...; default: two phantoms."),
        ] = None,
        imgsz: SizeOfCheckpoint = None,
        frames: FramesOfCheckpoint = None,
        allow_trained: AllowTrained = False,
        region: RegionOption = None,
        device: Device = "auto",
        threads: Threads = 0,
        json_file: JsonFile = None,
        html_file: HtmlFile = None,
    ) -> None:
        """Compare two models on the same clips, on logits and on masks; exit code 3 if B differs too much from A."""
        check_outputs((json_file, html_file), (a, b, *(clips or ())))
        size, rule = size_or_none(imgsz), region_or_none(region)
        with ExitStack() as stack:
            sides: dict[str, Session] = {}
            # A checkpoint takes size and T of the other side: of a model file, which opens first, else of A.
            for name in sorted({a: None, b: None}, key=lambda name: not is_model_file(name)):
                with _progress.status(f"opening {name}"):
                    sides[name] = stack.enter_context(opened(name, size, frames, device, threads))
                info = sides[name].info
                size, frames = size or info.size, frames or info.frames
            with _progress.status("comparing") as status:
                comparison = compare(
                    sides[a], sides[b], clips, lambda n: status.update(f"comparing, clip {n}"), allow_trained, rule
                )
            for info in (side.info for side in sides.values()):
                for departure in (*info.departures, *info.departure_of(rule)):
                    _progress.print(f"note: {info.path.name}: {departure}", soft_wrap=True)
        publish(comparison, json_file, html_file)
        if not comparison.passed:
            raise ParityError(f"{b} does not stand for {a}: {'; '.join(comparison.failures)}", comparison)

    return check


app.command(cls=ClipsCommand)(check_command(_opened))
