"""Where frames come from: video files, image folders, DICOM, phantoms; one interface, chosen by the name."""

from __future__ import annotations

import re
from pathlib import Path

from vivim_runtime.errors import SourceError
from vivim_runtime.sources.base import DEFAULT_FPS, Frame, Source
from vivim_runtime.sources.dicom import DicomFile, is_dicom
from vivim_runtime.sources.images import IMAGE_SUFFIXES, ImageFolder
from vivim_runtime.sources.phantom import PhantomSource
from vivim_runtime.sources.video import VideoFile

__all__ = ["DEFAULT_FPS", "Frame", "Source", "open_source"]

_EXPECTED = "a video file, an image folder, a DICOM file, or phantom:"


def open_source(uri: str) -> Source:
    """The source that a name stands for.

    Args:
        uri: a video file, an image or a folder of images, a DICOM file, or `phantom:?seed=1&frames=90&size=480x640`.

    Raises:
        SourceError: when it is missing or cannot be read.
    """
    if uri.startswith("phantom:"):
        return PhantomSource(uri)
    if re.match(r"(rtsp|rtmp|https?|udp|tcp|gst):", uri) or uri.startswith("/dev/video") or uri.isdigit():
        raise SourceError(f"{uri} is a live source, which this version does not read; expected {_EXPECTED}")
    path = Path(uri)
    if path.is_dir():
        return ImageFolder(path)
    if not path.is_file():
        raise SourceError(f"there is no file or folder {uri}; expected {_EXPECTED}")
    if is_dicom(path):
        return DicomFile(path)
    return ImageFolder(path) if path.suffix.lower() in IMAGE_SUFFIXES else VideoFile(path)
