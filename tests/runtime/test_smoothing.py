"""A mean over time: how long, how late, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.runtime.models import brightness_model
from vivim_runtime.errors import UsageError
from vivim_runtime.offline import RunOptions, run
from vivim_runtime.sessions import open_session
from vivim_runtime.smoothing import Smoother
from vivim_runtime.sources import open_source


def test_one_frame_is_none() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * 20
    assert Smoother(1)(values) is values and Smoother(1).delay == 0


def test_a_ramp_comes_later_by_what_it_says() -> None:
    smoother = Smoother(5)
    outputs = [float(smoother(np.float32([0.1 * step]))[0]) for step in range(60)]
    assert smoother.delay == 2.0
    assert outputs[-1] == pytest.approx(0.1 * (59 - smoother.delay), abs=1e-5)


def test_a_frame_that_flashes_makes_no_mask_and_what_is_not_finite_shows() -> None:
    smoother = Smoother(5)
    steady = np.float32([-2.0, 2.0])
    for _ in range(10):
        smoother(steady)
    # One frame counts a third: (-2 * 2 + 3) / 3 < 0; and however certain, no more than -8: (2 * 2 - 8) / 3 < 0.
    assert (smoother(np.float32([3.0, 2.0])) > 0).tolist() == [False, True]
    assert float(smoother(np.float32([-2.0, -1e9]))[1]) == pytest.approx((2 * 2.0 - 8.0) / 3)
    assert np.isnan(smoother(np.float32([np.nan, 0.0]))[0])


@pytest.mark.parametrize("frames", [0, -1, 101])
def test_what_is_no_length_is_refused(frames: int) -> None:
    with pytest.raises(UsageError, match=r"--smooth is .*; expected 1"):
        RunOptions(smooth=frames)


def test_a_run_is_calmer_and_without_it_the_same(tmp_path: Path) -> None:
    def masks(smooth: int) -> np.ndarray:
        found = []
        model = brightness_model(tmp_path / "m.onnx", size=(64, 64))
        with open_source("phantom:seed=1,frames=20,size=64x64") as source, open_session(model, "cpu") as session:
            run(source, session, (), RunOptions(smooth=smooth), lambda item: found.append(item.masks[0].copy()))
        return np.stack(found)

    plain, calm = masks(1), masks(7)

    def changes(values: np.ndarray) -> float:
        return float(np.count_nonzero(values[1:] != values[:-1]))

    assert changes(calm) < 0.7 * changes(plain)  # speckle comes and goes
