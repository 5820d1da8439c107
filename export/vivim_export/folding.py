"""Exact rewrites of the network before export, as rules. Each is exact in real arithmetic and tested in float64.

FoldDecoder           The decoder's projections, concatenation, fusing convolution and BatchNorm (in eval mode) are
                      linear, and bilinear upsampling commutes with them, since its weights sum to 1. So for every scale
                          scale_i = upsample(G F_i P_i x_i),  G = gamma / sqrt(var + eps)
                      where P_i is the projection and F_i the fusing convolution's block for it, folded into one matrix
                      that is applied before upsampling, at the scale's own resolution; all constants fold into one
                      bias. B3, 5 x 256 x 256: 48 GMAC become 2.
FoldAttentionScale    The scores are divided by sqrt(d) where they arise, in the query projection: q / sqrt(d) is one
                      more linear layer, and no product is larger than the score itself (in float16 that matters).
ComputeDecayRates     -exp(A_log) log2(e) is computed once.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivim.mamba import SpatioTemporalMamba
from vivim.model import Decoder, DecoderForm, Vivim, upsampled_sum
from vivim.segformer import Attention
from vivim.streaming import StreamingMamba
from vivim_export.rules import Declined, Rule

__all__ = [
    "ComputeDecayRates",
    "FoldAttentionScale",
    "FoldDecoder",
    "FoldedAttention",
    "FoldedDecoder",
    "FrozenMamba",
    "FrozenStreamingMamba",
    "fold_for_export",
    "rewrite_modules",
]

_log = logging.getLogger(__name__)


class FoldedDecoder(DecoderForm):
    """`vivim.model.Decoder` in eval mode, folded: one matrix a scale at that scale's resolution, one bias."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        norm = decoder.norm
        assert norm.running_var is not None and norm.running_mean is not None
        gain = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)  # (E,)
        bias = norm.bias.double() - gain * norm.running_mean.double()
        self.scales = nn.ModuleList()
        for projection, part in zip(decoder.projections, decoder.blocks(), strict=True):
            assert isinstance(projection, nn.Linear)
            block = part.double()
            scale = nn.Linear(projection.in_features, block.shape[0], bias=False, dtype=projection.weight.dtype)
            scale.weight = nn.Parameter((gain[:, None] * block @ projection.weight.double()).to(scale.weight.dtype))
            bias = bias + gain * (block @ projection.bias.double())
            self.scales.append(scale)
        self.bias = nn.Parameter(bias.to(decoder.fuse.weight.dtype))
        self.classifier = decoder.classifier

    def fused(self, features: list[Tensor]) -> Tensor:
        scales = (scale(x.permute(0, 2, 3, 1)) for scale, x in zip(self.scales, features, strict=True))
        return functional.relu(upsampled_sum(scales, features[0].shape[-2:], self.bias))


class FoldedAttention(Attention):
    """`vivim.segformer.Attention` whose query projection has the scale 1 / sqrt(d) in it."""

    def __init__(self, attention: Attention) -> None:
        nn.Module.__init__(self)  # the layers are those of `attention`; only the query's are new
        self.heads = attention.heads
        self.query = copy.deepcopy(attention.query)
        self.key_value, self.out = attention.key_value, attention.out
        self.reduce = attention.reduce
        if attention.reduce is not None:
            self.reduce_norm = attention.reduce_norm
        scale = (self.query.out_features // self.heads) ** -0.5
        with torch.no_grad():
            for value in self.query.parameters():
                value.copy_((value.double() * scale).to(value.dtype))

    def mixed(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(F, heads, L, d), twice (F, heads, L', d) -> (F, heads, L, d)."""
        weights = torch.softmax(torch.matmul(query, key.transpose(-2, -1)), dim=-1)
        return torch.matmul(weights, value)


class FrozenMamba(SpatioTemporalMamba):
    """`vivim.mamba.SpatioTemporalMamba` with its decay rates computed once."""

    A_log2e: Tensor

    def __init__(self, mamba: SpatioTemporalMamba) -> None:
        nn.Module.__init__(self)
        _freeze(self, mamba)

    def decay_rates(self) -> Tensor:
        """(K, D, N)."""
        return self.A_log2e


class FrozenStreamingMamba(StreamingMamba):
    """`vivim.streaming.StreamingMamba` with its decay rates computed once."""

    A_log2e: Tensor

    def __init__(self, mamba: StreamingMamba) -> None:
        nn.Module.__init__(self)
        _freeze(self, mamba)
        self.carries = mamba.carries

    def decay_rates(self) -> Tensor:
        """(K, D, N)."""
        return self.A_log2e


def _freeze(frozen: FrozenMamba | FrozenStreamingMamba, mamba: SpatioTemporalMamba) -> None:
    """Give an empty module the parameters of `mamba`, and its decay rates instead of A_log."""
    frozen.directions = mamba.directions
    for name, layer in mamba.named_children():
        frozen.add_module(name, layer)
    for name, value in mamba.named_parameters(recurse=False):
        if name != "A_log":
            frozen.register_parameter(name, value)
    frozen.register_buffer("A_log2e", mamba.decay_rates().detach())


class FoldDecoder:
    """vivim.model.Decoder -> FoldedDecoder."""

    name = "decoder folding"

    def matches(self, site: nn.Module) -> bool:
        return isinstance(site, Decoder)

    def reason_to_decline(self, site: nn.Module) -> str:
        assert isinstance(site, Decoder)
        if site.norm.running_mean is None:
            return "its BatchNorm keeps no statistics, so it is no linear map"
        if site.norm.training:
            return "its BatchNorm is in training mode, so it is no linear map; call eval() first"
        if any(not isinstance(projection, nn.Linear) for projection in site.projections):
            return "a projection is no linear layer"
        return ""

    def rewrite(self, site: nn.Module) -> nn.Module:
        assert isinstance(site, Decoder)
        return FoldedDecoder(site)


class FoldAttentionScale:
    """vivim.segformer.Attention -> FoldedAttention."""

    name = "attention scale"

    def matches(self, site: nn.Module) -> bool:
        return isinstance(site, Attention)

    def reason_to_decline(self, site: nn.Module) -> str:
        if isinstance(site, FoldedAttention):
            return "the scale is in its query projection already"
        if type(site) is not Attention:
            return f"{type(site).__name__} may use the scores otherwise"
        return ""

    def rewrite(self, site: nn.Module) -> nn.Module:
        assert isinstance(site, Attention)
        return FoldedAttention(site)


class ComputeDecayRates:
    """vivim.mamba.SpatioTemporalMamba -> FrozenMamba; vivim.streaming.StreamingMamba -> FrozenStreamingMamba."""

    name = "decay rates"

    def matches(self, site: nn.Module) -> bool:
        return isinstance(site, SpatioTemporalMamba)

    def reason_to_decline(self, site: nn.Module) -> str:
        if isinstance(site, FrozenMamba | FrozenStreamingMamba):
            return "they are computed already"
        if type(site) not in (SpatioTemporalMamba, StreamingMamba):
            return f"{type(site).__name__} may have rates that change"
        return ""

    def rewrite(self, site: nn.Module) -> nn.Module:
        assert isinstance(site, SpatioTemporalMamba)
        return FrozenStreamingMamba(site) if isinstance(site, StreamingMamba) else FrozenMamba(site)


def rewrite_modules(network: nn.Module, rules: Sequence[Rule[nn.Module, nn.Module]]) -> list[Declined]:
    """Put what the rules make into the place of every module below `network` that they match; say what they left."""
    declined = []
    for rule in rules:
        for path, parent in list(network.named_modules()):
            for name, site in list(parent.named_children()):
                if not rule.matches(site):
                    continue
                if reason := rule.reason_to_decline(site):
                    declined.append(Declined(rule.name, f"{path}.{name}".removeprefix("."), reason))
                else:
                    setattr(parent, name, rule.rewrite(site))
    return declined


def fold_for_export(model: Vivim, decoder: bool = True) -> Vivim:
    """A copy of `model` in eval mode, rewritten; `decoder=False` leaves the decoder as it was trained.

    What a rule declines is exported as it is, and logged with the reason.
    """
    folded = copy.deepcopy(model).eval()
    rules: list[Rule[nn.Module, nn.Module]] = [FoldAttentionScale(), ComputeDecayRates()]
    if decoder:
        rules.append(FoldDecoder())
    with torch.no_grad():
        for declined in rewrite_modules(folded, rules):
            _log.warning("%s", declined)
    return folded
