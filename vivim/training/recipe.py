"""How a network is trained: the paper's recipe (section IV-B) by default, and files that say otherwise."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vivim.config import VivimConfig
from vivim.training.batches import Augmentation
from vivim.training.losses import Weighting
from vivim_runtime.errors import ConfigError
from vivim_runtime.text import check_depth

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Amp", "FitConfig", "learning_rate", "read_recipe"]

Amp = Literal["off", "bf16", "fp16"]


@dataclass(frozen=True)
class FitConfig:
    """A training run; the defaults are the paper's.

    Attributes:
        preset: network (vivim.config.PRESETS); `init` overrides it.
        init: weights to start from, anything `load_checkpoint` takes; None starts from scratch.
        encoder: SegFormer weights (Hugging Face names) for the encoder of a network that starts from scratch, as the
            paper starts from those of ADE20K; anything `from_segformer` takes.
        directions, mamba_layers, st_module: parts of the network that ablations change; None as the preset has them.
        epochs, batch, frames: passes over the clips, clips a step and process, consecutive frames of a clip a step.
        accumulate: batches whose gradients are added up before a step.
        optimizer: "adam", or "adamw" with decoupled `weight_decay`.
        lr, min_lr: learning rate after the warm-up and at the end (cosine).
        warmup: share of the steps over which the rate rises from 0.
        max_norm: gradients are clipped to this norm; 0 leaves them.
        ema: decay of the moving average of the weights that is evaluated and saved; 0 keeps none.
        boundary, affine: weights of L_bce and L_affine (Eq. 9); with either, the network gets the paper's edge head.
        delta_1, delta_2: of Eq. 8.
        weighting: of the cross-entropy in L_seg (vivim.training.losses).
        balanced: whether the two kinds of pixels count alike in L_bce.
        target: frames that the losses look at: all, or the middle one of each clip, as in the authors' code.
        regressor: file of the affine regressor; None is the shipped one.
        amp: mixed precision on CUDA; off is float32.
        patience: epochs without a better validation Dice after which training ends; 0 never ends it.
        augmentation: what happens to clips; see vivim.training.batches.
        seed: of initialisation, order, augmentation and dropout.
    """

    preset: str = "b3"
    init: str | None = None
    encoder: str | None = None
    directions: tuple[str, ...] | None = None
    mamba_layers: int | None = None
    st_module: str | None = None
    epochs: int = 100
    batch: int = 4
    frames: int = 5
    accumulate: int = 1
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-4
    min_lr: float = 1e-6
    warmup: float = 0.0
    weight_decay: float = 0.01
    max_norm: float = 0.0
    ema: float = 0.0
    boundary: float = 0.3
    affine: float = 0.3
    delta_1: float = 1.0
    delta_2: float = 0.01
    weighting: Weighting = "intended"
    balanced: bool = True
    target: Literal["all", "centre"] = "all"
    regressor: str | None = None
    amp: Amp = "off"
    patience: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            *(("epochs", 1), ("batch", 1), ("frames", 1), ("accumulate", 1), ("seed", 0), ("patience", 0)),
            *(("boundary", 0), ("affine", 0), ("max_norm", 0), ("weight_decay", 0), ("warmup", 0)),
        ):
            if not getattr(self, name) >= least:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; expected at least {least}")
        for name, allowed in (
            ("optimizer", ("adam", "adamw")),
            ("weighting", ("intended", "authors")),
            ("target", ("all", "centre")),
            ("amp", ("off", "bf16", "fp16")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"--{name} is {getattr(self, name)}; expected {' or '.join(allowed)}")
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
        return {name: value for name, value in chosen.items() if value is not None} | {
            "edge_head": "conv3" if self.has_edges else "none",
            "frames": self.frames,
        }

    @property
    def has_edges(self) -> bool:
        """Whether a loss looks at outlines."""
        return self.boundary > 0 or self.affine > 0

    def network(self) -> VivimConfig:
        """The network of a run from scratch."""
        return VivimConfig.preset(self.preset, **self.changes())


def learning_rate(config: FitConfig, step: int, steps: int) -> float:
    """The rate at a step of `steps`: linear warm-up to `lr`, then cosine to `min_lr`."""
    rising = round(config.warmup * steps)
    if step < rising:
        return config.lr * (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


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
