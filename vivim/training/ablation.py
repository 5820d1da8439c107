"""The paper's ablation (Table III): what the directions of ST-Mamba and the boundary-aware constraint bring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vivim.checkpoint import load_checkpoint
from vivim.config import ABLATIONS
from vivim.training.batches import ClipSource
from vivim.training.curve import read_log
from vivim.training.fit import EpochReport, RunOptions, fit
from vivim.training.recipe import FitConfig
from vivim.training.scores import Scores, evaluate
from vivim_runtime.clips import Clip
from vivim_runtime.errors import ConfigError

__all__ = ["VARIANTS", "AblationRow", "markdown", "records", "run_ablation", "variant"]

# The paper's rows, from the vanilla SegFormer to the whole method.
VARIANTS = ("basic", "C1", "C2", "C3", "ours")


@dataclass(frozen=True)
class AblationRow:
    """A variant, and how it did on clips that it has never seen.

    Attributes:
        parameters: of the network as it is deployed, without the edge head.
        seconds: of training, evaluation included.
    """

    variant: str
    scores: Scores
    parameters: int
    seconds: float


def variant(name: str, config: FitConfig) -> FitConfig:
    """The recipe of a variant: the network of Table III, and the boundary losses for the whole method alone."""
    if name not in VARIANTS:
        raise ConfigError(f"there is no variant {name!r}; expected some of {', '.join(VARIANTS)}")
    if name == "ours":
        if not config.has_edges:
            raise ConfigError("the variant 'ours' is the one with the boundary losses; leave --affine and --boundary")
        return config
    return replace(config, **ABLATIONS[name], boundary=0.0, affine=0.0)


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
        yield AblationRow(name, evaluate(model.to(options.group.device), test, options.group), count, seconds)


def markdown(rows: Sequence[AblationRow]) -> str:
    """Table III with what was measured, and the distance of outlines beside it."""
    figures = ("Dice", "Jaccard", "precision", "recall", "HD95, px", "parameters", "minutes")
    columns = ("", "forward", "backward", "spatial", "BAC", *figures)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        marks = [_mark(row.variant, part) for part in ("forward", "backward", "spatial", "BAC")]
        s = row.scores
        distance = "" if s.hd95 is None else f"{s.hd95:.2f}"
        means = [f"{value:.4f}" for value in (s.dice, s.iou, s.precision, s.recall)]
        cells = [row.variant, *marks, *means, distance, f"{row.parameters / 1e6:.2f} M", f"{row.seconds / 60:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mark(name: str, part: str) -> str:
    if part == "BAC":
        return "✓" if name == "ours" else ""
    changes = ABLATIONS.get("C3" if name == "ours" else name, {})
    has = changes.get("mamba_layers", 1) and part in changes.get("directions", ("forward", "backward", "spatial"))
    return "✓" if has else ""


def records(rows: Sequence[AblationRow]) -> list[dict[str, Any]]:
    """The rows for JSON."""
    return [asdict(row) for row in rows]
