"""Which pictures a network knows, learnt: strangers are found strange, and other settings of a scanner are not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import chain

import numpy as np
import pytest

from vivim.training import domain
from vivim.training.strangers import stranger, varied
from vivim_runtime.confidence import Domain
from vivim_runtime.contract import InputContract
from vivim_runtime.framing import Framing
from vivim_runtime.phantom import PhantomSpec, phantom_frames

SIZE = (64, 64)


@cache
def tissue(first: int, count: int) -> list[np.ndarray]:
    specs = (PhantomSpec(seed, 1, SIZE) for seed in range(first, first + count))
    return [image for image, _ in chain.from_iterable(map(phantom_frames, specs))]


def test_strangers_of_a_number_are_always_the_same_and_of_many_kinds() -> None:
    for size in ((64, 64), (40, 72)):
        made = [stranger(number, size) for number in range(20)]
        assert all(picture.shape == (*size, 3) and picture.dtype == np.uint8 for picture in made)
        assert all(np.array_equal(picture, stranger(number, size)) for number, picture in enumerate(made[:6]))
        coloured = [bool(np.ptp(picture.astype(int), axis=2).any()) for picture in made]
        assert any(coloured) and not all(coloured)
        assert len({picture.tobytes() for picture in made}) == 20


def test_other_settings_change_a_picture_and_keep_its_shape() -> None:
    picture = tissue(0, 40)[0]
    for seed in range(12):
        other = varied(picture, np.random.default_rng(seed))
        assert other.shape == picture.shape and other.dtype == np.uint8 and not np.array_equal(other, picture)


@cache
def learnt(colour: str) -> Domain:
    """Of few pictures, that a second may be enough."""
    kernel = np.random.default_rng(0).standard_normal((4, 3, 7, 7)).astype(np.float32) / 12
    seen = Framing(InputContract(SIZE, 1, 1, colour=colour)).picture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(domain, "_KNOWN", 40)
        patch.setattr(domain, "_STRANGERS", 80)
        return domain.learn_domain(tissue(0, 40), tissue(500, 12), kernel, 4, (0.5,) * 3, (0.25,) * 3, seen)


def test_a_learnt_domain_knows_tissue_and_no_strangers() -> None:
    found = learnt("rgb")
    strange = [stranger(number, SIZE) for number in range(10_000, 10_030)]
    # Measured 0 of 12, 27 of 30, and 2 of 30 by first features alone. Of more pictures of full size:
    # benchmarks/gates.py.
    assert sum(not found.knows(picture) for picture in tissue(900, 12)) <= 1
    assert sum(not found.knows(picture) for picture in strange) >= 22
    assert sum(not replace(found, texture=None).knows(picture) for picture in strange) < 8


def test_strangers_are_seen_as_the_contract_says() -> None:
    """A network of grey pictures never sees colour: nothing may be learnt from it."""
    colour = 2  # the third feature
    grey, rgb = learnt("grey").texture, learnt("rgb").texture
    assert grey is not None and rgb is not None
    assert grey.centre[colour] < 0.2 < 0.4 < rgb.centre[colour]  # a few phantoms have a tint


def test_the_same_pictures_teach_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "_KNOWN", 4)
    monkeypatch.setattr(domain, "_STRANGERS", 8)
    one, other = (domain.learn_texture(tissue(0, 40)[:6], tissue(500, 12)[:3]) for _ in range(2))
    assert (one.odds, one.far) == (other.odds, other.far)
    assert np.array_equal(one.weights, other.weights) and np.array_equal(one.whitening, other.whitening)
