"""How a network is trained: the paper's recipe (section IV-B) by default, and files that say otherwise."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from vivim.config import STREAMING_DIRECTIONS, TrainedEdgeHead, VivimConfig
from vivim.training.batches import Augmentation
from vivim.training.losses import Weighting
from vivim.training.scores import Scores
from vivim_runtime.errors import ConfigError
from vivim_runtime.text import check_depth

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CLASSES", "RECIPES", "Amp", "FitConfig", "learning_rate", "read_recipe", "recipe_file"]

RECIPES = ("paper", "authors", "ours")
CLASSES = ("lesion",)  # what clips know that say nothing else

Amp = Literal["off", "bf16", "fp16"]
Initialisation = Literal["ours", "authors"]
Only = Literal["all", "edge_head"]
Criterion = Literal["lesion", "all"]


@dataclass(frozen=True)
class FitConfig:
    """A training run; the defaults are the paper's. A field whose annotation has a text is an option of `vivim-train`.

    `augmentation` is what happens to clips (vivim.training.batches), the table of that name in a file of options. With
    `boundary` or `affine` the network gets the paper's edge head. `classes` are those of the clips, each an output of
    the network; None is one, called as that of the weights to start from, else lesion.
    """

    preset: Annotated[str, "Network: tiny, b0 .. b5 (b3 is the paper's)."] = "b3"
    init: Annotated[str | None, "Weights to start from, instead of random ones; they also decide the network."] = None
    only: Annotated[Only, "Weights to train: all, or the edge head alone, on frozen features."] = "all"
    edge_head: Annotated[
        TrainedEdgeHead | None,
        "Where outlines are learnt: on the first stage, by conv3 (paper) or conv1x1 (authors), or on features of the "
        "decoder; default: the head of the weights to start from, otherwise conv3.",
    ] = None
    new_edge_head: Annotated[bool, "Start with a new edge head instead of that of --init."] = False
    encoder: Annotated[str | None, "SegFormer weights (Hugging Face names) for the encoder (paper: of ADE20K)."] = None
    streaming: Annotated[bool, "Train a network that runs frame by frame and looks back only; --init is converted."] = (
        False
    )
    directions: Annotated[
        tuple[str, ...] | None,
        "Some of forward, backward, spatial; --streaming: forward, frame_forward, frame_backward, frame_columns.",
    ] = None
    mamba_layers: Annotated[int | None, "Temporal Mamba layers per stage."] = None
    st_module: Annotated[str | None, "st_mamba, an attention module of the paper's Table IV, or identity."] = None
    epochs: Annotated[int, "Passes over the clips."] = 100
    batch: Annotated[int, "Clips per step (and process)."] = 4
    frames: Annotated[int, "Frames of a clip, T."] = 5
    scales: Annotated[
        tuple[float, ...] | None,
        "Sizes of the clips relative to --imgsz, such as 1,0.75,0.5: one is drawn for every step.",
    ] = None
    accumulate: Annotated[int, "Batches whose gradients are added up before a step."] = 1
    optimizer: Annotated[Literal["adam", "adamw"], "Optimizer; adamw also decays weights."] = "adam"
    lr: Annotated[float, "Learning rate after the warm-up."] = 1e-4
    min_lr: Annotated[float, "Learning rate at the end of its cosine."] = 1e-6
    warmup: Annotated[float, "Share of the steps over which the rate rises from 0."] = 0.0
    weight_decay: Annotated[float, "Weight decay of adamw."] = 0.01
    encoder_rate: Annotated[float, "Learning rate of the SegFormer encoder, relative to that of the rest."] = 1.0
    max_norm: Annotated[float, "Clip gradients to this norm; 0: do not clip."] = 0.0
    ema: Annotated[float, "Decay of averaged weights, such as 0.999; they are evaluated and saved. 0: none."] = 0.0
    boundary: Annotated[float, "Weight of the boundary cross-entropy (Eq. 9)."] = 0.3
    affine: Annotated[float, "Weight of the affine constraint (Eq. 8)."] = 0.3
    flicker: Annotated[float, "Weight of the flicker of masks within a clip (ours, not in the paper)."] = 0.0
    delta_1: Annotated[float, "Weight in Eq. 8 of the pull towards the outline of the frame."] = 1.0
    delta_2: Annotated[float, "Weight in Eq. 8 of the push away from the outline of the first frame."] = 0.01
    weighting: Annotated[Weighting, "Cross-entropy as intended, or as in the authors' code."] = "intended"
    balanced: Annotated[bool, "Boundary loss: weight outlines and the rest equally, or each pixel (the paper)."] = False
    target: Annotated[Literal["all", "centre"], "Frames to learn from; the authors' code uses the centre frame."] = (
        "all"
    )
    regressor: Annotated[str | None, "Affine regressor from vivim-train boundary; default: the shipped one."] = None
    amp: Annotated[Amp, "Mixed precision on CUDA."] = "off"
    criterion: Annotated[Criterion, "Frames whose Dice selects the best weights: those with a lesion, or all."] = (
        "lesion"
    )
    patience: Annotated[int, "Stop after this many epochs without a better validation Dice; 0: never."] = 0
    initialisation: Annotated[Initialisation, "Initial weights of Mamba layers: ours, or the authors' N(0, 0.02)."] = (
        "ours"
    )
    augmentation: Augmentation = field(default_factory=Augmentation)
    classes: tuple[str, ...] | None = None
    seed: Annotated[int, "Seed of initialisation, order, augmentation, dropout, and of a random split."] = 0

    def __post_init__(self) -> None:
        for name, least in (
            *(("epochs", 1), ("batch", 1), ("frames", 1), ("accumulate", 1), ("seed", 0), ("patience", 0)),
            *(("boundary", 0), ("affine", 0), ("flicker", 0)),
            *(("max_norm", 0), ("weight_decay", 0), ("warmup", 0), ("encoder_rate", 0)),
        ):
            if not getattr(self, name) >= least:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; expected at least {least}")
        for name, allowed in (
            ("optimizer", ("adam", "adamw")),
            ("weighting", ("intended", "authors")),
            ("target", ("all", "centre")),
            ("amp", ("off", "bf16", "fp16")),
            ("criterion", ("lesion", "all")),
            ("only", ("all", "edge_head")),
            ("initialisation", ("ours", "authors")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"--{name} is {getattr(self, name)}; expected {' or '.join(allowed)}")
        if self.edge_head not in (None, *get_args(TrainedEdgeHead)):
            raise ConfigError(f"--edge-head is {self.edge_head}; expected {' or '.join(get_args(TrainedEdgeHead))}")
        if self.only == "edge_head" and not self.has_edges:
            raise ConfigError(
                "--only edge_head with neither --boundary nor --affine: nothing would be learnt; give one"
            )
        if self.flicker and self.frames < 2:
            raise ConfigError("--flicker compares the frames of a clip; expected --frames of at least 2")
        if self.scales is not None and not (self.scales and all(0.125 <= scale <= 8 for scale in self.scales)):
            raise ConfigError(f"--scales is {','.join(map(str, self.scales))}; expected sizes of 0.125 to 8")
        if self.warmup > 1:
            raise ConfigError(f"--warmup is {self.warmup}; expected a share of the steps, 0 to 1")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"--ema is {self.ema}; expected a decay of 0 to below 1, such as 0.999")
        if not 0 <= self.min_lr <= self.lr:
            raise ConfigError(f"learning rate {self.lr} and lowest {self.min_lr}: expected 0 <= lowest <= rate")
        if self.init and self.encoder:
            raise ConfigError(f"--init {self.init} and --encoder {self.encoder}: expected one of them")
        if self.init is None:
            self.network()  # raises for an unknown name

    def changes(self) -> dict[str, Any]:
        """The fields of VivimConfig that differ from the preset, or from the weights to start from."""
        chosen = {"directions": self.directions, "mamba_layers": self.mamba_layers, "st_module": self.st_module}
        changes = {name: value for name, value in chosen.items() if value is not None}
        changes["edge_head"] = (self.edge_head or "conv3") if self.has_edges else "none"
        if self.streaming:  # its clips of `frames` are films from their first frame on
            return {"directions": STREAMING_DIRECTIONS} | changes | {"streaming": True, "frames": 1}
        return changes | {"frames": self.frames}

    def network_from(self, start: VivimConfig) -> VivimConfig:
        """The network of a run from weights of another: it has the classes of the clips."""
        classes = self.classes or (start.classes if len(start.classes) == 1 else CLASSES)
        changes = self.changes() | {"classes": classes}
        if self.has_edges and self.edge_head is None and start.edge_head != "none":
            changes["edge_head"] = start.edge_head
        return dataclasses.replace(start, **changes)

    @property
    def has_edges(self) -> bool:
        """Whether a loss looks at outlines."""
        return self.boundary > 0 or self.affine > 0

    def judged(self, scores: Scores) -> float:
        """The Dice that chooses weights; that of all frames where none has a lesion."""
        return scores.dice if self.criterion == "all" or scores.lesion_dice is None else scores.lesion_dice

    def network(self) -> VivimConfig:
        """The network of a run from scratch."""
        return VivimConfig.preset(self.preset, **self.changes(), classes=self.classes or CLASSES)


def learning_rate(config: FitConfig, step: int, steps: int) -> float:
    """The rate at a step of `steps`: linear warm-up to `lr`, then cosine to `min_lr`."""
    rising = round(config.warmup * steps)
    if step < rising:
        return config.lr * (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def recipe_file(name: str) -> Path:
    """The file of a recipe that this package ships.

    Raises:
        ConfigError: no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(f"--recipe is {name}; expected one of {', '.join(RECIPES)} (files of your own: --config)")
    return Path(str(files("vivim"))) / "recipes" / f"{name}.toml"


def read_recipe(path: Path, known: set[str]) -> dict[str, Any]:
    """The options in a TOML file as text, by the names of the command line with `_` for `-`; lists joined by commas.

    The one table, `[augmentation]`, has the fields of vivim.training.batches.Augmentation, and becomes one.

    Args:
        known: names that may occur.

    Raises:
        ConfigError: a file that is missing or no TOML, an unknown name, or a table where none belongs.
    """
    try:
        text = path.read_text(encoding="utf-8")
        check_depth(text)
        content = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read --config {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no TOML file: {error}") from None
    content = {name.replace("-", "_"): value for name, value in content.items()}
    unknown = sorted(set(content) - known)
    if unknown:
        raise ConfigError(
            f"{path} has unknown options {', '.join(unknown)}; expected some of {', '.join(sorted(known))}"
        )
    return {
        name: _augmentation(path, value) if name == "augmentation" else _typed(path, name, value)
        for name, value in content.items()
    }


def _typed(path: Path, name: str, value: Any) -> str:
    """A value as one would type it on the command line, which refuses what does not fit (1.5 epochs, say)."""
    if isinstance(value, dict):
        raise ConfigError(f"{path}: {name} is a table; expected one value")
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _augmentation(path: Path, table: Any) -> Augmentation:
    known = {item.name for item in dataclasses.fields(Augmentation)}
    if not isinstance(table, dict) or not all(isinstance(v, int | float) for v in table.values()):
        raise ConfigError(
            f"{path}: augmentation is no table of numbers; expected [augmentation] and lines such as flip = 0.5"
        )
    unknown = sorted(set(table) - known)
    if unknown:
        expected = ", ".join(sorted(known))
        raise ConfigError(f"{path}: augmentation has unknown fields {', '.join(unknown)}; expected some of {expected}")
    try:
        return Augmentation(**{name: float(value) for name, value in table.items()})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
