"""Video files: H.264 in MP4 (fragmented), MKV or AVI, VP9 in WebM. A killed run leaves one that plays up to its end.

FFmpeg lists encoders of hardware that this machine does not have, and some open and then fail. So an encoder counts
only when it has coded a picture of the very size that is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from vivim_runtime.errors import SinkError, UsageError
from vivim_runtime.files import GrowingFile, SeekingFile
from vivim_runtime.sinks.base import Segmented
from vivim_runtime.sources.base import Image

__all__ = ["CONTAINERS", "ENCODERS", "VideoWriter", "encoder_for", "encodes"]

# Ticks a second of the frame times: the customary clock of MPEG.
_CLOCK = 90_000
# A fragment ends at a key frame, so the last second is what a killed run can lose.
_KEY_SECONDS = 1.0
_BT709 = 1  # of ISO/IEC 23091-2: primaries, transfer and matrix alike
# Bits a pixel, of encoders that know no constant quality; about what crf 18 makes of ultrasound.
_BITS_A_PIXEL = 0.2


@dataclass(frozen=True)
class _Encoder:
    """An H.264 encoder of FFmpeg.

    Attributes:
        name: as FFmpeg calls it.
        options: of the encoder, for about the quality of crf 18 and no delay.
        pixels: the form that it takes pixels in.
        constant_quality: whether the options say the quality; else a bit rate does.
    """

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    pixels: str = "yuv420p"
    constant_quality: bool = True


@dataclass(frozen=True)
class _Container:
    """A kind of file.

    Attributes:
        format: as FFmpeg calls it.
        options: of the muxer, for a file that plays when the run is killed.
        grows: whether it is written from front to end alone.
        fixed_rate: whether frames have no times of their own, but a rate.
        encoder: the only one for it; None where H.264 is.
    """

    format: str
    options: Mapping[str, str]
    grows: bool = False
    fixed_rate: bool = False
    encoder: _Encoder | None = None


# Constant quality, as fast as VP9 can be coded without a second thread.
_VP9 = _Encoder("libvpx-vp9", {"crf": "30", "b": "0", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"})
CONTAINERS: Mapping[str, _Container] = {
    # Fragments; the index is written first and never touched again.
    ".mp4": _Container(
        "mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}, grows=True
    ),
    ".mkv": _Container("matroska", {"cluster_time_limit": "1000", "flush_packets": "1"}),
    ".avi": _Container("avi", {"flush_packets": "1"}, fixed_rate=True),
    ".webm": _Container("webm", {"cluster_time_limit": "1000", "flush_packets": "1"}, encoder=_VP9),
}

_SOFTWARE = _Encoder("libx264", {"crf": "18", "preset": "veryfast", "tune": "zerolatency"})
# In the order of preference. h264_vaapi is left out: it takes frames in the GPU's memory, which PyAV cannot give it.
_HARDWARE = (
    _Encoder("h264_nvenc", {"rc": "constqp", "qp": "20", "preset": "p4", "tune": "ll"}),
    _Encoder("h264_qsv", {"global_quality": "20", "preset": "veryfast", "async_depth": "1"}, pixels="nv12"),
    _Encoder("h264_v4l2m2m", pixels="nv12", constant_quality=False),
)
_BY_NAME = {encoder.name: encoder for encoder in (_SOFTWARE, *_HARDWARE)}
ENCODERS: tuple[str, ...] = ("auto", *_BY_NAME)


def _set_up(context: Any, encoder: _Encoder, size: tuple[int, int], fps: float) -> None:
    """Prepare a codec context for pictures of (H, W), both even."""
    context.height, context.width = size
    context.pix_fmt = encoder.pixels
    context.time_base = Fraction(1, _CLOCK)
    context.gop_size = max(1, round(fps * _KEY_SECONDS))
    context.max_b_frames = 0
    context.color_range = ColorRange.MPEG
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    if not encoder.constant_quality:
        context.bit_rate = round(size[0] * size[1] * fps * _BITS_A_PIXEL)


def encodes(name: str, size: tuple[int, int], fps: float) -> bool:
    """Whether an encoder of `ENCODERS` codes a grey picture of (H, W), both even, on this machine."""
    encoder = _BY_NAME[name]
    try:
        context: Any = av.CodecContext.create(name, "w")
        context.framerate = Fraction(fps).limit_denominator(1001)
        _set_up(context, encoder, size, fps)
        context.options = dict(encoder.options)
        frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 128, np.uint8), format="rgb24")
        frame = frame.reformat(format=encoder.pixels)
        frame.pts, frame.time_base = 0, Fraction(1, _CLOCK)
        return bool([*context.encode(frame), *context.encode(None)])
    except (av.error.FFmpegError, OSError, ValueError):
        return False


def encoder_for(
    wanted: str,
    size: tuple[int, int],
    fps: float,
    works: Callable[[str, tuple[int, int], float], bool] = encodes,
) -> str:
    """The encoder to use: `wanted` where it works; for "auto" the first of the hardware that does, else libx264.

    Args:
        works: whether a named encoder codes pictures of a size at a rate.

    Raises:
        UsageError: the name is unknown.
        SinkError: an encoder that was asked for by name does not work here.
    """
    if wanted not in ENCODERS:
        raise UsageError(f"the encoder is {wanted}; expected one of {', '.join(ENCODERS)}")
    if wanted == "auto":
        return next((encoder.name for encoder in _HARDWARE if works(encoder.name, size, fps)), _SOFTWARE.name)
    if not works(wanted, size, fps):
        raise SinkError(f"the encoder {wanted} does not work on this machine; use auto, or libx264")
    return wanted


class VideoWriter:
    """The drawn frames as a video, each at its own time.

    Frames go to `NAME.part.mp4`, which takes the place of `NAME.mp4` at the end. H.264 stores colour at half resolution
    and so wants even sides: an odd frame is extended by one repeated row or column.

    Attributes:
        encoder: the name of the one that was chosen.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float, encoder: str = "auto") -> None:
        self._padding = (size[0] % 2, size[1] % 2)
        padded = (size[0] + self._padding[0], size[1] + self._padding[1])
        rate = Fraction(fps).limit_denominator(1001)
        kind = CONTAINERS[path.suffix.lower()]
        chosen = kind.encoder or _BY_NAME[encoder_for(encoder, padded, fps)]
        if kind.encoder and encoder not in ("auto", chosen.name):
            raise UsageError(f"{path} takes the encoder {chosen.name}, not {encoder}; use auto, or name a .mp4 file")
        self.encoder, self._pixels = chosen.name, chosen.pixels
        self._clock = rate if kind.fixed_rate else Fraction(_CLOCK)  # ticks a second
        self._file = GrowingFile(path) if kind.grows else SeekingFile(path)
        try:
            self._container: Any = av.open(self._file, "w", format=kind.format, options=dict(kind.options))
            stream: Any = self._container.add_stream(self.encoder, rate=rate)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._file.discard()
            raise SinkError(f"cannot write a video to {path}: {getattr(error, 'strerror', None) or error}") from None
        _set_up(stream.codec_context, chosen, padded, fps)
        stream.codec_context.time_base = stream.time_base = 1 / self._clock
        stream.options = dict(chosen.options)
        self._stream = stream
        self._last = -1
        self._taken = self._packed = 0  # pictures given to the encoder, and those that came out of it

    @property
    def path(self) -> str:
        return str(self._file.target)

    def write(self, item: Segmented) -> None:
        self._write(item.picture, item.frame.time)

    def _write(self, picture: Image, time: float) -> None:
        below, right = self._padding
        if below or right:
            picture = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(
            format=self._pixels,
            src_colorspace=Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        # Two frames never share a time, even where a source repeats one.
        self._last = max(self._last + 1, round(time * self._clock))
        frame.pts, frame.time_base = self._last, 1 / self._clock
        self._taken += 1
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
                self._packed += 1
        except (av.error.FFmpegError, OSError) as error:
            raise SinkError(
                f"cannot go on writing {self._file.path}: {getattr(error, 'strerror', None) or error}"
            ) from None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._taken:
                self._mux(None)
            self._container.close()
            if kind is None and self._taken:
                if self._packed != self._taken:
                    raise SinkError(f"{self.encoder} gave {self._packed} of {self._taken} pictures for {self.path}")
                self._file.complete()
        except (av.error.FFmpegError, OSError, SinkError) as failure:
            # Behind a failed write (a full disk) nothing more can be said; the first error tells.
            if kind is None:
                reason = getattr(failure, "strerror", None) or failure
                raise (
                    failure if isinstance(failure, SinkError) else SinkError(f"cannot complete {self.path}: {reason}")
                ) from None
        finally:
            if self._taken:
                self._file.keep()
            else:
                self._file.discard()
