"""`vivim-train calibrate-confidence`: the record is learnt, stored with unchanged weights, and goes on to sessions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vivim.checkpoint import Training, load_checkpoint, read_training, save_checkpoint
from vivim.commands.calibrate_confidence import calibrate_command
from vivim.commands.clip_options import ClipOptions
from vivim.config import PRESETS
from vivim.model import Vivim
from vivim.session import open_runner
from vivim.training.confidence import Judged, coverage, learn_temperature, reliability, rightly_empty
from vivim_runtime.contract import InputContract
from vivim_runtime.errors import ConfigError


def weights(folder: Path) -> Path:
    torch.manual_seed(0)
    model = Vivim(PRESETS["tiny"])
    path = folder / "w.safetensors"
    save_checkpoint(path, model, Training(InputContract((64, 64), 2, 2)).metadata())
    return path


@pytest.mark.slow
def test_the_record_is_stored_with_unchanged_weights_and_reaches_sessions(tmp_path: Path) -> None:
    before = weights(tmp_path)
    after = tmp_path / "c.safetensors"
    calibrate_command(str(before), after, clips=8, report=tmp_path / "r.json", threads=1)
    record = read_training(after).confidence
    assert record is not None and record.domain is not None and record.error_after <= record.error_before
    one, other = load_checkpoint(before).state_dict(), load_checkpoint(after).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with open_runner(str(after)) as session:
        assert session.info.confidence is not None
        assert session.info.confidence.temperature == record.temperature
    figures = json.loads((tmp_path / "r.json").read_text())
    assert figures["temperature"] == record.temperature and figures["coverage"][0]["coverage"] == 1.0


def test_pictures_are_those_of_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A region, a kept shape and grey: calibration must not judge a network on pictures that it never sees."""
    torch.manual_seed(0)
    contract = InputContract((64, 64), 2, 2, 3, region="4,4,40,40", shape="kept", colour="grey", outside="black")
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, Vivim(PRESETS["tiny"]), Training(contract).metadata())
    seen: list[InputContract] = []

    def judged(self: ClipOptions, split: str, phantoms: int) -> None:
        seen.append(self.contract)
        raise ConfigError("enough")

    monkeypatch.setattr(ClipOptions, "judged", judged)
    with pytest.raises(ConfigError, match="enough"):
        calibrate_command(str(path), tmp_path / "c.safetensors", clips=8)
    assert seen == [contract]


def test_targets_that_are_none_and_too_few_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ending in .safetensors"):
        calibrate_command("tiny", tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match="at least 8"):
        calibrate_command("tiny", tmp_path / "x.safetensors", clips=2)


def judged(temperature: float) -> Judged:
    """Pixels whose logits are too large by a factor."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (40, 2048))
    truth = rng.random(z.shape) < 1 / (1 + np.exp(-z))
    whole = tuple(np.full((1, 4, 4), 5.0 if k % 2 else -5.0, np.float32) for k in range(40))
    dice = np.array([0.9 if k % 2 else (float("nan") if k % 4 else 0.0) for k in range(40)])
    return Judged((z * temperature).astype(np.float32), truth, dice, whole)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_factor_by_which_logits_are_too_large(factor: float) -> None:
    made = judged(factor)
    # 82 000 pixels: the standard error of the slope is about 1 / (sqrt(n) sd(z) 0.35) = 0.005.
    assert learn_temperature(made) == pytest.approx(factor, rel=0.03)
    assert reliability(made, factor).error < 0.01
    if factor != 1.0:
        assert reliability(made, 1.0).error > 0.02


def test_frames_that_are_held_back_are_the_least_sure() -> None:
    made = judged(1.0)
    nothing = rightly_empty(made)
    assert nothing == pytest.approx(11 / 22)  # ten of twenty empty ones are right, and one of each kind more
    rows = coverage(made, 1.0, nothing)
    assert [share for share, _, _ in rows] == [1.0, 0.95, 0.9, 0.8, 0.7, 0.5]
    assert rows[-1][1] == pytest.approx(0.9) and rows[0][1] == pytest.approx((20 * 0.9 + 10) / 40)
