"""The rivals of ST-Mamba in the paper's efficiency study (Table IV): attention over the tokens of a clip.

    self_attention        M1  every token sees all T*H*W tokens ("Attention is all you need", arXiv 1706.03762)
    window_attention      M2  tokens see their window of 8 x 7 x 7; every second layer shifts the windows by a half
                              (Video Swin, arXiv 2106.13230)
    factorized_attention  M3  tokens see their frame, then their own place in every frame (ViViT, arXiv 2103.15691)

Each takes the place of ST-Mamba alone: the norm before it, the residual and the feed-forward part with its 3x3x3
convolution, from which positions are known, stay. So none of them has position embeddings or biases of its own. All are
made of SegFormer's attention (vivim.segformer.Attention, without reduction) over groups of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vivim.segformer import Attention

__all__ = ["RIVALS", "WINDOW", "FactorizedAttention", "Identity", "SelfAttention", "WindowAttention", "segments"]

# (t, h, w) of Video Swin's windows.
WINDOW = (8, 7, 7)


class SelfAttention(nn.Module):
    """M1: joint attention over time and space."""

    def __init__(self, width: int, heads: int, index: int = 0) -> None:
        super().__init__()
        self.attention = Attention(width, heads, 1)

    def forward(self, x: Tensor, frames: int, height: int, width: int) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        return self.attention(x, height, width)


class FactorizedAttention(nn.Module):
    """M3: attention within every frame, then across the frames at every place (ViViT's third model)."""

    def __init__(self, width: int, heads: int, index: int = 0) -> None:
        super().__init__()
        self.spatial = Attention(width, heads, 1)
        self.temporal = Attention(width, heads, 1)

    def forward(self, x: Tensor, frames: int, height: int, width: int) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        places = height * width
        x = self.spatial(x.unflatten(1, (frames, places)).flatten(0, 1), height, width)  # (B*T, H*W, C)
        x = x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)  # (B*H*W, T, C)
        x = self.temporal(x, frames, 1)
        return x.unflatten(0, (-1, places)).transpose(1, 2).flatten(1, 2)


class Segment(NamedTuple):
    """Some windows of the same length that lie side by side along one axis."""

    windows: int
    length: int


def segments(size: int, window: int, shifted: bool) -> list[Segment]:
    """How an axis of `size` tokens is cut: whole windows, and at its ends what is left of one.

    Video Swin pads the last window, rolls the grid for a shift, and masks what then does not belong together; windows
    that end where the grid does are the same without any of it. An axis no longer than a window is one, never shifted.
    """
    if size <= window:
        return [Segment(1, size)]
    first = window // 2 if shifted else 0
    whole, last = divmod(size - first, window)
    return [s for s in (Segment(1, first), Segment(whole, window), Segment(1, last)) if s.windows and s.length]


class WindowAttention(nn.Module):
    """M2: attention within windows over time and space; the layers with an odd `index` have them shifted."""

    def __init__(self, width: int, heads: int, index: int = 0) -> None:
        super().__init__()
        self.attention = Attention(width, heads, 1)
        self.shifted = index % 2 == 1

    def forward(self, x: Tensor, frames: int, height: int, width: int) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        grid = x.unflatten(1, (frames, height, width))  # (B, T, H, W, C)
        return self._cut(grid, []).flatten(1, 3)

    def _cut(self, grid: Tensor, done: list[Segment]) -> Tensor:
        """Cut one axis after the other until all windows of a part have the same shape; same shape in and out."""
        if len(done) == len(WINDOW):
            return self._within(grid, *done)
        axis = len(done) + 1
        parts = segments(grid.shape[axis], WINDOW[len(done)], self.shifted)
        pieces = grid.split([part.windows * part.length for part in parts], axis)
        return torch.cat([self._cut(piece, [*done, part]) for piece, part in zip(pieces, parts, strict=True)], axis)

    def _within(self, grid: Tensor, rows: Segment, height: Segment, width: Segment) -> Tensor:
        """Attention within the windows of a part (B, T, H, W, C)."""
        counts = (rows.windows, height.windows, width.windows)
        windows = grid.unflatten(3, width).unflatten(2, height).unflatten(1, rows)  # (B, nT, t, nH, h, nW, w, C)
        windows = windows.permute(0, 1, 3, 5, 2, 4, 6, 7)  # (B, nT, nH, nW, t, h, w, C)
        lengths = windows.shape[4:7]
        tokens = windows.flatten(4, 6).flatten(0, 3)  # (B*nT*nH*nW, t*h*w, C)
        mixed = self.attention(tokens, 1, 1).unflatten(1, lengths).unflatten(0, (-1, *counts))
        return mixed.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)


class Identity(nn.Module):
    """No mixer: what is left of a layer without one, which tells what the mixer itself brings."""

    def __init__(self, width: int, heads: int, index: int = 0) -> None:
        super().__init__()

    def forward(self, x: Tensor, frames: int, height: int, width: int) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        return x


# By the name in VivimConfig.st_module: what makes one of some width and number of heads, as a stage's layer `index`.
RIVALS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "self_attention": SelfAttention,
    "window_attention": WindowAttention,
    "factorized_attention": FactorizedAttention,
}
