"""Videos, mask folders and ledgers: what they hold, and that they are whole or marked as parts."""

from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vivim_runtime.errors import SinkError
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.sessions.base import ClassInfo
from vivim_runtime.sinks import Segmented, open_sink
from vivim_runtime.sinks.ledger import Ledger
from vivim_runtime.sinks.masks import MaskFolder
from vivim_runtime.sinks.video import VideoWriter
from vivim_runtime.sources import Frame, open_source

CLASSES = (ClassInfo("lesion", (0, 255, 0)),)


def item(index: int, time: float | None = None, picture: np.ndarray | None = None, marked: int = 3) -> Segmented:
    if picture is None:
        picture = np.full((33, 47, 3), 5 * index % 256, np.uint8)
    logits = np.full((1, *picture.shape[:2]), -1.0, np.float32)
    logits[0, :1, :marked] = 1.0
    frame = Frame(index, index / 25 if time is None else time, picture)
    return Segmented(frame, index // 5, index % 5, False, logits, logits > 0, 12.5, picture)


def decoded(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with open_source(str(path)) as source:
        frames = list(source)
    return [f.time for f in frames], [f.image for f in frames]


def test_video_keeps_every_frame_and_its_time(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.2, 0.21, 0.21, 1.5]  # uneven, and two at once
    with VideoWriter(tmp_path / "o.mp4", (33, 47), 25.0) as sink:
        for index, time in enumerate(times):
            sink.write(item(index, time))
    found, images = decoded(tmp_path / "o.mp4")
    assert found == pytest.approx(times, abs=1e-3)
    assert images[0].shape == (34, 48, 3)  # even sides
    assert not (tmp_path / "o.part.mp4").exists()


def test_video_keeps_colors(tmp_path: Path) -> None:
    colors = [(200, 30, 40), (0, 230, 118), (20, 40, 220), (128, 128, 128)]
    with VideoWriter(tmp_path / "o.mp4", (32, 48), 25.0) as sink:
        for index, color in enumerate(colors):
            sink.write(item(index, picture=np.full((32, 48, 3), color, np.uint8)))
    for image, color in zip(decoded(tmp_path / "o.mp4")[1], colors, strict=True):
        # Plain areas: only the rounding of 8-bit Y'CbCr (about 2 levels) and crf 18 remain.
        assert np.abs(image.astype(int) - color).max() <= 6


def test_video_is_h264_with_a_key_frame_at_least_every_second(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "o.mp4", (64, 64), 10.0) as sink:
        for index, (image, _) in enumerate(phantom_frames(PhantomSpec(seed=1, frames=35, size=(64, 64)))):
            sink.write(item(index, index / 10, image))
    with av.open(str(tmp_path / "o.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        keys = [float(frame.time) for frame in container.decode(stream) if frame.key_frame]
    assert keys[0] == 0.0 and len(keys) < 20  # most frames are coded by their difference
    assert max(np.diff([*keys, 3.5])) <= 1.0 + 1e-3


def test_an_unfinished_video_plays_and_is_called_a_part(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "o.mp4", (33, 47), 25.0) as sink:
        for index in range(60):
            sink.write(item(index))
        raise ZeroDivisionError
    assert not (tmp_path / "o.mp4").exists()
    assert len(decoded(tmp_path / "o.part.mp4")[1]) == 60


def test_a_video_without_frames_leaves_nothing(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "o.mp4", (33, 47), 25.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_video_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    (tmp_path / "o.mp4").write_text("earlier")
    with VideoWriter(tmp_path / "o.mp4", (33, 47), 25.0) as sink:
        sink.write(item(0))
        assert (tmp_path / "o.mp4").read_text() == "earlier"
    assert len(decoded(tmp_path / "o.mp4")[1]) == 1


def test_masks_are_png_files_named_by_frame(tmp_path: Path) -> None:
    with MaskFolder(tmp_path / "m") as sink:
        sink.write(item(0, marked=3))
        sink.write(item(7, marked=0))
    assert sorted(f.name for f in (tmp_path / "m").iterdir()) == ["000000.png", "000007.png"]
    mask = cv2.imread(str(tmp_path / "m/000000.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (33, 47) and mask.dtype == np.uint8
    assert (mask[0, :3] == 255).all() and mask.sum() == 3 * 255


def test_masks_of_an_earlier_run_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    for name in ("000000.png", "000050.png", "mine.png"):
        (tmp_path / name).write_text("earlier")
    with pytest.raises(SinkError, match="2 masks of an earlier run; add --overwrite"):
        MaskFolder(tmp_path)
    with MaskFolder(tmp_path, overwrite=True) as sink:
        assert (tmp_path / "000050.png").exists()  # until the first new mask
        sink.write(item(0))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["000000.png", "mine.png"]


def test_ledger_has_a_line_for_every_frame_and_counts_that_sum(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.jsonl", CLASSES, {"source": "a"}) as sink:
        for index in range(7):
            sink.write(item(index, marked=3 * (index > 2)))
    lines = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert [line["type"] for line in lines] == ["run", *["frame"] * 7, "summary"]
    assert lines[0]["source"] == "a"
    assert lines[4] == {
        "type": "frame",
        "index": 3,
        "time_s": 0.12,
        "clip": 0,
        "position": 3,
        "padded": False,
        "latency_ms": 12.5,
        "area_px": {"lesion": 3},
    }
    summary = lines[-1]
    assert summary["frames"] == summary["with_mask"] + summary["without_mask"] == 7
    assert summary["with_mask"] == 4


def test_an_unfinished_ledger_is_called_a_part_and_has_whole_lines(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Ledger(tmp_path / "l.jsonl", CLASSES, {}) as sink:
        sink.write(item(0))
        raise ZeroDivisionError
    assert [f.name for f in tmp_path.iterdir()] == ["l.part.jsonl"]
    assert [json.loads(line)["type"] for line in (tmp_path / "l.part.jsonl").read_text().splitlines()] == [
        "run",
        "frame",
    ]


@pytest.mark.parametrize(
    "name", ["file/o.mp4", "file/l.jsonl", "file/masks", "file", "folder.mp4", "folder.jsonl", "o.mpg"]
)
def test_outputs_that_cannot_be_written_are_refused_before_the_first_frame(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in ("folder.mp4", "folder.jsonl"):
        (tmp_path / folder).mkdir()
    info = type("Info", (), {"classes": CLASSES})()
    with pytest.raises(SinkError), open_source("phantom:") as source:
        open_sink(str(tmp_path / name), source, info, {})
    assert (tmp_path / "file").read_text() == "in the way"
