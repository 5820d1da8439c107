"""`gst:` pipelines, through OpenCV where it was built with GStreamer (the wheels of pip are not)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import cv2

from vivim_runtime.errors import SourceError
from vivim_runtime.sources.base import MAX_PIXELS, Frame, LiveSource
from vivim_runtime.text import parse_number

__all__ = ["GStreamerPipeline", "csi_pipeline", "has_gstreamer"]


def has_gstreamer() -> bool:
    """Whether this OpenCV can run pipelines."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None


def csi_pipeline(uri: str, size: tuple[int, int] | None, rate: float | None) -> str:
    """`csi://0`, the first camera at a Jetson's ribbon cable -> the pipeline that reads it.

    Args:
        size: (H, W) to ask for; 1280x720 where not given.
        rate: frames a second to ask for; 30 where not given.

    Raises:
        SourceError: the number is none.
    """
    number = parse_number(uri.removeprefix("csi://").strip("/") or "0")
    if number is None:
        raise SourceError(f"{uri} is no camera; expected csi://0, csi://1, ...")
    height, width = size or (720, 1280)
    caps = f"video/x-raw(memory:NVMM),width={width},height={height},framerate={round(rate or 30)}/1,format=NV12"
    return f"gst:nvarguscamerasrc sensor-id={number} ! {caps} ! nvvidconv ! video/x-raw,format=BGRx"


class GStreamerPipeline(LiveSource):
    """The pictures of a pipeline; `! videoconvert ! video/x-raw,format=BGR ! appsink` is added where it has no sink."""

    def __init__(self, uri: str) -> None:
        super().__init__("gst: pipeline")
        pipeline = uri.removeprefix("gst:").strip()
        if "appsink" not in pipeline:
            pipeline += " ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
        self._pipeline = pipeline
        if not has_gstreamer():
            raise SourceError(
                "gst: needs an OpenCV that was built with GStreamer, and this one was not; "
                "use /dev/video0, rtsp:// or udp://, or install such an OpenCV (Debian: python3-opencv)"
            )

    def __iter__(self) -> Iterator[Frame]:
        capture = cv2.VideoCapture(self._pipeline, cv2.CAP_GSTREAMER)
        try:
            if not capture.isOpened():
                raise SourceError("gst: the pipeline cannot be started; try it with gst-launch-1.0")
            self.fps = float(capture.get(cv2.CAP_PROP_FPS)) or self.fps
            index = 0
            while True:
                there, picture = capture.read()
                arrived = time.monotonic()
                if not there:
                    raise SourceError("gst: the pipeline has ended")
                if picture.shape[0] * picture.shape[1] > MAX_PIXELS:
                    raise SourceError(f"gst: frames of {picture.shape[1]}x{picture.shape[0]} are too large")
                self.size = (picture.shape[0], picture.shape[1])
                image = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
                yield Frame(index, index / self.fps, image, taken=arrived)
                index += 1
        finally:
            capture.release()
