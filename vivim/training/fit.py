"""Training on clips: the paper's losses, exact resume, several processes, and the best weights kept as it goes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vivim.checkpoint import (
    Training,
    from_segformer,
    load_checkpoint,
    read_training,
    resolve_weights,
    save_checkpoint,
)
from vivim.config import MEAN, STD
from vivim.conversion import streaming_from
from vivim.mamba import TemporalMambaLayer
from vivim.model import Vivim
from vivim.training.batches import ClipSource, TrainingBatches, clip_name, clip_source, micro_batches, scaled
from vivim.training.distributed import Group
from vivim.training.objective import Objective
from vivim.training.optimising import optimizer_of, set_rate
from vivim.training.recipe import FitConfig, learning_rate
from vivim.training.scores import Scores, evaluate
from vivim_runtime.clips import Clip
from vivim_runtime.contract import InputContract
from vivim_runtime.errors import CheckpointError, ConfigError
from vivim_runtime.files import atomic_path, writable_folder, write_text
from vivim_runtime.provenance import TrainingData, data_to_json, joined

__all__ = ["SPLIT_FILE", "EpochReport", "FitConfig", "RunOptions", "check_run", "check_start", "fit"]

_log = logging.getLogger("vivim")
_STATE = "state.pt"
# Which videos train, validate and test: what --split-file takes.
SPLIT_FILE = "split.json"
_CLASSIFIER = "decoder.classifier."
_CPU = Group(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out, and what it says of itself; only device and number of processes change its numbers.

    Attributes:
        resume: go on with the run in the folder.
        workers: processes that make clips ahead.
        save_every: seconds after which the state is saved within an epoch, too.
        group: processes and device.
        metadata: stored in the weights.
        stride: of the clips, for the weights' input contract.
        contract: how frames became their pictures; size, clips and normalisation are those of the training. None:
            whole frames, stretched.
        data: what the clips are from, for the weights; None where that has no name.
        stills: the same of still pictures beside them.
    """

    resume: bool = False
    workers: int = 0
    save_every: float = 300.0
    group: Group = _CPU
    metadata: dict[str, str] = field(default_factory=dict)
    stride: int = 1
    data: TrainingData | None = None
    contract: InputContract | None = None
    stills: TrainingData | None = None

    @property
    def seen(self) -> tuple[TrainingData, ...]:
        """All that the clips are from, as far as it has names."""
        return tuple(entry for entry in (self.data, self.stills) if entry is not None)


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave: mean training losses by term, validation scores, rate at its end, seconds it took."""

    epoch: int
    loss: float
    terms: dict[str, float]
    scores: Scores
    lr: float
    seconds: float


def check_run(config: FitConfig, folder: str | Path, options: RunOptions, clips: int) -> None:
    """Refuse what can be refused about a run before its clips are made.

    Raises:
        CheckpointError: `resume` finds no run, or the weights to start from are missing.
        ConfigError: the folder holds a run that would be lost, or the clips make no step.
    """
    state = Path(folder) / _STATE
    if options.resume and not state.is_file():
        raise CheckpointError(f"there is nothing to resume in {folder}; start without --resume")
    if not options.resume and state.is_file():
        raise ConfigError(f"{folder} holds a run; go on with it by --resume, or choose another folder")
    needed = config.batch * config.accumulate * options.group.size
    if clips < needed:
        raise ConfigError(f"{clips} clips make no batch of {needed}; give more clips or a smaller --batch")
    for weights in (config.init, config.encoder):
        if weights:
            resolve_weights(weights)
    Objective(config, torch.device("cpu"))


def check_start(config: FitConfig) -> None:
    """Refuse weights to start from before anything is said of the run, at the cost of loading them once more.

    Raises:
        CheckpointError: they cannot be read.
        ConfigError: they do not fit the network.
    """
    if config.init or config.encoder:
        _network(config)  # which `fit` makes anew, by its seed, and says what there is to say of it


def fit(
    config: FitConfig,
    clips: ClipSource | Sequence[Clip],
    validation: ClipSource | Sequence[Clip],
    folder: str | Path,
    options: RunOptions = RunOptions(),  # noqa: B008
    on_step: Callable[[int, int, float], None] | None = None,
) -> Iterator[EpochReport]:
    """Train, yielding after every epoch; `folder` receives what is needed to go on, and the weights.

    Files, each whole or absent: `best.safetensors` (highest validation Dice so far, of the frames that the recipe's
    `criterion` says), `last.safetensors`, `log.jsonl` (a line an epoch), `state.pt` (to resume from), and of a data set
    `split.json` (which videos train, validate and test). A resumed run continues with the very numbers of an
    uninterrupted one: order, augmentation and dropout of a batch follow from the seed, the epoch and its number alone.

    Args:
        on_step: called with (step within the epoch, steps an epoch, loss).

    Raises:
        CheckpointError: when `resume` finds no state, or that of a run with another configuration or other clips.
        ConfigError: see `check_run`; or the network has more or fewer classes than the clips.
    """
    check_run(config, folder, options, len(clips))
    folder = writable_folder(Path(folder))
    run = _Run(config, clips, options)
    if options.resume:
        run.restore(folder / _STATE)
    if options.data is not None and options.data.splits and options.group.leads:
        write_text(folder / SPLIT_FILE, options.data.split_file())
    while run.epoch < config.epochs and not run.is_stuck():
        began = time.monotonic()
        terms, rate = run.train_epoch(folder / _STATE, on_step)
        scores = evaluate(run.network, validation, options.group)
        report = EpochReport(run.epoch + 1, terms["total"], terms, scores, rate, time.monotonic() - began)
        run.finish_epoch(report, folder)
        options.group.gathered(None)  # nobody goes on before the files are there
        yield report


class _Run:
    """A network in training, and everything that changes with it."""

    def __init__(self, config: FitConfig, clips: ClipSource | Sequence[Clip], options: RunOptions) -> None:
        self.config, self.group, self._options = config, options.group, options
        device = options.group.device
        torch.manual_seed(config.seed)
        model, notes = _network(config)
        for note in notes if options.group.leads else ():
            _log.warning("%s", note)
        self.model = model.to(device)
        if config.only == "edge_head":
            self.model.requires_grad_(False)
            assert self.model.edge_head is not None
            self.model.edge_head.requires_grad_(True)
        self._wrapped = options.group.wrapped(self.model)
        self._objective = Objective(config, device)
        self.optimizer = optimizer_of(self.model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        update = _moving_average(config.ema)
        self.average = AveragedModel(self.model, multi_avg_fn=update, use_buffers=True) if config.ema else None
        pinned = device.type == "cuda"
        self._batches = TrainingBatches(clips, config.frames, config.seed, config.augmentation, options.workers, pinned)
        self._clips = len(clips)
        self._source = clip_source(clips)
        self._state: Path | None = None
        self._training = _training(config, clips, options)
        _check_classes(self.model.config.classes, self._source)
        self.epoch = self._step = 0  # where the run is: both count from 0
        self._sums: dict[str, float] = {}  # of the losses of the steps of this epoch so far
        self._best, self._best_epoch = -1.0, 0
        self._log: list[dict[str, Any]] = []

    @property
    def _identity(self) -> dict[str, Any]:
        """What must be the same when a run is resumed."""
        data = data_to_json(self._options.seen) if self._options.seen else ""
        fingerprint = hashlib.sha256(data.encode()).hexdigest()[:12]
        contract = self._training.contract.to_json()
        counts = {"clips": self._clips, "processes": self.group.size, "the input contract": contract}
        return {**asdict(self.config), **counts, "the videos' fingerprint": fingerprint}

    def is_stuck(self) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        patience = self.config.patience
        return bool(patience) and self.epoch - self._best_epoch >= patience

    @property
    def network(self) -> Vivim:
        """The network to evaluate and to save: with averaged weights where they are kept."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, Vivim)
        return model

    def train_epoch(
        self, state: Path, on_step: Callable[[int, int, float], None] | None
    ) -> tuple[dict[str, float], float]:
        """The rest of this epoch; returns its mean losses and the last rate."""
        config, group = self.config, self.group
        a_step = config.accumulate * group.size
        numbers = micro_batches(config.seed, self.epoch, self._clips, config.batch, a_step)
        steps = len(numbers) // a_step
        # Features that stay as they are come without dropout, and their running statistics stay, too.
        self.model.train(config.only == "all")
        self._state = state
        mine = range(self._step * a_step + group.rank, len(numbers), group.size)
        batches = self._batches.of(self.epoch, [numbers[i] for i in mine])
        rate, saved = 0.0, time.monotonic()
        while self._step < steps:
            rate = learning_rate(config, self.epoch * steps + self._step, config.epochs * steps)
            step = slice(self._step * a_step, (self._step + 1) * a_step)
            losses = self._update(rate, batches, step.start, numbers[step])
            self._sums = {name: self._sums.get(name, 0.0) + loss for name, loss in losses.items()}
            self._step += 1
            if on_step:
                on_step(self._step, steps, losses["total"])
            if time.monotonic() - saved > self._options.save_every and self._step < steps:
                self._save(state)
                saved = time.monotonic()
        return {name: total / steps for name, total in self._sums.items()}, rate

    def _update(
        self, rate: float, batches: Iterator[tuple[Tensor, Tensor]], first: int, clips: list[list[int]]
    ) -> dict[str, float]:
        """One step over `accumulate` batches; returns the losses before it, averaged over them and the processes."""
        config, group = self.config, self.group
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        before = [buffer.clone() for buffer in self.model.buffers()]  # running statistics: a forward pass moves them
        sums: dict[str, Tensor] = {}
        scale = self._scale(first)
        for index in range(config.accumulate):
            number = first + index * group.size + group.rank  # of the batch within the epoch
            pixels, truth = (tensor.to(group.device, non_blocking=True) for tensor in next(batches))
            pixels, truth = scaled(pixels, truth, scale)
            # Of dropout and stochastic depth; not before `next`, which draws a number where it starts an epoch.
            torch.manual_seed((config.seed * 100_003 + self.epoch) * 1_000_003 + number)
            is_last = index == config.accumulate - 1
            with contextlib.nullcontext() if is_last or group.size == 1 else self._wrapped.no_sync():  # type: ignore[operator]
                with self._precision():
                    output = self._wrapped(pixels)
                losses = self._objective(output, truth)
                self.scaler.scale(losses["total"] / config.accumulate).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + loss.detach()
        means = {name: (total / config.accumulate).item() for name, total in sums.items()}
        everyone = group.gathered(means)
        means = {name: sum(losses[name] for losses in everyone) / len(everyone) for name in means}
        if not math.isfinite(means["total"]):
            with torch.no_grad():
                for buffer, value in zip(self.model.buffers(), before, strict=True):
                    buffer.copy_(value)
            raise self._diverged(means, clips)  # before the step: the weights of all processes are still good
        self.scaler.unscale_(self.optimizer)
        if config.max_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        group.average_buffers(self.model)  # in every step: so a state that one process saves is that of all
        if self.average is not None:
            self.average.update_parameters(self.model)
        return means

    def _scale(self, first: int) -> float:
        """Of all clips of a step, in every process; `first` is its first batch within the epoch."""
        scales = self.config.scales or (1.0,)
        return scales[np.random.default_rng([self.config.seed, self.epoch, first, 2]).integers(len(scales))]

    def _diverged(self, losses: dict[str, float], clips: list[list[int]]) -> ConfigError:
        """What to say where a loss is not finite; the state of before is saved."""
        if self._state is not None:
            self._save(self._state)
        bad = ", ".join(f"{name} {value}" for name, value in losses.items() if not math.isfinite(value))
        names = ", ".join(clip_name(self._source, index) for batch in clips for index in batch)
        return ConfigError(
            f"the loss is not finite ({bad}) in step {self._step + 1} of epoch {self.epoch + 1}, on {names}; the state "
            "before that step is kept: look at these clips, or start again with a lower --lr, --max-norm 1 or --amp off"
        )

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.amp == "off":
            return contextlib.nullcontext()
        kind = torch.bfloat16 if self.config.amp == "bf16" else torch.float16
        return torch.autocast(self.group.device.type, kind)

    def finish_epoch(self, report: EpochReport, folder: Path) -> None:
        """Write down what an epoch gave."""
        line = asdict(report)
        if not report.scores.classes:
            del line["scores"]["classes"]
        self._log.append(line)
        self.epoch, self._step, self._sums = report.epoch, 0, {}
        judged = self.config.judged(report.scores)
        is_best = judged > self._best
        if is_best:
            self._best, self._best_epoch = judged, report.epoch
        if not self.group.leads:
            return
        notes = {
            **self._options.metadata,
            **self._training.with_dice(report.scores.dice).metadata(),
            "epoch": str(report.epoch),
            "validation_dice": f"{report.scores.dice:.4f}",
        }
        if is_best:
            save_checkpoint(folder / "best.safetensors", self.network, notes)
        save_checkpoint(folder / "last.safetensors", self.network, notes)
        write_text(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in self._log))
        self._save(folder / _STATE)  # last: an epoch that the state knows is written down

    def _save(self, path: Path) -> None:
        if not self.group.leads:
            return
        state = {
            "run": json.dumps(self._identity, sort_keys=True),
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": json.dumps(
                {
                    "epoch": self.epoch,
                    "step": self._step,
                    "sums": self._sums,
                    "best": self._best,
                    "best_epoch": self._best_epoch,
                    "log": self._log,
                }
            ),
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: Path) -> None:
        """Go on where the state in a file stands; CheckpointError where it is that of another run, or damaged."""
        identity: dict[str, Any] = json.loads(json.dumps(self._identity))
        try:
            state = torch.load(path, map_location=self.group.device, weights_only=True)
            before = json.loads(state["run"])
            # What a run of before did not note is not compared.
            changed = [name for name in identity if before.get(name, identity[name]) != identity[name]]
            if not changed:
                self.model.load_state_dict(state["model"])
                if self.average is not None:
                    self.average.load_state_dict(state["average"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.scaler.load_state_dict(state["scaler"])
                progress = json.loads(state["progress"])
                self.epoch, self._step, self._sums = progress["epoch"], progress["step"], progress["sums"]
                self._best, self._best_epoch = progress["best"], progress["best_epoch"]
                self._log = progress["log"]
                return
        except Exception as error:  # whatever torch's reader meets in a damaged file
            raise CheckpointError(f"{path} is damaged ({error!r}); start again in another folder") from None
        differences = ", ".join(f"{name} was {before.get(name)} and is {identity[name]}" for name in changed)
        raise CheckpointError(f"{path.parent} holds a run with other options ({differences}); use those to resume it")


def _training(config: FitConfig, clips: ClipSource | Sequence[Clip], options: RunOptions) -> Training:
    """What the weights will say of this training, and of those before it."""
    height, width = clip_source(clips).clip(0, 0).pixels.shape[1:3]
    contract = replace(
        options.contract or InputContract.assumed(),
        size=(height, width),
        frames=config.frames,
        hop=config.frames,
        stride=options.stride,
        mean=MEAN,
        std=STD,
    )
    before: tuple[TrainingData, ...] = ()
    if config.init:
        start = read_training(config.init)
        before = start.data
        if (meeting := contract.meets(start.contract, "this training", str(config.init))) and options.group.leads:
            _log.warning("%s", meeting)
        if (start.contract.mean, start.contract.std) != (contract.mean, contract.std):
            raise ConfigError(
                f"{config.init} takes frames normalised by {start.contract.mean} and {start.contract.std}; training "
                f"gives {contract.mean} and {contract.std}: start from other weights"
            )
    return Training(contract, joined(options.seen, before))


def _check_classes(names: Sequence[str], clips: ClipSource) -> None:
    """ConfigError where the true masks are of more or fewer classes than a network marks."""
    masks = clips.clip(0, 0).masks
    count = 1 if masks.ndim == 3 else masks.shape[1]
    if count != len(names):
        raise ConfigError(
            f"the network marks {', '.join(names)}, and the masks of the clips have {count} classes; expected as many: "
            "name them in FitConfig.classes"
        )


def _network(config: FitConfig) -> tuple[Vivim, list[str]]:
    """The network at the start, from scratch or with the weights of `init` or `encoder` for all that they have; and
    what to say of that."""
    if not config.init:
        network = config.network()
        notes = []
        if not config.encoder and config.preset != "tiny":
            notes.append(
                f"{config.preset} starts from chance: a network of that size learns little of small data so; the paper "
                "starts from SegFormer weights of ADE20K (--encoder FILE, docs/training.md)"
            )
        model = from_segformer(config.encoder, network) if config.encoder else Vivim(network)
        if config.initialisation == "authors":
            for module in model.modules():
                if isinstance(module, TemporalMambaLayer):
                    module.initialise_as_authors()
        return model, notes
    name = config.init
    start = load_checkpoint(name)
    if config.streaming and not start.config.streaming:
        start = streaming_from(start, config.changes()["directions"])
    elif start.config.streaming and not config.streaming:
        raise ConfigError(f"{config.init} is of a streaming network; add --streaming")
    elif config.streaming and config.directions is None:
        config = replace(config, directions=start.config.directions)
    model = Vivim(config.network_from(start.config))
    ours, theirs = ({key: value.shape for key, value in m.state_dict().items()} for m in (model, start))
    # An edge head may come or go, and classes may be others; a network with other directions or layers than its weights
    # is a mistake.
    strange = [key for key, _ in ours.items() ^ theirs.items() if not _is_edge(key) and not key.startswith(_CLASSIFIER)]
    if strange:
        raise ConfigError(f"{config.init} does not fit the network that is asked for ({min(strange)} differs)")
    other_head = config.new_edge_head or start.config.edge_head != model.config.edge_head
    kept = {key: value for key, value in start.state_dict().items() if not (other_head and _is_edge(key))}
    notes = []
    if model.config.classes != start.config.classes:
        scoring, note = _classifier(model, start, name)
        kept |= scoring
        notes.append(note)
    model.load_state_dict(kept, strict=False)
    return model, notes


def _classifier(model: Vivim, start: Vivim, name: str) -> tuple[dict[str, Tensor], str]:
    """What scores the classes of a network, from weights that know others; and what is taken of them and what not."""
    ours, theirs = model.config.classes, start.config.classes
    before = start.state_dict()
    found = {key: value.clone() for key, value in model.state_dict().items() if key.startswith(_CLASSIFIER)}
    for key, value in found.items():
        for row, each in enumerate(ours):
            if each in theirs:
                value[row] = before[key][theirs.index(each)]
    new, dropped = ([c for c in a if c not in b] for a, b in ((ours, theirs), (theirs, ours)))
    chance = [f"{', '.join(found)} of {', '.join(new)} start from chance"] if new else []
    left = [f"those of {', '.join(dropped)} are left out"] if dropped else []
    if not chance + left:
        return found, f"{name} knows {', '.join(theirs)}; all is taken, in the order {', '.join(ours)}"
    return found, f"{name} knows {', '.join(theirs)}; all else is taken, {' and '.join(chance + left)}"


def _is_edge(key: str) -> bool:
    return key.startswith("edge_head.")


def _moving_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Exponential, and shorter at the start, where there is little to average."""

    @torch.no_grad()
    def update(averages: Sequence[Tensor], values: Sequence[Tensor], count: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, share)
            else:
                average.copy_(value)

    return update
