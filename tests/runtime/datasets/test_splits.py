"""Split files, random splits, and what is held out: no frame in two of them."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.datasets.trees import frame_of, write_video_folders, write_vtus
from vivim_runtime.datasets import Dataset, held_out, open_dataset, random_split
from vivim_runtime.errors import DataError, UsageError


def names(dataset: Dataset) -> list[str]:
    return [video.name for video in dataset.videos]


def data(folder: Path, videos: int = 3, frames: int = 9) -> str:
    for number in range(1, videos + 1):
        write_video_folders(folder / f"{number:04d}" / "images", folder / f"{number:04d}" / "masks", frames)
    return str(folder)


def split_file(folder: Path, content: str | dict[str, list[str]]) -> Path:
    path = folder / "splits.txt"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


TEXT = "# by patient\ntrain:\n0001\n0002[:4]   # the first part\n\ntest:\n0002[4:]\n"
JSON = {"train": ["0001", "0002[:4]"], "test": ["0002[4:]"]}


@pytest.mark.parametrize("content", [TEXT, JSON], ids=["text", "JSON"])
def test_a_split_file_names_videos_and_parts_of_videos(tmp_path: Path, content: str | dict[str, list[str]]) -> None:
    root, path = data(tmp_path / "data"), split_file(tmp_path, content)
    assert names(open_dataset(root, "train", split_file=path)) == ["0001", "0002[0:4]"]
    test = open_dataset(root, "test", split_file=path)
    assert names(test) == ["0002[4:9]"] and len(test) == 5
    assert np.array_equal(test.videos[0].read(0)[0], frame_of(5))  # frame 4 is the fifth
    assert names(open_dataset(root, split_file=path)) == ["0001", "0002[0:4]", "0002[4:9]"]


def test_a_split_file_overrides_the_splits_of_the_layout(tmp_path: Path) -> None:
    write_vtus(tmp_path / "data", {"0001": 2, "0002": 2}, {"0003": 2})
    path = split_file(tmp_path, {"train": ["0003"], "validation": ["0001"]})
    assert names(open_dataset(str(tmp_path / "data"), "train", split_file=path)) == ["0003"]
    assert names(open_dataset(str(tmp_path / "data"), "val", split_file=path)) == ["0001"]


def test_names_and_frames_that_do_not_exist_are_all_listed(tmp_path: Path) -> None:
    path = split_file(
        tmp_path, {"train": ["0001", "x"], "test": ["y[:3]", "0002[5:10]", "0002[4:4]", f"0002[{'9' * 5000}:]", "0003"]}
    )
    with pytest.raises(DataError) as caught:
        open_dataset(data(tmp_path / "data"), "train", split_file=path)
    message = str(caught.value)
    assert "x (train) is no video; y[:3] (test) is no video; " in message
    assert "0002[5:10] (test) means frames 5 to 10 of a video of 9" in message
    assert "0002[4:4] (test) means frames 4 to 4 of" in message
    assert "9999:] (test) is no video" in message
    assert "0001 (" not in message and "0003 (" not in message
    assert message.endswith("the data set's videos are 0001, 0002, 0003")


@pytest.mark.parametrize(
    ("content", "shared"),
    [
        ({"train": ["0001"], "test": ["0001"]}, "0001 (train) and 0001 (test)"),
        ({"train": ["0001[:5]"], "test": ["0001[4:]"]}, "0001[:5] (train) and 0001[4:] (test)"),
        ({"train": ["0001", "0001[3:4]"]}, "0001 (train) and 0001[3:4] (train)"),
    ],
)
def test_entries_that_share_frames_are_refused(tmp_path: Path, content: dict[str, list[str]], shared: str) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(data(tmp_path / "data"), "train", split_file=split_file(tmp_path, content))
    assert f"{shared} share frames" in str(caught.value)


def test_all_entries_that_share_frames_are_listed(tmp_path: Path) -> None:
    path = split_file(tmp_path, {"train": ["0001", "0002"], "test": ["0002", "0001"]})
    with pytest.raises(DataError, match=r"0001 \(train\) and 0001 \(test\).*; 0002 \(train\) and 0002 \(test\)"):
        open_dataset(data(tmp_path / "data"), "train", split_file=path)


def test_parts_that_meet_share_nothing(tmp_path: Path) -> None:
    path = split_file(tmp_path, {"train": ["0001[:4]", "0001[6:]"], "test": ["0001[4:6]"]})
    assert len(open_dataset(data(tmp_path / "data"), "train", split_file=path)) == 7


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"train": "0001"}', r"is of another form; expected \{"),
        ('["0001"]', "is of another form"),
        ('{"train": [1]}', "is of another form"),
        ('{"train": ["0001"], "train": ["0002"]}', "has 'train' twice"),
        ('{"train": [', "is no JSON"),
        ("0001\n", "line 1 of the split file .* belongs to no split; expected `train:` before it"),
        ("train:\n", "names no videos"),
        ("", "names no videos"),
    ],
)
def test_split_files_of_another_form_are_refused(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        open_dataset(data(tmp_path / "data", 1), "train", split_file=split_file(tmp_path, content))


def test_a_split_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the split file .*: No such file"):
        open_dataset(data(tmp_path / "data", 1), "train", split_file=tmp_path / "none.json")


def test_a_split_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    path = split_file(tmp_path, {"fold1": ["0001"], "fold2": []})
    root = data(tmp_path / "data", 1)
    with pytest.raises(DataError, match=r"the split file .* has no split 'train'; it has fold1, fold2: name one"):
        open_dataset(root, "train", split_file=path)
    with pytest.raises(DataError, match="the split 'fold2' of .* holds no videos"):
        open_dataset(root, "fold2", split_file=path)


def test_videos_without_splits_are_drawn_by_the_seed(tmp_path: Path) -> None:
    root = data(tmp_path, 20, 1)
    parts = {split: names(open_dataset(root, split)) for split in ("train", "validation", "test")}
    assert {split: len(found) for split, found in parts.items()} == {"train": 14, "validation": 2, "test": 4}
    assert sorted(name for found in parts.values() for name in found) == names(open_dataset(root))
    assert all(found == sorted(found) for found in parts.values())
    assert names(open_dataset(root, "train")) == parts["train"] != names(open_dataset(root, "train", seed=1))
    assert "has no splits; whole videos were drawn with seed 0 (70% train, 10% validation, 20% test)" in str(
        open_dataset(root, "train").notes
    )


def test_a_draw_does_not_depend_on_the_order_of_the_videos(tmp_path: Path) -> None:
    videos = open_dataset(data(tmp_path, 6, 1)).videos
    forward, backward = random_split(videos), random_split(videos[::-1])
    assert {s: {v.name for v in found} for s, found in forward.items()} == {
        s: {v.name for v in found} for s, found in backward.items()
    }


@pytest.mark.parametrize("count", [3, 4, 5, 7, 10])
def test_every_split_gets_a_video_and_none_two(tmp_path: Path, count: int) -> None:
    parts = random_split(open_dataset(data(tmp_path, count, 1)).videos)
    assert all(parts.values()) and sum(map(len, parts.values())) == count
    for one, other in combinations(parts.values(), 2):
        assert not {v.name for v in one} & {v.name for v in other}


def test_too_few_videos_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 videos cannot be drawn into train, validation, test; give a split file"):
        open_dataset(data(tmp_path, 2, 1), "train")


def test_a_share_of_the_videos_is_held_out(tmp_path: Path) -> None:
    write_vtus(tmp_path, {f"{number:04d}": 1 for number in range(10)})
    train, validation = held_out(open_dataset(str(tmp_path), "train"), 0.2)
    assert len(train.videos) == 8 and len(validation.videos) == 2
    assert (train.split, validation.split, train.name) == ("train", "validation", "VTUS")
    assert not set(names(train)) & set(names(validation))
    assert names(held_out(open_dataset(str(tmp_path), "train"), 0.2)[1]) == names(validation)
    assert names(held_out(open_dataset(str(tmp_path), "train"), 0.2, seed=5)[1]) != names(validation)


def test_of_a_single_video_the_end_is_held_out(tmp_path: Path) -> None:
    train, validation = held_out(open_dataset(data(tmp_path, 1, 9)), 0.3)
    assert names(train) == ["0001[0:6]"] and names(validation) == ["0001[6:9]"]
    assert names(held_out(open_dataset(str(tmp_path)), 0.01)[1]) == ["0001[8:9]"]


def test_nothing_can_be_held_out_of_one_frame(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing can be held out of 0001, which has 1 frames"):
        held_out(open_dataset(data(tmp_path, 1, 1)), 0.5)


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_nothing_or_everything_cannot_be_held_out(tmp_path: Path, share: float) -> None:
    with pytest.raises(UsageError, match="cannot be held out"):
        held_out(open_dataset(data(tmp_path, 1)), share)
