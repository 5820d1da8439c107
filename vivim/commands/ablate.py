"""`vivim-train ablate`: the paper's Table III on any data set. A thin layer over vivim.training.ablation."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from vivim.commands.check_data import refuse_bad_data
from vivim.commands.clip_options import ClipOptions
from vivim.commands.fit import Workers, report_line, set_threads
from vivim.training.ablation import ROWS, VARIANTS, AblationRow, differences, markdown, records, run_ablation, variant
from vivim.training.distributed import default_workers, process_group
from vivim.training.fit import EpochReport, RunOptions
from vivim.training.recipe import FitConfig
from vivim_runtime.commands.fields import options_of
from vivim_runtime.commands.options import FrameSize, Threads, TorchDevice, parse_size
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import ConfigError
from vivim_runtime.files import write_text

__all__ = ["ablate_command"]

_console = terminal(stderr=True)


# What the rows themselves decide, and weights to start from, which would have seen other variants.
_BESIDE = [name for name in ROWS if name not in VARIANTS]
_OF_THE_ROWS = ("init", "directions", "mamba_layers", "st_module", "boundary", "affine", "only", "new_edge_head")


@options_of(ClipOptions, "source", without=("stride", "hop", "stills"))
@options_of(FitConfig, "recipe", without=_OF_THE_ROWS)
def ablate_command(
    source: ClipOptions,
    recipe: FitConfig,
    out: Annotated[Path, typer.Option(help="Folder for one run per variant, table.md and table.json.")] = Path(
        "runs/ablation"
    ),
    variants: Annotated[
        str, typer.Option(help=f"Rows, comma-separated; besides the paper's: {', '.join(_BESIDE)}.")
    ] = ",".join(VARIANTS),
    seeds: Annotated[int, typer.Option(help="Runs of every row, with the seeds from --seed on.")] = 1,
    imgsz: FrameSize = "256",
    clips: Annotated[
        int, typer.Option("--phantoms", "--clips", help="Phantoms per epoch, new ones in every epoch.")
    ] = 200,
    validation_clips: Annotated[int, typer.Option(help="Phantoms to validate on.")] = 24,
    test_clips: Annotated[int, typer.Option(help="Phantoms to evaluate for the table.")] = 120,
    device: TorchDevice = "auto",
    workers: Workers = -1,
    threads: Threads = 0,
) -> None:
    """Train the rows of Table III side by side; repeat the call to continue after an interruption."""
    set_threads(threads)
    names = [name.strip() for name in variants.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--variants is {variants!r}; expected some of {', '.join(ROWS)}")
    if seeds < 1:
        raise ConfigError(f"--seeds is {seeds}; expected at least 1")
    for name in names:
        variant(name, recipe)  # raises for an unknown name
    source = source.for_recipe(recipe, parse_size(imgsz))
    recipe = replace(recipe, classes=source.class_names("train"))
    if not source.is_phantom:
        refuse_bad_data([source.dataset(name) for name in ("train", "validation", "test")], recipe.frames, 1)
    training, validation = source.clips("train", clips, fresh=True), source.judged("validation", validation_clips)
    test = source.judged("test", test_clips)
    rows: list[AblationRow] = []

    def on_epoch(name: str, report: EpochReport) -> None:
        _console.print(f"{name}: {report_line(report, recipe.epochs)}", soft_wrap=True)

    def run(options: RunOptions) -> Iterator[AblationRow]:
        for seed in range(recipe.seed, recipe.seed + seeds):
            folder = out if seeds == 1 else out / f"seed-{seed}"
            seeded = replace(recipe, seed=seed)
            yield from run_ablation(names, seeded, training, validation, test, folder, options, on_epoch)

    with process_group(device) as group:
        metadata = {"trained_on": source.described(training, "train"), "torch": torch.__version__}
        record = source.record("train", clips * recipe.epochs)
        makers = default_workers(group) if workers < 0 else workers
        options = RunOptions(workers=makers, group=group, metadata=metadata, data=record)
        for row in run(options):
            rows.append(row)
            content = {
                "command": shlex.join(["vivim-train", *sys.argv[1:]]),
                "test": source.described(test, "test"),
                "recipe": asdict(recipe),
                "rows": records(rows),
                "differences": [asdict(difference) for difference in differences(rows)],
            }
            if group.leads:
                write_text(out / "table.md", markdown(rows))
                write_text(out / "table.json", json.dumps(content, indent=2) + "\n")
    terminal().print(markdown(rows), soft_wrap=True)
