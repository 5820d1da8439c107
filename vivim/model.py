"""Vivim: four stages of SegFormer blocks and Temporal Mamba layers, and an all-linear decoder (paper, III-C)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivim.config import STAGES, VivimConfig
from vivim.mamba import TemporalMambaLayer
from vivim.segformer import PatchEmbedding, SegformerBlock, drop_path_rates, grid_from_tokens
from vivim.streaming import LayerState, StreamingLayer
from vivim_runtime.errors import InputError

__all__ = ["Vivim", "VivimOutput", "stage_sizes"]

# Kernel and stride of the stages' patch embeddings, as in SegFormer.
_PATCH = ((7, 4), (3, 2), (3, 2), (3, 2))


class VivimOutput(NamedTuple):
    """logits (B, T, K, H, W), one independent sigmoid a class; edge (B, T, 1, H, W) or None without an edge head.

    Of `Vivim.step` both are without T.
    """

    logits: Tensor
    edge: Tensor | None


def stage_sizes(config: VivimConfig, height: int, width: int) -> list[tuple[int, int]]:
    """(H, W) of the token grid of every stage for an input of that size.

    Raises:
        InputError: when a grid is smaller than the window that the stage's attention reduces.
    """
    sizes: list[tuple[int, int]] = []
    grid = (height, width)
    for (patch, stride), reduction in zip(_PATCH, config.reductions, strict=True):
        grid = (
            (grid[0] + 2 * (patch // 2) - patch) // stride + 1,
            (grid[1] + 2 * (patch // 2) - patch) // stride + 1,
        )
        if min(grid) < reduction:
            raise InputError(
                f"frames of {height}x{width} are too small for this network (stage {len(sizes) + 1} sees "
                f"{grid[0]}x{grid[1]} and needs {reduction}x{reduction}); use at least 32x32"
            )
        sizes.append(grid)
    return sizes


class Stage(nn.Module):
    """Patch embedding, SegFormer blocks within each frame, then Mamba layers over the whole clip."""

    def __init__(self, config: VivimConfig, index: int, rates: list[float]) -> None:
        super().__init__()
        width = config.widths[index]
        channels = config.widths[index - 1] if index else 3
        self.patch_embed = PatchEmbedding(channels, width, *_PATCH[index])
        self.blocks = nn.ModuleList(
            SegformerBlock(width, config.heads[index], config.reductions[index], config.mlp_ratio, rate)
            for rate in rates
        )
        self.mamba = nn.ModuleList(
            StreamingLayer(config, index) if config.streaming else TemporalMambaLayer(config, index, layer)
            for layer in range(config.mamba_layers)
        )

    def forward(self, x: Tensor, frames: int, states: Sequence[LayerState] | None = None) -> Tensor:
        """(B*T, C_in, H_in, W_in) -> (B*T, C, H, W); of a clip by itself, or of a streaming network."""
        return self.run(x, frames, states)[0]

    def run(
        self, x: Tensor, frames: int, states: Sequence[LayerState] | None = None
    ) -> tuple[Tensor, list[LayerState]]:
        """(B*T, C_in, H_in, W_in) -> (B*T, C, H, W), and what the layers of a streaming network remember."""
        after: list[LayerState] = []
        tokens, height, width = self.patch_embed(x)  # (B*T, H*W, C)
        for block in self.blocks:
            tokens = block(tokens, height, width)
        clip = tokens.unflatten(0, (-1, frames)).flatten(1, 2)  # (B, T*H*W, C)
        for index, layer in enumerate(self.mamba):
            if isinstance(layer, StreamingLayer):
                clip, state = layer(clip, frames, height, width, states[index] if states else None)
                after.append(state)
            else:
                clip = layer(clip, frames, height, width)
        return grid_from_tokens(clip.unflatten(1, (frames, -1)).flatten(0, 1), height, width), after


class DecoderForm(nn.Module, ABC):
    """A decoder in any form: what fuses the features of the four stages, and a classifier after it."""

    classifier: nn.Conv2d

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features (F, C_i, H_i, W_i) of the four stages -> logits (F, K, H_1, W_1)."""
        return self.classified(self.fused(features))

    @abstractmethod
    def fused(self, features: list[Tensor]) -> Tensor:
        """Features (F, C_i, H_i, W_i) of the four stages -> what is classified, (F, E, H_1, W_1)."""

    def classified(self, fused: Tensor) -> Tensor:
        """(F, E, H_1, W_1) -> logits (F, K, H_1, W_1)."""
        logits: Tensor = self.classifier(fused)
        return logits


def upsampled_sum(scales: Iterable[Tensor], size: Sequence[int], bias: Tensor) -> Tensor:
    """Scales (F, H_i, W_i, E), upsampled to `size` (H_1, W_1) and added up, and a bias (E,) -> (F, E, H_1, W_1)."""
    total = bias[:, None, None]
    for scale in scales:
        x = scale.permute(0, 3, 1, 2)
        if x.shape[-2:] != size:
            x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        total = total + x
    return total


class Decoder(DecoderForm):
    """SegFormer's all-MLP head: project every scale, upsample to the first, concatenate (deepest first), fuse.

    In training every scale is fused before it is upsampled. Both are linear, one over channels and the other over
    places, so only the rounding differs; nothing of 4 E channels is made at the first resolution, and a step of `tiny`
    on a CPU takes a seventh less (benchmarks/training_step.py). In evaluation the order is upstream's, to the bit.
    """

    def __init__(self, config: VivimConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.projections = nn.ModuleList(nn.Linear(channels, width) for channels in config.widths)
        self.fuse = nn.Conv2d(STAGES * width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Conv2d(width, len(config.classes), 1)

    def fused(self, features: list[Tensor]) -> Tensor:
        return functional.relu(self.norm(self._fused_early(features) if self.training else self._fused_late(features)))

    def _fused_late(self, features: list[Tensor]) -> Tensor:
        """As upstream's `SegFormerHead` does it."""
        size = features[0].shape[-2:]
        scales = []
        for project, feature in zip(self.projections, features, strict=True):
            scale = project(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (F, E, H_i, W_i)
            scales.append(functional.interpolate(scale, size=size, mode="bilinear", align_corners=False))
        fused: Tensor = self.fuse(torch.cat(scales[::-1], dim=1))
        return fused

    def _fused_early(self, features: list[Tensor]) -> Tensor:
        """The same with one matrix a scale, at that scale's resolution."""
        matrices, bias = [], self.fuse.weight.new_zeros(self.fuse.out_channels)
        for project, block in zip(self.projections, self.blocks(), strict=True):
            assert isinstance(project, nn.Linear)
            matrices.append(block @ project.weight)  # (E, C_i)
            bias = bias + block @ project.bias
        scales = (functional.linear(x.permute(0, 2, 3, 1), w) for x, w in zip(features, matrices, strict=True))
        return upsampled_sum(scales, features[0].shape[-2:], bias)

    def blocks(self) -> list[Tensor]:
        """The part (E, E) of the fusing convolution that every scale meets, the first scale first."""
        return list(self.fuse.weight.flatten(1).chunk(len(self.projections), dim=1)[::-1])

    def classified(self, fused: Tensor) -> Tensor:
        return super().classified(self.dropout(fused))


# Outlines are about that share of the pixels. An edge head that starts there need not learn it first, in which its
# hidden units would die (RetinaNet, arXiv 1708.02002, section 4.1).
_EDGE_SHARE = 0.01


def _edge_head(config: VivimConfig) -> nn.Module | None:
    kind = config.edge_head
    if kind == "none":
        return None
    width = config.decoder_width if kind == "decoder" else config.widths[0]
    last = nn.Conv2d(width, 1, 1)
    nn.init.constant_(last.bias, math.log(_EDGE_SHARE / (1 - _EDGE_SHARE)))  # type: ignore[arg-type]
    if kind == "conv1x1":
        return last
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        last,
    )


class Vivim(nn.Module):
    """The network. `config` says everything about its shape; any T >= 1 and any size from about 32x32 will do."""

    def __init__(self, config: VivimConfig) -> None:
        super().__init__()
        self.config = config
        rates = drop_path_rates(config.depths, config.drop_path)
        self.stages = nn.ModuleList(Stage(config, index, rates[index]) for index in range(STAGES))
        self.decoder: DecoderForm = Decoder(config)
        self.edge_head = _edge_head(config)

    def forward(self, clip: Tensor) -> VivimOutput:
        """Segment a clip; a streaming network begins with its first frame.

        Args:
            clip: float (B, T, 3, H, W), RGB normalised with `vivim.config.MEAN` and `STD`.

        Raises:
            InputError: when the clip has another shape or is too small.
        """
        return self.run(clip)[0]

    def step(self, frame: Tensor, states: Sequence[LayerState] | None = None) -> tuple[VivimOutput, list[LayerState]]:
        """Segment the next frame of a film, with a streaming network.

        Args:
            frame: float (B, 3, H, W), normalised as of `forward`.
            states: what the call before gave; None with the first frame.

        Returns:
            logits (B, K, H, W) and edge (B, 1, H, W) or None; and the states to give with the next frame.

        Raises:
            InputError: it is no streaming network, or the frame has another shape or is too small.
        """
        if not self.config.streaming:
            raise InputError("this network takes whole clips; vivim.conversion.streaming_from makes one that steps")
        if frame.ndim != 4:
            raise InputError(f"the frame has shape {tuple(frame.shape)}; expected (B, 3, H, W)")
        (logits, edge), after = self.run(frame[:, None], states)
        return VivimOutput(logits[:, 0], None if edge is None else edge[:, 0]), after

    def run(self, clip: Tensor, states: Sequence[LayerState] | None = None) -> tuple[VivimOutput, list[LayerState]]:
        """`forward` that goes on from the states of a streaming network, and gives those after the clip.

        Gradients stop at the states (truncated backpropagation through time).
        """
        if clip.ndim != 5 or clip.shape[2] != 3 or 0 in clip.shape:
            raise InputError(f"the clip has shape {tuple(clip.shape)}; expected (B, T, 3, H, W)")
        batch, frames, _, height, width = clip.shape
        stage_sizes(self.config, height, width)
        features: list[Tensor] = []
        after: list[LayerState] = []
        x = clip.flatten(0, 1)
        for stage in self.stages:
            assert isinstance(stage, Stage)
            before = None if states is None else states[len(after) : len(after) + len(stage.mamba)]
            x, kept = stage.run(x, frames, before)
            after += kept
            features.append(x)
        if self.config.edge_head == "decoder":
            assert self.edge_head is not None
            fused = self.decoder.fused(features)
            logits, edge = self.decoder.classified(fused), self.edge_head(fused)
        else:
            logits = self.decoder(features)
            edge = None if self.edge_head is None else self.edge_head(features[0])
        logits = self._at_full_size(logits, batch, height, width)
        return VivimOutput(logits, None if edge is None else self._at_full_size(edge, batch, height, width)), after

    @staticmethod
    def _at_full_size(x: Tensor, batch: int, height: int, width: int) -> Tensor:
        """(B*T, K, h, w) -> (B, T, K, H, W), bilinear."""
        x = functional.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
        return x.unflatten(0, (batch, -1))
