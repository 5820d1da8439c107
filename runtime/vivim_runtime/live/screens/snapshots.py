"""Pictures that people keep: what they see, as PNG."""

from __future__ import annotations

import time

import cv2

from vivim_runtime.live.status import Shown
from vivim_runtime.sources.base import Image

__all__ = ["png", "snapshot_name"]


def snapshot_name(shown: Shown) -> str:
    """`vivim-20260314-092653-000123.png`: the local time and the frame's number, and nothing about the patient."""
    number = shown.frame.index if shown.frame else 0
    return f"vivim-{time.strftime('%Y%m%d-%H%M%S')}-{number:06d}.png"


def png(picture: Image) -> bytes:
    """uint8 RGB (H, W, 3) -> the bytes of a PNG file."""
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done  # of an array in memory this cannot fail
    return data.tobytes()
