"""Training on clips: Adam with warm-up and cosine decay, exact resume, and the best weights kept as it goes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vivim.checkpoint import load_checkpoint, resolve_weights, save_checkpoint
from vivim.config import VivimConfig
from vivim.data import Clip, batches, normalised
from vivim.errors import CheckpointError, ConfigError, DataError
from vivim.losses import segmentation_loss
from vivim.model import Vivim
from vivim_runtime import metrics
from vivim_runtime.files import atomic_path, writable_folder

__all__ = ["EpochReport", "FitConfig", "Scores", "check_run", "evaluate", "fit", "learning_rate"]

_STATE = "state.pt"


@dataclass(frozen=True)
class FitConfig:
    """A training run.

    Attributes:
        preset: network (vivim.config.PRESETS); `init` overrides it.
        init: weights to start from, anything `load_checkpoint` takes; None starts from scratch.
        epochs, batch, frames: passes over the clips, clips a step, consecutive frames of a clip a step.
        lr, min_lr: learning rate after the warm-up and at the end (cosine).
        warmup: share of the steps over which the rate rises from 0.
        weight_decay: AdamW's decoupled decay.
        max_norm: gradients are clipped to this norm.
        seed: of initialisation, order, augmentation and dropout.
    """

    preset: str = "tiny"
    init: str | None = None
    epochs: int = 20
    batch: int = 4
    frames: int = 5
    lr: float = 1e-3
    min_lr: float = 1e-6
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("frames", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name} is {getattr(self, name)}; expected at least {least}")
        if self.init is None:
            VivimConfig.preset(self.preset)  # raises for an unknown name
        if not 0 <= self.min_lr <= self.lr:
            raise ConfigError(f"learning rate {self.lr} and lowest {self.min_lr}: expected 0 <= lowest <= rate")


@dataclass(frozen=True)
class Scores:
    """Means over frames at threshold 0.5 (Table I of the paper), and over the clips their number."""

    dice: float
    iou: float
    precision: float
    recall: float
    frames: int


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave: mean training loss, validation scores, seconds it took."""

    epoch: int
    loss: float
    scores: Scores
    seconds: float


def learning_rate(config: FitConfig, step: int, steps: int) -> float:
    """The rate at a step of `steps`: linear warm-up to `lr`, then cosine to `min_lr`."""
    rising = max(1, round(config.warmup * steps))
    if step < rising:
        return config.lr * (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def evaluate(model: nn.Module, clips: list[Clip]) -> Scores:
    """Scores of a network on clips, each given whole (T frames at once)."""
    if not clips:
        raise DataError("there are no clips to evaluate on; give at least one")
    model.eval()
    figures = []
    for clip in clips:
        logits = model(normalised(clip.frames)[None]).logits[0]  # (T, K, H, W)
        if logits.shape[1] != 1:
            raise DataError(f"the network has {logits.shape[1]} classes; the clips know one, lesion")
        predicted = (logits[:, 0] > 0).numpy()  # sigmoid > 0.5
        functions = (metrics.dice, metrics.iou, metrics.precision, metrics.recall)
        figures.append(torch.stack([torch.from_numpy(f(predicted, clip.masks)) for f in functions]))
    table = torch.cat(figures, dim=1)  # (4, frames)
    dice, iou, precision, recall = table.mean(1).tolist()
    return Scores(dice, iou, precision, recall, table.shape[1])


def check_run(config: FitConfig, folder: str | Path, resume: bool, clips: int) -> None:
    """Refuse what can be refused about a run before its clips are made.

    Raises:
        CheckpointError: `resume` finds no run, or the weights to start from are missing.
        ConfigError: the folder holds a run that would be lost, or the clips make no batch.
    """
    state = Path(folder) / _STATE
    if resume and not state.is_file():
        raise CheckpointError(f"there is nothing to resume in {folder}; start without --resume")
    if not resume and state.is_file():
        raise ConfigError(f"{folder} holds a run; go on with it by --resume, or choose another folder")
    if clips < config.batch:
        raise ConfigError(f"{clips} clips make no batch of {config.batch}; give more clips or a smaller --batch")
    if config.init:
        resolve_weights(config.init)


def fit(
    config: FitConfig,
    clips: list[Clip],
    validation: list[Clip],
    folder: str | Path,
    resume: bool = False,
    on_step: Callable[[int, int, float], None] | None = None,
    metadata: dict[str, str] | None = None,
) -> Iterator[EpochReport]:
    """Train, yielding after every epoch; `folder` receives what is needed to go on, and the weights.

    Files, each whole or absent: `best.safetensors` (highest validation Dice so far), `last.safetensors`, `log.jsonl`
    (a line an epoch) and `state.pt` (to resume from). A resumed run continues with the very numbers of an uninterrupted
    one: order, augmentation and dropout of an epoch follow from the seed and its number alone.

    Args:
        on_step: called with (step within the epoch, steps an epoch, loss).
        metadata: stored in the weights.

    Raises:
        CheckpointError: when `resume` finds no state, or that of a run with another configuration or other clips.
        ConfigError: see `check_run`; or the network has more classes than the clips.
    """
    check_run(config, folder, resume, len(clips))
    folder = writable_folder(Path(folder))
    torch.manual_seed(config.seed)
    model = load_checkpoint(config.init) if config.init else Vivim(VivimConfig.preset(config.preset))
    if len(model.config.classes) != 1:
        raise ConfigError(
            f"{config.init} has the classes {', '.join(model.config.classes)}; the clips know one, lesion"
        )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    run = {**asdict(config), "clips": len(clips), "clip shape": list(clips[0].frames.shape)}
    first, best = 0, -1.0
    log: list[dict[str, Any]] = []
    if resume:
        first, best, log = _restore(folder / _STATE, run, model, optimizer)
    per_epoch = len(clips) // config.batch
    for epoch in range(first, config.epochs):
        started = time.monotonic()
        torch.manual_seed(config.seed * 100_003 + epoch)
        total = 0.0
        model.train()
        for step, (pixels, truth) in enumerate(batches(clips, config.batch, config.frames, [config.seed, epoch])):
            rate = learning_rate(config, epoch * per_epoch + step, config.epochs * per_epoch)
            loss = _step(model, optimizer, rate, config.max_norm, pixels, truth)
            total += loss
            if on_step:
                on_step(step + 1, per_epoch, loss)
        scores = evaluate(model, validation)
        report = EpochReport(epoch + 1, total / per_epoch, scores, time.monotonic() - started)
        log.append({**asdict(report), "lr": rate})
        notes = {**(metadata or {}), "epoch": str(epoch + 1), "validation_dice": f"{scores.dice:.4f}"}
        if scores.dice > best:
            best = scores.dice
            save_checkpoint(folder / "best.safetensors", model, notes)
        save_checkpoint(folder / "last.safetensors", model, notes)
        _save_state(folder / _STATE, run, model, optimizer, epoch + 1, best, log)
        with atomic_path(folder / "log.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
        yield report


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, rate: float, max_norm: float, pixels: Tensor, truth: Tensor
) -> float:
    """One update; returns the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss = segmentation_loss(model(pixels).logits, truth)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.item()


def _save_state(
    path: Path,
    run: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    best: float,
    log: list[dict[str, Any]],
) -> None:
    state = {
        "run": json.dumps(run, sort_keys=True),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "best": best,
        "log": json.dumps(log),
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _restore(
    path: Path, run: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float, list[dict[str, Any]]]:
    try:
        state = torch.load(path, weights_only=True)
        before = json.loads(state["run"])
        changed = [k for k in run if before.get(k) != run[k]]
        if not changed:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            return state["epoch"], state["best"], json.loads(state["log"])
    except Exception as error:  # whatever torch's reader meets in a damaged file
        raise CheckpointError(f"{path} is damaged ({error!r}); start again in another folder") from None
    differences = ", ".join(f"{k} was {before.get(k)} and is {run[k]}" for k in changed)
    raise CheckpointError(f"{path.parent} holds a run with other options ({differences}); use those to resume it")
