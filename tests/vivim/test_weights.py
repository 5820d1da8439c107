"""The weights that the package ships."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

import vivim
from vivim.checkpoint import SHIPPED, resolve_weights
from vivim.training.batches import phantom_clips
from vivim.training.scores import evaluate
from vivim_runtime.files import sha256_file


@pytest.mark.parametrize(("name", "frames", "streaming"), [("tiny", 5, False), ("tiny-stream", 1, True)])
def test_shipped_weights_are_small_and_their_record_is_of_them(name: str, frames: int, streaming: bool) -> None:
    path = resolve_weights(name)
    assert path.stat().st_size < 10_000_000
    record = json.loads(files("vivim").joinpath(f"weights/{name}.json").read_text())
    assert record["weights_sha256"] == sha256_file(path)
    config = vivim.load_checkpoint(name).config
    assert (config.preset_name, config.frames, config.classes) == ("tiny", frames, ("lesion",))
    assert config.streaming is streaming
    assert len(record["commands"]) == len(record["minutes"])


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_find_lesions_on_held_out_phantoms(name: str) -> None:
    """The first six clips, hard ones included, lest it takes long: the slow test below has the figure that counts."""
    scores = evaluate(vivim.load_checkpoint(name), phantom_clips("test", 6, 5, (256, 256)))
    assert scores.lesion_dice is not None and scores.lesion_dice >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_reach_the_dice_of_their_record(name: str) -> None:
    record = json.loads(files("vivim").joinpath(f"weights/{name}.json").read_text())["held_out"]
    scores = evaluate(vivim.load_checkpoint(name), phantom_clips("test", 40, 5, (256, 256)))
    # Another CPU rounds otherwise: single pixels on the contours of 200 masks of some 3,000 pixels.
    assert scores.dice == pytest.approx(record["phantom test, 40 clips of 5x256x256"]["dice"], abs=0.002)
    assert scores.dice >= 0.90
