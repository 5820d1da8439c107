"""Live: gates hide the mask and say why; the region that was found follows the scanner's screen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.live.rig import MODEL, Frames, Run
from vivim_runtime.live.run import LiveOptions
from vivim_runtime.live.seeing import Seeing
from vivim_runtime.live.status import Controls, State
from vivim_runtime.locating import LOOKED_AT
from vivim_runtime.offline import RunOptions
from vivim_runtime.phantom import PhantomSpec, phantom_frames, phantom_screen
from vivim_runtime.regions import RegionRule
from vivim_runtime.sources import Frame

SIZE = (96, 128)


def forever(value: int, noise: int = 0) -> Callable[[], Iterator[np.ndarray]]:
    def pictures() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        while True:
            image = np.zeros((*SIZE, 3), np.uint8)
            image[30:60, 40:80] = value
            yield image + rng.integers(0, noise + 1, image.shape, np.uint8)
            time.sleep(0.02)

    return pictures


@pytest.mark.parametrize(
    ("pictures", "state", "message"),
    [
        pytest.param(forever(0), State.silent, "no picture", id="black"),
        pytest.param(forever(220), State.live, "the picture stands still", id="frozen"),
        pytest.param(forever(220, 20), State.live, "", id="a picture"),
    ],
)
def test_screens_say_why_there_is_no_mask(
    pictures: Callable[[], Iterator[np.ndarray]], state: State, message: str, tmp_path: Path
) -> None:
    options = LiveOptions(run=RunOptions(gates=("black", "frozen", "contact")))
    ledger = tmp_path / "l.jsonl"
    with Run(Frames([pictures]), None, options, ledger=(ledger, {})) as run:
        run.probe.wait(lambda shown: shown.status.state is state and shown.status.message == message)
        shown = run.probe.last
        assert shown is not None
        assert bool(shown.masks is not None and shown.masks.any()) is (state is State.live)
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    states = {line.get("state") for line in lines if line.get("mask_of") is not None}
    assert {"no picture": "black", "the picture stands still": "frozen", "": None}[message] in states


@pytest.mark.slow
def test_the_region_follows_a_screen_that_changes_its_layout() -> None:
    size = (300, 480)

    def frames(first: int, count: int, seed: int, layout: str) -> Iterator[Frame]:
        spec = PhantomSpec(seed, count, size, screen=layout)
        for index, (image, _) in enumerate(phantom_frames(spec)):
            yield Frame(first + index, index / 25, image)

    seeing = Seeing(MODEL.takes, RegionRule("auto"), Frames([]), Controls((), 0.5, 0.4))
    for frame in frames(0, LOOKED_AT, 3, "cardiac-sector"):
        seeing.views((frame,))
    before = seeing.current
    assert before is not None
    for frame in frames(LOOKED_AT, 48, 4, "small-parts"):
        seeing.views((frame,))
    assert seeing.current is not None and seeing.current != before
    screen = phantom_screen(PhantomSpec(4, 1, size, screen="small-parts"))
    assert screen is not None
    found = seeing.current.regions[0].mask(size)
    assert (found & screen.shown).sum() / (found | screen.shown).sum() > 0.95
