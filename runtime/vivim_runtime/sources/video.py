"""Video files, through FFmpeg (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import av

from vivim_runtime.errors import SourceError
from vivim_runtime.sources.base import DEFAULT_FPS, MAX_PIXELS, Frame

__all__ = ["VideoFile"]


class VideoFile:
    """The first video stream of a file, with its presentation times."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        self.notes: list[str] = []
        try:
            self._container: Any = av.open(str(path), options={"max_pixels": str(MAX_PIXELS)})
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"{path} is no video that FFmpeg can read ({_reason(error)}); is it complete?") from None
        if not self._container.streams.video:
            self._container.close()
            raise SourceError(f"{path} has no video stream")
        stream = self._container.streams.video[0]
        if stream.codec_context is None:
            self._container.close()
            raise SourceError(f"{path} is coded in a way that FFmpeg does not know; is it complete?")
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        self._stream = stream
        self.size = (int(stream.codec_context.height), int(stream.codec_context.width))
        self.fps = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
        self.frame_count: int | None = stream.frames or None
        if min(self.size) < 1 or self.size[0] * self.size[1] > MAX_PIXELS:
            self._container.close()
            height, width = self.size
            raise SourceError(f"{path} tells a frame size of {width}x{height}, which cannot be read; is it complete?")

    def __iter__(self) -> Iterator[Frame]:
        index, start = 0, None
        height, width = self.size
        try:
            for picture in self._container.decode(self._stream):
                time = index / self.fps if picture.time is None else float(picture.time)
                start = time if start is None else start
                # A stream may change its size on the way; everything behind keeps the first one.
                image = picture.to_ndarray(format="rgb24", width=width, height=height)
                yield Frame(index, time - start, image)
                index += 1
        except av.error.FFmpegError as error:
            if index == 0:
                raise SourceError(f"{self._path} has no frame that can be decoded ({_reason(error)})") from None
            self.notes.append(
                f"{self.name} is damaged behind frame {index - 1} ({_reason(error)}); the rest is left out"
            )
        if index == 0:
            raise SourceError(f"{self._path} has no frames")

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
