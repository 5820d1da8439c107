"""Pictures in files, decoded as they are meant to be seen; used by runs and data sets alike.

OpenCV decodes single pictures and the pages of TIFF files, Pillow animations and Netpbm (whose header says what is
white). Orientation of EXIF is applied here, since OpenCV leaves it out where masks are read, and where WebP is.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import SourceError
from vivim_runtime.sources.base import MAX_PIXELS, Image
from vivim_runtime.sources.bounded import BoundedFile
from vivim_runtime.sources.depth import significant_bits, to_bytes
from vivim_runtime.sources.geometry import AS_STORED, Geometry, turn_of_exif

__all__ = ["PictureFile", "PictureSeries", "Stored"]

# What OpenCV or Pillow decoded, as it is seen: uint8, uint16, int32 or float (H, W) or RGB (H, W, 3).
Stored = npt.NDArray[Any]

_ORIENTATION = 0x112  # of EXIF and TIFF
_DESCRIPTION, _SUBFILE = 270, 254  # of TIFF
_THUMBNAIL_OR_MASK = 1 | 4
# Where a complete file ends, and how many bytes behind are put up with (padding, comments of a scanner).
_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}
_BEHIND = 1024
_MOST_PICTURES = 100_000
_LONGEST_EXIF = 1 << 16
_FLAGS = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


def _pillow() -> Any:
    """Pillow's main module, loaded when the first image is looked at: films and streams do without."""
    from PIL import Image as module

    return module


class PictureFile:
    """An image file: what its header says, and its pictures.

    Raises:
        SourceError: it is missing, no image, cut off, or too large.

    Attributes:
        path: the file.
        size: (H, W) as seen.
        count: how many pictures, pages or frames of an animation; thumbnails left out.
        times: of an animation, seconds from its start to each picture; of a stack by ImageJ, as it says; else None.
        end: seconds from the start to the end of the last picture, with `times`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times: tuple[float, ...] | None = None
        self.end = 0.0
        self._pages: tuple[int, ...] = (0,)
        self._turn: Geometry = AS_STORED
        self._by_pillow = False
        self._scaled = False  # whether white is 65535 by the file's header
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Pillow puts up with
            try:
                with BoundedFile(path) as file, _pillow().open(file) as opened:
                    self.kind = opened.format or ""
                    self.size = self._checked_size((opened.height, opened.width))
                    self._look_at(opened)
            except (SourceError, MemoryError):
                raise
            except _pillow().DecompressionBombError:
                raise SourceError(f"{path} tells a size that cannot be read; is it complete?") from None
            except Exception:  # Pillow raises whatever damaged bytes lead it to; OpenCV knows some more formats
                self.kind, self._pages, self.times = "", (0,), None
                if not self._data:
                    self._check_end()
                self.size = self._checked_size(self._decoded(0, colour=True).shape)
                return
        self.size = self._turn.shown_size(self.size)

    @property
    def count(self) -> int:
        return len(self._pages)

    @cached_property
    def _data(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise SourceError(f"cannot read {self.path}: {error.strerror or error}") from None

    def _checked_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        height, width = size[:2]
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise SourceError(f"{self.path} tells a size of {width}x{height}, which cannot be read; is it complete?")
        return height, width

    def _look_at(self, opened: Any) -> None:
        """What the header says besides the size."""
        if self.kind == "TIFF":
            self._look_at_tiff(opened)
            return
        if self.kind == "PPM":
            self._by_pillow, self._scaled = True, str(opened.tile[0][0]).startswith("ppm")
            return
        if self.kind in ("PNG", "WEBP") and getattr(opened, "n_frames", 1) > 1:
            self._look_at_animation(opened)
            return
        self._turn = turn_of_exif(self._exif_orientation(opened))

    def _exif_orientation(self, opened: Any) -> int:
        """1 to 8; Pillow would decode a whole PNG to look for EXIF behind the pixels."""
        if self.kind == "PNG":
            exif = _pillow().Exif()
            exif.load(_png_chunk(self.path, b"eXIf") or b"")
            return int(exif.get(_ORIENTATION, 1))
        return int(opened.getexif().get(_ORIENTATION, 1))

    def _look_at_tiff(self, opened: Any) -> None:
        pages, sizes = [], set()
        for page in range(min(opened.n_frames, _MOST_PICTURES)):
            opened.seek(page)
            if int(opened.tag_v2.get(_SUBFILE, 0)) & _THUMBNAIL_OR_MASK:
                continue
            pages.append(page)
            sizes.add(self._checked_size((opened.height, opened.width)))
        self._pages = tuple(pages) or (0,)
        if len(sizes) > 1:
            found = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
            raise SourceError(f"{self.path} holds pages of several sizes ({found}); give one size at a time")
        opened.seek(self._pages[0])
        # OpenCV turns the pages of TIFF files by itself, and Pillow tells their size so turned.
        self.size = (opened.height, opened.width)
        if int(opened.tag_v2.get(_ORIENTATION, 1)) >= 5:
            stored = (int(opened.tag_v2[257]), int(opened.tag_v2[256]))
            self.size = stored[::-1]
        if self.count > 1:
            interval = _imagej_interval(str(opened.tag_v2.get(_DESCRIPTION, "")))
            if interval:
                self.times = tuple(index * interval for index in range(self.count))
                self.end = self.count * interval

    def _look_at_animation(self, opened: Any) -> None:
        """Every picture is decoded once: only so is it known how long each is shown."""
        first = 1 if opened.info.get("default_image") else 0
        durations = []
        for page in range(first, min(opened.n_frames, _MOST_PICTURES)):
            opened.seek(page)
            opened.load()
            durations.append(float(opened.info.get("duration") or 0) / 1000.0)
        # Browsers show what says 0 or nearly 0 for a tenth of a second.
        shown = [duration if duration > 0.01 else 0.1 for duration in durations]
        starts = np.cumsum([0.0, *shown]).tolist()
        self._pages, self._by_pillow = tuple(range(first, first + len(shown))), True
        self.times, self.end = tuple(starts[:-1]), starts[-1]

    def read(self, index: int, colour: bool = True) -> Stored:
        """Picture `index` as it is seen, RGB (H, W, 3); grey (H, W) where it is and `colour` is false. Never alpha."""
        self._check_end()
        return self._decoded(index, colour)

    def indices(self) -> Stored | None:
        """Of a picture with a palette the index of every pixel, uint8 (H, W), as it is seen; None of others.

        Raises:
            SourceError: it is cut off, or cannot be decoded.
        """
        self._check_end()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with _pillow().open(io.BytesIO(self._data)) as opened:
                    if opened.mode != "P":
                        return None
                    stored = np.asarray(opened)
        except MemoryError:
            raise
        except Exception:  # whatever damaged bytes lead Pillow to; OpenCV knows some more formats
            return None
        return np.ascontiguousarray(self._turn.turned(stored))

    def _decoded(self, index: int, colour: bool) -> Stored:
        decode = self._of_pillow if self._by_pillow else self._of_opencv
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                stored = decode(self._pages[index], colour)
            except (SourceError, MemoryError):
                raise
            except Exception:  # of a size that OpenCV refuses, and whatever damaged bytes lead Pillow to
                stored = None
        if stored is None:
            raise SourceError(f"{self.path} is no image that can be decoded; is it complete?")
        return np.ascontiguousarray(self._turn.turned(stored))

    def white(self, stored: Stored) -> float | None:
        """What is white in a picture of more than 8 bits, where the file says so."""
        return 65535.0 if self._scaled and stored.dtype != np.uint8 else None

    def _check_end(self) -> None:
        """Refuse a file that is cut off: OpenCV fills its picture up with grey."""
        end = _ENDS.get(self._data[:2])
        if not self._data or (end is not None and end not in self._data[-_BEHIND:] and not self._loads()):
            raise SourceError(f"{self.path} is cut off behind {len(self._data)} bytes; copy it again")

    def _loads(self) -> bool:
        """Whether Pillow, which takes no incomplete file, reads it: cameras append films and previews."""
        try:
            with _pillow().open(io.BytesIO(self._data)) as opened:
                opened.load()
        except MemoryError:
            raise
        except Exception:  # whatever damaged bytes lead Pillow to
            return False
        return True

    def _of_opencv(self, page: int, colour: bool) -> Stored | None:
        flags = _FLAGS | (cv2.IMREAD_COLOR if colour else cv2.IMREAD_ANYCOLOR)
        if page or self.count > 1:
            there, found = cv2.imreadmulti(str(self.path), start=page, count=1, flags=flags)
            image = found[0] if there and found else None
        else:
            image = cv2.imdecode(np.frombuffer(self._data, np.uint8), flags)
        if image is None or image.ndim == 2:
            return image
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _of_pillow(self, page: int, colour: bool) -> Stored:
        with _pillow().open(io.BytesIO(self._data)) as opened:
            opened.seek(page)
            if opened.mode.startswith("I"):
                values = np.asarray(opened)
                return np.repeat(values[..., None], 3, axis=2) if colour else values
            grey = opened.mode in ("1", "L") and not colour
            return np.asarray(opened.convert("L" if grey else "RGB"))


def _png_chunk(path: Path, wanted: bytes) -> bytes | None:
    """The content of a chunk of a PNG file (5.3 of its standard), None where there is none."""
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            (length,), name = struct.unpack_from(">I", header), header[4:]
            if name == wanted:
                return file.read(min(length, _LONGEST_EXIF))
            file.seek(length + 4, io.SEEK_CUR)
    return None


def _imagej_interval(description: str) -> float | None:
    """Seconds between the pages of a stack that ImageJ wrote: `finterval` in seconds, or `fps`."""
    if not description.startswith("ImageJ="):
        return None
    values = dict(re.findall(r"^(finterval|fps)=([0-9.eE+-]+)\s*$", description, re.MULTILINE))
    try:
        if "finterval" in values and float(values["finterval"]) > 0:
            return float(values["finterval"])
        return 1.0 / float(values["fps"]) if float(values.get("fps", 0)) > 0 else None
    except ValueError:
        return None


@dataclass(frozen=True)
class PictureSeries:
    """Image files of one source, scaled alike where they have more than 8 bits."""

    files: tuple[Path, ...]

    def read(self, file: PictureFile, index: int = 0) -> Image:
        """uint8 RGB (H, W, 3); SourceError when it cannot be decoded."""
        stored = file.read(index)
        if stored.dtype == np.uint8:
            return stored
        return to_bytes(stored, 0.0, file.white(stored) or self.white)

    @cached_property
    def white(self) -> float:
        """What is white in those of the files with more than 8 bits that do not say it: all of them are looked at."""
        largest = 0.0
        floats = False
        for stored in self._deep():
            largest = max(largest, float(np.nanmax(stored, initial=0)))
            floats = floats or stored.dtype.kind == "f"
        if floats:
            return 1.0 if largest <= 1 else largest
        return 2.0 ** significant_bits(largest) - 1

    def _deep(self) -> Iterator[Stored]:
        for path in self.files:
            try:
                file = PictureFile(path)
                for index in range(file.count):
                    stored = file.read(index)
                    if stored.dtype == np.uint8:
                        break
                    yield stored
            except SourceError:
                continue  # whoever reads it says so

    @property
    def note(self) -> str | None:
        """What was done to pictures of more than 8 bits, once one has been read; None where there was none."""
        white = self.__dict__.get("white")
        return None if white is None else f"pictures of more than 8 bits: {white:g} is white, in all of them"
