"""Vivim frame by frame: layers that look back only, and what they remember from one frame to the next.

What looks along time in a clip network looks ahead too; here it does not:

    scans   `forward` visits frame after frame, so its state after a frame is the start of the next; the other
            directions (frame_forward, frame_backward, frame_columns) stay within a frame
    DSF     its 3 x 3 x 3 convolution meets frames t-2, t-1 and t instead of t-1, t and t+1

So T steps give what one clip of T frames gives, and a change of a frame changes none before it. Parameters have the
names and shapes of a clip network's with as many directions; `vivim.conversion.streaming_from` takes them over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivim.config import VivimConfig
from vivim.mamba import DetailSpecificFeedForward, SpatioTemporalMamba
from vivim.scan.operators import causal_conv1d, selective_scan
from vivim.scan.streaming import streaming_conv1d, streaming_scan, tail_after

__all__ = [
    "REMEMBERED_FRAMES",
    "CausalFeedForward",
    "LayerState",
    "StreamingLayer",
    "StreamingMamba",
    "flat_states",
    "packed_states",
    "zero_states",
]

REMEMBERED_FRAMES = 2  # by the convolution of DSF, whose three taps are t-2, t-1 and t


class LayerState(NamedTuple):
    """What one layer remembers.

    scan: (B, N, D) float32, h of `forward` after the last frame; None where no scan carries.
    tail: (B, taps - 1, D), the last inputs of its convolution; None where no scan carries.
    frames: (B, 2, H, W, C'), what DSF's convolution met in the last two frames, the older one first.
    """

    scan: Tensor | None
    tail: Tensor | None
    frames: Tensor


def flat_states(states: Sequence[LayerState]) -> list[Tensor]:
    """The tensors of all layers, as `packed_states` takes them."""
    return [tensor for state in states for tensor in state if tensor is not None]


def packed_states(tensors: Sequence[Tensor], carries: bool) -> list[LayerState]:
    """The inverse of `flat_states`; `carries` is VivimConfig.carries."""
    if not carries:
        return [LayerState(None, None, frames) for frames in tensors]
    return [LayerState(*tensors[i : i + 3]) for i in range(0, len(tensors), 3)]


def zero_states(config: VivimConfig, sizes: Sequence[tuple[int, int]], batch: int = 1) -> list[LayerState]:
    """The states before a film: all zeros. `sizes`: (H, W) of the stages' token grids (vivim.model.stage_sizes)."""
    states = []
    for width, (rows, columns) in zip(config.widths, sizes, strict=True):
        inner = width * config.expand
        for _ in range(config.mamba_layers):
            states.append(
                LayerState(
                    torch.zeros(batch, config.state, inner) if config.carries else None,
                    torch.zeros(batch, config.conv - 1, inner) if config.carries else None,
                    torch.zeros(batch, REMEMBERED_FRAMES, rows, columns, width * config.mlp_ratio),
                )
            )
    return states


class StreamingMamba(SpatioTemporalMamba):
    """ST-Mamba whose first direction goes on from the frame before, where it carries, and whose others stay in a frame.

    One frame is one call of the operators, for all directions. A clip of several is two: one for the direction that
    carries, over all of it, and one for the others, over each frame as a sequence of its own.
    """

    def __init__(self, config: VivimConfig, stage: int) -> None:
        super().__init__(config, stage)
        self.carries = config.carries

    def forward(  # type: ignore[override]
        self, x: Tensor, frames: int, height: int, width: int, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
        """(B, L, C), and the scan and tail of a LayerState -> (B, L, C), and the new ones."""
        xz = self.in_proj(x)  # (B, L, 2D)
        if not self.carries:
            grid = xz.unflatten(1, (frames, -1)).flatten(0, 1)  # (B*T, H*W, 2D)
            y = self._in_frames(grid, slice(None), height, gated=True)
            return self.out_proj(y.view(*xz.shape[:2], -1)), (None, None)
        inner = self.D.shape[1]
        if past is None:
            taps, states = self.conv_weight.shape[2], self.decay_rates().shape[2]
            state = torch.float64 if xz.dtype == torch.float64 else torch.float32
            past = (xz.new_zeros(x.shape[0], states, inner, dtype=state), xz.new_zeros(x.shape[0], taps - 1, inner))
        h, tail = past
        if frames == 1:
            y, h = self._carried(xz, h, tail, slice(None), height, gated=True)
        else:
            y, h = self._carried(xz, h, tail, slice(1), 1, gated=False)
            if len(self.directions) > 1:
                grid = xz.unflatten(1, (frames, -1)).flatten(0, 1)  # (B*T, H*W, 2D)
                y = y + self._in_frames(grid, slice(1, None), height, gated=False).view(y.shape)
            y = y / len(self.directions) * functional.silu(xz[..., inner:])
        return self.out_proj(y), (h, tail_after(tail, xz).detach())

    def _carried(
        self, xz: Tensor, h: Tensor, tail: Tensor, which: slice, rows: int, gated: bool
    ) -> tuple[Tensor, Tensor]:
        """Some directions, of which the first carries: y (B, L, D), gated and averaged or neither, and its state."""
        codes = self.directions[which]
        xc = streaming_conv1d(xz, tail.to(xz.dtype), self.conv_weight[which], self.conv_bias[which], rows, codes)
        gate = xz if gated else None
        return streaming_scan(xc, self._columns(xc, which), gate, *self._scan_parameters(which), h, rows, codes, gated)

    def _in_frames(self, xz: Tensor, which: slice, rows: int, gated: bool) -> Tensor:
        """Some directions of sequences of one frame each."""
        codes = self.directions[which]
        xc = causal_conv1d(xz, self.conv_weight[which], self.conv_bias[which], rows, codes)
        gate = xz if gated else None
        return selective_scan(xc, self._columns(xc, which), gate, *self._scan_parameters(which), rows, codes, gated)

    def _columns(self, xc: Tensor, which: slice) -> Tensor:
        """(K, B, L, R + 2N)."""
        dbc = torch.matmul(xc.flatten(1, 2), self.x_proj[which].transpose(1, 2))  # (K, B*L, R+2N)
        return dbc.view(*xc.shape[:3], -1)

    def _scan_parameters(self, which: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.decay_rates()[which], self.dt_weight[which], self.dt_bias[which], self.D[which]


class CausalFeedForward(DetailSpecificFeedForward):
    """DSF whose convolution looks two frames back and none ahead."""

    def forward(  # type: ignore[override]
        self, x: Tensor, frames: int, height: int, width: int, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, L, C), and the frames of a LayerState -> (B, L, C), and the new ones."""
        grid = self.fc1(x).unflatten(1, (frames, height, width))  # (B, T, H, W, C')
        if past is None:
            past = grid.new_zeros(x.shape[0], REMEMBERED_FRAMES, height, width, grid.shape[-1])
        grid = torch.cat((past.to(grid.dtype), grid), dim=1)
        conv = self.dwconv
        hidden = functional.conv3d(
            grid.permute(0, 4, 1, 2, 3), conv.weight, conv.bias, padding=(0, 1, 1), groups=conv.groups
        )
        hidden = hidden.permute(0, 2, 3, 4, 1).flatten(1, 3)
        return self.fc2(functional.gelu(hidden)), grid[:, -REMEMBERED_FRAMES:].detach()


class StreamingLayer(nn.Module):
    """A Temporal Mamba layer (vivim.mamba.TemporalMambaLayer) that takes and gives a LayerState."""

    def __init__(self, config: VivimConfig, stage: int) -> None:
        super().__init__()
        width = config.widths[stage]
        self.norm1 = nn.LayerNorm(width)
        self.mixer: nn.Module = StreamingMamba(config, stage)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = CausalFeedForward(width, width * config.mlp_ratio)

    def forward(
        self, x: Tensor, frames: int, height: int, width: int, past: LayerState | None
    ) -> tuple[Tensor, LayerState]:
        """(B, L, C) -> (B, L, C)."""
        carried = None if past is None or past.scan is None else past[:2]
        mixed, (scan, tail) = self.mixer(self.norm1(x), frames, height, width, carried)
        x = x + mixed
        fed, kept = self.mlp(self.norm2(x), frames, height, width, None if past is None else past.frames)
        return x + fed, LayerState(scan, tail, kept)
