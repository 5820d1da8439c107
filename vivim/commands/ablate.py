"""`vivim-train ablate`: the paper's Table III on any data set. A thin layer over vivim.training.ablation."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from vivim.commands.check_data import checked
from vivim.commands.clip_options import ClipOptions
from vivim.commands.fit import Threads, report_line, set_threads
from vivim.training.ablation import VARIANTS, AblationRow, ablated, markdown, records, variant
from vivim.training.distributed import process_group
from vivim.training.fit import EpochReport, RunOptions
from vivim.training.recipe import FitConfig
from vivim_runtime.errors import ConfigError
from vivim_runtime.files import write_text

__all__ = ["ablate_command"]

_console = Console(stderr=True, markup=False, highlight=False)


def ablate_command(
    out: Annotated[Path, typer.Option(help="Folder for a run a variant, table.md and table.json.")] = Path(
        "runs/ablation"
    ),
    variants: Annotated[str, typer.Option(help="Rows, joined by commas.")] = ",".join(VARIANTS),
    data: Annotated[str, typer.Option(help="phantom (synthetic ultrasound), or the folder of a data set.")] = "phantom",
    layout: Annotated[str, typer.Option(help="How the data set lies; docs/data.md.")] = "auto",
    split_file: Annotated[Path | None, typer.Option(help="Which videos are in a split; docs/data.md.")] = None,
    preset: Annotated[str, typer.Option(help="Network: tiny, b0 .. b5 (b3 is the paper's).")] = "b3",
    encoder: Annotated[str | None, typer.Option(help="SegFormer weights for the encoder (paper: of ADE20K).")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the clips.")] = 100,
    batch: Annotated[int, typer.Option(help="Clips a step.")] = 4,
    frames: Annotated[int, typer.Option(help="Frames of a clip, T.")] = 5,
    imgsz: Annotated[int, typer.Option(help="Height and width of the frames, pixels.")] = 256,
    clips: Annotated[int, typer.Option(help="Phantoms an epoch, new ones in every epoch.")] = 200,
    validation_clips: Annotated[int, typer.Option(help="Phantoms to validate on.")] = 24,
    test_clips: Annotated[int, typer.Option(help="Phantoms that the table is about.")] = 120,
    optimizer: Annotated[str, typer.Option(help="adam or adamw.")] = "adam",
    lr: Annotated[float, typer.Option(help="Learning rate after the warm-up.")] = 1e-4,
    warmup: Annotated[float, typer.Option(help="Share of the steps over which the rate rises.")] = 0.0,
    max_norm: Annotated[float, typer.Option(help="Gradients are clipped to this norm; 0 leaves them.")] = 0.0,
    ema: Annotated[float, typer.Option(help="Decay of averaged weights; 0 keeps none.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of initialisation, order, augmentation and dropout.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<index>.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that make clips ahead.")] = 0,
    threads: Threads = 0,
) -> None:
    """Train the rows of Table III side by side; the same call goes on where a stopped one was."""
    set_threads(threads)
    recipe = FitConfig(
        preset=preset,
        encoder=encoder,
        epochs=epochs,
        batch=batch,
        frames=frames,
        optimizer=optimizer,  # type: ignore[arg-type]
        lr=lr,
        warmup=warmup,
        max_norm=max_norm,
        ema=ema,
        seed=seed,
    )
    names = [name.strip() for name in variants.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--variants is {variants!r}; expected some of {', '.join(VARIANTS)}")
    for name in names:
        variant(name, recipe)  # raises for an unknown name
    source = ClipOptions(data, layout, split_file, seed, frames, (imgsz, imgsz))
    if not source.is_phantom:
        checked([source.dataset(name) for name in ("train", "validation", "test")], frames, 1)
    training, validation = source.clips("train", clips, fresh=True), source.judged("validation", validation_clips)
    test = source.judged("test", test_clips)
    rows: list[AblationRow] = []

    def on_epoch(name: str, report: EpochReport) -> None:
        _console.print(f"{name}: {report_line(report, epochs)}", soft_wrap=True)

    with process_group(device) as group:
        metadata = {"trained_on": source.described(training, "train"), "torch": torch.__version__}
        record = source.record("train", clips * epochs)
        options = RunOptions(workers=workers, group=group, metadata=metadata, data=record)
        for row in ablated(names, recipe, training, validation, test, out, options, on_epoch):
            rows.append(row)
            content = {
                "command": shlex.join(["vivim-train", *sys.argv[1:]]),
                "test": source.described(test, "test"),
                "recipe": asdict(recipe),
                "rows": records(rows),
            }
            if group.leads:
                write_text(out / "table.md", markdown(rows))
                write_text(out / "table.json", json.dumps(content, indent=2) + "\n")
    Console(markup=False, highlight=False).print(markdown(rows), soft_wrap=True)
