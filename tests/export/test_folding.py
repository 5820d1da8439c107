"""The rewrites before export are exact: checked in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vivim import Vivim, VivimConfig
from vivim.model import Decoder
from vivim_export.folding import FoldedDecoder, fold_for_export


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


def test_decay_rates_are_computed_once() -> None:
    model = trained_looking()
    before, after = model.stages[1].mamba[0].mixer, fold_for_export(model).stages[1].mamba[0].mixer
    assert torch.equal(after.decay_rates(), before.decay_rates())
    assert "A_log2e" in dict(after.named_buffers())
    after.A_log.data.zero_()
    assert torch.equal(after.decay_rates(), before.decay_rates())


def test_folding_leaves_the_network_itself_alone() -> None:
    model = trained_looking()
    before = copy.deepcopy(model.state_dict())
    folded = fold_for_export(model)
    assert isinstance(folded.decoder, FoldedDecoder) and isinstance(model.decoder, Decoder)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert type(model.stages[0].mamba[0].mixer) is not type(folded.stages[0].mamba[0].mixer)


def test_decoder_can_be_left_as_it_was_trained() -> None:
    assert isinstance(fold_for_export(trained_looking(), decoder=False).decoder, Decoder)


def test_folded_decoder_does_its_matrices_at_low_resolution() -> None:
    """B3: what runs at the first scale's resolution is its own matrix and the classifier alone."""
    folded = FoldedDecoder(Decoder(VivimConfig.preset("b3")).eval())
    assert [tuple(scale.weight.shape) for scale in folded.scales] == [(768, 64), (768, 128), (768, 320), (768, 512)]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
