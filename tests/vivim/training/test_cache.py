"""Frames that are kept: the same pixels, decoded once, within the limits, by other processes too."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.datasets.trees import write_vtus
from vivim.training.batches import DatasetClips
from vivim.training.cache import CacheOptions
from vivim_runtime.datasets import open_dataset, read_clip

SIZE = (16, 24)
A_FRAME = 16 * 24 * 3 + 16 * 24 // 8  # a picture, and a mask of a bit a pixel


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_vtus(tmp_path / "data", {"a": 7, "b": 5})


def clips_of(data: Path, options: CacheOptions) -> DatasetClips:
    return DatasetClips(open_dataset(str(data), "train"), 3, SIZE, cache=options)


@pytest.mark.parametrize("kept", [0, 4, 100])
def test_clips_are_those_that_are_read_without_a_cache(data: Path, kept: int) -> None:
    clips = clips_of(data, CacheOptions(memory=kept * A_FRAME))
    for _ in range(2):
        for index in range(len(clips)):
            number, indices = clips._clips[index]
            expected = read_clip(clips.dataset.videos[number], indices, clips.framing)
            found = clips.clip(index, 0)
            assert np.array_equal(found.pixels, expected.pixels) and np.array_equal(found.masks, expected.masks)
            assert (found.source, found.start) == (expected.source, expected.start)


def test_a_frame_is_decoded_once_where_all_fit_and_each_time_where_none_does(data: Path) -> None:
    for memory, decoded in ((100 * A_FRAME, 12), (0, 3 * 8 * 2)):
        clips = clips_of(data, CacheOptions(memory=memory))
        assert len(clips) == 5 + 3
        for index in [*range(8), *range(8)]:
            clips.clip(index, 0)
        assert clips.cache.decoded == decoded


def test_memory_stays_under_its_limit_and_what_was_used_last_stays(data: Path) -> None:
    clips = clips_of(data, CacheOptions(memory=4 * A_FRAME))
    for index in range(5):
        clips.clip(index, 0)
        assert sum(p.nbytes + m.nbytes for p, m in clips.cache._kept.values()) <= 4 * A_FRAME
    assert clips.cache.decoded == 7  # one after the other, each clip brings one new frame
    clips.clip(4, 0)
    assert clips.cache.decoded == 7


def test_a_folder_serves_other_processes_and_stays_under_its_limit(data: Path, tmp_path: Path) -> None:
    options = CacheOptions(0, tmp_path / "kept", disk=4 * A_FRAME)
    clips = clips_of(data, options)
    for index in range(8):
        clips.clip(index, 0)
    files = list((tmp_path / "kept").rglob("*.npz"))
    assert len(files) == 4
    other = pickle.loads(pickle.dumps(clips))
    assert other.cache.options == options and other.cache.decoded == 0
    assert np.array_equal(other.clip(0, 0).pixels, clips.clip(0, 0).pixels)
    assert other.cache.decoded == 0  # three of the four files

    files[0].write_bytes(b"cut off")
    again = pickle.loads(pickle.dumps(clips))
    assert np.array_equal(again.clip(0, 0).pixels, other.clip(0, 0).pixels)


def test_another_size_and_other_files_have_frames_of_their_own(data: Path, tmp_path: Path) -> None:
    options = CacheOptions(0, tmp_path / "kept", disk=10**6)
    clips_of(data, options).clip(0, 0)
    dataset = open_dataset(str(data), "train")
    assert DatasetClips(dataset, 3, (32, 32), cache=options).clip(0, 0).pixels.shape == (3, 32, 32, 3)
    write_vtus(data, {"a": 7})
    (data / "Train" / "a" / "0001.png").write_bytes((data / "Train" / "b" / "0005.png").read_bytes())
    changed = clips_of(data, options)
    changed.clip(0, 0)
    assert changed.cache.decoded == 3
