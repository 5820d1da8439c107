"""The paper's ablation (Table III), and beside it what isolates the mixer and its rivals (Table IV).

A row is a network and its losses; networks that are trained briefly differ by chance, so rows are compared in pairs of
the same seed, with an interval over the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vivim.checkpoint import load_checkpoint
from vivim.config import ABLATIONS
from vivim.training.batches import ClipSource
from vivim.training.curve import read_log
from vivim.training.fit import EpochReport, RunOptions, fit
from vivim.training.recipe import FitConfig
from vivim.training.scores import Scores, evaluate
from vivim_runtime.clips import Clip
from vivim_runtime.errors import ConfigError
from vivim_runtime.judging.figures import mean_estimate

__all__ = [
    "ROWS",
    "VARIANTS",
    "AblationRow",
    "Difference",
    "differences",
    "markdown",
    "records",
    "run_ablation",
    "variant",
]

# The paper's rows, from the vanilla SegFormer to the whole method.
VARIANTS = ("basic", "C1", "C2", "C3", "ours")
# And those beside them, as changes to a recipe: the layers without a mixer (the 3x3x3 convolution and the norms stay),
# and attention in its place. None has the boundary losses, so C3 is what they compare with.
_BESIDE: dict[str, dict[str, Any]] = {
    "identity": {"st_module": "identity"},
    "M1": {"st_module": "self_attention"},
    "M2": {"st_module": "window_attention"},
    "M3": {"st_module": "factorized_attention"},
}
ROWS = ("basic", "identity", "C1", "C2", "C3", "M1", "M2", "M3", "ours")

# Which rows are compared: what is added, and to what.
_PAIRS = (
    *(("identity", "basic"), ("C1", "basic"), ("C1", "identity"), ("C2", "C1"), ("C3", "C2"), ("C3", "identity")),
    *(("M1", "C3"), ("M2", "C3"), ("M3", "C3"), ("ours", "C3")),
)


@dataclass(frozen=True)
class AblationRow:
    """A variant, and how it did on clips that it has never seen.

    Attributes:
        parameters: of the network as it is deployed, without the edge head.
        seconds: of training, evaluation included.
        seed: of the run.
    """

    variant: str
    scores: Scores
    parameters: int
    seconds: float
    seed: int = 0


@dataclass(frozen=True)
class Difference:
    """By how much a row's figure is higher than another's: mean over seeds, and 95 % interval (Student's) over them.

    Attributes:
        low, high: None with a single seed, which shows nothing.
    """

    row: str
    other: str
    figure: str
    value: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def variant(name: str, config: FitConfig) -> FitConfig:
    """The recipe of a row: the network of Table III or IV, and the boundary losses for the whole method alone."""
    if name not in ROWS:
        raise ConfigError(f"there is no variant {name!r}; expected some of {', '.join(ROWS)}")
    if name == "ours":
        if not config.has_edges:
            raise ConfigError("the variant 'ours' is the one with the boundary losses; leave --affine and --boundary")
        return config
    changes = _BESIDE[name] if name in _BESIDE else ABLATIONS[name]
    return replace(config, **changes, boundary=0.0, affine=0.0)


def run_ablation(
    names: Sequence[str],
    config: FitConfig,
    clips: ClipSource | Sequence[Clip],
    validation: ClipSource | Sequence[Clip],
    test: ClipSource | Sequence[Clip],
    folder: Path,
    options: RunOptions,
    on_epoch: Callable[[str, EpochReport], None] = lambda name, report: None,
) -> Iterator[AblationRow]:
    """Train every variant with the same clips and seed, each in a folder of its own, and evaluate its last weights.

    A variant whose folder holds a run goes on with it; so a stopped ablation is gone on with by the same call.
    """
    recipes = {name: variant(name, config) for name in names}
    for name, recipe in recipes.items():
        out = folder / name
        chosen = replace(options, resume=(out / "state.pt").is_file())
        for report in fit(recipe, clips, validation, out, chosen):
            on_epoch(name, report)
        model = load_checkpoint(out / "last.safetensors")
        count = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("edge_head."))
        seconds = sum(line["seconds"] for line in read_log(out))
        scores = evaluate(model.to(options.group.device), test, options.group)
        yield AblationRow(name, scores, count, seconds, config.seed)


def differences(rows: Sequence[AblationRow]) -> list[Difference]:
    """The pairs of rows that are there, each with the seeds that both have."""
    found = []
    of_each: dict[str, dict[int, AblationRow]] = {}
    for one in rows:
        of_each.setdefault(one.variant, {})[one.seed] = one
    for name, other in _PAIRS:
        seeds = sorted(of_each.get(name, {}).keys() & of_each.get(other, {}).keys())
        for figure in ("dice", "hd95"):
            pairs = [[getattr(of_each[row][seed].scores, figure) for row in (name, other)] for seed in seeds]
            values = [a - b for a, b in pairs if a is not None and b is not None]
            mean = mean_estimate(values)
            if mean.value is not None:
                found.append(Difference(name, other, figure, mean.value, mean.low, mean.high, len(values)))
    return found


def markdown(rows: Sequence[AblationRow]) -> str:
    """Table III with what was measured, means over the seeds, and below it the rows compared in pairs."""
    names = [name for name in ROWS if any(row.variant == name for row in rows)]
    figures = ("Dice", "Jaccard", "precision", "recall", "HD95, px", "parameters", "minutes")
    columns = ("", "mixer", "forward", "backward", "spatial", "BAC", *figures)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in names:
        of_it = [row for row in rows if row.variant == name]
        marks = [_mark(name, part) for part in ("forward", "backward", "spatial", "BAC")]
        means = [f"{_mean(of_it, figure):.4f}" for figure in ("dice", "iou", "precision", "recall")]
        distance = _mean(of_it, "hd95")
        minutes = sum(row.seconds for row in of_it) / len(of_it) / 60
        last = ["" if math.isnan(distance) else f"{distance:.2f}", f"{of_it[0].parameters / 1e6:.2f} M"]
        lines.append(f"| {' | '.join([name, _mixer(name), *marks, *means, *last, f'{minutes:.1f}'])} |")
    return "\n".join(lines) + "\n" + _compared(differences(rows))


def _mean(rows: Sequence[AblationRow], figure: str) -> float:
    """Over the seeds; NaN where none has the figure."""
    values = [value for row in rows if (value := getattr(row.scores, figure)) is not None]
    return float(np.mean(values)) if values else math.nan


def _compared(found: Sequence[Difference]) -> str:
    if not found:
        return ""
    units: Mapping[str, tuple[str, float, int]] = {"dice": ("Dice, points", 100.0, 2), "hd95": ("HD95, px", 1.0, 2)}
    lines = ["", "| more than | figure | difference | 95 % over the seeds | seeds | |", "|---" * 6 + "|"]
    for item in found:
        unit, scale, digits = units[item.figure]
        low, high = item.low, item.high
        reach = "" if low is None or high is None else f"{low * scale:+.{digits}f} to {high * scale:+.{digits}f}"
        verdict = "" if item.is_shown else "not shown"
        value = f"{item.value * scale:+.{digits}f}"
        lines.append(f"| {item.row} - {item.other} | {unit} | {value} | {reach} | {item.seeds} | {verdict} |")
    return "\n".join(lines) + "\n"


def _mixer(name: str) -> str:
    if name == "basic":
        return ""
    return str(_BESIDE[name]["st_module"]).replace("_", " ") if name in _BESIDE else "ST-Mamba"


def _mark(name: str, part: str) -> str:
    if part == "BAC":
        return "✓" if name == "ours" else ""
    if name in _BESIDE:
        return ""
    changes = ABLATIONS.get("C3" if name == "ours" else name, {})
    has = changes.get("mamba_layers", 1) and part in changes.get("directions", ("forward", "backward", "spatial"))
    return "✓" if has else ""


def records(rows: Sequence[AblationRow]) -> list[dict[str, Any]]:
    """The rows for JSON."""
    return [asdict(row) for row in rows]
