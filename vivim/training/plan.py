"""What a run is going to do, in words, before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from vivim.checkpoint import load_checkpoint
from vivim.model import Vivim
from vivim.training.batches import ClipSource, MixedClips, clip_source
from vivim.training.fit import RunOptions
from vivim.training.recipe import FitConfig
from vivim_runtime.clips import Clip

__all__ = ["planned"]


def planned(
    config: FitConfig,
    clips: ClipSource | Sequence[Clip],
    validation: ClipSource | Sequence[Clip],
    options: RunOptions,
) -> Iterator[str]:
    """Lines: the network, the clips and steps, how weights move, and where. How long it takes is seen in its steps.

    Raises:
        CheckpointError: there are no weights to start from.
    """
    network = config.network_from(load_checkpoint(config.init).config) if config.init else config.network()
    with torch.device("meta"):
        parts = {name: sum(p.numel() for p in part.parameters()) for name, part in Vivim(network).named_children()}
    count = sum(parts.values())
    start = config.init or (f"the encoder of {config.encoder}" if config.encoder else "chance")
    trained = f"{parts['edge_head']:,} of its edge head alone trained" if config.only == "edge_head" else "all trained"
    classes = f", classes {', '.join(network.classes)}" if len(network.classes) > 1 else ""
    yield f"{network.preset_name}: {count / 1e6:.2f} M parameters, {trained}, from {start}{classes}"
    source, processes = clip_source(clips), options.group.size
    height, width = source.clip(0, 0).pixels.shape[1:3]
    a_step = config.batch * config.accumulate * processes
    steps = len(source) // a_step
    left = len(source) - steps * a_step
    stills = f" ({len(source.stills)} of them still pictures)" if isinstance(source, MixedClips) else ""
    sizes = f" times {', '.join(f'{scale:g}' for scale in config.scales)}" if config.scales else ""
    yield (
        f"{len(source)} clips{stills} of {config.frames} x {height} x {width}{sizes}; {config.epochs} epochs of "
        f"{steps} steps of {a_step} clips{f', {left} clips left out of each epoch' if left else ''}; "
        f"{len(clip_source(validation))} clips to validate on"
    )
    weights = {"affine": config.affine, "boundary": config.boundary}
    if config.flicker:
        weights["flicker"] = config.flicker
    terms = ", ".join(f"{weight:g} {name}" for name, weight in weights.items())
    yield (
        f"{config.optimizer}, rate {config.lr:g} to {config.min_lr:g}; segmentation + {terms}; averaged weights "
        f"{f'at {config.ema:g}' if config.ema else 'none'}; best by the Dice of "
        f"{'frames with a lesion' if config.criterion == 'lesion' else 'all frames'}"
    )
    device = options.group.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    makers = f"{options.workers} processes that make clips" if options.workers else "clips made in between"
    yield f"{name}{f', {processes} processes' if processes > 1 else ''}; {makers}"
