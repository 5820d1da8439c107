"""What a coded picture says about itself: JPEG and JPEG-LS (ISO/IEC 10918-1 B.2.2), JPEG 2000 (15444-1 A.5.1).

GDCM ends the whole process where this contradicts the DICOM header around it, so that it is compared first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["Codestream", "has_whole_segments", "read_codestream"]

_SOC_SIZ = b"\xff\x4f\xff\x51"  # how JPEG 2000 begins
# Start of frame: SOF0..SOF15 but DHT, JPG and DAC, and SOF55 of JPEG-LS.
_STARTS_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_SCAN = 0xDA
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True)
class Codestream:
    """(H, W) in pixels, components a pixel, and bits a component."""

    size: tuple[int, int]
    components: int
    bits: int


def read_codestream(data: bytes) -> Codestream | None:
    """What the header of a coded picture says; None when there is none that can be read."""
    try:
        if data[4:8] == b"jP  ":  # within a JP2 file, which some scanners write against the standard
            data = data[max(0, data.find(_SOC_SIZ)) :]
        if data[:4] == _SOC_SIZ:
            return _jpeg2000(data)
        return _jpeg(data) if data[:2] == b"\xff\xd8" else None
    except (struct.error, IndexError):
        return None


def has_whole_segments(data: bytes) -> bool:
    """Whether the segments of a JPEG or JPEG-LS follow each other up to the first scan, as GDCM takes for granted.

    Of what is neither, nothing is said: true.
    """
    if data[:2] != b"\xff\xd8":
        return True
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill
            place += 1
            continue
        if marker == _SCAN:
            return True
        place += 2
        if marker not in _WITHOUT_LENGTH:
            place += struct.unpack_from(">H", data, place)[0]
    return False


def _jpeg(data: bytes) -> Codestream | None:
    place = 2
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill
            place += 1
            continue
        if marker in _STARTS_OF_FRAME:
            bits, height, width, components = struct.unpack_from(">BHHB", data, place + 4)
            return Codestream((height, width), components, bits)
        place += 2
        if marker not in _WITHOUT_LENGTH:
            place += struct.unpack_from(">H", data, place)[0]
    return None


def _jpeg2000(data: bytes) -> Codestream | None:
    # Behind the markers SOC and SIZ: length, capabilities, the reference grid, the picture's offset in it, ...
    right, bottom, left, top = struct.unpack_from(">IIII", data, 8)
    (components,) = struct.unpack_from(">H", data, 40)
    if not 0 < components <= 4:
        return None
    depths = {(depth & 0x7F) + 1 for depth in data[42 : 42 + 3 * components : 3]}
    steps = set(data[43 : 42 + 3 * components : 3]) | set(data[44 : 42 + 3 * components : 3])
    if len(depths) != 1 or steps != {1}:  # components of several kinds
        return None
    return Codestream((bottom - top, right - left), components, depths.pop())
