"""Videos known again, and what weights know of a data set."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.runtime.datasets.trees import frame_of, mask_of, write_film, write_image, write_video_folders
from tests.runtime.models import brightness_model
from vivim_runtime.datasets import Dataset, Part, open_dataset, refuse_trained, training_data
from vivim_runtime.datasets.as_source import videos_of
from vivim_runtime.datasets.fingerprints import trained_videos, video_print
from vivim_runtime.errors import DataError, ModelError
from vivim_runtime.judging.parity import compare
from vivim_runtime.provenance import TrainingData, data_from_json, data_to_json, joined
from vivim_runtime.sessions import open_session

SEED = 3


def write_plain(root: Path, videos: int, frames: int = 2) -> Path:
    """Videos `v00`, `v01`, ... in the plain layout, which has no splits; no two of them share a frame."""
    for number in range(videos):
        name = f"v{number:02d}"
        write_video_folders(root / "images" / name, root / "masks" / name, frames, first=1 + 50 * number)
    return root


def record_of(root: Path, seed: int = SEED) -> TrainingData:
    """What training with a seed says of a data set."""
    opened = {split: open_dataset(str(root), split, seed=seed) for split in ("train", "validation", "test")}
    return training_data(root.name, opened["train"].origin, {split: d.videos for split, d in opened.items()})


def names(dataset: Dataset) -> list[str]:
    return [video.name for video in dataset.videos]


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingData]:
    """Twenty videos without splits, and the record of a training with seed 3."""
    root = write_plain(tmp_path_factory.mktemp("twenty") / "cases", 20)
    return root, record_of(root)


def test_no_test_video_of_a_drawn_split_was_trained_on(twenty: tuple[Path, TrainingData]) -> None:
    root, record = twenty
    drawn_anew = open_dataset(str(root), "test")
    assert trained_videos(drawn_anew, (record,))  # what evaluation did before: a draw of its own, with seed 0
    kept = open_dataset(str(root), "test", trained=(record,))
    assert len(kept.videos) == 4 and trained_videos(kept, (record,)) == []
    assert names(kept) == [video.label for video in record.splits["test"]]
    assert kept.notes == ("the split test is that of the training (drawn with seed 3)",)


def test_all_three_splits_are_those_of_the_training(twenty: tuple[Path, TrainingData]) -> None:
    root, record = twenty
    splits = [names(open_dataset(str(root), split, trained=(record,))) for split in ("train", "val", "test")]
    assert splits == [[v.label for v in record.splits[s]] for s in ("train", "validation", "test")]
    assert sorted(name for split in splits for name in split) == [f"v{number:02d}" for number in range(20)]


def test_the_split_file_of_a_training_gives_its_splits(twenty: tuple[Path, TrainingData], tmp_path: Path) -> None:
    root, record = twenty
    (tmp_path / "split.json").write_text(record.split_file())
    for split, videos in record.splits.items():
        assert names(open_dataset(str(root), split, split_file=tmp_path / "split.json")) == [v.label for v in videos]


def test_videos_that_were_trained_on_are_refused(twenty: tuple[Path, TrainingData]) -> None:
    root, record = twenty
    with pytest.raises(DataError, match=r"^m\.onnx was trained on 14 of the 20 videos of cases .*--allow-trained$"):
        refuse_trained(open_dataset(str(root)), (record,), "m.onnx", is_allowed=False)
    (note,) = refuse_trained(open_dataset(str(root)), (record,), "m.onnx", is_allowed=True)
    assert "trained on 14 of the 20 videos" in note and "(--allow-trained)" in note
    assert refuse_trained(open_dataset(str(root), "test", trained=(record,)), (record,), "m.onnx", False) == ()


def test_copies_under_other_names_are_known(twenty: tuple[Path, TrainingData], tmp_path: Path) -> None:
    root, record = twenty
    learnt = record.splits["train"][0].name
    for kind in ("images", "masks"):
        shutil.copytree(root / kind / learnt, tmp_path / "hospital" / kind / "case-a")
    write_video_folders(tmp_path / "hospital/images/case-b", tmp_path / "hospital/masks/case-b", 2, first=2000)
    assert trained_videos(open_dataset(str(tmp_path / "hospital")), (record,)) == ["case-a"]


def test_videos_of_another_data_set_with_the_same_names_are_none_of_the_training(
    twenty: tuple[Path, TrainingData], tmp_path: Path
) -> None:
    _, record = twenty
    learnt = record.splits["train"][0].name
    other = tmp_path / "other"
    write_video_folders(other / "images" / learnt, other / "masks" / learnt, 2, first=3000)
    assert trained_videos(open_dataset(str(other)), (record,)) == []


def test_a_video_whose_mask_was_mended_is_still_known(twenty: tuple[Path, TrainingData], tmp_path: Path) -> None:
    root, record = twenty
    shutil.copytree(root, tmp_path / "cases")
    learnt = record.splits["train"][0].name
    for number, pixels in enumerate((frame_of(4000), frame_of(4001)), 1):  # not even its frames are the same
        for path in sorted((tmp_path / "cases/images" / learnt).iterdir())[number - 1 : number]:
            write_image(path, pixels)
    assert learnt in trained_videos(open_dataset(str(tmp_path / "cases")), (record,))


def test_a_changed_data_set_is_noticed(twenty: tuple[Path, TrainingData], tmp_path: Path) -> None:
    root, record = twenty
    copy = tmp_path / "cases"
    shutil.copytree(root, copy)
    first, second, third = (video.name for video in record.splits["train"][:3])
    shutil.rmtree(copy / "images" / first)
    shutil.rmtree(copy / "masks" / first)
    write_image(next((copy / "images" / second).iterdir()), frame_of(5000))
    write_image(next((copy / "masks" / third).iterdir()), np.flipud(mask_of(3)))
    write_video_folders(copy / "images/v99", copy / "masks/v99", 2, first=6000)
    notes = " | ".join(open_dataset(str(copy), "test", trained=(record,)).notes)
    for change in (
        f"{first} is gone",
        "v99 is new, and in no split",
        f"{second} is of other frames",
        f"{third} is of other masks",
    ):
        assert f"cases has changed since the training: {change}" in notes


def test_a_renamed_video_stays_in_its_split(twenty: tuple[Path, TrainingData], tmp_path: Path) -> None:
    root, record = twenty
    copy = tmp_path / "moved"
    shutil.copytree(root, copy)
    tested = record.splits["test"][0].name
    for kind in ("images", "masks"):
        (copy / kind / tested).rename(copy / kind / "renamed")
    kept = open_dataset(str(copy), "test", trained=(record,))
    assert "renamed" in names(kept) and len(kept.videos) == 4
    assert len(kept.notes) == 1  # nothing has changed but a name


def test_parts_of_a_video_are_known_by_their_frames(tmp_path: Path) -> None:
    root = write_plain(tmp_path / "one", 1, frames=10)
    (video,) = open_dataset(str(root)).videos
    record = training_data("one", "by hand", {"train": [Part(video, 0, 6)], "test": [Part(video, 6, 10)]})
    assert [v.label for videos in record.splits.values() for v in videos] == ["v00[0:6]", "v00[6:10]"]
    assert names(open_dataset(str(root), "test", trained=(record,))) == ["v00[6:10]"]
    whole = open_dataset(str(root))
    assert trained_videos(whole, (record,)) == ["v00"]
    assert trained_videos(replace(whole, videos=(Part(video, 5, 8),)), (record,)) == ["v00[5:8]"]
    assert trained_videos(replace(whole, videos=(Part(video, 6, 8),)), (record,)) == []


@pytest.mark.parametrize("change", [0, 30_000, -1], ids=["its start", "its middle", "its end"])
def test_a_film_is_known_by_its_bytes(tmp_path: Path, change: int) -> None:
    """Blocks of 16 KiB are sampled 64 times, which is all of a short film."""
    write_film(tmp_path / "films/images/a.mp4", 6)
    write_image(tmp_path / "films/masks/a/0000.png", mask_of(0, (48, 64)))
    film = tmp_path / "films/images/a.mp4"
    (video,) = open_dataset(str(tmp_path / "films")).videos
    before = video_print(video)
    data = bytearray(film.read_bytes().ljust(60_000, b"\0"))
    film.write_bytes(data)
    padded = video_print(video)
    data[change] ^= 1
    film.write_bytes(data)
    assert len({before.pictures, padded.pictures, video_print(video).pictures}) == 3
    assert before.masks == video_print(video).masks != ""


def test_phantoms_are_known_by_their_seeds() -> None:
    trained = (TrainingData("phantom", "by seeds", {}, phantoms=3),)

    def seen(name: str, split: str) -> list[str]:
        return trained_videos(open_dataset(name, split), trained)

    assert seen("phantom:clips=5,frames=1,size=32", "train") == ["train-0000", "train-0001", "train-0002"]
    assert seen("phantom:clips=5", "validation") == seen("phantom:clips=5", "test") == []


def test_what_is_written_of_the_training_data_is_read(twenty: tuple[Path, TrainingData]) -> None:
    entries = (replace(twenty[1], validation_dice=0.5), TrainingData("phantom", "by seeds", {}, 7))
    assert data_from_json(data_to_json(entries), "w") == entries


@pytest.mark.parametrize("text", ["", "{}x", "[1]", '[{"name": "a"}]', '[{"name": "a", "splits": {}, "colour": 1}]'])
def test_what_is_no_record_of_data_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"^w: the record of the training data cannot be read"):
        data_from_json(text, "w")


def test_what_earlier_weights_saw_stays_known() -> None:
    """Their Dice is that of other weights; the same phantoms count once, as often as most were seen."""
    phantoms = [TrainingData("phantom", "by seeds", {}, count) for count in (600, 9600)]
    other = TrainingData("VTUS", "of the data set", {}, validation_dice=0.8)
    assert joined(phantoms[:1], (phantoms[1], other)) == (phantoms[1], replace(other, validation_dice=None))


def test_masks_decide_nothing_about_which_video_it_is(tmp_path: Path) -> None:
    root = write_plain(tmp_path / "a", 1)
    (video,) = open_dataset(str(root)).videos
    before = video_print(video)
    path = next((root / "masks/v00").iterdir())
    assert cv2.imwrite(str(path), np.zeros((24, 32), np.uint8))
    after = video_print(video)
    assert (before.pictures, before.frames) == (after.pictures, after.frames) and before.masks != after.masks


def test_clips_to_calibrate_on_are_of_the_training_videos_and_those_to_compare_on_of_the_test_videos(
    twenty: tuple[Path, TrainingData],
) -> None:
    root, record = twenty
    for split in ("train", "test"):
        found = videos_of([str(root)], split, (record,))
        assert list(found) == [f"{root}, {video.label}" for video in record.splits[split]]
    assert len(videos_of([str(root)], "test")) == 20  # of weights that know nothing of these videos


def test_comparing_on_videos_that_a_side_was_trained_on_is_refused(
    twenty: tuple[Path, TrainingData], tmp_path: Path
) -> None:
    root, record = twenty
    size = (24, 32)
    everything = replace(record, splits={"train": sum(record.splits.values(), ())})
    knowing = brightness_model(tmp_path / "a.onnx", frames=2, size=size, training_data=data_to_json([record]))
    learnt = brightness_model(tmp_path / "b.onnx", frames=2, size=size, training_data=data_to_json([everything]))
    with open_session(knowing, "cpu") as a, open_session(learnt, "cpu") as b:
        assert sum(compare(a, a, [str(root)]).sources.values()) == 2 * len(record.splits["test"])
        with pytest.raises(DataError, match=r"trained on 20 of the 20 videos of cases .*--allow-trained"):
            compare(b, b, [str(root)])
        notes = compare(b, b, [str(root)], allow_trained=True).notes
        assert any("trained on 20 of the 20 videos" in note for note in notes)


def test_a_split_that_the_training_did_not_make_is_not_drawn(twenty: tuple[Path, TrainingData]) -> None:
    """Drawn from all videos it would hold some that were trained on."""
    root, record = twenty
    without = replace(record, splits={"train": record.splits["train"], "test": ()})
    with pytest.raises(DataError, match="set no videos apart for the split 'test'; give a split file"):
        open_dataset(str(root), "test", trained=(without,))
