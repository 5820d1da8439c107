"""`vivim-train calibrate-confidence`: how sure weights are, and which pictures they know, stored with them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import numpy.typing as npt
import typer
from rich.progress import track

from vivim.checkpoint import load_checkpoint, read_metadata, read_training, resolve_weights, save_checkpoint
from vivim.commands.clip_options import ClipOptions
from vivim.commands.fit import set_threads
from vivim.model import Stage
from vivim.session import open_runner
from vivim.training.batches import ClipSource, judged_clip
from vivim.training.confidence import (
    coverage,
    judged_frames,
    learn_temperature,
    reliability,
    rightly_empty,
)
from vivim.training.domain import learn_domain
from vivim_runtime.commands.options import ClassesOption, DataSet, Layout, Seed, SplitFile, Threads
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.confidence import Confidence, Domain
from vivim_runtime.errors import ConfigError
from vivim_runtime.files import write_text
from vivim_runtime.framing import Framing
from vivim_runtime.judging.reliability import Reliability

__all__ = ["calibrate_command"]

_console = terminal(stderr=True)
# Training pictures to know for every clip that validates: screens differ more than what is on them.
_PICTURES = 5
# What the pictures of the data become, as those that the network learnt from did.
_OF_CONTRACT = ("frames", "size", "stride", "region", "shape", "colour", "outside")


def calibrate_command(
    weights: Annotated[str, typer.Argument(help="A checkpoint, or shipped weights such as tiny.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write; it may be the same.")],
    data: DataSet = "phantom",
    layout: Layout = "auto",
    split_file: SplitFile = None,
    classes: ClassesOption = None,
    clips: Annotated[
        int, typer.Option("--validation-clips", help="Phantoms to validate on; five times as many training pictures.")
    ] = 60,
    report: Annotated[Path | None, typer.Option(help="JSON file of all figures.")] = None,
    seed: Seed = 0,
    threads: Threads = 0,
) -> None:
    """Calibrate the confidence of a network on validation data (temperature scaling); learn which pictures it knows."""
    set_threads(threads)
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out is {out}; expected a name ending in .safetensors")
    if clips < 8:
        raise ConfigError(f"--validation-clips is {clips}; expected at least 8")
    training = read_training(weights)
    contract = training.contract
    model = load_checkpoint(weights)
    source = replace(
        ClipOptions(data, layout, split_file, classes, seed=seed, trained=training.data, marked=model.config.classes),
        **{name: getattr(contract, name) for name in _OF_CONTRACT},
    )
    validation = source.judged("validation", clips)
    with open_runner(weights, threads=threads) as session:
        _console.print(f"{len(validation)} clips of the validation", highlight=False)
        judged = judged_frames(session, validation, seed=seed)
    temperature = learn_temperature(judged)
    before, after = reliability(judged, 1.0), reliability(judged, temperature)
    first = cast(Stage, model.stages[0]).patch_embed.proj
    domain = learn_domain(
        _pictures(replace(source, frames=1).clips("train", _PICTURES * clips), "training", _PICTURES * clips),
        _pictures(validation, "validation", _PICTURES * clips),
        first.weight.detach().numpy(),
        int(first.stride[0]),
        contract.mean,
        contract.std,
        Framing(contract).picture,
    )
    nothing = rightly_empty(judged)
    described = source.described(validation, "validation")
    record = Confidence(temperature, nothing, described, before.error, after.error, domain)
    kept = {k: v for k, v in read_metadata(resolve_weights(weights)).items() if k not in ("format", "config")}
    save_checkpoint(out, model, {**kept, **replace(training, confidence=record).metadata()})
    rows = coverage(judged, temperature, nothing)
    for line in _lines(out, temperature, before, after, rows, domain):
        terminal().print(line, soft_wrap=True, highlight=False)
    if report is not None:
        figures = {
            "temperature": temperature,
            "nothing": nothing,
            "before": asdict(before),
            "after": asdict(after),
            "coverage": [dict(zip(("coverage", "dice", "confidence"), row, strict=True)) for row in rows],
            "domain": {
                "threshold": domain.threshold,
                "odds": None if domain.texture is None else domain.texture.odds,
                "far": None if domain.texture is None else domain.texture.far,
                "false_alarms": domain.false_alarms,
            },
            "data": record.data,
        }
        write_text(report, json.dumps(figures, indent=1) + "\n")


def _pictures(clips: ClipSource, what: str, most: int) -> list[npt.NDArray[np.uint8]]:
    """The middle picture of every clip; of more than `most`, of so many of them, evenly spread."""
    chosen = np.unique(np.linspace(0, len(clips) - 1, min(most, len(clips))).round().astype(int))
    numbers = track(chosen.tolist(), f"reading {what}", console=_console, transient=True)
    found = [judged_clip(clips, index).pixels for index in numbers]
    return [pixels[len(pixels) // 2] for pixels in found]


def _lines(
    out: Path,
    temperature: float,
    before: Reliability,
    after: Reliability,
    rows: list[tuple[float, float, float]],
    domain: Domain,
) -> list[str]:
    lines = [
        f"{out}: temperature {temperature:.3f}, expected calibration error {before.error:.4f} before, "
        f"{after.error:.4f} after"
    ]
    pairs = zip(after.confidence, after.accuracy, after.share, strict=True)
    lines += [f"  given {sure:6.1%}, right {right:6.1%}, of {share:6.1%} of the pixels" for sure, right, share in pairs]
    lines += [
        f"  of the surest {share:4.0%} of the frames: Dice {dice:.4f}, confidence at least {least:.3f}"
        for share, dice, least in rows
    ]
    limits = f"beyond {domain.threshold:.2f}"
    if domain.texture is not None:
        limits += f", odds of their grain beyond {domain.texture.odds:.2f}, or its distance {domain.texture.far:.2f}"
    lines.append(f"  pictures of another kind: {limits}; so is {domain.false_alarms:.1%} of the validation")
    return lines
