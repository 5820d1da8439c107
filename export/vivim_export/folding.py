"""Exact rewrites of the network before export. Each is exact in real arithmetic and tested in float64.

decoder folding   The decoder's projections, concatenation, fusing convolution and BatchNorm (in eval mode) are linear,
                  and bilinear upsampling commutes with them, since its weights sum to 1. So for every scale i
                      scale_i = upsample(G F_i P_i x_i),  G = gamma / sqrt(var + eps)
                  where P_i is the projection and F_i the fusing convolution's block for it, folded into one matrix that
                  is applied before upsampling, at the scale's own resolution; all constants fold into one bias.
                  B3, 5 x 256 x 256: 48 GMAC become 2.
attention scale   The scores are divided by sqrt(d) where they arise, in the query projection: q / sqrt(d) is one more
                  linear layer, and no product is larger than the score itself (in float16 that matters).
decay rates       -exp(A_log) log2(e) is computed once.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivim.mamba import SpatioTemporalMamba
from vivim.model import Decoder, Vivim
from vivim.segformer import Attention

__all__ = ["FoldedAttention", "FoldedDecoder", "fold_for_export"]


class FoldedDecoder(nn.Module):
    """`vivim.model.Decoder` in eval mode, folded: one matrix a scale at that scale's resolution, one bias."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        norm, fuse = decoder.norm, decoder.fuse.weight.double().flatten(1)  # (E, 4E), deepest scale first
        assert norm.running_var is not None and norm.running_mean is not None
        gain = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)  # (E,)
        bias = norm.bias.double() - gain * norm.running_mean.double()
        blocks = fuse.chunk(len(decoder.projections), dim=1)[::-1]
        self.scales = nn.ModuleList()
        for projection, block in zip(decoder.projections, blocks, strict=True):
            assert isinstance(projection, nn.Linear)
            scale = nn.Linear(projection.in_features, block.shape[0], bias=False, dtype=projection.weight.dtype)
            scale.weight = nn.Parameter((gain[:, None] * block @ projection.weight.double()).to(scale.weight.dtype))
            bias = bias + gain * (block @ projection.bias.double())
            self.scales.append(scale)
        self.bias = nn.Parameter(bias.to(decoder.fuse.weight.dtype))
        self.classifier = decoder.classifier

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features (F, C_i, H_i, W_i) of the four stages -> logits (F, K, H_1, W_1)."""
        size = features[0].shape[-2:]
        total = self.bias[:, None, None]
        for scale, feature in zip(self.scales, features, strict=True):
            x = scale(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (F, E, H_i, W_i)
            if x.shape[-2:] != size:
                x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
            total = total + x
        return self.classifier(functional.relu(total))


class FoldedAttention(Attention):
    """`vivim.segformer.Attention` whose query projection has the scale 1 / sqrt(d) in it."""

    def fold(self) -> None:
        """Put the scale into the query projection, once."""
        scale = (self.query.out_features // self.heads) ** -0.5
        for value in self.query.parameters():
            value.copy_((value.double() * scale).to(value.dtype))

    def weights(self, scores: Tensor) -> Tensor:
        """Scores (F, heads, L, L') -> what each token takes from each key."""
        return torch.softmax(scores, dim=-1)

    def mixed(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(F, heads, L, d), twice (F, heads, L', d) -> (F, heads, L, d)."""
        return torch.matmul(self.weights(torch.matmul(query, key.transpose(-2, -1))), value)


class _FrozenMamba(SpatioTemporalMamba):
    """`SpatioTemporalMamba` with its decay rates computed once."""

    A_log2e: Tensor

    def decay_rates(self) -> Tensor:
        return self.A_log2e


def fold_for_export(model: Vivim, decoder: bool = True) -> Vivim:
    """A copy of `model` in eval mode, rewritten; `decoder=False` leaves the decoder as it was trained."""
    folded = copy.deepcopy(model).eval()
    with torch.no_grad():
        if decoder:
            assert isinstance(folded.decoder, Decoder)
            folded.decoder = FoldedDecoder(folded.decoder)
        for module in folded.modules():
            if isinstance(module, Attention):
                module.__class__ = FoldedAttention
                FoldedAttention.fold(module)  # type: ignore[arg-type]
            elif isinstance(module, SpatioTemporalMamba):
                module.register_buffer("A_log2e", module.decay_rates())
                module.__class__ = _FrozenMamba
    return folded
