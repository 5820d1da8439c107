"""Films as their makers meant them: every pixel against the generator's truth, within what the codec loses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.runtime.live.rig import Run
from tests.runtime.sources.made import (
    MATRICES,
    MATRIX,
    STORED,
    grey,
    picture,
    planes,
    rgb_frames,
    video_frame,
    write_film,
)
from vivim_runtime.datasets.recorded import RecordedVideo
from vivim_runtime.errors import SourceError
from vivim_runtime.live.status import State
from vivim_runtime.sinks.video import VideoWriter
from vivim_runtime.sources import Paced, open_source
from vivim_runtime.sources.base import lost_frames

# RGB of 8 bits from YCbCr of limited range: a step of luma is 255/219 = 1.2, of colour up to 2.1, both rounded.
ROUNDED = 2
# Colours at half the resolution: twice the steepest slope of the picture's colours (2.4 a pixel), and the rounding.
HALVED = 7
# What libx264 loses at crf 4 of this picture, beside halved colours; measured 8, once.
CODED = 9


def read(path: Path) -> tuple[Any, list[Any]]:
    with open_source(str(path)) as source:
        return source, list(source)


def worst(frames: list[Any], truth: list[Any]) -> int:
    """The largest difference of any pixel; shapes and counts must agree."""
    assert [frame.image.shape for frame in frames] == [image.shape for image in truth]
    return max(int(np.abs(f.image.astype(int) - t).max()) for f, t in zip(frames, truth, strict=True))


TRUTH = [picture(index) for index in range(3)]
FORMS = [("yuv444p", 8, ROUNDED), ("yuv444p10le", 10, 1), ("yuv420p", 8, HALVED), ("yuva420p", 8, HALVED)]


@pytest.mark.parametrize(("pixels", "bits", "most"), FORMS)
@pytest.mark.parametrize(("matrix", "full"), list(itertools.product(MATRICES, (False, True))))
def test_colours_follow_matrix_range_and_bits(
    tmp_path: Path, matrix: str, full: bool, pixels: str, bits: int, most: int
) -> None:
    frames = [video_frame(planes(image, matrix, full, bits), pixels) for image in TRUTH]
    _, found = read(write_film(tmp_path / "a.mkv", frames, "ffv1", pixels, matrix=matrix, full=full))
    assert worst(found, TRUTH) <= most


@pytest.mark.parametrize(("matrix", "full"), list(itertools.product(MATRICES, (False, True))))
def test_h264_keeps_its_tags_of_colours(tmp_path: Path, matrix: str, full: bool) -> None:
    frames = [video_frame(planes(image, matrix, full), "yuv420p") for image in TRUTH]
    options = {"crf": "4"}
    path = write_film(tmp_path / "a.mp4", frames, "libx264", "yuv420p", matrix=matrix, full=full, options=options)
    assert worst(read(path)[1], TRUTH) <= CODED


@pytest.mark.parametrize(
    ("size", "matrix"),
    [pytest.param((480, 640), "bt601", id="standard definition"), pytest.param((720, 1280), "bt709", id="larger")],
)
def test_untagged_colours_are_what_players_take_them_for(tmp_path: Path, size: tuple[int, int], matrix: str) -> None:
    truth = [picture(0, size)]
    frames = [video_frame(planes(truth[0], matrix, full=False), "yuv444p")]
    assert worst(read(write_film(tmp_path / "a.mkv", frames, "ffv1", "yuv444p"))[1], truth) <= ROUNDED


@pytest.mark.parametrize("turn", MATRIX)
def test_a_display_matrix_turns_frames_and_frames_of_data_sets_alike(tmp_path: Path, turn: int) -> None:
    frames = rgb_frames([STORED[turn](image) for image in TRUTH], "yuv444p")
    path = write_film(tmp_path / "a.mp4", frames, "libx264", "yuv444p", turn=turn, options={"crf": "2"})
    source, found = read(path)
    assert source.size == (48, 64) and worst(found, TRUTH) <= CODED
    assert ("as it says" in " ".join(source.notes)) == (turn != 1)
    video = RecordedVideo.listed("a", path, tmp_path / "none")
    assert all(np.array_equal(video.frame(index), found[index].image) for index in (2, 0, 1))


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        pytest.param((16, 11), (48, 93), id="wide pixels: PAL on 16:9"),
        pytest.param((8, 9), (54, 64), id="narrow pixels: NTSC"),
        pytest.param((1, 1), (48, 64), id="square"),
        pytest.param((1, 400), (48, 64), id="nonsense"),
    ],
)
def test_pixels_become_square_and_no_detail_is_lost(
    tmp_path: Path, aspect: tuple[int, int], size: tuple[int, int]
) -> None:
    path = write_film(tmp_path / "a.mp4", rgb_frames(TRUTH, "yuv444p"), "libx264", "yuv444p", aspect=aspect)
    source, found = read(path)
    assert source.size == size
    # The picture is smooth, so that its stretched form is the same picture made at that size.
    assert worst(found, [picture(index, size) for index in range(3)]) <= 12


def test_turned_and_stretched_pixels_are_stretched_before_they_are_turned(tmp_path: Path) -> None:
    frames = rgb_frames([STORED[6](image) for image in TRUTH], "yuv444p")  # stored 64 high, 48 wide
    source, _ = read(write_film(tmp_path / "a.mp4", frames, "libx264", "yuv444p", aspect=(4, 3), turn=6))
    assert source.size == (64, 64)


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_masks_of_a_turned_film_may_be_drawn_on_what_is_seen_or_on_what_is_stored(tmp_path: Path, turn: int) -> None:
    import cv2

    frames = rgb_frames([STORED[turn](image) for image in TRUTH], "yuv444p")
    path = write_film(tmp_path / "a.mp4", frames, "libx264", "yuv444p", turn=turn)
    seen = np.zeros((48, 64), np.uint8)
    seen[5:20, 10:30] = 255
    (tmp_path / "m").mkdir()
    cv2.imwrite(str(tmp_path / "m/0.png"), seen)
    cv2.imwrite(str(tmp_path / "m/1.png"), np.ascontiguousarray(STORED[turn](seen)))
    video = RecordedVideo.listed("a", path, tmp_path / "m")
    assert np.array_equal(video.read(0)[1], seen > 0)
    # Turned by 180 degrees the two are of one size, and nothing tells them apart; then what is seen counts.
    expected = STORED[3](seen) if turn == 3 else seen
    assert np.array_equal(video.read(1)[1], expected > 0)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("pixels", ["gray16le", "gbrp16le"])
def test_sixteen_bit_films_are_scaled_by_the_bits_that_they_use(tmp_path: Path, pixels: str, bits: int) -> None:
    if pixels == "gray16le":
        truth = [np.repeat(grey(index)[..., None], 3, axis=2) for index in range(3)]
        frames = [video_frame((grey(index).astype(np.uint16) * 257) >> (16 - bits), pixels) for index in range(3)]
    else:
        truth = TRUTH
        deep = [(image.astype(np.uint16) * 257) >> (16 - bits) for image in TRUTH]
        frames = [av.VideoFrame.from_ndarray(d, format="rgb48le").reformat(format=pixels) for d in deep]
    path = write_film(tmp_path / "a.mkv", frames, "ffv1", pixels)
    source, found = read(path)
    assert worst(found, truth) <= 1
    assert source.notes == [f"a.mkv has 16 bits, of which {bits} are used: {2**bits - 1} is white"]
    video = RecordedVideo.listed("a", path, tmp_path / "none")
    assert np.array_equal(video.frame(1), found[1].image)


def test_grey_of_limited_range_is_spread(tmp_path: Path) -> None:
    limited = np.linspace(16, 235, 64).round().astype(np.uint8)[None].repeat(48, axis=0)
    path = write_film(tmp_path / "a.mkv", [video_frame(limited, "gray")], "ffv1", "gray", full=False)
    image = read(path)[1][0].image
    assert image.min() == 0 and image.max() == 255


# --- damaged films -----------------------------------------------------------------------------------------------

COUNT, BAD = 24, 10


def damaged(path: Path, codec: str, pixels: str, options: dict[str, str] | None = None) -> Path:
    """A film of 24 frames, of which packet 10 is overwritten by zeros."""
    frames = rgb_frames([picture(index % 12) for index in range(COUNT)], pixels)
    write_film(path, frames, codec, pixels, options=options)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    place = data.index(packets[BAD])
    path.write_bytes(data[:place] + b"\0" * len(packets[BAD]) + data[place + len(packets[BAD]) :])
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options"),
    [
        ("a.mp4", "libx264", "yuv420p", {"bf": "0"}),
        ("b.mp4", "libx264", "yuv420p", {"bf": "2"}),
        ("a.mkv", "libx264", "yuv420p", {}),
        ("a.mov", "mjpeg", "yuvj420p", {}),
        ("a.avi", "mjpeg", "yuvj420p", {}),
        ("a.webm", "libvpx-vp9", "yuv420p", {"lag-in-frames": "0"}),
    ],
)
def test_a_damaged_packet_loses_what_needs_it_and_nothing_else(
    tmp_path: Path, name: str, codec: str, pixels: str, options: dict[str, str]
) -> None:
    source, found = read(damaged(tmp_path / name, codec, pixels, options))
    assert source.lost >= 1 and len(found) + source.lost == COUNT
    assert found[-1].index == COUNT - 1, "what follows the damage is read"
    # Numbers and times are those of the file: masks that are named by them still belong to their frames.
    assert [frame.time for frame in found] == pytest.approx([frame.index / 10 for frame in found], abs=2e-3)
    assert any("cannot be decoded" in note for note in source.notes)


def test_damage_is_counted_once_however_often_a_film_is_read(tmp_path: Path) -> None:
    with open_source(str(damaged(tmp_path / "a.mp4", "libx264", "yuv420p"))) as source:
        counts = [len(list(source)), len(list(source))]
        notes = source.notes
    assert counts[0] == counts[1] == COUNT - lost_frames(source) and len(notes) == 1


def test_a_live_run_counts_what_a_damaged_film_has_lost(tmp_path: Path) -> None:
    path = damaged(tmp_path / "a.mov", "mjpeg", "yuvj420p")
    source, found = read(path)
    with Run(Paced(open_source(str(path))), ledger=(tmp_path / "l.jsonl", {})) as run:
        run.probe.wait_state(State.ended, 20)
        run.end()
    summary = json.loads((tmp_path / "l.jsonl").read_text().splitlines()[-1])
    assert run.report is not None and run.report.lost == summary["lost"] == source.lost >= 1
    assert summary["captured"] == len(found)


def test_frames_of_a_damaged_film_keep_their_masks(tmp_path: Path) -> None:
    video = RecordedVideo.listed("a", damaged(tmp_path / "a.mov", "mjpeg", "yuvj420p"), tmp_path / "none")
    assert len(video) == COUNT
    _, found = read(tmp_path / "a.mov")
    by_number = {frame.index: frame.image for frame in found}
    for index in (BAD - 1, BAD + 1, COUNT - 1, 0):
        assert np.array_equal(video.frame(index), by_number[index])
    with pytest.raises(Exception, match=f"frame {BAD}|no frame {BAD}"):
        video.frame(BAD)


@pytest.mark.parametrize(("name", "form"), [("a.mp4", "mp4"), ("a.mkv", "matroska"), ("a.avi", "avi")])
def test_a_film_that_is_cut_off_says_how_much_is_missing(tmp_path: Path, name: str, form: str) -> None:
    frames = rgb_frames([picture(index % 12) for index in range(40)], "yuvj420p")
    path = write_film(tmp_path / name, frames, "mjpeg", "yuvj420p", form=form)
    data = path.read_bytes()
    if name.endswith(".mp4"):  # the index first, as players over a network need it
        place = data.index(b"moov") - 4
        moov, media = data[place:], data[data.index(b"mdat") - 4 : place]
        head = data[: data.index(b"mdat") - 4]
        chunk = moov.index(b"stco") + 12
        first = int.from_bytes(moov[chunk : chunk + 4], "big")
        moov = moov[:chunk] + (first + len(moov)).to_bytes(4, "big") + moov[chunk + 4 :]
        data = head + moov + media
        path.write_bytes(data)
        assert len(read(path)[1]) == 40
    path.write_bytes(data[: len(data) * 6 // 10])
    source, found = read(path)
    assert 10 < len(found) < 40
    assert abs(len(found) + source.lost - 40) <= 1, "the last frame before the cut may be half"
    assert "copy it again" in source.notes[-1]


def test_a_whole_film_has_lost_nothing(tmp_path: Path) -> None:
    source, found = read(write_film(tmp_path / "a.mkv", rgb_frames(TRUTH)))
    assert source.lost == 0 and source.notes == [] and len(found) == 3


def test_hidden_pictures_of_vp8_are_not_lost(tmp_path: Path) -> None:
    """Alternate reference frames are packets that show nothing (RFC 6386 9.1)."""
    frames = rgb_frames([picture(index % 12, (96, 128)) for index in range(60)], "yuv420p")
    options = {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"}
    source, found = read(write_film(tmp_path / "a.webm", frames, "libvpx", "yuv420p", rate=25, options=options))
    assert source.lost == 0 and len(found) == 60 and [frame.index for frame in found] == list(range(60))


@pytest.mark.parametrize("name", ["10:30:05.mp4", "file:a.mp4", "-a.mp4", "a%03d.mp4"])
def test_names_of_films_are_names_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_film(tmp_path / "a.mp4", rgb_frames(TRUTH, "yuv420p"), "libx264", "yuv420p").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read(Path(name))[1]) == 3
    video = RecordedVideo.listed("a", Path(name), tmp_path / "none")
    assert video.frame(2).shape == (48, 64, 3)


def test_a_film_without_pictures_is_refused(tmp_path: Path) -> None:
    path = damaged(tmp_path / "a.mov", "mjpeg", "yuvj420p")
    data = path.read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    path.write_bytes(data[:start] + b"\0" * (end - start) + data[end:])
    with pytest.raises(SourceError, match=r"no frame that can be decoded|no frames"):
        read(path)


def test_a_video_may_be_written_to_a_name_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoWriter(Path("10:30.mp4"), (48, 64), 10.0, "libx264") as writer:
        for index in range(3):
            writer._write(picture(index), index / 10)
    # What is written is read back in its colours: H.264 at half the resolution of colours, crf 18.
    assert worst(read(Path("10:30.mp4"))[1], TRUTH) <= 12
