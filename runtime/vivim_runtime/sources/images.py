"""Folders of images, and single images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from vivim_runtime.errors import SourceError
from vivim_runtime.sources.base import DEFAULT_FPS, Frame, Image

__all__ = ["IMAGE_SUFFIXES", "ImageFolder", "read_image"]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def read_image(path: Path) -> Image:
    """uint8 RGB (H, W, 3) of an image file; SourceError when it is none."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # of a size that OpenCV refuses
        image = None
    if image is None:
        raise SourceError(f"{path} is no image that can be decoded; is it complete?")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


class ImageFolder:
    """The images of a folder in natural order (or one image), all of one size; a folder tells no rate: 25 fps."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.notes: list[str] = []
        self.fps = DEFAULT_FPS
        if path.is_dir():
            found = (p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
            self._files = sorted(found, key=natural_key)
        else:
            self._files = [path]
        if not self._files:
            raise SourceError(f"the folder {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        self.frame_count: int | None = len(self._files)
        self.size = read_image(self._files[0]).shape[:2]

    def __iter__(self) -> Iterator[Frame]:
        for index, file in enumerate(self._files):
            image = read_image(file)
            if image.shape[:2] != self.size:
                height, width = self.size
                raise SourceError(
                    f"{file} is {image.shape[0]}x{image.shape[1]}, the first image is {height}x{width}; "
                    "the images of a folder must have one size"
                )
            yield Frame(index, index / self.fps, image)

    def __enter__(self) -> ImageFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
