"""Which H.264 encoder is used: one that works, and only of the known ones."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from vivim_runtime.errors import SinkError, UsageError
from vivim_runtime.sinks import Segmented, open_sink, video
from vivim_runtime.sinks.video import ENCODERS, VideoWriter, encoder_for, encodes
from vivim_runtime.sources import Frame, open_source

SIZE = (480, 640)


def item(index: int) -> Segmented:
    picture = np.full((33, 47, 3), 90, np.uint8)
    logits = np.zeros((1, 33, 47), np.float32)
    return Segmented(Frame(index, index / 25, picture), 0, 0, False, logits, logits > 0, 1.0, picture)


def works_on(*names: str) -> video.Callable[[str, tuple[int, int], float], bool]:
    return lambda name, size, fps: name in names


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ((), "libx264"),
        (("libx264",), "libx264"),
        (("h264_v4l2m2m", "libx264"), "h264_v4l2m2m"),
        (("h264_v4l2m2m", "h264_nvenc", "libx264"), "h264_nvenc"),
    ],
)
def test_auto_takes_the_first_hardware_that_works_or_else_the_software(there: tuple[str, ...], chosen: str) -> None:
    assert encoder_for("auto", SIZE, 25.0, works_on(*there)) == chosen


def test_the_size_and_rate_that_are_wanted_decide() -> None:
    def works(name: str, size: tuple[int, int], fps: float) -> bool:
        return name == "h264_nvenc" and min(size) > 144 and fps < 100

    assert encoder_for("auto", SIZE, 25.0, works) == "h264_nvenc"
    assert encoder_for("auto", (64, 64), 25.0, works) == encoder_for("auto", SIZE, 200.0, works) == "libx264"


def test_an_encoder_that_was_asked_for_is_used_or_refused() -> None:
    assert encoder_for("libx264", SIZE, 25.0, works_on("h264_nvenc", "libx264")) == "libx264"
    with pytest.raises(SinkError, match="h264_nvenc does not work on this machine; use auto"):
        encoder_for("h264_nvenc", SIZE, 25.0, works_on("libx264"))


def test_other_codecs_and_encoders_are_refused() -> None:
    for name in ("mjpeg", "libx265", "x"):
        with pytest.raises(UsageError, match="expected one of auto, libx264"):
            encoder_for(name, SIZE, 25.0, works_on(name))


def test_the_software_encoder_works_and_a_listed_one_that_cannot_open_does_not_count() -> None:
    assert encodes("libx264", SIZE, 25.0)
    # 2 x 2 is less than any hardware takes; none may raise, whether it is in this FFmpeg or not.
    assert not any(encodes(name, (2, 2), 25.0) for name in ENCODERS if name not in ("auto", "libx264"))


def test_an_encoder_that_opens_and_then_fails_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        def encode(self, frame: object) -> list[object]:
            raise av.error.ExternalError(542398533, "no device")

    monkeypatch.setattr(video.av.CodecContext, "create", lambda name, mode: Context())
    assert not encodes("h264_nvenc", SIZE, 25.0)


def test_an_encoder_that_gives_nothing_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        def encode(self, frame: object) -> list[object]:
            return []

    monkeypatch.setattr(video.av.CodecContext, "create", lambda name, mode: Context())
    assert not encodes("h264_v4l2m2m", SIZE, 25.0)


@pytest.mark.parametrize("encoder", ["auto", "libx264"])
def test_the_encoder_can_be_chosen_where_the_output_is_opened(tmp_path: Path, encoder: str) -> None:
    info = type("Info", (), {"classes": ()})()
    with open_source("phantom:?size=33x47") as source:
        with open_sink(str(tmp_path / "o.mp4"), source, info, {}, encoder=encoder) as sink:
            sink.write(item(0))
        assert isinstance(sink, VideoWriter) and sink.encoder in ENCODERS[1:]
        with pytest.raises(UsageError):
            open_sink(str(tmp_path / "p.mp4"), source, info, {}, encoder="mjpeg")
    assert [file.name for file in tmp_path.iterdir()] == ["o.mp4"]


@pytest.mark.parametrize("pixels", ["yuv420p", "nv12"])
def test_pixels_come_in_the_form_that_the_encoder_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: str
) -> None:
    """libx264 takes both forms, and so stands for hardware with nv12 here."""
    known = video._Encoder("libx264", {"crf": "18"}, pixels=pixels)
    monkeypatch.setitem(video._BY_NAME, "libx264", known)
    with VideoWriter(tmp_path / "o.mp4", (33, 47), 25.0, "libx264") as sink:
        for index in range(5):
            sink.write(item(index))
    with open_source(str(tmp_path / "o.mp4")) as source:
        images = [frame.image for frame in source]
    assert len(images) == 5 and np.abs(images[4].astype(int) - 90).max() <= 3  # rounding of 8-bit Y'CbCr
