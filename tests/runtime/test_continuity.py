"""Where a film does not go on, and where it does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from vivim_runtime.continuity import Continuity
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.sources.base import Frame, Image

FPS = 25.0


def pictures(seed: int, frames: int = 12, size: tuple[int, int] = (64, 96)) -> list[Image]:
    return [image for image, _ in phantom_frames(PhantomSpec(seed=seed, frames=frames, size=size, fps=FPS))]


def film(images: list[Image], start: float = 0.0) -> Iterator[Frame]:
    for index, image in enumerate(images):
        yield Frame(index, start + index / FPS, image)


def reasons(frames: Iterator[Frame]) -> dict[int, str]:
    continuity = Continuity(FPS)
    found = {index: continuity.before(frame) for index, frame in enumerate(frames)}
    assert sum(continuity.resets.values()) == sum(bool(reason) for reason in found.values())
    return {index: reason for index, reason in found.items() if reason}


@pytest.mark.parametrize("seed", range(6))
def test_a_film_goes_on(seed: int) -> None:
    assert reasons(film(pictures(seed))) == {}


@pytest.mark.parametrize(("first", "second"), [(0, 1), (2, 3), (4, 5)])
def test_another_film_is_a_cut(first: int, second: int) -> None:
    assert reasons(film(pictures(first) + pictures(second))) == {12: "cut"}


def test_gain_is_no_cut() -> None:
    images = pictures(0)
    brighter = [np.clip(image.astype(np.float32) * 1.4, 0, 255).astype(np.uint8) for image in images[6:]]
    assert reasons(film(images[:6] + brighter)) == {}


def test_a_pause_and_a_step_back_in_time_are_gaps() -> None:
    images = pictures(0)
    later = itertools.chain(film(images[:6]), film(images[6:], start=5 / FPS + 0.7))
    assert reasons(later) == {6: "gap"}
    again = itertools.chain(film(images[:6]), film(images[6:]))
    assert reasons(again) == {6: "gap"}
    short = itertools.chain(film(images[:6]), film(images[6:], start=10 / FPS))  # four frames were dropped
    assert reasons(short) == {}


def test_a_frozen_picture_that_moves_again_is_told_once() -> None:
    images = pictures(0)
    assert reasons(film([*images[:6], *[images[5]] * 20, *images[6:]])) == {26: "frozen"}
    doubled = [image for image in images for _ in range(2)]  # 12 pictures a second, stored as 25
    assert reasons(film(doubled)) == {}


def test_another_size_is_told() -> None:
    assert reasons(film(pictures(0)[:3] + pictures(0, size=(48, 96))[3:6])) == {3: "size"}


def test_a_black_screen_is_nothing_to_compare() -> None:
    black = [np.zeros((64, 96, 3), np.uint8) for _ in range(4)]
    noisy = [image + np.uint8(index % 2) for index, image in enumerate(black)]
    assert reasons(film(noisy)) == {}
