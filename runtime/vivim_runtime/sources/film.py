"""Films through FFmpeg (PyAV), as they are meant to be seen: colours by their matrix and range, turned, square pixels.

Everything that decodes films takes its pictures from here: files, streams, cameras, data sets, and DICOM.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, VideoReformatter

from vivim_runtime.sources.base import MAX_PIXELS, Image
from vivim_runtime.sources.depth import to_bytes
from vivim_runtime.sources.geometry import Geometry, pixel_aspect, turn_of_display_matrix

__all__ = [
    "Decoding",
    "FilmConverter",
    "film_path",
    "geometry_of",
    "has_loose_bits",
    "largest_value",
    "open_film",
    "reason_of",
]

# AVColorSpace (ISO/IEC 23091-2 matrix coefficients) -> SWS_CS_*, what swscale calls it.
_BT709, _FCC, _BT601, _SMPTE240, _BT2020 = 1, 4, 5, 7, 9
_MATRICES = {1: _BT709, 4: _FCC, 5: _BT601, 6: _BT601, 7: _SMPTE240, 9: _BT2020, 10: _BT2020}
# Without a tag, players take standard definition for BT.601 and what is larger for BT.709.
_STANDARD_DEFINITION = (576, 1279)  # (H, W)
_LIMITED, _FULL = 1, 2  # AVColorRange


def film_path(path: Path) -> str:
    """A file's name that FFmpeg takes for no protocol: `10:30:05.mp4` and `-.mp4` are files."""
    return str(path.absolute())


def open_film(what: Any) -> tuple[Any, Any]:
    """The container of a file (a path or a binary file object) and its first video stream, None where it has none.

    Raises:
        av.error.FFmpegError, OSError, ValueError: it is no film.
    """
    container: Any = av.open(film_path(what) if isinstance(what, Path) else what, options=_limits())
    stream: Any = next((s for s in container.streams.video if not _is_cover(s)), None)
    if stream is not None and stream.codec_context is not None:
        stream.thread_type = "AUTO"
        stream.codec_context.options = _limits()
    return container, stream


def _limits() -> dict[str, str]:
    return {"max_pixels": str(MAX_PIXELS)}


def _is_cover(stream: Any) -> bool:
    """Whether a stream is the picture of an album or a thumbnail."""
    disposition = stream.disposition
    return bool(int(getattr(disposition, "value", disposition)) & 0x400)  # AV_DISPOSITION_ATTACHED_PIC


def geometry_of(picture: Any, stream: Any) -> Geometry:
    """How a decoded picture is meant to be seen."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    aspect = pixel_aspect(ratio.numerator, ratio.denominator) if ratio else 1.0
    for data in picture.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return turn_of_display_matrix(bytes(data), aspect)
    return Geometry(aspect=aspect)


def has_loose_bits(picture: Any) -> bool:
    """Whether a picture's numbers are of 16 bits, of which any number may be used."""
    depths = {component.bits for component in picture.format.components}
    return max(depths, default=8) == 16 and not _is_yuv(picture)


def largest_value(picture: Any) -> int:
    """The largest number in a picture of which `has_loose_bits` is true; transparency left out."""
    return int(_sixteen_bits(picture).max(initial=0))


def _is_yuv(picture: Any) -> bool:
    return len(picture.format.components) >= 3 and not picture.format.is_rgb


def _sixteen_bits(picture: Any) -> npt.NDArray[np.uint16]:
    """uint16 (H, W) of grey, (H, W, 3) of RGB."""
    grey = len(picture.format.components) < 3
    reformatter: Any = VideoReformatter()
    return reformatter.reformat(picture, format="gray16le" if grey else "rgb48le").to_ndarray()


class FilmConverter:
    """Decoded pictures -> uint8 RGB (H, W, 3).

    Args:
        size: (H, W) that pictures are brought to before they are turned; None leaves them.
        white: of pictures with loose bits, see `has_loose_bits`; 65535 where nothing is known.
    """

    def __init__(self, size: tuple[int, int] | None = None, white: int = 65535) -> None:
        self._size, self._white = size, white
        self._reformatter: Any = VideoReformatter()

    def rgb(self, picture: Any, geometry: Geometry) -> Image:
        """A picture as it is meant to be seen."""
        size = self._size or (picture.height, picture.width)
        if (picture.height, picture.width) != size:  # a stream may change its size on the way
            picture = self._reformatter.reformat(picture, width=size[1], height=size[0])
        return geometry.show(self._colours(picture))

    def _colours(self, picture: Any) -> Image:
        if len(picture.format.components) < 3 and picture.format.name not in ("pal8", "monow", "monob"):
            return np.repeat(self._grey(picture)[..., None], 3, axis=2)
        if not _is_yuv(picture) and max(component.bits for component in picture.format.components) > 8:
            # By ourselves: FFmpeg dithers what it narrows.
            return to_bytes(_sixteen_bits(picture), 0, self._white)
        rgb = {"format": "rgb24", "dst_color_range": ColorRange.JPEG}
        if _is_yuv(picture):
            matrix = _MATRICES.get(int(picture.colorspace)) or _usual_matrix(picture)
            # The matrix of the result is that of the source: RGB has none, and FFmpeg is not to convert between two.
            rgb |= {"src_colorspace": matrix, "dst_colorspace": matrix, "src_color_range": _range(picture)}
        return self._reformatter.reformat(picture, **rgb).to_ndarray()

    def _grey(self, picture: Any) -> npt.NDArray[np.uint8]:
        """uint8 (H, W). Grey is of full range unless it says otherwise."""
        bits = max(component.bits for component in picture.format.components)
        if bits <= 8:
            values = self._reformatter.reformat(picture, format="gray").to_ndarray()
            black, white = 0.0, 255.0
        else:
            # FFmpeg widens 10 bits to 16 so that white stays white.
            values = self._reformatter.reformat(picture, format="gray16le").to_ndarray()
            black, white = 0.0, float(self._white if bits == 16 else 65535)
        if int(picture.color_range) == _LIMITED:
            black, white = (white + 1) * 16 / 256, (white + 1) * 235 / 256
        elif bits <= 8:
            return values
        return to_bytes(values, black, white)


def _usual_matrix(picture: Any) -> int:
    height, width = _STANDARD_DEFINITION
    return _BT601 if picture.height <= height and picture.width <= width else _BT709


def _range(picture: Any) -> ColorRange:
    told = int(picture.color_range)
    full = told == _FULL or (told != _LIMITED and picture.format.name.startswith("yuvj"))
    return ColorRange.JPEG if full else ColorRange.MPEG


class Decoding:
    """The pictures of a stream with their numbers; what cannot be decoded is counted, and the rest goes on.

    A picture's number counts those that are lost before it, as its packet's time tells; so masks and frames of a
    damaged film still belong together. Where packets have no times, a packet that fails counts as one picture.

    Attributes:
        lost: pictures that could not be decoded, as far as the stream was read.
        packets: that were read and show a picture.
        start: the time stamp of the first picture, lost or not; None before, or without times.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self._waiting: list[int] = []  # time stamps of packets whose picture has not come yet, a heap
        self._timed = True
        self.lost = self.packets = 0
        self.start: int | None = None
        self.reason = ""

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        number = 0
        for packet in self._demuxed():
            if shows_picture(packet, self._stream):
                self.packets += 1
                self._timed = self._timed and packet.pts is not None
                if self._timed:
                    heapq.heappush(self._waiting, packet.pts)
            try:
                pictures = packet.decode()
            except (av.error.FFmpegError, ValueError) as error:
                self.reason = self.reason or reason_of(error)
                number, self.lost = (number, self.lost) if self._timed else (number + 1, self.lost + 1)
                continue
            for picture in pictures:
                before = self._lost_before(picture)
                number, self.lost = number + before, self.lost + before
                yield number, picture
                number += 1
        if self._timed:
            self.lost += len(self._waiting)

    def _demuxed(self) -> Iterator[Any]:
        """The packets, as far as the file goes; a file that is cut may end in an error."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError, ValueError) as error:
                self.reason = self.reason or reason_of(error)
                return
            if packet is None:
                return
            yield packet

    def _lost_before(self, picture: Any) -> int:
        """Pictures that should have come before this one. They come in the order of their times."""
        if not self._timed or picture.pts is None:
            return 0
        lost = 0
        while self._waiting and self._waiting[0] < picture.pts:
            first = heapq.heappop(self._waiting)
            self.start = first if self.start is None else self.start
            lost += 1
        if self._waiting and self._waiting[0] == picture.pts:
            heapq.heappop(self._waiting)
        self.start = picture.pts if self.start is None else self.start
        return lost


def shows_picture(packet: Any, stream: Any) -> bool:
    """Whether a packet should give a picture that is shown.

    VP8 has packets that show none by themselves, which later pictures refer to (RFC 6386 9.1).
    """
    if not packet.size or packet.is_discard:
        return False
    return stream.codec_context.name not in ("vp8", "libvpx") or bool(bytes(packet)[0] & 0x10)


def reason_of(error: Exception) -> str:
    """What an error of FFmpeg says, in a word or two."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
