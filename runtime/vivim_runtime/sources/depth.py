"""What is white in pictures of more than 8 bits: one rule for files, films and DICOM.

A 16-bit file says how wide its numbers are, not how many of their bits a camera or scanner has filled: usually 10, 12
or 14. Where the file does not tell, the largest value of the whole source decides, so that all its pictures are scaled
alike, and as 8-bit pictures of the same scene would look.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["significant_bits", "to_bytes"]

_CUSTOMARY = (8, 10, 12, 14, 16)


def significant_bits(largest: float) -> int:
    """How many bits values up to `largest` were made of: the customary number that holds it (8, 10, 12, 14, 16)."""
    return next((bits for bits in _CUSTOMARY if largest < 2**bits), max(16, int(largest).bit_length()))


def to_bytes(values: npt.NDArray[Any], black: float, white: float) -> npt.NDArray[np.uint8]:
    """Values scaled so that `black` becomes 0 and `white` 255, rounded; what lies beyond is cut."""
    share = (values.astype(np.float32) - np.float32(black)) * np.float32(255.0 / max(white - black, 1e-9))
    return np.nan_to_num(share).clip(0, 255).round().astype(np.uint8)
