"""From frames to a network's pictures, and from its logits back."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from vivim_runtime.contract import InputContract
from vivim_runtime.framing import OUTSIDE_LOGIT, Framing, logits_at, mask_at, resized
from vivim_runtime.regions import Region

RNG = np.random.default_rng(0)
CONTRACT = InputContract((32, 48), 5, 5)


def picture(height: int = 40, width: int = 70) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def test_whole_and_stretched_is_what_it_was_before_there_were_contracts() -> None:
    image, logits = picture(), RNG.normal(size=(2, 32, 48)).astype(np.float32)
    framing = Framing(CONTRACT)
    assert np.array_equal(framing.picture(image), resized(image, (32, 48)))
    assert np.array_equal(framing.logits(logits, (40, 70)), logits_at(logits, (40, 70)))
    mask = image[..., 0] > 128
    assert np.array_equal(framing.truth(mask), mask_at(mask, (32, 48)))


@pytest.mark.parametrize("shape", ["stretched", "kept"])
def test_a_region_of_a_screen_is_seen_and_marked_as_the_picture_alone(shape: str) -> None:
    """Bit for bit, at the right place, and nothing elsewhere."""
    image, logits = picture(), RNG.normal(size=(1, 32, 48)).astype(np.float32)
    screen = np.zeros((100, 120, 3), np.uint8)
    region = Region(31, 17, 70, 40)
    screen[region.slices] = image
    alone, within = (Framing(replace(CONTRACT, shape=shape), r) for r in (None, region))
    assert np.array_equal(within.picture(screen), alone.picture(image))
    marked = within.logits(logits, (100, 120))
    assert np.array_equal(region.cut(marked[0]), alone.logits(logits, (40, 70))[0])
    outside = ~region.mask((100, 120))
    assert (marked[0][outside] == OUTSIDE_LOGIT).all()
    truth = np.zeros((100, 120), np.bool_)
    truth[region.slices] = image[..., 0] > 128
    assert np.array_equal(within.truth(truth), alone.truth(image[..., 0] > 128))


def test_nothing_is_marked_outside_the_outline_of_a_region() -> None:
    region = Region(10, 10, 40, 30, ((30, 10), (49, 39), (10, 39)))
    framing = Framing(replace(CONTRACT, outside="black"), region)
    marked = framing.logits(np.ones((1, 32, 48), np.float32), (60, 80))[0] > 0
    assert np.array_equal(marked, region.mask((60, 80)))
    white = np.full((60, 80, 3), 255, np.uint8)
    assert framing.picture(white)[0, 0].tolist() == [0, 0, 0]  # the corner beside the apex
    assert Framing(CONTRACT, region).picture(white).min() == 255  # unless it is kept


@pytest.mark.parametrize("size", [(40, 70), (70, 40), (33, 200), (301, 97), (32, 48)])
def test_a_kept_shape_comes_back_to_half_a_pixel(size: tuple[int, int]) -> None:
    """A disc of the frame, seen through the network's picture, lies where it lay: its centre moves by less than half a
    pixel of the coarser of the two, and it is as wide as high in the picture, too."""
    framing = Framing(replace(CONTRACT, size=(64, 64), shape="kept"))
    image = np.zeros((*size, 3), np.uint8)
    centre, radius = (size[1] * 0.6, size[0] * 0.45), min(size) * 0.3
    rows, columns = np.mgrid[: size[0], : size[1]]
    disc = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius**2
    image[disc] = 255
    seen = framing.picture(image)
    assert seen.shape == (64, 64, 3)
    inner = framing.inner(size)
    outside = np.ones((64, 64), np.bool_)
    outside[inner.slices] = False
    assert not seen[outside].any()  # filled with black
    _, _, width, height = cv2.boundingRect((seen[..., 0] >= 128).astype(np.uint8))
    assert abs(width - height) <= 2  # half a pixel of rounding at each of four ends
    back = framing.logits((seen[..., 0].astype(np.float32) - 127.5)[None], size)[0] > 0
    step = max(size[0] / inner.height, size[1] / inner.width, 1.0)  # a pixel of the coarser one, in frame pixels
    for axis in (0, 1):
        moved = np.nonzero(back)[axis].mean() - np.nonzero(disc)[axis].mean()
        assert abs(moved) <= 0.5 * step
    assert np.array_equal(framing.truth(disc), seen[..., 0] >= 128)


def test_grey_takes_the_luminance_and_levels_move_black_and_white() -> None:
    image = picture(32, 48)
    grey = Framing(replace(CONTRACT, colour="grey")).picture(image)
    assert np.array_equal(grey[..., 0], cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    assert (grey[..., :1] == grey).all()
    limited = Framing(replace(CONTRACT, levels=(16, 235))).picture(np.array([[[0, 128, 255]]], np.uint8))
    # 16 + 128 * 219 / 255 = 125.93
    assert limited[0, 0].tolist() == [16, 126, 235] and limited.shape == (32, 48, 3)
