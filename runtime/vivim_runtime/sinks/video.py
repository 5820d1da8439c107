"""H.264 in MP4, fragmented: a run that is killed leaves a file that plays up to its last second."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from vivim_runtime.errors import SinkError
from vivim_runtime.files import part_name, writable_file
from vivim_runtime.sinks.base import Segmented
from vivim_runtime.sources.base import Image

__all__ = ["VideoWriter"]

# Ticks a second of the frame times: the customary clock of MPEG.
_CLOCK = 90_000
# A fragment ends at a key frame, so the last second is what a killed run can lose.
_KEY_SECONDS = 1.0
_BT709 = 1  # of ISO/IEC 23091-2: primaries, transfer and matrix alike
# Fragments; the index is written first and never touched again.
_CONTAINER = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}


class VideoWriter:
    """The drawn frames as a video, each at its own time.

    Frames go to `NAME.part.mp4`, which takes the place of `NAME.mp4` at the end. H.264 stores colour at half resolution
    and so wants even sides: an odd frame is extended by one repeated row or column.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        self._target, self._part = writable_file(path), part_name(path)
        self._padding = (size[0] % 2, size[1] % 2)
        rate = Fraction(fps).limit_denominator(1001)
        try:
            self._container: Any = av.open(str(self._part), "w", format="mp4", options=_CONTAINER)
            stream: Any = self._container.add_stream("libx264", rate=rate)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SinkError(f"cannot write a video to {path}: {getattr(error, 'strerror', None) or error}") from None
        stream.height, stream.width = size[0] + self._padding[0], size[1] + self._padding[1]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _CLOCK)
        stream.codec_context.gop_size = max(1, round(fps * _KEY_SECONDS))
        stream.codec_context.max_b_frames = 0
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.colorspace = _BT709
        stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
        stream.options = {"crf": "18", "preset": "veryfast", "tune": "zerolatency"}
        self._stream = stream
        self._last = -1

    @property
    def path(self) -> str:
        return str(self._target)

    def write(self, item: Segmented) -> None:
        self._write(item.picture, item.frame.time)

    def _write(self, picture: Image, time: float) -> None:
        below, right = self._padding
        if below or right:
            picture = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(
            format="yuv420p",
            src_colorspace=Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        # Two frames never share a time, even where a source repeats one.
        self._last = max(self._last + 1, round(time * _CLOCK))
        frame.pts, frame.time_base = self._last, Fraction(1, _CLOCK)
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (av.error.FFmpegError, OSError) as error:
            raise SinkError(f"cannot go on writing {self._part}: {getattr(error, 'strerror', None) or error}") from None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        written = self._last >= 0
        try:
            if written:
                self._mux(None)
            self._container.close()
        except (av.error.FFmpegError, OSError, SinkError):
            # Behind a failed write (a full disk) nothing more can be said; the first error tells.
            if kind is None:
                raise
        if not written:
            self._part.unlink(missing_ok=True)
        elif kind is None:
            self._part.replace(self._target)
