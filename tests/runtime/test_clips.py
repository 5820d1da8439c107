"""Which frames are inferred together, and whose masks are used."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vivim_runtime.clips import Show, Window, logits_at, resized, threshold_logit, windows
from vivim_runtime.errors import UsageError
from vivim_runtime.sources import Frame


def stream(count: int) -> list[Frame]:
    return [Frame(i, i / 25, np.zeros((1, 1, 3), np.uint8)) for i in range(count)]


def served(window: Window) -> list[int]:
    return [frame.index for frame in window.frames[window.used]]


@pytest.mark.parametrize("show", ["newest", "centre"])
@pytest.mark.parametrize("hop", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 4, 5, 6, 7, 10, 11, 23])
def test_every_frame_is_served_once_and_in_order(count: int, hop: int, show: Show) -> None:
    cut = list(windows(stream(count), 5, hop, show))
    assert [index for window in cut for index in served(window)] == list(range(count))
    for window in cut:
        first = window.frames[0].index
        assert [f.index for f in window.frames] == [min(first + i, count - 1) for i in range(5)]
        assert window.padded == max(0, 5 - count)
    assert [window.number for window in cut] == list(range(len(cut)))


def test_newest_takes_masks_from_the_end_of_overlapping_clips() -> None:
    cut = list(windows(stream(9), 5, 2, "newest"))
    assert [[f.index for f in w.frames] for w in cut] == [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [4, 5, 6, 7, 8]]
    assert [served(w) for w in cut] == [[0, 1, 2, 3, 4], [5, 6], [7, 8]]


def test_centre_takes_masks_that_have_seen_both_sides() -> None:
    cut = list(windows(stream(9), 5, 1, "centre"))
    assert [served(w) for w in cut] == [[0, 1, 2], [3], [4], [5], [6, 7, 8]]


def test_the_last_window_is_full_and_ends_with_the_video() -> None:
    last = list(windows(stream(7), 5, 5, "newest"))[-1]
    assert [f.index for f in last.frames] == [2, 3, 4, 5, 6]
    assert served(last) == [5, 6]


def test_no_frames_make_no_window() -> None:
    assert list(windows([], 5, 5, "newest")) == []


@pytest.mark.parametrize("hop", [0, 6])
def test_hops_that_would_leave_frames_out_are_refused(hop: int) -> None:
    with pytest.raises(UsageError, match="expected 1 to 5"):
        list(windows(stream(9), 5, hop, "newest"))


def test_frames_are_resized_by_area_when_they_shrink() -> None:
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[1::2] = 255
    assert set(np.unique(resized(stripes, (4, 4)))) == {128}
    assert resized(stripes, stripes.shape[:2]) is stripes


def test_logits_are_upsampled_as_the_network_does() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 7, 9)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], (20, 31), mode="bilinear")[0].numpy()
    # OpenCV rounds the weights of each axis to float32: a few ulp of values near 3.
    assert np.abs(logits_at(logits, (20, 31)) - expected).max() <= 5e-6


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.9])
def test_threshold_is_a_probability(threshold: float) -> None:
    assert 1 / (1 + np.exp(-threshold_logit(threshold))) == pytest.approx(threshold, rel=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, float("nan")])
def test_thresholds_that_are_no_probability_are_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        threshold_logit(threshold)
