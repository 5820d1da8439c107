"""`vivim-train`: train, evaluate, and convert checkpoints. A thin layer over vivim.training and vivim.checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vivim.checkpoint import load_checkpoint, read_metadata, resolve_weights, save_checkpoint
from vivim.commands.ablate import ablate_command
from vivim.commands.boundary import boundary_command
from vivim.commands.calibrate_confidence import calibrate_command
from vivim.commands.check_data import check_command
from vivim.commands.fit import fit_command
from vivim.commands.folds import folds_command
from vivim.conversion import streaming_from
from vivim.training.curve import curve_svg, read_log
from vivim_runtime.commands.application import Application
from vivim_runtime.commands.evaluate import eval_command
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import ConfigError
from vivim_runtime.files import sha256_file, write_text

__all__ = ["app"]

app = Application(no_args_is_help=True, extra="train", help="Train and evaluate Vivim, and convert checkpoints.")

app.command("fit")(fit_command)
app.command("check-data")(check_command)
app.command("calibrate-confidence")(calibrate_command)
app.command("boundary")(boundary_command)
app.command("ablate")(ablate_command)
app.command("folds")(folds_command)
app.command("evaluate", help="The same as vivim-eval.")(eval_command)


@app.command("plot")
def plot_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Output folders of fit, drawn one after the other.")
    ],
    out: Annotated[Path, typer.Option(help="The SVG file to write.")] = Path("curve.svg"),
) -> None:
    """Plot runs: training loss and validation Dice of every epoch."""
    if out.suffix != ".svg":
        raise ConfigError(f"--out is {out}; expected a name ending in .svg")
    write_text(out, curve_svg([(run.name, read_log(run)) for run in runs]))


@app.command("convert")
def convert_command(
    source: Annotated[
        Path, typer.Argument(help="A .pth, .pt or .ckpt of the authors' code, or any checkpoint of this package.")
    ],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    frames: Annotated[int | None, typer.Option(help="Frames of a clip, T, for later exports.")] = None,
    ema: Annotated[
        bool, typer.Option("--averaged", "--ema", help="Use the averaged weights of a file that has both.")
    ] = False,
    streaming: Annotated[
        bool,
        typer.Option("--streaming", help="Convert a network for clips to a streaming one, which then needs training."),
    ] = False,
) -> None:
    """Convert a checkpoint to safetensors with its configuration inside."""
    if target.suffix != ".safetensors":
        raise ConfigError(f"the target is {target}; expected a name ending in .safetensors")
    model = load_checkpoint(source, frames, ema)
    if streaming:
        model = streaming_from(model)
    kept = {k: v for k, v in read_metadata(source).items() if k not in ("format", "config")}
    save_checkpoint(target, model, {**kept, "converted_from_sha256": sha256_file(resolve_weights(source))})
    config = model.config
    count = sum(p.numel() for p in model.parameters())
    terminal().print(
        f"{target}: {config.preset_name}, {count / 1e6:.2f} M parameters, T = {config.frames}, "
        f"directions {', '.join(config.directions)}, edge head {config.edge_head}, classes {', '.join(config.classes)}",
        soft_wrap=True,
    )
    if streaming:
        terminal().print(
            f"it has never looked back only: train it on with vivim-train fit --streaming --init {target}",
            soft_wrap=True,
        )
