"""ONNX Runtime's int8 kernels give the masks that the file says, on this CPU and on older ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.calibration.conftest import FRAMES, SIZE, clips_of
from vivim_calibration.calibration import learn_ranges
from vivim_calibration.clips import whole_clips
from vivim_calibration.float_model import load_float_model
from vivim_calibration.quantise import quantise_layers
from vivim_calibration.verdict import agreement_of, logits_of_clips
from vivim_runtime.judging.agreement import logits_of
from vivim_runtime.sessions.onnx import OnnxSession


@pytest.fixture(scope="module")
def int8(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "net.int8.onnx"
    model = load_float_model(exported)
    clips = whole_clips([clips_of(1)], FRAMES, SIZE)
    ranges = learn_ranges(model.proto, model.info, model.sha256, clips, "minmax", 1).ranges
    onnx.save(quantise_layers(model.proto, ranges), path)
    return path


def test_int8_kernels_agree_with_the_arithmetic_of_the_file(int8: Path, exported: Path) -> None:
    clips = whole_clips([clips_of(21)], FRAMES, SIZE)
    with (
        OnnxSession(exported, "cpu", 1) as plain,
        OnnxSession(int8, "cpu", 1, fused=False) as exact,
        OnnxSession(int8, "cpu", 1) as fused,
    ):
        expected = logits_of_clips(exact, clips)
        kernels, rounding = agreement_of(fused, clips, expected), agreement_of(plain, clips, expected)
    # Sums in another order move a few values over the edge of a level: less than rounding to levels itself does. With
    # sums that overflow, on a CPU without VNNI, it is more (0.038 against 0.017 on a clip of 256 x 256).
    assert 0 < kernels.tensor.relative_l2 < rounding.tensor.relative_l2
    assert kernels.masks.dice is not None and kernels.masks.dice > 0.99


def test_kernels_that_overflow_are_switched_off_in_every_session(int8: Path, exported: Path) -> None:
    for path in (int8, exported):
        with OnnxSession(path, "cpu", 1) as session:
            options = session._session.get_session_options()
            assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_logits_that_are_kept_do_not_keep_the_memory_of_their_session(exported: Path) -> None:
    with OnnxSession(exported, "cpu", 1) as session:
        kept = logits_of(session, np.zeros((FRAMES, *SIZE, 3), np.uint8))
    assert kept.base is None and kept.flags.owndata
