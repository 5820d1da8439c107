"""Training that starts from SegFormer's encoder, as the paper's does."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel

import vivim
from vivim.config import PRESETS
from vivim.model import Decoder
from vivim.training.batches import phantom_clips
from vivim.training.fit import fit
from vivim.training.recipe import FitConfig


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """Random weights of SegFormer-B0 under Hugging Face's names."""
    shape = PRESETS["b0"]
    torch.manual_seed(3)
    model = SegformerModel(
        SegformerConfig(
            hidden_sizes=list(shape.widths),
            depths=list(shape.depths),
            num_attention_heads=list(shape.heads),
            sr_ratios=list(shape.reductions),
        )
    )
    path = tmp_path / "segformer.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    return path


def test_encoder_is_taken_over_and_the_rest_begins_from_chance(encoder: Path, tmp_path: Path) -> None:
    clips = phantom_clips("train", 1, 1, (64, 64))
    still = FitConfig(preset="b0", encoder=str(encoder), epochs=1, batch=1, frames=1, lr=0.0, min_lr=0.0)
    assert len(list(fit(still, clips, clips, tmp_path / "run"))) == 1
    model = vivim.load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert model.config.edge_head == "conv3" and model.config.mamba_layers == 2
    theirs = vivim.from_segformer(encoder).state_dict()
    ours = model.state_dict()
    taken = [key for key in ours if ".blocks." in key or ".patch_embed." in key]
    # A rate of 0: what the encoder was is what it is.
    assert len(taken) > 100 and all(torch.equal(ours[key], theirs[key]) for key in taken)


def test_weights_and_an_encoder_together_are_refused(encoder: Path) -> None:
    with pytest.raises(vivim.ConfigError, match="expected one of them"):
        FitConfig(init="tiny", encoder=str(encoder))


def test_encoders_that_do_not_fit_or_are_not_there_are_refused(encoder: Path, tmp_path: Path) -> None:
    clips = phantom_clips("train", 1, 1, (64, 64))
    for config, message in (
        (FitConfig(preset="tiny", encoder=str(encoder), batch=1, frames=1), "segformer.safetensors"),
        (FitConfig(preset="b0", encoder=str(tmp_path / "none.bin"), batch=1, frames=1), "there is no checkpoint"),
    ):
        with pytest.raises(vivim.CheckpointError, match=message):
            next(fit(config, clips, clips, tmp_path / "run"))


def segmenting(decoder_width: int) -> SegformerForSemanticSegmentation:
    """Random weights of SegFormer-B0 with a head, as those of ADE20K are."""
    shape = PRESETS["b0"]
    torch.manual_seed(4)
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            hidden_sizes=list(shape.widths),
            depths=list(shape.depths),
            num_attention_heads=list(shape.heads),
            sr_ratios=list(shape.reductions),
            decoder_hidden_size=decoder_width,
            num_labels=150,
        )
    )


def test_decode_head_comes_along_and_fuses_as_theirs_does() -> None:
    theirs = segmenting(PRESETS["b0"].decoder_width).eval()
    theirs.decode_head.batch_norm.running_mean.normal_()
    ours = vivim.from_segformer(theirs.state_dict()).eval()
    torch.manual_seed(0)
    features = [torch.randn(1, width, 16 >> i, 24 >> i) for i, width in enumerate(ours.config.widths)]
    theirs.decode_head.classifier = ours.decoder.classifier  # of 150 classes, which is not taken
    with torch.no_grad():
        expected, found = theirs.decode_head(features), ours.decoder(features)
    # Same arithmetic in float32: sums of 1024 products.
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_decode_head_learns_in_training_as_theirs_does() -> None:
    """Ours fuses scales before it upsamples them, theirs afterwards; outputs and gradients are equal, dropout aside."""
    theirs = segmenting(PRESETS["b0"].decoder_width)
    ours = vivim.from_segformer(theirs.state_dict())
    assert isinstance(ours.decoder, Decoder)
    theirs.decode_head.classifier = copy.deepcopy(ours.decoder.classifier)
    for module in (theirs.decode_head.dropout, ours.decoder.dropout):
        module.p = 0.0
    torch.manual_seed(0)
    features = [torch.randn(2, width, 16 >> i, 24 >> i) for i, width in enumerate(ours.config.widths)]
    weights = torch.randn(2, 1, 16, 24)

    def learnt(head: nn.Module) -> tuple[Tensor, list[Tensor]]:
        inputs = [feature.clone().requires_grad_() for feature in features]
        logits = head.train()(inputs)
        (logits * weights).sum().backward()
        return logits.detach(), [x.grad for x in inputs if x.grad is not None]

    expected, expected_gradients = learnt(theirs.decode_head)
    found, found_gradients = learnt(ours.decoder)
    # Sums of up to 1024 products in float32 in another order; gradients go through the norm's statistics, too.
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    pairs = list(zip(found_gradients, expected_gradients, strict=True))
    assert len(pairs) == len(features)
    head = theirs.decode_head
    for layer, linear in zip(ours.decoder.projections, head.linear_c, strict=True):
        pairs.append((layer.weight.grad, linear.proj.weight.grad))
    pairs.append((ours.decoder.fuse.weight.grad, head.linear_fuse.weight.grad))
    pairs.append((ours.decoder.norm.weight.grad, head.batch_norm.weight.grad))
    for own, other in pairs:
        assert other.norm() > 0
        assert (own - other).norm() <= 1e-4 * other.norm()
    statistics = ours.decoder.norm.running_var, head.batch_norm.running_var
    assert statistics[0] is not None and (statistics[0] - statistics[1]).norm() <= 1e-5 * statistics[1].norm()


def test_a_head_that_does_not_fit_starts_from_chance_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    state = segmenting(128).state_dict()
    with caplog.at_level(logging.WARNING, "vivim"):
        model = vivim.from_segformer(state)
    assert "13 of 13 entries of its decode head do not fit a decoder of width 256" in caplog.text
    block = "stages.1.blocks.0.attention.query.weight"
    assert torch.equal(model.state_dict()[block], state["segformer.encoder.block.1.0.attention.self.query.weight"])


@pytest.mark.parametrize(("preset", "said"), [("b0", True), ("tiny", False)])
def test_large_networks_that_start_from_chance_say_so(
    preset: str, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = phantom_clips("train", 1, 1, (64, 64))
    with caplog.at_level(logging.WARNING, "vivim"):
        next(fit(FitConfig(preset=preset, batch=1, frames=1, epochs=1), clips, clips, tmp_path / "run"))
    assert ("--encoder" in caplog.text) is said
