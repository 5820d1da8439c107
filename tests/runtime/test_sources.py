"""Video files, image folders, phantoms: frames, times, and what cannot be read."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vivim_runtime.errors import SourceError, VivimError
from vivim_runtime.phantom import phantom_frames
from vivim_runtime.sources import open_source
from vivim_runtime.sources.phantom import spec_from_uri


def write_video(path: Path, times: list[int], size: tuple[int, int] = (48, 64)) -> None:
    """A losslessly coded video in Matroska: frame i is a ramp of brightness 8 * i; times in ms."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "bgr0"
        stream.time_base = Fraction(1, 1000)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 8 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame.reformat(format="bgr0")))
        container.mux(stream.encode(None))


def test_video_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mkv", [100, 140, 180, 300])  # starts late, and a frame is missing
    with open_source(str(tmp_path / "v.mkv")) as source:
        frames = list(source)
    assert source.size == (48, 64) and source.fps == pytest.approx(25.0)
    assert [f.index for f in frames] == [0, 1, 2, 3]
    assert [f.time for f in frames] == pytest.approx([0.0, 0.04, 0.08, 0.2], abs=1e-3)
    assert [int(f.image[0, 0, 0]) for f in frames] == [0, 8, 16, 24]
    assert frames[0].image.dtype == np.uint8 and frames[0].image.shape == (48, 64, 3)


def test_images_of_a_folder_come_in_natural_order_and_as_rgb(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), np.full((4, 6, 3), (number, 0, 200), np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    with open_source(str(tmp_path)) as source:
        frames = list(source)
    assert source.frame_count == 3 and source.size == (4, 6)
    assert [f.image[0, 0].tolist() for f in frames] == [[200, 0, 1], [200, 0, 2], [200, 0, 10]]
    assert [f.time for f in frames] == pytest.approx([0.0, 0.04, 0.08])


def test_a_single_image_is_a_source_of_one_frame(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 6), np.uint8))
    with open_source(str(tmp_path / "a.png")) as source:
        assert [f.image.shape for f in source] == [(4, 6, 3)]


def test_phantom_source_gives_the_phantom_of_its_name() -> None:
    uri = "phantom:?seed=3&frames=4&size=40x56&fps=10"
    with open_source(uri) as source:
        frames = list(source)
    expected = list(phantom_frames(spec_from_uri(uri)))
    assert source.size == (40, 56) and source.frame_count == 4
    assert [f.time for f in frames] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    for frame, (image, truth) in zip(frames, expected, strict=True):
        assert (frame.image == image).all() and (frame.truth == truth).all()


def test_sources_can_be_read_twice_where_they_are_not_live(tmp_path: Path) -> None:
    with open_source("phantom:?frames=2&size=40x56") as source:
        assert [f.image.tobytes() for f in source] == [f.image.tobytes() for f in source]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what cannot be read."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.mp4").write_text("hello")
    (folder / "empty.mp4").touch()
    (folder / "none").mkdir()
    (folder / "sizes").mkdir()
    cv2.imwrite(str(folder / "sizes/0.png"), np.zeros((4, 6), np.uint8))
    cv2.imwrite(str(folder / "sizes/1.png"), np.zeros((6, 4), np.uint8))
    (folder / "cut.png").write_bytes((folder / "sizes/0.png").read_bytes()[:30])
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.mp4", "there is no file or folder"),
        ("text.mp4", "no video that FFmpeg can read"),
        ("empty.mp4", "no video that FFmpeg can read"),
        ("none", "holds no images"),
        ("sizes", "must have one size"),
        ("cut.png", "no image that can be decoded"),
        ("sound.mp4", "has no video stream"),
        ("/dev/video987", "there is no camera"),
        ("rtsp://127.0.0.1:9/a", "cannot be opened"),
        ("phantom:?sed=1", "unknown sed"),
        ("phantom:?seed=x", "no number"),
        ("phantom:?size=1x2x3", "expected"),
        ("phantom:?size=0x0", "expected"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(bad: Path, name: str, message: str) -> None:
    uri = name if ":" in name else str(bad / name)
    with pytest.raises(VivimError, match=message) as caught, open_source(uri) as source:
        list(source)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_video_cut_off_on_the_way_gives_its_frames_and_a_note(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mkv", list(range(0, 400, 40)))
    data = (tmp_path / "v.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    with open_source(str(tmp_path / "cut.mkv")) as source:
        frames = list(source)
    assert 0 < len(frames) < 10


def test_a_video_whose_first_frame_is_lost_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mkv", [0, 40])
    (tmp_path / "cut.mkv").write_bytes((tmp_path / "v.mkv").read_bytes()[:300])
    with pytest.raises(SourceError, match="no frame|no video|frame size"), open_source(str(tmp_path / "cut.mkv")) as s:
        list(s)
