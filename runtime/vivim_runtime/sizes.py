"""How sizes are written, everywhere: `256`, or height x width as `256x320`."""

from __future__ import annotations

import re

from vivim_runtime.errors import UsageError

__all__ = ["parse_size"]


def parse_size(text: str, option: str = "--imgsz") -> tuple[int, int]:
    """(H, W) in pixels from `256` (a square) or `256x320` (height x width).

    Args:
        option: what the text was given for, for the message.

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"0*([1-9][0-9]{0,6})(?:x0*([1-9][0-9]{0,6}))?", text, re.IGNORECASE)
    if not match:
        raise UsageError(f"{option} is {text}; expected one number, or height x width: 256 or 256x320")
    return int(match[1]), int(match[2] or match[1])
