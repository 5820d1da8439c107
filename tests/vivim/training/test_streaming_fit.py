"""Training of streaming networks: from weights of clip networks, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivim.checkpoint import load_checkpoint, read_training
from vivim.training.batches import NO_AUGMENTATION, phantom_clips
from vivim.training.fit import FitConfig, fit
from vivim.training.recipe import read_recipe
from vivim_runtime.errors import ConfigError

ROOT = Path(__file__).parents[3]
PLAIN = {"boundary": 0.0, "affine": 0.0, "epochs": 1, "batch": 2, "frames": 3, "augmentation": NO_AUGMENTATION}


def test_streaming_network_of_a_recipe() -> None:
    config = FitConfig(preset="tiny", streaming=True, **PLAIN)
    assert config.network().directions == ("forward", "frame_backward")
    assert config.network().frames == 1  # its clips of 3 frames are films
    with pytest.raises(ConfigError, match="directions are"):
        FitConfig(preset="tiny", streaming=True, directions=("forward", "backward"), **PLAIN)


@pytest.mark.slow
def test_clip_weights_become_streaming_ones_and_go_on(tmp_path: Path) -> None:
    clips = phantom_clips("train", 4, 3, (64, 64))
    config = FitConfig(init="tiny", streaming=True, **PLAIN)
    reports = list(fit(config, clips, clips[:1], tmp_path / "first"))
    weights = tmp_path / "first" / "best.safetensors"
    network = load_checkpoint(weights)
    assert reports and network.config.streaming and network.config.directions == ("forward", "frame_backward")
    assert read_training(weights).contract.frames == 3
    again = FitConfig(init=str(weights), streaming=True, **PLAIN)
    assert list(fit(again, clips, clips[:1], tmp_path / "second"))
    with pytest.raises(ConfigError, match="add --streaming"):
        list(fit(FitConfig(init=str(weights), **PLAIN), clips, clips[:1], tmp_path / "third"))


@pytest.mark.parametrize("name", ["1-small", "2-large"])
def test_recipes_for_streaming_can_be_read(name: str) -> None:
    path = ROOT / "examples" / "stream" / f"{name}.toml"
    known = {
        "streaming",
        "init",
        "directions",
        "data",
        "strides",
        "imgsz",
        "frames",
        "batch",
        "clips",
        "validation_clips",
        "epochs",
    }
    known |= {"optimizer", "lr", "warmup", "max_norm", "ema", "boundary", "affine", "seed"}
    assert read_recipe(path, known)["streaming"] == "True"
