"""The rewrites before export are exact: checked in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vivim import Vivim, VivimConfig
from vivim.mamba import SpatioTemporalMamba
from vivim.model import Decoder
from vivim.segformer import Attention
from vivim_export.folding import (
    ComputeDecayRates,
    FoldAttentionScale,
    FoldDecoder,
    FoldedAttention,
    FoldedDecoder,
    FrozenMamba,
    fold_for_export,
    rewrite_modules,
)
from vivim_export.rules import Declined


def trained_looking(**changes: object) -> Vivim:
    """A network whose BatchNorm has seen data: statistics and affine far from their initial values."""
    torch.manual_seed(0)
    model = Vivim(VivimConfig.preset("tiny", **changes)).double().eval()
    norm = model.decoder.norm
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 4.0)
        norm.weight.normal_()
        norm.bias.normal_()
    return model


@pytest.mark.parametrize("sizes", [[(16, 16), (8, 8), (4, 4), (2, 2)], [(16, 21), (8, 11), (4, 6), (2, 3)]])
def test_folded_decoder_computes_the_same(sizes: list[tuple[int, int]]) -> None:
    model = trained_looking()
    features = [torch.randn(2, c, *size, dtype=torch.float64) for c, size in zip((16, 32, 64, 128), sizes, strict=True)]
    with torch.no_grad():
        expected, value = model.decoder(features), fold_for_export(model).decoder(features)
    # Exact in real arithmetic; float64 leaves some hundred roundings of 1e-16.
    assert (value - expected).norm() <= 1e-14 * expected.norm()


def test_outlines_that_are_seen_in_the_decoder_stay_when_it_is_folded() -> None:
    model = trained_looking(edge_head="decoder")
    clip = torch.randn(1, 2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected, found = model(clip).edge, fold_for_export(model)(clip).edge
    assert expected is not None and found is not None
    assert (found - expected).norm() <= 1e-12 * expected.norm()  # as above, through 20 layers


def test_decay_rates_are_computed_once() -> None:
    model = trained_looking()
    before, after = model.stages[1].mamba[0].mixer, fold_for_export(model).stages[1].mamba[0].mixer
    assert torch.equal(after.decay_rates(), before.decay_rates())
    assert "A_log2e" in dict(after.named_buffers()) and "A_log" not in dict(after.named_parameters())


def test_folding_leaves_the_network_itself_alone() -> None:
    model = trained_looking()
    before = copy.deepcopy(model.state_dict())
    folded = fold_for_export(model)
    assert isinstance(folded.decoder, FoldedDecoder) and isinstance(model.decoder, Decoder)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert type(model.stages[0].mamba[0].mixer) is SpatioTemporalMamba
    assert type(folded.stages[0].mamba[0].mixer) is FrozenMamba


def test_decoder_can_be_left_as_it_was_trained() -> None:
    assert isinstance(fold_for_export(trained_looking(), decoder=False).decoder, Decoder)


def test_folded_decoder_does_its_matrices_at_low_resolution() -> None:
    """B3: what runs at the first scale's resolution is its own matrix and the classifier alone."""
    folded = FoldedDecoder(Decoder(VivimConfig.preset("b3")).eval())
    assert [tuple(scale.weight.shape) for scale in folded.scales] == [(768, 64), (768, 128), (768, 320), (768, 512)]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


# --- each rule on the smallest network that shows it ----------------------------------------------------------------


@pytest.mark.parametrize("reduction", [1, 2])
def test_attention_with_its_scale_folded_computes_the_same(reduction: int) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, reduction).double().eval()
    network, x = nn.Sequential(attention), torch.randn(3, 24, 8, dtype=torch.float64)
    assert rewrite_modules(network, [FoldAttentionScale()]) == []
    assert type(network[0]) is FoldedAttention and type(attention) is Attention
    with torch.no_grad():
        expected, value = attention(x, 4, 6), network[0](x, 4, 6)
        assert torch.equal(network[0].query.weight, attention.query.weight * 0.5)  # 1 / sqrt(8 / 2), a power of two
    # Exact in real arithmetic; float64 leaves some roundings of 1e-16.
    assert (value - expected).norm() <= 1e-15 * expected.norm()


def test_mamba_with_its_rates_computed_computes_the_same() -> None:
    torch.manual_seed(0)
    mamba = SpatioTemporalMamba(VivimConfig.preset("tiny", frames=2), 0).double().eval()
    network, x = nn.Sequential(mamba), torch.randn(1, 12, 16, dtype=torch.float64)
    assert rewrite_modules(network, [ComputeDecayRates()]) == []
    assert type(network[0]) is FrozenMamba and type(mamba) is SpatioTemporalMamba
    with torch.no_grad():
        assert torch.equal(network[0](x, 2), mamba(x, 2))


class OtherAttention(Attention):
    def mixed(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value


class OtherMamba(SpatioTemporalMamba):
    pass


def decoder_without_statistics() -> Decoder:
    decoder = Decoder(VivimConfig.preset("tiny")).eval()
    decoder.norm = nn.BatchNorm2d(decoder.norm.num_features, track_running_stats=False)
    return decoder


def decoder_with_a_convolution() -> Decoder:
    decoder = Decoder(VivimConfig.preset("tiny")).eval()
    decoder.projections[0] = nn.Conv2d(16, 64, 1)
    return decoder


@pytest.mark.parametrize(
    ("rule", "site", "reason"),
    [
        pytest.param(FoldDecoder(), Decoder(VivimConfig.preset("tiny")), "in training mode", id="training"),
        pytest.param(FoldDecoder(), decoder_without_statistics(), "keeps no statistics", id="no statistics"),
        pytest.param(FoldDecoder(), decoder_with_a_convolution(), "no linear layer", id="another projection"),
        pytest.param(FoldAttentionScale(), OtherAttention(8, 2, 1), "OtherAttention may use the scores", id="scores"),
        pytest.param(FoldAttentionScale(), FoldedAttention(Attention(8, 2, 1)), "already", id="folded twice"),
        pytest.param(
            ComputeDecayRates(), OtherMamba(VivimConfig.preset("tiny"), 0), "OtherMamba may have rates", id="rates"
        ),
    ],
)
def test_a_rule_declines_with_a_reason_and_leaves_the_module(rule, site: nn.Module, reason: str) -> None:
    network = nn.Sequential(nn.Sequential(nn.Identity(), site))
    (declined,) = rewrite_modules(network, [rule])
    assert network[0][1] is site
    assert (declined.rule, declined.site) == (rule.name, "0.1") and reason in declined.reason


def test_a_rule_says_nothing_of_modules_that_are_not_its_own() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert rewrite_modules(network, [FoldDecoder(), FoldAttentionScale(), ComputeDecayRates()]) == []


def test_what_is_declined_at_export_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = trained_looking()
    model.decoder = decoder_without_statistics().double()
    folded = fold_for_export(model)
    assert isinstance(folded.decoder, Decoder)
    assert [record.getMessage() for record in caplog.records if record.name == "vivim_export.folding"] == [
        str(Declined("decoder folding", "decoder", "its BatchNorm keeps no statistics, so it is no linear map"))
    ]
