"""Which frames are inferred together, and whose masks are used."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from vivim_calibration.clips import whole_clips
from vivim_runtime.clips import (
    Clip,
    Show,
    Window,
    cut_clips,
    threshold_logit,
    windows,
)
from vivim_runtime.datasets import open_dataset, read_clip
from vivim_runtime.datasets.as_source import videos_of
from vivim_runtime.errors import DataError, UsageError
from vivim_runtime.framing import Framing, logits_at, mask_at, resized
from vivim_runtime.sources import Frame

SMALL = Framing.stretched((8, 8))


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


class Film:
    """A source of frames whose grey value is their number; some know their truth, which is their number of rows."""

    name, size, fps, frame_count, notes = "film", (8, 8), 25.0, None, []

    def __init__(self, count: int, annotated: set[int]) -> None:
        self.count, self.annotated, self.read = count, annotated, 0

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.count):
            self.read += 1
            truth = np.arange(8)[:, None].repeat(8, axis=1) < index if index in self.annotated else None
            yield Frame(index, index / 25, np.full((8, 8, 3), index, np.uint8), truth)


def test_a_source_is_cut_into_whole_clips_and_the_rest_is_dropped() -> None:
    cut = list(cut_clips(Film(8, set()), 3, SMALL))  # type: ignore[arg-type]
    assert [clip.pixels[:, 0, 0, 0].tolist() for clip in cut] == [[0, 1, 2], [3, 4, 5]]
    assert [(clip.source, clip.start, clip.truth) for clip in cut] == [("film", 0, None), ("film", 3, None)]


def test_only_wanted_clips_are_given_and_nothing_is_read_behind_the_last() -> None:
    film = Film(30, set())
    assert [clip.start for clip in cut_clips(film, 3, SMALL, {1, 3})] == [3, 9]  # type: ignore[arg-type]
    assert film.read == 12
    assert list(cut_clips(film, 3, SMALL, set())) == []  # type: ignore[arg-type]


def test_every_frame_of_a_partly_annotated_clip_has_its_own_truth_or_none() -> None:
    first, second = cut_clips(Film(8, {1, 3, 4, 5, 6, 7}), 4, SMALL)  # type: ignore[arg-type]
    truths = [first.true_mask(index) for index in range(4)]
    assert [None if truth is None else int(truth[:, 0].sum()) for truth in truths] == [None, 1, None, 3]
    with pytest.raises(DataError, match="frames 0 to 3 of film have not all a true mask"):
        _ = first.masks
    assert second.masks[:, :, 0].sum(axis=1).tolist() == [4, 5, 6, 7]


def test_a_clip_without_truth_says_so_where_masks_are_needed() -> None:
    with pytest.raises(DataError, match="expected one for every frame"):
        _ = Clip(np.zeros((2, 8, 8, 3), np.uint8)).masks


def test_a_true_mask_is_set_where_at_least_half_of_a_pixel_was() -> None:
    mask = np.zeros((4, 8), bool)
    mask[0, 0] = mask[0:2, 2] = mask[0:2, 4] = mask[0, 5] = True  # 1, 2, 3 and 0 of the 4 pixels of each block
    assert mask_at(mask, (2, 4)).tolist() == [[False, True, True, False], [False] * 4]
    assert mask_at(mask, (4, 8)) is mask


def test_true_masks_come_to_a_size_alike_in_training_evaluation_check_and_calibration() -> None:
    name, size = "phantom:clips=2,frames=5,size=200", (48, 64)
    _, video = open_dataset(name, "test").videos  # the first one has no lesion
    trained = read_clip(video, range(5), Framing.stretched(size)).masks
    assert 0.01 < trained.mean() < 0.5
    _, opened = videos_of([name], "test").values()
    with opened() as source:
        (compared,) = cut_clips(source, 5, Framing.stretched(size))
    assert np.array_equal(compared.masks, trained)
    _, calibrated = whole_clips([name], 5, size)
    assert np.array_equal(calibrated.masks, trained)
    nearest = cv2.resize(video.read(0)[1].astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0
    assert not np.array_equal(nearest, trained[0])
