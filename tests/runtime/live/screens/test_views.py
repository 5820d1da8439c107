"""Side by side and probability map: what they show is the frame and what the model said, and never a guess."""

from __future__ import annotations

import numpy as np

from vivim_runtime.live.screens.icon import icon
from vivim_runtime.live.screens.views import viewed
from vivim_runtime.live.status import Shown, State, Status, View
from vivim_runtime.sources.base import Frame

IMAGE = np.full((4, 6, 3), 100, np.uint8)
PICTURE = np.full((4, 6, 3), 50, np.uint8)


def shown(logits: np.ndarray | None) -> Shown:
    return Shown(Frame(0, 0.0, IMAGE), None, PICTURE, Status(State.live), logits)


def test_side_by_side_has_the_frame_on_the_left() -> None:
    both = viewed(shown(None), View.side)
    assert both.shape == (4, 12, 3) and (both[:, :6] == 100).all() and (both[:, 6:] == 50).all()


def test_a_probability_map_leaves_what_is_unlikely_and_reddens_what_is_certain() -> None:
    logits = np.full((2, 4, 6), -50.0, np.float32)
    logits[1, :, 3:] = 50.0  # the most probable class counts; float32's exp(50) would be finite, exp(100) not
    seen = viewed(shown(logits), View.probability)
    assert (np.abs(seen[:, :3].astype(int) - 100) <= 1).all()
    red, green, blue = seen[0, 4].astype(int)
    assert red > green and red > blue and red > 100


def test_without_logits_or_frame_the_plain_picture_is_shown() -> None:
    assert viewed(shown(None), View.probability) is PICTURE
    bare = Shown(None, None, PICTURE, Status(State.warming_up))
    assert all(viewed(bare, view) is PICTURE for view in View)


def test_the_icon_is_a_green_outline_on_a_dark_ground() -> None:
    drawn = icon(64)
    assert drawn.shape == (64, 64, 3) and tuple(drawn[0, 0]) == (16, 20, 24)
    assert ((drawn[..., 1] > 180) & (drawn[..., 0] < 80)).sum() > 100
