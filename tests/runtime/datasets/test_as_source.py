"""Annotated videos read like any other source, by what compares and calibrates models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.runtime.datasets.trees import write_image
from vivim_runtime.datasets import open_dataset
from vivim_runtime.datasets.as_source import VideoSource, videos_of
from vivim_runtime.errors import DataError

SIZE = (24, 32)


def partly_annotated(root: Path, annotated: set[int]) -> Path:
    """A plain data set: one video of 4 frames, of which some have a mask that is as many rows high as their number."""
    for index in range(4):
        write_image(root / "images" / "v" / f"{index}.png", np.full((*SIZE, 3), 40 * index, np.uint8))
        if index in annotated:
            mask = np.zeros(SIZE, np.uint8)
            mask[:index] = 255
            write_image(root / "masks" / "v" / f"{index}.png", mask)
    return root


def test_frames_without_a_mask_come_without_a_truth_and_the_others_with_their_own(tmp_path: Path) -> None:
    root = partly_annotated(tmp_path, {2, 3})  # not the first one, by which the video must not be judged
    ((name, opened),) = videos_of([str(root)], "test").items()
    with opened() as source:
        frames = list(source)
    assert source.name == name and name.endswith(", v")
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 40, 80, 120]
    assert [None if f.truth is None else int(f.truth[:, 0].sum()) for f in frames] == [None, None, 2, 3]


def test_who_needs_every_mask_is_told_which_one_is_missing(tmp_path: Path) -> None:
    (video,) = open_dataset(str(partly_annotated(tmp_path, {1, 3}))).videos
    with pytest.raises(DataError, match=r"v/0\.png has no mask"):
        list(VideoSource(video))
    assert len(list(VideoSource(video, read=video.read_known))) == len(VideoSource(video)) == 4
