"""Synthetic B-mode ultrasound video with exact ground truth: data that ships, and a source that is always there.

Everything is a function of `PhantomSpec`; the draws of different seeds are independent.
"""

from __future__ import annotations

from vivim_runtime.phantom.layouts import SCREENS
from vivim_runtime.phantom.screen import PhantomScreen, phantom_frames, phantom_screen
from vivim_runtime.phantom.spec import DRAWN, HIDING, TROUBLES, PhantomName, PhantomSpec

__all__ = [
    "DRAWN",
    "HIDING",
    "SCREENS",
    "TROUBLES",
    "PhantomName",
    "PhantomScreen",
    "PhantomSpec",
    "phantom_frames",
    "phantom_screen",
]
