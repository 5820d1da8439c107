"""`vivim-bench paper`: the paper's efficiency study. A thin layer over vivim.efficiency.study."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from vivim.config import SpatioTemporalModule
from vivim.efficiency.measuring import Limits, Outcome, free_memory
from vivim.efficiency.plot import growth_svg
from vivim.efficiency.report import growth_markdown, number, record, table_markdown
from vivim.efficiency.study import METHODS, Row, StudyOptions, run_growth, run_table
from vivim_runtime.commands.application import Application
from vivim_runtime.commands.options import JsonFile, MarkdownFile, Threads, check_outputs, parse_size
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import ConfigError
from vivim_runtime.files import write_text

__all__ = ["app"]

app = Application()
_console = terminal()
_progress = terminal(stderr=True)

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@app.command()
def paper_command(
    preset: Annotated[str, typer.Option(help="Network: tiny, b0 .. b5; the paper's is b3.")] = "tiny",
    frames: Annotated[int, typer.Option(help="Table: frames of the clip, T; 0 leaves the table out.")] = 32,
    imgsz: Annotated[str, typer.Option(metavar="N | HxW", help="Table: size of its frames, height x width.")] = "256",
    growth: Annotated[
        str, typer.Option(metavar="T,T,...", help="Figure: frames of its clips; 0 leaves the figure out.")
    ] = "5,10,20,40,80,160",
    growth_imgsz: Annotated[
        str, typer.Option(metavar="N | HxW", help="Figure: size of its frames, height x width.")
    ] = "128",
    modules: Annotated[str, typer.Option(help="Modules to measure, comma-separated.")] = ",".join(METHODS),
    attention: Annotated[
        str,
        typer.Option(help="fused, written (all scores in memory, as was usual when the paper was written), or both."),
    ] = "both",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<index>.")] = "cpu",
    threads: Threads = 1,
    runs: Annotated[
        int, typer.Option(help="Runs per case; the fastest counts. 0: only count memory and operations.")
    ] = 3,
    memory_limit: Annotated[
        str | None,
        typer.Option(help="Memory that a case may take, in bytes or as 500M, 8G; default: half of what is free."),
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds that a case may take, including its start.")] = 600.0,
    json_file: JsonFile = None,
    markdown: MarkdownFile = None,
    plot: Annotated[Path | None, typer.Option(help="Write the figure to this .svg file.")] = None,
) -> None:
    """Repeat the paper's Table IV and Fig. 7 (b): what ST-Mamba and attention cost."""
    _check_device(device)
    options = StudyOptions(
        limits=Limits(_limit(memory_limit, device), time_limit),
        preset=preset,
        frames=frames,
        size=parse_size(imgsz),
        growth_frames=_frames(growth),
        growth_size=parse_size(growth_imgsz, "--growth-imgsz"),
        modules=_modules(modules),
        written_out=_ways(attention),
        device=device,
        threads=threads,
        runs=runs,
    )
    check_outputs((json_file, markdown, plot))
    with _progress.status("starting") as status:
        table = _reported(run_table(options, status.update))
        growing = _reported(run_growth(options, status.update))
    text = _markdown(table, growing, options)
    _console.print(text, soft_wrap=True)
    if json_file:
        content = {"machine": _machine(device), **record(table, growing, options)}
        write_text(json_file, json.dumps(content, indent=1) + "\n")
    if markdown:
        write_text(markdown, text)
    if plot:
        write_text(plot, growth_svg(growing, options))


def _reported(rows: Iterator[Row]) -> list[Row]:
    """All rows; a line about each as soon as it is there, since the next may take minutes."""
    kept = []
    for row in rows:
        outcomes = {"inference": row.inference, "training": row.training}
        texts = [f"{name} {_brief(outcome)}" for name, outcome in outcomes.items() if outcome]
        _progress.print(f"{row.variant.label}, {row.frames} frames: {'; '.join(texts)}", soft_wrap=True)
        kept.append(row)
    return kept


def _brief(outcome: Outcome) -> str:
    if outcome.seconds is None:
        return outcome.status.value
    return f"{outcome.seconds:.3g} s" + (f", {number(outcome.peak_bytes / 1e6)} MB" if outcome.peak_bytes else "")


def _markdown(table: list[Row], growing: list[Row], options: StudyOptions) -> str:
    parts = []
    if table:
        height, width = options.size
        parts.append(f"Table IV: {options.preset}, a clip of {options.frames} x {height} x {width}, {options.device}\n")
        parts.append(table_markdown(table, options))
    if growing:
        height, width = options.growth_size
        parts.append(f"Fig. 7 (b): {options.preset}, clips of {height} x {width}, {options.device}\n")
        parts.append(growth_markdown(growing, options))
    return "\n".join(parts)


def _frames(text: str) -> tuple[int, ...]:
    if text == "0":
        return ()
    if not re.fullmatch(r"[1-9][0-9]{0,5}(,[1-9][0-9]{0,5})*", text):
        raise ConfigError(f"--growth is {text}; expected numbers of frames with commas between, or 0 for no figure")
    return tuple(sorted({int(part) for part in text.split(",")}))


def _modules(text: str) -> tuple[SpatioTemporalModule, ...]:
    names = text.split(",")
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ConfigError(f"--modules has {', '.join(unknown) or 'nothing'}; expected some of {','.join(METHODS)}")
    return tuple(name for name in METHODS if name in names)


def _ways(text: str) -> tuple[bool, ...]:
    ways = {"fused": (False,), "written": (True,), "both": (True, False)}
    if text not in ways:
        raise ConfigError(f"--attention is {text}; expected fused, written or both")
    return ways[text]


def _check_device(device: str) -> None:
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", device):
        raise ConfigError(f"--device is {device}; expected cpu, cuda or cuda:<index>")
    count = torch.cuda.device_count()
    if device != "cpu" and int(device.partition(":")[2] or 0) >= count:
        raise ConfigError(f"--device is {device}, and PyTorch finds {count} GPUs; expected one that is there, or cpu")


def _limit(text: str | None, device: str) -> int:
    if text is None:
        free = free_memory(device)
        if free is None:
            raise ConfigError("this system does not tell how much memory is free; give --memory-limit, such as 8G")
        return free // 2
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kmg]?)b?", text.lower())
    if not match:
        raise ConfigError(f"--memory-limit is {text}; expected bytes, or 500M, 8G")
    return int(float(match[1]) * _UNITS[match[2]])


def _machine(device: str) -> dict[str, Any]:
    """What the figures depend on, besides the options."""
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", cpu.read_text(), re.MULTILINE) if cpu.is_file() else []
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "gpu": None if device == "cpu" else torch.cuda.get_device_name(device),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vivim-edge": version("vivim-edge"),
    }
