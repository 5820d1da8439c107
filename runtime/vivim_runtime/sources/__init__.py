"""Where frames come from: files, cameras, streams, phantoms; one interface, chosen by the name."""

from __future__ import annotations

from pathlib import Path

from vivim_runtime.errors import SourceError
from vivim_runtime.sources.base import DEFAULT_FPS, Frame, LiveSource, Source
from vivim_runtime.sources.camera import (
    Camera,
    CameraInfo,
    CaptureOptions,
    is_camera_number,
    list_cameras,
    parse_capture,
)
from vivim_runtime.sources.dicom import DicomFile, is_dicom
from vivim_runtime.sources.gstreamer import GStreamerPipeline, csi_pipeline
from vivim_runtime.sources.images import ImageFolder
from vivim_runtime.sources.names import IMAGE_SUFFIXES
from vivim_runtime.sources.paced import Paced
from vivim_runtime.sources.phantom import PhantomSource
from vivim_runtime.sources.stream import STREAM_SCHEMES, Stream
from vivim_runtime.sources.video import VideoFile

__all__ = [
    "DEFAULT_FPS",
    "CameraInfo",
    "CaptureOptions",
    "Frame",
    "LiveSource",
    "Paced",
    "Source",
    "list_cameras",
    "open_source",
    "parse_capture",
]

_EXPECTED = (
    "a video file, an image folder, a DICOM file, a camera (0, /dev/video0), "
    "a stream (rtsp://, http://, udp://, tcp://, gst:), or phantom:"
)
_DEFAULT = CaptureOptions()


def open_source(uri: str, capture: CaptureOptions = _DEFAULT) -> Source:
    """The source that a name stands for; a `LiveSource` for cameras, streams and FIFOs, which connects when it is read.

    Args:
        uri: a video file, an image or a folder of images, a DICOM file, `phantom:seed=1,frames=90,size=480x640`, a
            camera (`/dev/video0`, `0`), a URL of a stream, a FIFO, or `gst:` and a GStreamer pipeline.
        capture: what to ask a camera for.

    Raises:
        SourceError: when it is missing or cannot be read.
    """
    path = Path(uri)
    scheme, separator, rest = uri.partition("://")
    if separator and scheme == "v4l2":  # as jetson-inference calls it
        return open_source(rest, capture)
    if separator and scheme == "csi":
        return GStreamerPipeline(csi_pipeline(uri, capture.size, capture.rate))
    if not uri.startswith("/dev/video") and _exists(path):
        return _recorded(path, uri)
    scheme, separator, _ = uri.partition(":")
    if scheme == "phantom" and separator:
        return PhantomSource(uri)
    if scheme == "gst" and separator:
        return GStreamerPipeline(uri)
    if scheme in STREAM_SCHEMES and separator:
        return Stream(uri)
    if is_camera_number(uri) or uri.startswith("/dev/video"):
        return Camera(uri, capture)
    raise SourceError(f"there is no file or folder {uri}; expected {_EXPECTED}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a null byte
        return False


def _recorded(path: Path, uri: str) -> Source:
    """The source that a file, folder or FIFO stands for, whatever its name looks like."""
    if path.is_fifo():
        return Stream(uri)
    source: Source
    if path.is_dir():
        source = ImageFolder(path)
    elif not path.is_file():
        raise SourceError(f"{uri} is neither a file nor a folder; expected {_EXPECTED}")
    elif is_dicom(path):
        source = DicomFile(path)
    else:
        source = ImageFolder(path) if path.suffix.lower() in IMAGE_SUFFIXES else VideoFile(path)
    if is_camera_number(uri):
        source.notes.append(f"{uri} is the file or folder of this name; the camera is /dev/video{uri}")
    return source
