"""`vivim-train`: train, evaluate, and convert checkpoints. A thin layer over vivim.training and vivim.checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vivim.checkpoint import load_checkpoint, read_metadata, resolve_weights, save_checkpoint
from vivim.commands.ablate import ablate_command
from vivim.commands.boundary import boundary_command
from vivim.commands.check_data import check_command
from vivim.commands.clip_options import ClipOptions
from vivim.commands.fit import Threads, fit_command, set_threads
from vivim.training.curve import curve_svg, read_log
from vivim.training.scores import Scores, evaluate
from vivim_runtime.errors import ConfigError
from vivim_runtime.files import sha256_file, write_text

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Train and evaluate Vivim, and convert checkpoints.")
# File names are printed as they are: no markup.
_console = Console(stderr=True, markup=False, highlight=False)

app.command("fit")(fit_command)
app.command("check-data")(check_command)
app.command("boundary")(boundary_command)
app.command("ablate")(ablate_command)


@app.command("evaluate")
def evaluate_command(
    weights: Annotated[str, typer.Argument(help="Checkpoint, or tiny for the shipped weights.")] = "tiny",
    data: Annotated[str, typer.Option(help="phantom (synthetic ultrasound), or the folder of a data set.")] = "phantom",
    layout: Annotated[str, typer.Option(help="How the data set lies; docs/data.md.")] = "auto",
    split_file: Annotated[Path | None, typer.Option(help="Which videos are in a split; docs/data.md.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test; their clips never meet.")] = "test",
    clips: Annotated[int, typer.Option(help="Phantoms.")] = 40,
    frames: Annotated[int, typer.Option(help="Frames of a clip, T.")] = 5,
    imgsz: Annotated[int, typer.Option(help="Height and width of the frames, pixels.")] = 256,
    threads: Threads = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Dice, IoU, precision, recall and HD95 of a checkpoint on whole clips; vivim-eval does more."""
    set_threads(threads)
    model = load_checkpoint(weights)
    source = ClipOptions(data, layout, split_file, frames=frames, size=(imgsz, imgsz), hop=frames)
    chosen = source.clips(split, clips)
    scores = evaluate(model, chosen)
    figures: dict[str, Any] = {
        **asdict(scores),
        "clips": len(chosen),
        "data": source.described(chosen, split),
        "weights_sha256": sha256_file(resolve_weights(weights)),
    }
    if json_file:
        write_text(json_file, json.dumps(figures, indent=2) + "\n")
    Console().print(_scores_table(scores, figures["data"]))


def _scores_table(scores: Scores, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("Dice", "IoU", "precision", "recall", "HD95, px", "frames"):
        table.add_column(name, justify="right")
    figures = (scores.dice, scores.iou, scores.precision, scores.recall)
    distance = "" if scores.hd95 is None else f"{scores.hd95:.1f}"
    table.add_row(*(f"{value:.4f}" for value in figures), distance, str(scores.frames))
    return table


@app.command("plot")
def plot_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of fit; drawn one behind the other.")],
    out: Annotated[Path, typer.Option(help="The SVG file to write.")] = Path("curve.svg"),
) -> None:
    """Draw how runs went: training loss and validation Dice of every epoch."""
    if out.suffix != ".svg":
        raise ConfigError(f"--out is {out}; expected a name ending in .svg")
    write_text(out, curve_svg([(run.name, read_log(run)) for run in runs]))


@app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="An authors' .pth/.pt/.ckpt, or any checkpoint of ours.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    frames: Annotated[int | None, typer.Option(help="Frames of a clip, T, to export for.")] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the averaged weights of a file that has both.")] = False,
) -> None:
    """Turn a checkpoint into safetensors with its configuration inside."""
    if target.suffix != ".safetensors":
        raise ConfigError(f"the target is {target}; expected a name ending in .safetensors")
    model = load_checkpoint(source, frames, ema)
    kept = {k: v for k, v in read_metadata(source).items() if k not in ("format", "config")}
    save_checkpoint(target, model, {**kept, "converted_from_sha256": sha256_file(resolve_weights(source))})
    config = model.config
    count = sum(p.numel() for p in model.parameters())
    Console(markup=False, highlight=False).print(
        f"{target}: {config.preset_name}, {count / 1e6:.2f} M parameters, T = {config.frames}, "
        f"directions {', '.join(config.directions)}, edge head {config.edge_head}, classes {', '.join(config.classes)}"
    )
