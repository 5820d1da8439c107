"""What a check finds: every defect, every one of a kind, and nothing in good data."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from tests.runtime.datasets.trees import frame_of, mask_of, write_film, write_image, write_video_folders, write_vtus
from vivim_runtime.datasets import CheckReport, Dataset, Part, Problem, check, contact_sheet, open_dataset
from vivim_runtime.datasets.report import problem_lines, summary, videos_table
from vivim_runtime.datasets.videos import AnnotatedVideo

VTUS = Path(__file__).parents[4] / "shared" / "data" / "vtus"
needs_vtus = pytest.mark.skipif(not VTUS.is_dir(), reason="needs the real video of ../shared/data/vtus")


def data(root: Path, **videos: int) -> Path:
    """A plain data set: videos with so many frames, no frame twice."""
    first = 1
    for name, count in videos.items():
        write_video_folders(root / "images" / name, root / "masks" / name, count, first)
        first += count
    return root


def checked(root: Path, **options: Any) -> CheckReport:
    return check(open_dataset(str(root)), **options)


def found(report: CheckReport) -> list[tuple[str, str, str]]:
    return [(problem.level, problem.kind, problem.where) for problem in report.problems]


def test_good_data_have_figures_and_no_problems(tmp_path: Path) -> None:
    data(tmp_path, a=12, b=7)
    write_image(tmp_path / "masks" / "b" / "0014.png", np.zeros((24, 32), np.uint8))
    report = checked(tmp_path, frames=5)
    assert report.problems == report.errors == report.warnings == ()
    assert (report.frames, report.sizes, report.empty_share) == (19, {(24, 32): 19}, 1 / 19)
    a, b = report.videos
    assert (a.name, a.frames, a.masks, a.empty, a.clips) == ("a", 12, 12, 0, 2)
    assert (b.name, b.frames, b.masks, b.empty, b.clips) == ("b", 7, 7, 1, 1)
    assert a.area == pytest.approx(12 * 12 / (24 * 32)) == b.area  # of the masks with an object


def test_clips_span_their_strides(tmp_path: Path) -> None:
    data(tmp_path, a=12, b=7)
    report = checked(tmp_path, frames=3, stride=3)
    assert [video.clips for video in report.videos] == [1, 1]
    assert checked(tmp_path, frames=3, stride=4).problems == (
        Problem("too short for a clip", "warning", "b", "7 frames; a clip spans 9"),
    )


def test_every_broken_file_is_listed(tmp_path: Path) -> None:
    data(tmp_path, a=6, b=6)
    images, masks = tmp_path / "images", tmp_path / "masks"
    (images / "a" / "0002.png").write_bytes(b"no image")
    whole = (images / "a" / "0003.png").read_bytes()
    (images / "a" / "0003.png").write_bytes(whole[: len(whole) // 2])
    (masks / "a" / "0004.png").write_bytes(b"")
    (masks / "a" / "0005.png").unlink()
    (masks / "b" / "0008.png").rename(masks / "b" / "0099.png")
    write_image(masks / "b" / "0009.png", mask_of(9, (48, 64)))
    report = checked(tmp_path)
    assert found(report) == [
        ("error", "unreadable frame", "a/0002.png"),
        ("error", "unreadable frame", "a/0003.png"),
        ("error", "unreadable mask", "a/0004.png"),
        ("error", "frame without mask", "a/0005.png"),
        ("error", "mask without frame", "b/0099.png"),
        ("error", "frame without mask", "b/0008.png"),
        ("error", "frame and mask of different sizes", "b/0009.png"),
    ]
    assert report.errors == report.problems
    assert report.problems[6].what == "32x24 and 64x48"
    assert "cut off" in report.problems[1].what and "no image that can be decoded" in report.problems[0].what
    assert [(video.frames, video.masks) for video in report.videos] == [(6, 4), (6, 5)]


def test_a_frame_that_is_twice_is_listed_with_the_first(tmp_path: Path) -> None:
    data(tmp_path, a=6, b=6)
    write_image(tmp_path / "images" / "a" / "0003.png", frame_of(2))
    write_image(tmp_path / "images" / "b" / "0010.png", frame_of(5))
    assert checked(tmp_path).problems == (
        Problem("frame twice in a video", "warning", "a/0003.png", "the same as a/0002.png"),
        Problem("frame in two videos", "warning", "b/0010.png", "the same as a/0005.png"),
    )


def test_frames_of_the_same_bytes_and_another_shape_differ(tmp_path: Path) -> None:
    data(tmp_path, a=5)
    for name, size in (("0006", (24, 32)), ("0007", (32, 24))):
        write_image(tmp_path / "images" / "a" / f"{name}.png", np.zeros((*size, 3), np.uint8))
        write_image(tmp_path / "masks" / "a" / f"{name}.png", np.zeros(size, np.uint8))
    report = checked(tmp_path)
    assert found(report) == [("warning", "frames of several sizes in a video", "a")]
    assert report.problems[0].what == "32x24 (6), 24x32 (1)" and report.sizes == {(24, 32): 6, (32, 24): 1}


def recoloured(path: Path, black: int, white: int) -> None:
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    write_image(path, np.where(mask > 0, white, black).astype(np.uint8))


def test_masks_that_mean_nothing_are_errors(tmp_path: Path) -> None:
    """Labels, say: nothing of them would be white."""
    data(tmp_path, a=5)
    recoloured(tmp_path / "masks" / "a" / "0002.png", 0, 2)
    recoloured(tmp_path / "masks" / "a" / "0004.png", 0, 100)
    report = checked(tmp_path)
    assert found(report) == [
        ("error", "mask without white", "a/0002.png"),
        ("error", "mask without white", "a/0004.png"),
    ]
    assert report.problems[0].what == "its largest value is 2; expected 255, or 0 and 1 alone"


def test_masks_of_0_and_1_are_a_note(tmp_path: Path) -> None:
    data(tmp_path, a=5, b=5)
    for number in range(1, 6):
        recoloured(tmp_path / "masks" / "a" / f"{number:04d}.png", 0, 1)
    report = checked(tmp_path)
    assert report.problems == ()
    assert report.notes == ("the masks of 1 of 2 videos are 0 and 1, not 0 and 255, and read as such",)
    recoloured(tmp_path / "masks" / "a" / "0001.png", 0, 255)
    report = checked(tmp_path)
    assert found(report) == [("warning", "masks of 0 and 1 beside others", "a")] and report.notes == ()


def test_grey_in_masks_is_a_warning_beyond_a_few_pixels(tmp_path: Path) -> None:
    data(tmp_path, a=5, b=5)
    for number, grey in ((2, 1), (3, 2)):  # of 768 pixels, 0.13 % and 0.26 %
        mask = mask_of(number)
        mask[0, :grey] = 77
        write_image(tmp_path / "masks" / "a" / f"{number:04d}.png", mask)
    report = checked(tmp_path)
    assert found(report) == [
        ("warning", "mask of more than two values", "a/0002.png"),
        ("warning", "mask of more than two values", "a/0003.png"),
    ]
    assert report.problems[1].what == "0.3% of it is neither 0 nor 255"
    large = np.kron(mask_of(3), np.ones((4, 4), np.uint8))
    large[0, :12] = 77  # of 12288 pixels, 0.098 %
    write_image(tmp_path / "masks" / "a" / "0002.png", large)
    write_image(tmp_path / "images" / "a" / "0002.png", frame_of(2, (96, 128)))
    assert [w.where for w in checked(tmp_path).warnings if w.kind == "mask of more than two values"] == ["a/0003.png"]


def test_a_mask_that_fills_the_frame_is_a_warning(tmp_path: Path) -> None:
    data(tmp_path, a=5)
    write_image(tmp_path / "masks" / "a" / "0002.png", np.full((24, 32), 255, np.uint8))
    report = checked(tmp_path)
    assert found(report) == [("warning", "mask that fills the frame", "a/0002.png")]
    assert report.problems[0].what == "100%: are black and white swapped?"


def test_a_video_without_object_is_a_warning(tmp_path: Path) -> None:
    data(tmp_path, a=5, b=5)
    for number in range(6, 11):
        recoloured(tmp_path / "masks" / "b" / f"{number:04d}.png", 0, 0)
    report = checked(tmp_path)
    assert report.problems == (Problem("no object in a video", "warning", "b", "all 5 masks are empty"),)
    assert report.videos[1].area is None and report.empty_share == 0.5


def test_data_that_give_no_clip_are_an_error(tmp_path: Path) -> None:
    report = checked(data(tmp_path, a=4, b=3))
    assert found(report) == [
        ("warning", "too short for a clip", "a"),
        ("warning", "too short for a clip", "b"),
        ("error", "no clips", tmp_path.name),
    ]


def test_data_without_frames_are_an_error(tmp_path: Path) -> None:
    write_image(tmp_path / "masks" / "a" / "1.png", mask_of(1))
    (tmp_path / "images").mkdir()
    assert found(checked(tmp_path)) == [
        ("error", "mask without frame", "a/1.png"),
        ("error", "no frames", "a"),
        ("error", "nothing to read", tmp_path.name),
    ]


def test_a_video_file_that_cannot_be_read_is_an_error_among_others(tmp_path: Path) -> None:
    data(tmp_path, a=5)
    write_film(tmp_path / "images" / "b.mp4", 6)
    (tmp_path / "images" / "c.mp4").write_bytes(b"no video")
    report = checked(tmp_path)
    assert found(report) == [
        *[("error", "frame without mask", f"b, frame {index}") for index in range(6)],
        ("error", "unreadable video", "c"),
    ]


def test_parts_of_a_video_list_its_strays_once(tmp_path: Path) -> None:
    data(tmp_path, a=10)
    write_image(tmp_path / "masks" / "a" / "0099.png", mask_of(1))
    (video,) = open_dataset(str(tmp_path)).videos
    report = check(Dataset("d", "", (Part(video, 0, 5), Part(video, 5, 10)), "plain"))
    assert found(report) == [("error", "mask without frame", "a/0099.png")]
    assert [figures.name for figures in report.videos] == ["a[0:5]", "a[5:10]"]


def test_a_part_of_what_is_published_is_a_warning(tmp_path: Path) -> None:
    write_vtus(tmp_path, {"0001": 5})
    whole, train = (check(open_dataset(str(tmp_path), split)) for split in ("", "train"))
    assert [problem.what for problem in whole.warnings] == ["1 of 100 videos", "5 of 9342 frames"]
    assert [problem.what for problem in train.warnings] == ["1 of 70 videos"] and train.errors == ()


def test_frames_that_are_not_cropped_as_in_the_paper_are_a_warning(tmp_path: Path) -> None:
    write_video_folders(tmp_path / "images" / "a", tmp_path / "labels" / "a", 5)
    write_video_folders(tmp_path / "images" / "b", tmp_path / "labels" / "b", 5, first=6, size=(200, 300))
    report = checked(tmp_path)
    assert report.warnings[-1] == Problem(
        "not the crops of the paper", "warning", "BUV2022", "32x24; its figures are of 300x200"
    )


@needs_vtus
def test_the_real_video_is_whole() -> None:
    report = checked(VTUS)
    assert report.errors == () and {problem.kind for problem in report.warnings} == {"not the data set as published"}
    (video,) = report.videos
    assert (video.frames, video.masks, video.empty, video.clips, video.sizes) == (91, 91, 0, 18, {(256, 256): 91})


def test_progress_is_told_video_by_video(tmp_path: Path) -> None:
    seen: list[AnnotatedVideo] = []
    checked(data(tmp_path, a=5, b=5), progress=seen.append)
    assert [video.name for video in seen] == ["a", "b"]


def test_the_record_has_all_problems_and_is_json(tmp_path: Path) -> None:
    data(tmp_path, a=15)
    for number in range(1, 13):
        (tmp_path / "masks" / "a" / f"{number:04d}.png").unlink()
    record = json.loads(json.dumps(checked(tmp_path).record()))
    assert len(record["errors"]) == 12 and record["warnings"] == []
    assert record["errors"][0] == {"kind": "frame without mask", "level": "error", "where": "a/0001.png", "what": ""}
    assert record["sizes"] == [{"height": 24, "width": 32, "frames": 15}]
    assert record["videos"][0]["masks"] == 3 and record["clips"] == 3 and record["layout"] == "plain"


# For people


def text(report: CheckReport) -> str:
    console = Console(width=120, file=StringIO())
    console.print(videos_table(report, shown=2))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_lines_group_problems_and_cap_every_kind(tmp_path: Path) -> None:
    data(tmp_path, a=15, b=4)
    for number in range(1, 13):
        (tmp_path / "masks" / "a" / f"{number:04d}.png").unlink()
    lines = list(problem_lines(checked(tmp_path).problems, most=3))
    assert lines == [
        "error: frame without mask: a/0001.png",
        "error: frame without mask: a/0002.png",
        "error: frame without mask: a/0003.png",
        "error: frame without mask: 9 more",
        "warning: too short for a clip: b: 4 frames; a clip spans 5",
    ]


def test_the_summary_counts(tmp_path: Path) -> None:
    report = checked(data(tmp_path / "mine", a=12, b=4))
    assert summary(report) == (
        "mine (plain): 2 videos, 16 frames, 2 clips of 5, 0.0% of the masks empty, 0 errors, 1 warning"
    )


def test_the_table_has_a_row_a_video_and_the_sum(tmp_path: Path) -> None:
    rows = [line.split() for line in text(checked(data(tmp_path, a=5, b=7, c=6))).splitlines() if line.strip()]
    assert rows[1:] == [
        ["a", "5", "5", "0", "18.8", "1", "32x24"],
        ["b", "7", "7", "0", "18.8", "1", "32x24"],
        ["...", "1", "more"],
        ["all", "18", "18", "0", "3", "32x24"],
    ]


# Contact sheet


def test_the_sheet_shows_frames_evenly_with_their_outlines(tmp_path: Path) -> None:
    root = data(tmp_path, a=8, b=4)
    sheet = contact_sheet(open_dataset(str(root)), frames=3, columns=2, width=64)
    # Two columns and two rows: gap 4, cells of 64 x (48 + caption 16).
    assert sheet.shape == (4 + 2 * (64 + 4), 4 + 2 * (64 + 4), 3) and sheet.dtype == np.uint8
    # Frames 3, 7 and 11 of 12: the middles of three stretches of four.
    for frame, (row, column) in ((3, (0, 0)), (7, (0, 1)), (11, (1, 0))):
        cell = sheet[4 + row * 68 :, 4 + column * 68 :][:48, :64]
        assert cell[:8].mean() == pytest.approx(frame_of(frame)[:4].mean(), abs=3), frame
        green = (cell[..., 1] > 150) & (cell[..., 0] < 60)
        left = 2 * (2 + frame % 8)
        assert abs(int(np.flatnonzero(green.any(axis=0)).min()) - left) <= 2, frame  # the outline is on the mask's edge
    assert np.unique(sheet[72:, 72:].reshape(-1, 3), axis=0).shape[0] == 1  # no fourth frame


def test_the_sheet_shows_what_cannot_be_read(tmp_path: Path) -> None:
    root = data(tmp_path, a=2)
    (root / "masks" / "a" / "0001.png").unlink()
    (root / "images" / "c.mp4").write_bytes(b"no video")
    sheet = contact_sheet(open_dataset(str(root)), frames=9, columns=3, width=64)
    red = (sheet[..., 0] > 200) & (sheet[..., 1] < 120)
    assert [bool(red[:52, 4 + 68 * i : 68 + 68 * i].any()) for i in range(3)] == [True, False, True]


def test_a_sheet_without_frames_is_empty(tmp_path: Path) -> None:
    write_image(tmp_path / "masks" / "a" / "1.png", mask_of(1))
    (tmp_path / "images").mkdir()
    assert contact_sheet(open_dataset(str(tmp_path))).shape == (4, 6 * 224 + 4, 3)
