"""`vivim-check`: two models on the same clips, logits and masks. A thin layer over vivim_runtime.judging.parity."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console

from vivim_runtime.errors import ParityError, UsageError
from vivim_runtime.files import writable_file, write_text
from vivim_runtime.judging.parity import Comparison, compare
from vivim_runtime.judging.parity_report import html_report, terminal_table
from vivim_runtime.sessions import is_model_file, runner_of
from vivim_runtime.sessions.base import Session

__all__ = ["ClipsCommand", "HtmlFile", "JsonFile", "app", "check_command", "check_reports", "parsed_size", "publish"]

app = typer.Typer(add_completion=False, no_args_is_help=True)
# File names are printed as they are: no markup.
_console = Console(markup=False, highlight=False)
_progress = Console(stderr=True, markup=False, highlight=False)

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the comparison to this JSON file.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Write the comparison to this HTML file.")]


class ClipsCommand(typer.core.TyperCommand):
    """Options that take several values: `--imgsz 256 320` and `--clips a.mp4 b.dcm`, as in other exporters."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _spread(args))


def _spread(args: list[str]) -> list[str]:
    """Two numbers behind --imgsz become `HxW`; more names behind --clips, each its own --clips."""
    result: list[str] = []
    # Names behind --clips are clips only where A and B came first.
    named = [not arg.startswith("-") for arg in args[:2]] == [True, True]
    option = ""
    for arg in args:
        if option == "--imgsz" and arg.isdigit() and result[-1].isdigit():
            result[-1] += f"x{arg}"
        elif option == "--clips" and named and not arg.startswith("-") and result[-1] != "--clips":
            result += ["--clips", arg]
        else:
            result.append(arg)
        option = arg if arg.startswith("-") else option
    return result


def parsed_size(text: str | None) -> tuple[int, int] | None:
    """(H, W) of what stands behind --imgsz; None where nothing does."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[x,](\d+))?", text)
    if not match or not int(match[1]) or match[2] == "0":
        raise UsageError(f"--imgsz is {text}; expected one number, or height and width: --imgsz 256 320")
    return int(match[1]), int(match[2] or match[1])


def check_reports(*files: Path | None) -> None:
    """Find out before the work that a report could not be written after it."""
    for file in files:
        if file:
            writable_file(file)


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
        b: Annotated[str, typer.Argument(metavar="B", help="What is compared with it.")],
        clips: Annotated[
            list[str] | None,
            typer.Option(help="Videos, image folders, DICOM, data sets, phantom:...; default two phantoms."),
        ] = None,
        imgsz: Annotated[
            str | None, typer.Option(metavar="N | H W", help="Size for two checkpoints; a model file has its own.")
        ] = None,
        frames: Annotated[int | None, typer.Option(help="T for two checkpoints; a model file has its own.")] = None,
        device: Annotated[str, typer.Option(help="Of model files: auto, cpu, cuda or cuda:<index>.")] = "auto",
        threads: Annotated[int, typer.Option(help="CPU threads; 0 is automatic.")] = 0,
        json_file: JsonFile = None,
        html_file: HtmlFile = None,
    ) -> None:
        """Compare two models on the same clips, on logits and on masks; exit code 3 where B does not stand for A."""
        check_reports(json_file, html_file)
        size = parsed_size(imgsz)
        with ExitStack() as stack:
            sides: dict[str, Session] = {}
            # A checkpoint takes size and T of the model file on the other side, which opens first.
            for name in sorted({a: None, b: None}, key=lambda name: not is_model_file(name)):
                with _progress.status(f"opening {name}"):
                    sides[name] = stack.enter_context(opened(name, size, frames, device, threads))
                info = sides[name].info
                if is_model_file(name):
                    size, frames = info.size, info.frames
            with _progress.status("comparing") as status:
                comparison = compare(sides[a], sides[b], clips, lambda n: status.update(f"comparing, clip {n}"))
        publish(comparison, json_file, html_file)
        if not comparison.passed:
            raise ParityError(f"{b} does not stand for {a}: {'; '.join(comparison.failures)}", comparison)

    return check


app.command(cls=ClipsCommand)(check_command(_opened))
