from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.calibration.conftest import FRAMES, SIZE, clips_of
from vivim_calibration.clips import DrawOptions, check_disjoint, drawn_clips, whole_clips
from vivim_runtime.datasets.as_source import videos_of
from vivim_runtime.errors import DataError, SourceError, UsageError


def drawn(names: list[str], held_out: int = 4, **options: float) -> tuple:
    return drawn_clips(names, FRAMES, SIZE, DrawOptions(**options), held_out)  # type: ignore[arg-type]


def frames_in(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), generator.integers(0, 255, (40, 50, 3), np.uint8))
    return folder


@pytest.mark.parametrize("names", [[clips_of(1, 8)], [clips_of(1, 4), clips_of(2, 4)], [clips_of(s) for s in range(6)]])
def test_clips_to_judge_on_are_never_clips_to_calibrate_with(names: list[str]) -> None:
    for seed in range(5):
        calibration, judged = drawn(names, seed=seed)
        assert len(calibration) and len(judged)
        assert not {clip.digest for clip in calibration} & {clip.digest for clip in judged}


def test_whole_sources_are_held_out_where_there_are_four() -> None:
    calibration, judged = drawn([clips_of(seed, 3) for seed in range(4)])
    assert not set(calibration.sources) & set(judged.sources)
    assert (len(calibration.sources), len(judged.sources)) == (3, 1)


def test_the_same_seed_draws_the_same_clips() -> None:
    names = [clips_of(1, 12), clips_of(2, 12)]
    first, again, other = (drawn(names, seed=seed, max_clips=5)[0].chosen for seed in (3, 3, 4))
    assert first == again != other


def test_the_draw_is_even_over_sources_however_long_they_are() -> None:
    calibration, _ = drawn([clips_of(1, 40), clips_of(2, 4)], max_clips=6)
    taken = [sum(name == source for name, _ in calibration.chosen) for source in calibration.sources]
    assert taken == [3, 3]


def test_a_fraction_is_of_every_source() -> None:
    calibration, _ = drawn([clips_of(1, 16), clips_of(2, 8)], fraction=0.25)  # of 12 and 6 clips not held out
    taken = [sum(name == source for name, _ in calibration.chosen) for source in calibration.sources]
    assert taken == [3, 2]


def test_clips_know_the_truth_of_phantoms() -> None:
    (clip,) = whole_clips([clips_of(1)], FRAMES, SIZE)
    assert clip.pixels.shape == (FRAMES, *SIZE, 3) and clip.truth is not None and clip.truth.shape == (FRAMES, *SIZE)


def test_a_folder_of_videos_is_several_sources(tmp_path: Path) -> None:
    for name in ("a", "b"):
        frames_in(tmp_path / "set" / name, 4)
    (tmp_path / "set" / "README.txt").write_text("not a video")
    assert list(videos_of([str(tmp_path / "set")], "train")) == [str(tmp_path / "set" / name) for name in ("a", "b")]


def vtus_in(root: Path, cases: dict[str, tuple[str, int]]) -> Path:
    """A data set of the layout of VTUS: split and frames of every case, each with a mask."""
    for seed, (case, (split, count)) in enumerate(cases.items()):
        frames_in(root / split / case, count, seed)
        masks = root / f"{split}_GT" / case
        masks.mkdir(parents=True)
        for index in range(count):
            mask = np.zeros((40, 50), np.uint8)
            mask[10:30, 10:30] = 255
            cv2.imwrite(str(masks / f"{index}.png"), mask)
    return root


def test_a_data_set_gives_its_training_videos_to_learn_from_and_its_test_videos_to_judge_on(tmp_path: Path) -> None:
    root = vtus_in(tmp_path / "set", {"a": ("Train", 4), "b": ("Train", 3), "c": ("Test", 3)})
    learnt, _ = drawn([str(root)], held_out=0)
    judged = whole_clips([str(root)], FRAMES, SIZE)
    assert [name.rpartition(", ")[2] for name in (*learnt.sources, *judged.sources)] == ["a", "b", "c"]
    assert not {clip.digest for clip in learnt} & {clip.digest for clip in judged}


def test_masks_of_a_data_set_are_truth_and_never_frames(tmp_path: Path) -> None:
    root = vtus_in(tmp_path / "set", {"a": ("Train", 3)})
    (clip,) = drawn([str(root)], held_out=0)[0]
    # A square of 20 x 20 in 40 x 50 pixels; at the model's size its share is kept to a row or column of pixels.
    assert clip.truth is not None and clip.truth.mean() == pytest.approx(0.2, abs=0.01)
    assert len(np.unique(clip.pixels)) > 100


def test_phantoms_are_a_data_set_too() -> None:
    name = f"phantom:clips=2,frames={FRAMES},size=64"
    learnt, _ = drawn([name], held_out=0)
    judged = whole_clips([name], FRAMES, SIZE)
    assert len(learnt) == len(judged) == 2
    assert not {clip.digest for clip in learnt} & {clip.digest for clip in judged}


def test_a_folder_of_dicom_files_needs_no_masks(tmp_path: Path) -> None:
    examples = pytest.importorskip("pydicom.examples", reason="pydicom is not installed")
    shutil.copy(examples.get_path("ybr_color"), tmp_path / "cine.dcm")
    clips = whole_clips([str(tmp_path)], FRAMES, SIZE, most=1)
    (clip,) = clips
    assert clips.sources == (str(tmp_path / "cine.dcm"),) and clip.truth is None


def test_a_source_that_is_too_short_is_left_out_with_a_note(tmp_path: Path) -> None:
    short, long = frames_in(tmp_path / "short", FRAMES - 1), frames_in(tmp_path / "long", FRAMES, 1)
    found = whole_clips([str(short), str(long)], FRAMES, SIZE)
    assert found.sources == (str(long),) and str(short) in found.notes[0]


def test_sources_that_are_all_too_short_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"has 1 frames, fewer than the {FRAMES} of a clip"):
        whole_clips([str(frames_in(tmp_path / "short", 1))], FRAMES, SIZE)


def test_one_clip_cannot_both_calibrate_and_judge() -> None:
    with pytest.raises(DataError, match="--eval-data"):
        drawn([clips_of(1)])


def test_the_same_pixels_under_another_name_are_found(tmp_path: Path) -> None:
    one, copy = frames_in(tmp_path / "one", FRAMES), frames_in(tmp_path / "copy", FRAMES)
    digests = [clip.digest for clip in whole_clips([str(one)], FRAMES, SIZE)]
    with pytest.raises(DataError, match="also among the calibration clips"):
        check_disjoint(digests, whole_clips([str(copy)], FRAMES, SIZE))
    check_disjoint(digests, whole_clips([clips_of(9)], FRAMES, SIZE))


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("nowhere.mp4", SourceError, "there is no file"),
        ("rtsp://camera", UsageError, "is live"),
        ("{tmp}/empty", DataError, "holds no image"),
        ("{tmp}/broken.mp4", SourceError, "broken.mp4"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, name: str, error: type, text: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(error, match=text) as caught:
        whole_clips([name.format(tmp=tmp_path)], FRAMES, SIZE)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"fraction": 0.0}, {"fraction": 1.5}, {"max_clips": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        DrawOptions(**options)  # type: ignore[arg-type]
