"""Clips, masks, and videos of two folders."""

from __future__ import annotations

import pickle
import re
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.runtime.datasets.trees import frame_of, mask_of, write_image, write_video_folders
from vivim_runtime.datasets import Part, clip_indices, read_clip
from vivim_runtime.datasets.folder import FolderVideo, read_mask
from vivim_runtime.datasets.videos import binary, one_class
from vivim_runtime.errors import DataError, UsageError
from vivim_runtime.framing import Framing, resized


def listed(folder: Path) -> FolderVideo:
    return FolderVideo.listed("v", folder / "f", folder / "m")


def video(folder: Path, count: int = 4) -> FolderVideo:
    write_video_folders(folder / "f", folder / "m", count)
    return listed(folder)


@pytest.mark.parametrize(
    ("length", "frames", "stride", "hop", "expected"),
    [
        pytest.param(7, 3, 1, 3, [(0, 1, 2), (3, 4, 5), (4, 5, 6)], id="the last clip ends with the video"),
        pytest.param(6, 3, 1, 3, [(0, 1, 2), (3, 4, 5)], id="no clip twice"),
        pytest.param(
            8, 3, 2, 2, [(0, 2, 4), (2, 4, 6), (3, 5, 7)], id="the last clip ends with the video, with stride"
        ),
        pytest.param(3, 3, 1, 9, [(0, 1, 2)], id="just long enough"),
        pytest.param(6, 3, 2, 1, [(0, 2, 4), (1, 3, 5)], id="with stride"),
        pytest.param(4, 3, 2, 1, [], id="too short for one"),
        pytest.param(3, 1, 9, 2, [(0,), (2,)], id="the stride of one frame does not count"),
    ],
)
def test_clips_of_a_video(length: int, frames: int, stride: int, hop: int, expected: list[tuple[int, ...]]) -> None:
    assert clip_indices(length, frames, stride, hop) == expected


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_clips_of_no_frames_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="expected numbers of at least 1"):
        clip_indices(9, *numbers)


def test_frames_and_masks_come_as_they_were_written(tmp_path: Path) -> None:
    image, mask = video(tmp_path).read(2)
    assert np.array_equal(image, frame_of(3)) and np.array_equal(mask, mask_of(3) == 255)
    assert mask.dtype == np.bool_


def test_a_clip_is_resized_as_the_runtime_does_it(tmp_path: Path) -> None:
    clip = read_clip(video(tmp_path), (3, 1), Framing.stretched((12, 20)))
    assert clip.pixels.shape == (2, 12, 20, 3) and clip.masks.shape == (2, 12, 20)
    assert np.array_equal(clip.pixels[0], resized(frame_of(4), (12, 20)))
    assert np.array_equal(clip.pixels[1], resized(frame_of(2), (12, 20)))


def test_a_pixel_of_a_smaller_mask_is_set_where_at_least_half_of_it_was(tmp_path: Path) -> None:
    mask = np.zeros((4, 8), np.uint8)
    mask[0, 0] = mask[0:2, 2] = mask[0:2, 4] = mask[0, 5] = 255  # 1, 2, 3 and 0 of the 4 pixels of each block
    write_image(tmp_path / "f" / "1.png", frame_of(1, (4, 8)))
    write_image(tmp_path / "m" / "1.png", mask)
    assert read_clip(listed(tmp_path), (0,), Framing.stretched((2, 4))).masks[0].tolist() == [
        [False, True, True, False],
        [False] * 4,
    ]


def test_an_enlarged_mask_stays_centred(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 255
    write_image(tmp_path / "f" / "1.png", frame_of(1, (8, 8)))
    write_image(tmp_path / "m" / "1.png", mask)
    larger = read_clip(listed(tmp_path), (0,), Framing.stretched((32, 32))).masks[0]
    assert np.array_equal(larger, larger[::-1]) and np.array_equal(larger, larger[:, ::-1])
    assert np.flatnonzero(larger.any(axis=0)).tolist() == list(range(8, 24))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        pytest.param([0, 127, 128, 255], [False, False, True, True], id="grey goes to the nearer end"),
        pytest.param([0, 1, 1, 0], [False, True, True, False], id="0 and 1"),
        pytest.param([0, 0, 0, 0], [False] * 4, id="empty"),
        pytest.param([0, 1, 2, 255], [False, False, False, True], id="a 1 beside larger values is dark grey"),
    ],
)
def test_values_become_masks(stored: list[int], expected: list[bool]) -> None:
    assert binary(np.array([stored], np.uint8))[0].tolist() == expected


def areas(*values: int) -> np.ndarray:
    """A mask with an area of each value."""
    mask = np.zeros((16, 60), np.uint8)
    for index, value in enumerate(values):
        mask[4:12, 2 + 12 * index : 10 + 12 * index] = value
    return mask


def jpeg(quality: int) -> np.ndarray:
    """A mask of one class as a compressed file gives it back."""
    disc = np.hypot(*(np.indices((64, 64)) - 30)) < 17
    _, data = cv2.imencode(".jpg", disc.astype(np.uint8) * 255, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (areas(1, 2), "has areas of the values 1, 2, that is, several classes; name them (--classes"),
        (areas(1, 2, 3, 1), "has areas of the values 1, 2, 3,"),
        (areas(127, 255), "has areas of the values 127, 255,"),
        (areas(85, 170, 255), "has areas of the values 85, 170, 255,"),
        (areas(2), "marks an area by 2; expected 255, or 0 and 1 alone"),
        (areas(100), "marks an area by 100;"),
        (areas(1), ""),
        (areas(255), ""),
        (areas(), ""),
        (areas(255, 250), ""),  # one white, unevenly stored
        (cv2.resize(areas(255), (37, 11), interpolation=cv2.INTER_AREA), ""),
        (cv2.resize(areas(255), (170, 45), interpolation=cv2.INTER_LINEAR), ""),
        *((jpeg(quality), "") for quality in (30, 75, 95)),
    ],
)
def test_masks_of_several_classes_are_refused_wherever_they_are_read(
    tmp_path: Path, stored: np.ndarray, reason: str
) -> None:
    assert one_class(stored).startswith(reason) and bool(one_class(stored)) == bool(reason)
    write_image(tmp_path / "f" / "1.png", np.zeros((*stored.shape, 3), np.uint8))
    write_image(tmp_path / "m" / "1.png", stored)
    if reason:
        with pytest.raises(DataError, match=re.escape(f"the mask of v/1.png {reason}")):
            listed(tmp_path).read(0)
    else:
        assert listed(tmp_path).read(0)[1].any() == (stored.max() > 0)


def test_frames_are_in_natural_order_and_find_their_masks_by_name(tmp_path: Path) -> None:
    for name, number in (("f10", 10), ("f9", 9), ("f100", 100)):
        write_image(tmp_path / "f" / f"{name}.png", frame_of(number))
        write_image(tmp_path / "m" / f"{name}.bmp", mask_of(number))
    opened = listed(tmp_path)
    assert [opened.label(i) for i in range(3)] == ["v/f9.png", "v/f10.png", "v/f100.png"]
    for index, number in enumerate((9, 10, 100)):
        image, mask = opened.read(index)
        assert np.array_equal(image, frame_of(number)) and np.array_equal(mask, mask_of(number) == 255)


def test_a_colour_counts_as_its_largest_channel(tmp_path: Path) -> None:
    """As palettes of video object segmentation have it: the first object is (128, 0, 0), of luminance 38."""
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[1, 2] = (128, 0, 0)
    write_image(tmp_path / "m.png", colours)
    assert binary(read_mask(tmp_path / "m.png")).nonzero()[0].tolist() == [1]


@pytest.mark.parametrize(("high", "stored"), [(65535, 255), (1, 1), (255, 255)])
def test_a_mask_of_16_bit_is_read_in_8(tmp_path: Path, high: int, stored: int) -> None:
    assert cv2.imwrite(str(tmp_path / "m.png"), np.array([[0, high]], np.uint16))
    assert read_mask(tmp_path / "m.png").tolist() == [[0, stored]]


def test_transparency_is_no_mask(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "m.png"), np.array([[[0, 0, 0, 255], [255, 255, 255, 0]]], np.uint8))
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 255]]


def test_a_frame_without_mask_is_refused_by_name(tmp_path: Path) -> None:
    opened = video(tmp_path)
    (tmp_path / "m" / "0002.png").unlink()
    opened = listed(tmp_path)
    assert len(opened) == 4 and opened.mask(1) is None
    with pytest.raises(DataError, match=r"v/0002\.png has no mask; add it"):
        opened.read(1)


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    video(tmp_path)
    write_image(tmp_path / "m" / "0003.png", mask_of(3, (48, 30)))
    with pytest.raises(DataError, match=r"v/0003\.png is 32x24 and its mask 30x48 \(width x height\)"):
        listed(tmp_path).read(2)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.97])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    """Decoders fill it up with grey."""
    write_image(tmp_path / "f" / f"1{suffix}", frame_of(1, (200, 200)))
    write_image(tmp_path / "m" / "1.png", mask_of(1, (200, 200)))
    path = tmp_path / "f" / f"1{suffix}"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match=rf"1\{suffix} is cut off behind \d+ bytes; copy it again"):
        listed(tmp_path).read(0)


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    video(tmp_path)
    (tmp_path / "f" / "0001.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="is no image that can be decoded"):
        listed(tmp_path).read(0)


def test_a_file_that_has_gone_is_refused(tmp_path: Path) -> None:
    opened = video(tmp_path)
    (tmp_path / "f" / "0001.png").unlink()
    with pytest.raises(DataError, match=r"cannot read .*0001\.png: No such file"):
        opened.read(0)


def test_bytes_behind_a_jpeg_are_put_up_with(tmp_path: Path) -> None:
    write_image(tmp_path / "f" / "1.jpg", frame_of(1))
    write_image(tmp_path / "m" / "1.png", mask_of(1))
    with (tmp_path / "f" / "1.jpg").open("ab") as file:
        file.write(bytes(100))
    assert listed(tmp_path).read(0)[0].shape == (24, 32, 3)


def test_masks_without_a_frame_are_strays(tmp_path: Path) -> None:
    video(tmp_path)
    write_image(tmp_path / "m" / "0010.png", mask_of(1))
    write_image(tmp_path / "m" / "0009.png", mask_of(1))
    assert listed(tmp_path).strays == ("v/0009.png", "v/0010.png")


def test_names_that_stand_for_two_files_match_nothing(tmp_path: Path) -> None:
    video(tmp_path)
    write_image(tmp_path / "f" / "0001.jpg", frame_of(1))  # two frames, one mask
    write_image(tmp_path / "m" / "0003.bmp", mask_of(3))  # two masks, one frame
    opened = listed(tmp_path)
    assert [opened.mask(i) is None for i in range(5)] == [True, True, False, True, False]
    assert opened.strays == ("v/0001.png", "v/0003.bmp", "v/0003.png")


def test_what_is_no_image_and_what_is_hidden_is_no_frame(tmp_path: Path) -> None:
    video(tmp_path, 2)
    (tmp_path / "f" / "notes.txt").write_text("")
    (tmp_path / "f" / "._0001.png").write_bytes(b"")
    assert len(listed(tmp_path)) == 2


def test_a_part_has_the_frames_of_its_range_alone(tmp_path: Path) -> None:
    part = Part(video(tmp_path), 1, 3)
    assert part.name == "v[1:3]" and len(part) == 2
    assert np.array_equal(part.read(0)[0], frame_of(2)) and np.array_equal(part.read(1)[0], frame_of(3))
    for index in (-1, 2):
        with pytest.raises(IndexError):
            part.read(index)


def test_videos_go_to_other_processes(tmp_path: Path) -> None:
    opened = Part(video(tmp_path), 1, 3)
    opened.read(0)
    again = pickle.loads(pickle.dumps(opened))
    assert again == opened and np.array_equal(again.read(1)[0], opened.read(1)[0])


def test_reading_keeps_no_pixels(tmp_path: Path) -> None:
    count, size = 40, (100, 100)
    write_video_folders(tmp_path / "f", tmp_path / "m", count, size=size)
    opened = listed(tmp_path)
    opened.read(0)
    tracemalloc.start()
    try:
        for index in range(count):
            opened.read(index)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A picture as its file's bytes, as Pillow's and as NumPy's are three; that of the frame before is let go by then.
    assert most < 4 * 100 * 100 * 3


def test_listing_opens_no_image(tmp_path: Path) -> None:
    video(tmp_path)
    for path in (tmp_path / "f").iterdir():
        path.write_bytes(b"no image")
    assert len(listed(tmp_path)) == 4
