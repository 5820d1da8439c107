"""Streams over a network, and pipes, through FFmpeg (PyAV): RTSP, HTTP and MJPEG, MPEG-TS over UDP or TCP, a FIFO.

Set for low delay: a stream is looked at no longer than needed before it is decoded, what came meanwhile is caught up
with, and the decoder holds back no frames for its threads.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av

from vivim_runtime.errors import SourceError
from vivim_runtime.sources.base import MAX_PIXELS, Frame, LiveSource
from vivim_runtime.sources.film import FilmConverter, geometry_of
from vivim_runtime.sources.geometry import AS_STORED

__all__ = ["STREAM_SCHEMES", "SenderClock", "Stream", "public_name"]

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtp", "http", "https", "udp", "tcp", "srt")

_OPEN_S = 5.0  # to connect, and to learn what is sent
_READ_S = 2.0  # between two packets
# Behind so many packets in a row that cannot be decoded, a new connection is more likely to help.
_MAX_BAD_PACKETS = 250
_LOW_DELAY = {
    "flags": "low_delay",
    "probesize": "500000",
    "analyzeduration": "1000000",  # microseconds
    "fpsprobesize": "0",  # a second would be spent on the rate, which the frames tell by themselves
    "max_delay": "100000",  # microseconds to wait for packets out of order
    "max_pixels": str(MAX_PIXELS),
}
_OF_SCHEME = {
    "rtsp": {"rtsp_transport": "tcp"},  # through every firewall, and no torn frames
    "rtsps": {"rtsp_transport": "tcp"},
    "udp": {"overrun_nonfatal": "1"},
}
# Formats whose time stamps are the sender's clock; those of the others are made up from a frame rate.
_CLOCKED = frozenset(
    {"video4linux2,v4l2", "rtsp", "sdp", "rtp", "mpegts", "flv", "matroska,webm", "hls", "mov,mp4,m4a,3gp,3g2,mj2"}
)


def public_name(url: str) -> str:
    """A URL without user, password and query, which may hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class SenderClock:
    """Turns a sender's time stamps into our time: as if the fastest frame so far had needed no time at all.

    What remains of a frame's way is its own delay: jitter and queues show, the constant part does not.
    """

    # A sender that is this far off has set its clock, or lost time: begin anew.
    _JUMP_S = 1.0

    def __init__(self) -> None:
        self._offset: float | None = None

    def taken(self, stamp: float | None, arrived: float) -> float:
        """When a frame was taken, by our clock, given its time stamp and its arrival in seconds."""
        if stamp is None:
            return arrived
        lead = arrived - stamp
        if self._offset is None or lead < self._offset or lead > self._offset + self._JUMP_S:
            self._offset = lead
        return stamp + self._offset


class _Backlog:
    """Which pictures came while the stream was being opened, and are handed out in a rush once it is.

    They have to be decoded, since later ones build on them (to begin with the next key frame would take seconds), and
    are too old to be shown: all but the first.

    Args:
        spent: seconds that opening took, which bounds the backlog.
        interval: seconds from one picture to the next.
    """

    def __init__(self, spent: float, interval: float) -> None:
        self._spent, self._waiting = spent, interval / 4
        self._first: float | None = None

    def holds(self, stamp: float, waited: float) -> bool:
        """Whether a picture is of the backlog, given its time stamp and how long its packet was waited for."""
        if self._first is None:
            self._first = stamp
            return False
        if waited > self._waiting:
            self._spent = 0.0  # caught up
        return stamp - self._first < self._spent


class _Damage:
    """Which pictures are made of incomplete data: from a packet with holes on, until a key frame needs no other one.

    FFmpeg puts the mark on the packet that it hands out when it notices: the hole may be in the next one. Streams
    without key frames renew the picture bit by bit, and no standard says in what time.
    """

    _DOUBTFUL = 2  # packets: the one with the mark, and the next
    _RENEWED_S = 2.0

    def __init__(self) -> None:
        self._since: float | None = None
        self._doubtful = 0

    def packet(self, holes: bool, now: float) -> None:
        """A packet came, with holes or without."""
        if holes:
            self._since, self._doubtful = now, self._DOUBTFUL
        elif self._doubtful:
            self._doubtful -= 1

    def of(self, key_frame: bool, now: float) -> bool:
        """Whether a picture is damaged that comes out of the last packet."""
        whole = key_frame and not self._doubtful
        if whole or (self._since is not None and now - self._since > self._RENEWED_S):
            self._since = None
        return self._since is not None


class _Pipe:
    """A FIFO as a file that is read with a time limit, since opening or reading one waits for a writer."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none when the writer has gone. TimeoutError when nothing comes."""
        ready, _, _ = select.select([self._descriptor], [], [], _READ_S)
        if not ready:
            raise TimeoutError
        return os.read(self._descriptor, size)

    def close(self) -> None:
        os.close(self._descriptor)


class Stream(LiveSource):
    """The video of a URL or a FIFO, as FFmpeg decodes it."""

    def __init__(self, url: str) -> None:
        self._pipe = "://" not in url
        super().__init__(Path(url).name if self._pipe else public_name(url))
        self._url = url
        self._scheme = urlsplit(url).scheme
        self._clock = SenderClock()
        self.patience = _OPEN_S + _READ_S

    def __iter__(self) -> Iterator[Frame]:
        began = time.monotonic()
        with ExitStack() as stack:
            container = self._opened(stack)
            stack.callback(container.close)
            try:
                yield from self._frames(container, time.monotonic() - began)
            except (av.error.FFmpegError, OSError, ValueError) as error:
                raise SourceError(f"{self.name}: {self._reason(error, _READ_S)}") from None
        raise SourceError(f"{self.name}: the sender has ended the stream")

    def _opened(self, stack: ExitStack) -> Any:
        options = {**_LOW_DELAY, **_OF_SCHEME.get(self._scheme, {})}
        try:
            what: Any = self._url
            if self._pipe:
                what = _Pipe(Path(self._url))
                stack.callback(what.close)
            return self._open(what, options)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"{self.name} cannot be opened: {self._reason(error, _OPEN_S)}") from None

    def _open(self, what: Any, options: dict[str, str]) -> Any:
        return av.open(what, options=options, timeout=(_OPEN_S, _READ_S), buffer_size=4096)

    def _frames(self, container: Any, spent: float) -> Iterator[Frame]:
        if not container.streams.video:
            raise SourceError(f"{self.name} sends no video")
        if container.duration and self._scheme in ("http", "https"):
            seconds = container.duration / av.time_base
            raise SourceError(
                f"{self.name} is a recording of {seconds:.0f} s and no live stream; download it, and give the file"
            )
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "SLICE"  # threads over frames would hold back one frame each
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        told = float(stream.average_rate or stream.guessed_rate or 0)
        self.fps = told if 1 <= told <= 240 else self.fps  # some streams tell the rate of their clock
        clocked = container.format.name in _CLOCKED
        converter, geometry, turn = FilmConverter(), AS_STORED, None
        damage, backlog = _Damage(), _Backlog(spent, 1.0 / self.fps)
        index = bad = 0
        packets = container.demux(stream)
        while True:
            asked = time.monotonic()
            packet = next(packets, None)
            if packet is None:
                return
            waited = time.monotonic() - asked
            damage.packet(packet.is_corrupt, time.monotonic())
            try:
                pictures = packet.decode()
                bad = 0
            except av.error.InvalidDataError:
                bad, pictures = bad + 1, []
                damage.packet(True, time.monotonic())
                if bad > _MAX_BAD_PACKETS:
                    raise SourceError(f"{self.name}: {bad} packets in a row cannot be decoded") from None
            for picture in pictures:
                arrived = time.monotonic()
                taken = self._taken(picture.time, arrived) if clocked else arrived
                damaged = damage.of(bool(picture.key_frame), arrived) or bool(picture.is_corrupt)
                if clocked and picture.time is not None and backlog.holds(picture.time, waited):
                    continue
                # Asking a picture for its side data keeps its memory for longer: only where something has changed.
                if turn != (picture.height, picture.width, picture.rotation):
                    turn = (picture.height, picture.width, picture.rotation)
                    geometry = geometry_of(picture, stream)
                image = converter.rgb(picture, geometry)
                self.size = (image.shape[0], image.shape[1])
                yield Frame(index, index / self.fps, image, taken=taken, damaged=damaged)
                index += 1

    def _taken(self, stamp: float | None, arrived: float) -> float:
        return self._clock.taken(stamp, arrived)

    def _reason(self, error: Exception, seconds: float) -> str:
        if isinstance(error, (TimeoutError, av.error.ExitError)):
            return f"nothing came for {seconds:g} s"
        if isinstance(error, OSError) and error.errno == errno.EIO and not self._pipe:
            return "input/output error; is the name of the host right?"  # FFmpeg's answer to names that are not known
        return getattr(error, "strerror", None) or type(error).__name__
