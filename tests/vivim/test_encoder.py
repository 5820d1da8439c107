"""Training that starts from SegFormer's encoder, as the paper's does."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import SegformerConfig, SegformerModel

import vivim
from vivim.config import PRESETS
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
