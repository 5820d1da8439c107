"""Videos of video files: any frame in any order, and masks by number."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.datasets.trees import mask_of, write_film, write_image
from vivim_runtime.datasets import recorded
from vivim_runtime.datasets.recorded import RecordedVideo
from vivim_runtime.errors import DataError

SIZE = (48, 64)
COUNT = 30


def video(folder: Path, count: int = COUNT, first: int = 0, form: str = "mp4") -> RecordedVideo:
    write_film(folder / "a.mp4", count, SIZE, form=form)
    for number in range(count):
        write_image(folder / "m" / f"mask_{number + first:03d}.png", mask_of(number, SIZE))
    return RecordedVideo.listed("a", folder / "a.mp4", folder / "m")


def brightness(opened: RecordedVideo, index: int) -> int:
    """The number that a frame was written with."""
    # A frame is uniform, 8 levels apart from the next one: coding and the conversion of colours cost less than 4.
    return round(float(opened.frame(index).mean()) / 8)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(range(COUNT), id="forwards"),
        pytest.param(range(COUNT - 1, -1, -1), id="backwards"),
        pytest.param([17, 3, 4, 29, 0, 12, 13, 11, 28, 28], id="at random"),
        pytest.param([29], id="the last alone"),
    ],
)
@pytest.mark.parametrize("form", ["mp4", "matroska", "h264"])
def test_frames_are_read_in_any_order(tmp_path: Path, order: list[int], form: str) -> None:
    """Bare H.264 tells no times: its frames can only be counted."""
    opened = video(tmp_path, form=form)
    assert len(opened) == COUNT
    assert [brightness(opened, index) for index in order] == list(order)


def test_a_frame_far_ahead_is_reached_without_what_lies_between(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", 31, SIZE, gap=10)
    opened = RecordedVideo.listed("a", tmp_path / "a.mp4", tmp_path / "m")
    reader = recorded._reader(os.getpid(), tmp_path / "a.mp4")
    decoded: list[int] = []
    number_of = reader._number_of
    reader._number_of = lambda picture: decoded.append(0) or number_of(picture)  # type: ignore[method-assign]
    assert brightness(opened, 25) == 25
    assert len(decoded) <= 6  # from the key frame 20 on


def test_a_jump_that_goes_too_far_is_made_up_for(tmp_path: Path) -> None:
    """Some files have no index that leads before a frame."""
    write_film(tmp_path / "a.mp4", 31, SIZE, gap=10)
    reader = recorded._reader(os.getpid(), tmp_path / "a.mp4")
    jump = reader._jump
    reader._jump = lambda index: jump(20 if index else 0)  # type: ignore[method-assign]
    assert brightness(RecordedVideo.listed("a", tmp_path / "a.mp4", tmp_path / "m"), 12) == 12


def test_masks_are_matched_by_number_from_0(tmp_path: Path) -> None:
    opened = video(tmp_path, 6)
    assert np.array_equal(opened.read(5)[1], mask_of(5, SIZE) == 255) and opened.strays == opened.notes == ()
    (tmp_path / "m" / "mask_003.png").unlink()
    opened = RecordedVideo.listed("a", tmp_path / "a.mp4", tmp_path / "m")
    assert [opened.mask(index) is None for index in range(6)] == [False, False, False, True, False, False]
    with pytest.raises(DataError, match="a, frame 3 has no mask"):
        opened.read(3)


def test_masks_that_are_numbered_from_1_are_recognised(tmp_path: Path) -> None:
    opened = video(tmp_path, 6, first=1)
    assert np.array_equal(opened.read(5)[1], mask_of(5, SIZE) == 255)
    assert opened.strays == () and opened.notes == ("masks of a are numbered from 1",)


def test_masks_of_no_frame_are_strays(tmp_path: Path) -> None:
    video(tmp_path, 4)
    for name in ("mask_4.png", "mask.png", "b_1.png"):  # behind the end, without number, and a second one of frame 1
        write_image(tmp_path / "m" / name, mask_of(1, SIZE))
    opened = RecordedVideo.listed("a", tmp_path / "a.mp4", tmp_path / "m")
    assert opened.strays == ("a/b_1.png", "a/mask.png", "a/mask_001.png", "a/mask_4.png")
    assert opened.mask(1) is None


@pytest.mark.parametrize("content", [b"", b"no video" * 100])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mp4 is no video that FFmpeg can read .*; is it complete\?"):
        len(RecordedVideo.listed("a", tmp_path / "a.mp4", tmp_path / "m"))


def test_a_video_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    opened = video(tmp_path, 20, form="matroska")
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: len(whole) * 9 // 10])
    short = RecordedVideo.listed("b", tmp_path / "b.mp4", tmp_path / "m")
    assert 0 < len(short) < len(opened) == 20
    assert short.strays  # so the check shows that frames are missing


def test_a_frame_behind_the_end_is_an_index_error(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        video(tmp_path, 4).frame(4)
