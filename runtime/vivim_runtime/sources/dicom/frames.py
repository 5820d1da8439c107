"""The frames that a DICOM file holds: counted by its pixels, since headers are often wrong.

Coded frames lie in fragments (PS3.5 A.4). Offset tables and NumberOfFrames may contradict them; a frame begins where a
fragment begins like a coded picture, and RLE has a fragment a frame (A.4.2).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivim_runtime.errors import SourceError
from vivim_runtime.sources.dicom.files import read_dicom, read_header
from vivim_runtime.sources.film import open_film, shows_picture

__all__ = ["CodedFrames", "coded_frames", "count_frames", "count_pictures", "is_film", "native_frames"]

_ITEM = 0xFFFEE000
# How JPEG and JPEG-LS, JPEG 2000, and a JP2 file (against the standard, but written) begin.
_STARTS = (b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL ", b"\xff\x0a")
_UNDEFINED = 0xFFFFFFFF
_RLE = "1.2.840.10008.1.2.5"


def is_film(syntax: str) -> bool:
    """Whether a transfer syntax is MPEG-2, H.264 or HEVC: one film in the fragments, not a frame each."""
    from pydicom.uid import MPEGTransferSyntaxes

    return syntax in MPEGTransferSyntaxes


@dataclass(frozen=True)
class CodedFrames:
    """Coded frames within the value of Pixel Data.

    Attributes:
        data: the value.
        places: of every frame, (offset, length) of its fragments.
    """

    data: bytes
    places: tuple[tuple[tuple[int, int], ...], ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> bytes:
        return b"".join(self.data[offset : offset + length] for offset, length in self.places[index])

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))

    @property
    def whole(self) -> bytes:
        """All fragments one behind the other: a film."""
        return b"".join(self)


def coded_frames(data: bytes, syntax: str) -> CodedFrames:
    """The frames in the value of an encapsulated Pixel Data; of a film, one that is all of it."""
    return CodedFrames(data, _places(io.BytesIO(data), len(data), syntax))


def _places(file: Any, size: int, syntax: str) -> tuple[tuple[tuple[int, int], ...], ...]:
    """(offset, length) of the fragments of every frame, of a file at its first item that holds `size` bytes."""
    fragments = [found for found in list(_fragments(file, size))[1:] if found[1]]  # the first item: offset table
    if is_film(syntax):
        return (tuple((offset, length) for offset, length, _ in fragments),) if fragments else ()
    frames: list[list[tuple[int, int]]] = []
    for offset, length, beginning in fragments:
        if syntax == _RLE or beginning.startswith(_STARTS) or not frames:
            frames.append([])
        frames[-1].append((offset, length))
    return tuple(map(tuple, frames))


def _fragments(file: Any, size: int) -> Iterator[tuple[int, int, bytes]]:
    """(offset, length, first bytes) of the items of an encapsulated value; the last one ends where the data do."""
    while len(header := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHI", header)
        if group << 16 | element != _ITEM:
            return  # the delimiter, or what is no item
        offset = file.tell()
        length = min(length, size - offset)
        yield offset, length, file.read(min(12, length))
        file.seek(offset + length)


def native_frames(length: int, size: tuple[int, int], samples: int, bits: int, photometric: str) -> tuple[int, int]:
    """How many whole frames `length` bytes of uncompressed pixels hold, and how many bytes are left over."""
    if photometric == "YBR_FULL_422" and samples == 3:
        samples = 2  # two pixels share their colour (PS3.3 C.7.6.3.1.2)
    frame_bits = size[0] * size[1] * samples * bits
    count = length * 8 // frame_bits
    return count, (length * 8 - count * frame_bits) // 8


def count_frames(path: Path) -> tuple[Any, int]:
    """The data set of a file without its pixels, and how many frames these are; 0 of what is no image.

    Pixels are not read but skipped over; only films are read, for their packets.

    Raises:
        SourceError: it cannot be read, or does not describe its pixels.
        MissingExtraError: pydicom is not installed.
    """
    dataset, place = read_header(path)
    if "Rows" not in dataset:
        return dataset, 0
    try:
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        if place is None:  # deflated: its pixels lie within what is compressed
            found = _native_count(len(read_dicom(path).get("PixelData") or b""), dataset)
        elif is_film(syntax):
            found = count_pictures(coded_frames(read_dicom(path).PixelData, syntax).whole)
        else:
            found = _count_at(path, place, dataset, syntax)
    except (SourceError, MemoryError):
        raise
    except Exception as error:  # pydicom interprets values when they are asked for
        raise SourceError(f"{path} does not describe its pixels well ({type(error).__name__})") from None
    return dataset, max(1, found)


def _count_at(path: Path, place: int, dataset: Any, syntax: str) -> int:
    """Frames of the Pixel Data element that begins at a place in a file."""
    implicit, little = syntax == "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2"
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(place)
        header = file.read(8 if implicit else 12)  # group, element, and of explicit ones VR and 2 reserved bytes
        (length,) = struct.unpack("<I" if little else ">I", header[-4:])
        if length != _UNDEFINED:
            return _native_count(min(length, size - file.tell()), dataset)
        return len(_places(file, size, syntax))


def _native_count(length: int, dataset: Any) -> int:
    size, samples = (int(dataset.Rows), int(dataset.Columns)), int(dataset.SamplesPerPixel)
    photometric = str(dataset.PhotometricInterpretation)
    return native_frames(length, size, samples, int(dataset.BitsAllocated), photometric)[0]


def count_pictures(film: bytes) -> int:
    """How many pictures a film has, by its packets: none is decoded."""
    container, stream = open_film(io.BytesIO(film))
    with container:
        return sum(shows_picture(packet, stream) for packet in container.demux(stream)) if stream else 0
