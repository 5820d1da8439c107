"""Folders of images, and image files: a picture, the pages of a TIFF file, or an animation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from vivim_runtime.errors import SourceError
from vivim_runtime.sources.base import DEFAULT_FPS, Frame
from vivim_runtime.sources.names import IMAGE_SUFFIXES, is_foreign, natural_key
from vivim_runtime.sources.pictures import PictureFile, PictureSeries

__all__ = ["ImageFolder", "image_files"]


def image_files(folder: Path) -> tuple[Path, ...]:
    """The image files in a folder, in natural order (frame2 before frame10); none where there is no such folder."""
    if not folder.is_dir():
        return ()
    found = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not is_foreign(path))
    return tuple(sorted((path for path in found if path.is_file()), key=natural_key))


class ImageFolder:
    """The images of a folder in natural order, or the pictures of one file, all of one size.

    A file that tells when its pictures are shown (an animation) keeps its times; else 25 fps are assumed.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.notes: list[str] = []
        self.lost = 0
        self.fps = DEFAULT_FPS
        files = image_files(path) if path.is_dir() else (path,)
        if not files:
            raise SourceError(f"the folder {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        self._series = PictureSeries(files)
        self.frame_count: int | None = 0
        self._times: tuple[float, ...] | None = None
        for number, file in enumerate(map(PictureFile, files)):
            if not number:
                self.size = file.size
            if file.size != self.size:
                (height, width), (first_height, first_width) = file.size, self.size
                raise SourceError(
                    f"{file.path} is {width}x{height}, the first image is {first_width}x{first_height} (width x "
                    "height); the images of a folder must have one size"
                )
            self.frame_count += file.count
            if len(files) == 1 and file.times is not None:
                self._times, self.fps = file.times, file.count / file.end
            if file.count > 1:
                told = "" if self._times else f"; it tells no times, {DEFAULT_FPS:g} fps assumed"
                self.notes.append(f"{file.path.name} holds {file.count} pictures, read as a film{told}")

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        for path in self._series.files:
            file = PictureFile(path)
            for page in range(file.count):
                image = self._series.read(file, page)
                if self._series.note and self._series.note not in self.notes:
                    self.notes.append(self._series.note)
                if image.shape[:2] != self.size:
                    raise SourceError(f"{path} has changed its size while it was read")
                yield Frame(index, self._times[index] if self._times else index / self.fps, image)
                index += 1

    def __enter__(self) -> ImageFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return
