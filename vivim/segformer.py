"""The spatial half of a stage: SegFormer's overlapped patch embedding, efficient attention and Mix-FFN.

arXiv 2105.15203, section 3.1; parameter shapes and numerics of `transformers`' SegformerEncoder (4.44), with every
LayerNorm eps 1e-5. Tokens are (F, L, C) with F = B * T frames and L = H * W, and stay channels-last: a convolution
sees them through a strided view.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "Attention",
    "MixFeedForward",
    "PatchEmbedding",
    "SegformerBlock",
    "grid_from_tokens",
    "tokens_from_grid",
]


def grid_from_tokens(x: Tensor, height: int, width: int) -> Tensor:
    """(F, H*W, C) -> (F, C, H, W), a view."""
    return x.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def tokens_from_grid(x: Tensor) -> Tensor:
    """(F, C, H, W) -> (F, H*W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class PatchEmbedding(nn.Module):
    """Strided convolution with overlap, then LayerNorm."""

    def __init__(self, channels: int, width: int, patch: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride, padding=patch // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        """(F, C_in, H_in, W_in) -> tokens (F, H*W, C), H, W."""
        x = self.proj(x)
        height, width = x.shape[-2:]
        return self.norm(tokens_from_grid(x)), height, width


class Attention(nn.Module):
    """Multi-head attention whose keys and values come from a grid reduced by a strided convolution."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.reduce: nn.Module | None = None
        if reduction > 1:
            self.reduce = nn.Conv2d(width, width, reduction, reduction)
            self.reduce_norm = nn.LayerNorm(width)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(F, L, C) -> (F, heads, L, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def mixed(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(F, heads, L, d), twice (F, heads, L', d) -> (F, heads, L, d)."""
        return functional.scaled_dot_product_attention(query, key, value)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(F, L, C) -> (F, L, C)."""
        query = self._split_heads(self.query(x))
        source = x
        if self.reduce is not None:
            source = self.reduce_norm(tokens_from_grid(self.reduce(grid_from_tokens(x, height, width))))
        key, value = self.key_value(source).chunk(2, dim=-1)  # (F, L', C)
        mixed = self.mixed(query, self._split_heads(key), self._split_heads(value))
        return self.out(mixed.transpose(1, 2).flatten(2))


class MixFeedForward(nn.Module):
    """Linear, depthwise 3x3 convolution (which tells the position), GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(F, L, C) -> (F, L, C)."""
        hidden = tokens_from_grid(self.dwconv(grid_from_tokens(self.fc1(x), height, width)))
        return self.fc2(functional.gelu(hidden))


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, drops the branch of a whole frame with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep) / keep


class SegformerBlock(nn.Module):
    """Pre-norm attention and Mix-FFN, each with a residual."""

    def __init__(self, width: int, heads: int, reduction: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MixFeedForward(width, width * mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(F, L, C) -> (F, L, C)."""
        x = x + self.drop_path(self.attention(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x), height, width))


def drop_path_rates(depths: tuple[int, ...], largest: float) -> list[list[float]]:
    """Rates of every block of every stage: linear from 0 at the first to `largest` at the last."""
    count = max(1, sum(depths) - 1)
    rates = iter([largest * index / count for index in range(sum(depths))])
    return [[next(rates) for _ in range(depth)] for depth in depths]
