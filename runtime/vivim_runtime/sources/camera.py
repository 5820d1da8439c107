"""Cameras of Linux (V4L2), through FFmpeg (PyAV), with the driver's time stamps."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from vivim_runtime.errors import SourceError, UsageError
from vivim_runtime.sources.stream import Stream
from vivim_runtime.text import parse_number

__all__ = ["Camera", "CameraInfo", "CaptureOptions", "is_camera_number", "list_cameras", "parse_capture"]

# As drivers call them, and as FFmpeg does.
_PIXEL_FORMATS = {"mjpg": "mjpeg", "yuyv": "yuyv422", "nv12": "nv12", "uyvy": "uyvy422", "yu12": "yuv420p"}

# linux/videodev2.h: _IOR('V', 0, struct v4l2_capability) and _IOWR('V', 2, struct v4l2_fmtdesc).
_QUERYCAP, _ENUM_FMT = 0x80685600, 0xC0405602
_VIDEO_CAPTURE, _DEVICE_CAPS = 0x00000001, 0x80000000

# A driver's time stamp further from now than this is not of time.monotonic().
_CLOCK_S = 10.0


def is_camera_number(text: str) -> bool:
    """Whether a name is the number of a camera: digits of ASCII, and neither ① nor ²."""
    return text.isascii() and text.isdigit()


@dataclass(frozen=True)
class CaptureOptions:
    """What to ask a camera for; None leaves it to the driver.

    Attributes:
        size: (H, W) in pixels.
        rate: frames a second.
        pixel_format: as FFmpeg calls it: mjpeg, yuyv422, ...
    """

    size: tuple[int, int] | None = None
    rate: float | None = None
    pixel_format: str | None = None


def parse_capture(resolution: str | None, rate: float | None, pixel_format: str | None) -> CaptureOptions:
    """`1280x720` (width first, as cameras are described), 30, `MJPG` -> options; UsageError for anything else."""
    size = None
    if resolution is not None:
        width, _, height = resolution.lower().partition("x")
        columns, rows = parse_number(width), parse_number(height)
        if not columns or not rows:
            raise UsageError(f"--resolution is {resolution}; expected width x height, like 1280x720")
        size = (rows, columns)
    if rate is not None and not 0 < rate <= 1000:
        raise UsageError(f"--rate is {rate:g}; expected frames a second, above 0 and up to 1000")
    form = None if pixel_format is None else _PIXEL_FORMATS.get(pixel_format.lower(), pixel_format.lower())
    return CaptureOptions(size, rate, form)


@dataclass(frozen=True)
class CameraInfo:
    """A camera that is plugged in: its device, its name, and the pixel formats it offers."""

    device: str
    name: str
    formats: tuple[str, ...]


def list_cameras(devices: Path = Path("/dev")) -> list[CameraInfo]:
    """The cameras of this machine, in the order of their numbers; nodes that give no pictures are left out."""
    nodes = [path for path in devices.glob("video*") if is_camera_number(path.name.removeprefix("video"))]
    found = (_described(path) for path in sorted(nodes, key=lambda path: int(path.name.removeprefix("video"))))
    return [info for info in found if info is not None]


def _described(path: Path) -> CameraInfo | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        return CameraInfo(str(path), f"cannot be opened: {error.strerror}", ())
    try:
        capability = fcntl.ioctl(descriptor, _QUERYCAP, bytes(104))
        # driver, card, bus, version, capabilities of the whole device, capabilities of this node
        _, card, _, _, whole, node = struct.unpack_from("16s32s32sIII", capability)
        if not (node if whole & _DEVICE_CAPS else whole) & _VIDEO_CAPTURE:
            return None
        return CameraInfo(str(path), card.split(b"\0")[0].decode(errors="replace"), _formats(descriptor))
    except OSError:
        return None  # no V4L2 device
    finally:
        os.close(descriptor)


def _formats(descriptor: int) -> tuple[str, ...]:
    found: list[str] = []
    while len(found) < 64:
        try:
            # index, type (1: video capture), flags, description, fourcc, media bus code, reserved
            query = struct.pack("III32s4sI12s", len(found), 1, 0, b"", b"", 0, b"")
            answer = fcntl.ioctl(descriptor, _ENUM_FMT, query)
        except OSError:  # EINVAL: there are no more
            break
        found.append(struct.unpack("III32s4sI12s", answer)[4].decode(errors="replace").strip())
    return tuple(found)


class Camera(Stream):
    """A V4L2 device: `/dev/video0`, or just `0`."""

    def __init__(self, device: str, options: CaptureOptions) -> None:
        path = f"/dev/video{device}" if is_camera_number(device) else device
        super().__init__(path)
        self.name = path
        self._device, self._asked, self._pipe = path, options, False
        if options.rate:
            self.fps = options.rate
        if not Path(path).exists():
            plugged = ", ".join(f"{info.device} ({info.name})" for info in list_cameras()) or "none"
            raise SourceError(f"there is no camera {path}; cameras here: {plugged}")

    def _open(self, what: Any, options: dict[str, str]) -> Any:
        asked = self._asked
        if asked.size:
            options["video_size"] = f"{asked.size[1]}x{asked.size[0]}"
        if asked.rate:
            options["framerate"] = f"{asked.rate:g}"
        if asked.pixel_format:
            options["input_format"] = asked.pixel_format
        return av.open(self._device, format="v4l2", options=options, timeout=(5.0, 2.0))

    def _taken(self, stamp: float | None, arrived: float) -> float:
        # Drivers stamp by the monotonic clock; one that does not is treated like any other sender.
        if stamp is not None and 0 <= arrived - stamp < _CLOCK_S:
            return stamp
        return super()._taken(stamp, arrived)

    def _reason(self, error: Exception, seconds: float) -> str:
        if isinstance(error, PermissionError):
            return "permission denied; add yourself to the group `video`"
        if isinstance(error, OSError) and error.errno == errno.EBUSY:
            return "another program uses it"
        if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return "it is not plugged in"
        if isinstance(error, OSError) and error.errno == errno.EINVAL:
            return "it does not offer what was asked; see vivim-run --list-cameras"
        return super()._reason(error, seconds)
