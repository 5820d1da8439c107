"""Video files, through FFmpeg (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import av

from vivim_runtime.errors import SourceError
from vivim_runtime.sources.base import DEFAULT_FPS, MAX_PIXELS, Frame, counted_frames
from vivim_runtime.sources.depth import significant_bits
from vivim_runtime.sources.ending import missing_bytes
from vivim_runtime.sources.film import (
    Decoding,
    FilmConverter,
    geometry_of,
    has_loose_bits,
    largest_value,
    open_film,
    reason_of,
)
from vivim_runtime.sources.geometry import Geometry

__all__ = ["VideoFile"]

# How notes about what is missing begin: a film that is read again says it once.
_LOST, _CUT = "lost:", "cut off:"
# Durations in headers are rounded, and count sound that is longer than the pictures.
_GAP_S = 0.5


class VideoFile:
    """The first video stream of a file, with its presentation times, as a player shows it.

    Args:
        path: the file, also for messages.
        content: what is read in place of the file, where the film lies within another one.

    Attributes:
        stored_size: (H, W) of the stored pictures.
        geometry: how these are shown.
        codec: as FFmpeg calls it.
    """

    def __init__(self, path: Path, content: BinaryIO | None = None) -> None:
        self.name = path.name
        self._path, self._content = path, content
        self.notes: list[str] = []
        self.lost = 0
        with self._opened() as (container, stream):
            codec = stream.codec_context
            size, self.codec = (int(codec.height), int(codec.width)), str(codec.name)
            if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
                raise SourceError(
                    f"{path} tells a frame size of {size[1]}x{size[0]}, which cannot be read; is it complete?"
                )
            self.fps = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
            self.frame_count: int | None = stream.frames or None
            decoding = Decoding(container, stream)
            _, first = next(iter(decoding), (0, None))
            if first is None:
                why = f"no frame that can be decoded ({decoding.reason})" if decoding.reason else "no frames"
                raise SourceError(f"{path} has {why}; is it complete?")
            self.stored_size = (int(first.height), int(first.width))
            self.geometry: Geometry = geometry_of(first, stream)
            deep = has_loose_bits(first)
        self.size = self.geometry.shown_size(self.stored_size)
        if self.size[0] * self.size[1] > MAX_PIXELS:
            raise SourceError(f"{path} is shown as {self.size[1]}x{self.size[0]}, which is too large")
        if self.geometry.describe():
            self.notes.append(f"{self.name} is {self.geometry.describe()}, as it says")
        self._white = 65535
        if deep:
            bits = significant_bits(self._largest())
            self._white = 2**bits - 1
            self.notes.append(f"{self.name} has 16 bits, of which {bits} are used: {self._white} is white")

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """The container from its start, and its video stream."""
        if self._content is not None:
            self._content.seek(0)
        try:
            container, stream = open_film(self._content or self._path)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(
                f"{self._path} is no video that FFmpeg can read ({reason_of(error)}); is it complete?"
            ) from None
        try:
            if stream is None:
                raise SourceError(f"{self._path} has no video stream")
            if stream.codec_context is None:
                raise SourceError(f"{self._path} is coded in a way that FFmpeg does not know; is it complete?")
            yield container, stream
        finally:
            container.close()

    def show_as(self, geometry: Geometry) -> None:
        """Take another geometry than the film's own, of the file that it lies in."""
        self.geometry, self.size = geometry, geometry.shown_size(self.stored_size)

    def _largest(self) -> int:
        """The largest value in the whole film."""
        with self._opened() as (container, stream):
            return max((largest_value(picture) for _, picture in Decoding(container, stream)), default=0)

    def __iter__(self) -> Iterator[Frame]:
        converter = FilmConverter(self.stored_size, self._white)
        last = -1.0
        with self._opened() as (container, stream):
            decoding = Decoding(container, stream)
            for number, picture in decoding:
                self.lost = decoding.lost
                time = number / self.fps
                if picture.pts is not None and picture.time_base:
                    time = float((picture.pts - (decoding.start or 0)) * picture.time_base)
                image = converter.rgb(picture, self.geometry)
                last = time
                yield Frame(number, time, image, damaged=bool(picture.is_corrupt))
            self._count_lost(container, stream, decoding, last)

    def _count_lost(self, container: Any, stream: Any, decoding: Decoding, last: float) -> None:
        """Say what is missing, once everything has been read."""
        self.lost = decoding.lost
        self.notes = [note for note in self.notes if not note.startswith((_LOST, _CUT))]
        if decoding.lost:
            why = f" ({decoding.reason})" if decoding.reason else ""
            self.notes.append(
                f"{_LOST} {counted_frames(decoding.lost)} of {self.name} cannot be decoded{why}; the rest is used"
            )
        missing = missing_bytes(self._path) if self._content is None else 0
        told = _told_seconds(container, stream)
        # FFmpeg counts the frames of a GIF by itself, as far as the file goes.
        counted = 0 if container.format.name == "gif" else stream.frames or 0
        behind = counted - decoding.packets
        if behind <= 0 and told - last > _GAP_S + 1.5 / self.fps:
            behind = round((told - last) * self.fps) - 1
        elif behind <= 0 and missing:
            behind = round(told * self.fps) - decoding.packets
        if behind > 0:
            self.lost += behind
            self.notes.append(
                f"{_LOST} {self.name} ends behind {decoding.packets} frames; about {behind} more "
                f"({behind / self.fps:.1f} s) should follow: copy it again"
            )
        elif missing and (counted or told):
            self.notes.append(
                f"{_CUT} {self.name} lacks at least {missing} bytes at its end, but none of its frames; copy it again"
            )
        elif missing:
            self.lost += 1
            self.notes.append(
                f"{_LOST} {self.name} lacks at least {missing} bytes at its end, and with them a frame or more; "
                "copy it again"
            )

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Each iteration closes what it opened.
        return


def _told_seconds(container: Any, stream: Any) -> float:
    """How long a film is, by a header that was written when it was complete; 0 where none tells."""
    if container.format.name != "matroska,webm":
        return 0.0  # others count their frames, or have their length measured by FFmpeg
    tag = stream.metadata.get("DURATION", "")
    try:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        alone = len(container.streams) == 1 and container.duration
        return container.duration / av.time_base if alone else 0.0
