"""How many bytes are missing at the end of a film, as far as its container tells: a download or a copy that broke off.

Decoders read such a file up to its last byte and say nothing. Counts and durations of frames (vivim_runtime.sources.
video) are coarser, and some containers have none.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

__all__ = ["missing_bytes"]

_MOST_BOXES = 100_000
_MASTERS = (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67")  # EBML's header and Matroska's segment, RFC 9559 5.1
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")  # the header object, and the properties of the file in it
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_HEADER = 1 << 16


def missing_bytes(path: Path) -> int:
    """Bytes that should follow the last one, at least; 0 where all are there, and where nothing tells."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_ASF_HEADER)
            return max(0, _end(file, start, size) - size)
    except (OSError, struct.error):
        return 0


def _end(file: BinaryIO, start: bytes, size: int) -> int:
    """Where the file should end; 0 where nothing tells."""
    if start[:4] == b"RIFF":
        return _end_of_chunks(file, size)
    if start[:4] == _MASTERS[0]:
        return _end_of_segment(start)
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _end_of_boxes(file, size)
    if start[:16] == _ASF:
        return _end_of_asf(start)
    if start[:3] == b"GIF":
        file.seek(-1, os.SEEK_END)
        return 0 if file.read(1) in (b";", b"\0") else size + 1
    for length, first in ((188, 0), (192, 4)):  # packets of MPEG-TS, and with times as cameras write them
        if size > 3 * length and all(start[first + number * length] == 0x47 for number in range(3)):
            return size + -size % length
    return 0


def _end_of_chunks(file: BinaryIO, size: int) -> int:
    """AVI: chunks `RIFF` one after the other, of a length that is 0 where its writer was not stopped in good order."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        name, length = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF" or not length:
            break
        place += 8 + length + length % 2
    return place - 1 if place == size + 1 else place  # a last byte that fills up may be left out


def _end_of_segment(start: bytes) -> int:
    """Matroska: one segment, whose length is unknown while it is written."""
    place = 0
    for name in _MASTERS:
        if start[place : place + 4] != name or place + 5 > len(start):
            return 0
        place += 4
        wide = 9 - start[place].bit_length()
        length = int.from_bytes(start[place : place + wide], "big") & ((1 << 7 * wide) - 1)
        if wide > 8 or length == (1 << 7 * wide) - 1:
            return 0
        place += wide + length
    return place


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """MP4: boxes one after the other (ISO/IEC 14496-12 4.2)."""
    place = 0
    for _ in range(_MOST_BOXES):
        file.seek(place)
        header = file.read(16)
        if len(header) < 8:
            break
        (length,) = struct.unpack_from(">I", header)
        if length == 1 and len(header) == 16:
            (length,) = struct.unpack_from(">Q", header, 8)
        if length < 8:  # 0 goes to the end; the rest is damaged
            return 0
        place += length
        if place >= size:
            break
    return place


def _end_of_asf(start: bytes) -> int:
    place = start.find(_ASF_FILE)
    if place < 0:
        return 0
    (length,), (flags,) = struct.unpack_from("<Q", start, place + 40), struct.unpack_from("<I", start, place + 88)
    return 0 if flags & 1 else int(length)  # while it is broadcast there is no length
