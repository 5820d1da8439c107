"""Where frames come from: files, cameras, streams, phantoms; one interface, chosen by the name."""

from __future__ import annotations

from pathlib import Path

from vivim_runtime.errors import SourceError
from vivim_runtime.sources.base import DEFAULT_FPS, Frame, LiveSource, Source
from vivim_runtime.sources.camera import Camera, CameraInfo, CaptureOptions, list_cameras, parse_capture
from vivim_runtime.sources.dicom import DicomFile, is_dicom
from vivim_runtime.sources.gstreamer import GStreamerPipeline
from vivim_runtime.sources.images import IMAGE_SUFFIXES, ImageFolder
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
    scheme, separator, _ = uri.partition(":")
    if scheme == "phantom" and separator:
        return PhantomSource(uri)
    if scheme == "gst" and separator:
        return GStreamerPipeline(uri)
    if scheme in STREAM_SCHEMES and separator:
        return Stream(uri)
    if uri.isdigit() or uri.startswith("/dev/video"):
        return Camera(uri, capture)
    path = Path(uri)
    if path.is_fifo():
        return Stream(uri)
    if path.is_dir():
        return ImageFolder(path)
    if not path.is_file():
        raise SourceError(f"there is no file or folder {uri}; expected {_EXPECTED}")
    if is_dicom(path):
        return DicomFile(path)
    return ImageFolder(path) if path.suffix.lower() in IMAGE_SUFFIXES else VideoFile(path)
