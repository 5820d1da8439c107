"""--blank-outside: what the model does not see is neither written nor shown, and what it sees is untouched."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.live.rig import MODEL, Frames, NullSession, Run
from vivim_runtime.errors import UsageError
from vivim_runtime.framing import Views
from vivim_runtime.live.run import LiveOptions
from vivim_runtime.offline import RunOptions, run
from vivim_runtime.regions import Region, RegionRule
from vivim_runtime.sinks.base import Segmented
from vivim_runtime.sources.phantom import PhantomSource

REGION = Region(30, 20, 64, 64)
OUTSIDE = ~REGION.mask((96, 128))


class Kept:
    path = "kept"

    def __init__(self) -> None:
        self.items: list[Segmented] = []

    def write(self, item: Segmented) -> None:
        self.items.append(item)

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def written(**options: object) -> list[Segmented]:
    kept = Kept()
    rule = RegionRule("given", REGION)
    source = PhantomSource("phantom:frames=5,size=96x128,screen=cardiac-sector")
    run(source, NullSession(), [kept], RunOptions(region=rule, **options))  # type: ignore[arg-type]
    return kept.items


def test_nothing_is_written_outside_and_masks_are_the_same() -> None:
    plain, blank = written(), written(blank_outside=True)
    assert any(item.picture[OUTSIDE].any() for item in plain)
    for one, other in zip(plain, blank, strict=True):
        assert not other.picture[OUTSIDE].any() and not other.frame.image[OUTSIDE].any()
        assert np.array_equal(one.masks, other.masks) and np.array_equal(one.logits, other.logits)
        assert np.array_equal(one.picture[~OUTSIDE], other.picture[~OUTSIDE])


def test_an_outline_is_kept_too() -> None:
    image = np.full((96, 128, 3), 200, np.uint8)
    triangle = replace(REGION, outline=((62, 20), (93, 83), (30, 83)))
    left = Views.of(MODEL.takes, (triangle,)).blanked(image)
    assert not left[~triangle.mask((96, 128))].any() and left[80, 62].all() and image.all()


@pytest.mark.parametrize(
    "regions",
    [
        pytest.param((), id="no region"),
        pytest.param((Region(0, 0, 128, 96),), id="all of the frame, of which letters may be a part"),
        pytest.param((Region(100, 20, 64, 64),), id="a region of larger frames"),
    ],
)
def test_where_the_region_is_not_known_all_is_black(regions: tuple[Region, ...]) -> None:
    assert not Views.of(MODEL.takes, regions).blanked(np.full((96, 128, 3), 200, np.uint8)).any()


@pytest.mark.parametrize("rule", [None, RegionRule("given", Region(0, 0, 128, 96))])
def test_a_region_that_leaves_nothing_out_is_refused(rule: RegionRule | None) -> None:
    source = PhantomSource("phantom:frames=5,size=96x128")
    with pytest.raises(UsageError, match="--blank-outside needs a region"):
        run(source, NullSession(), [], RunOptions(region=rule, blank_outside=True))  # type: ignore[arg-type]


def test_screens_and_snapshots_show_nothing_outside_and_the_ledger_says_so(tmp_path: Path) -> None:
    def forever() -> Iterator[np.ndarray]:
        while True:
            yield np.full((96, 128, 3), 220, np.uint8)
            time.sleep(0.02)

    options = RunOptions(region=RegionRule("given", REGION), blank_outside=True)
    ledger = tmp_path / "l.jsonl"
    with Run(Frames([forever]), None, LiveOptions(run=options), ledger=(ledger, {"blank_outside": True})) as live:
        live.probe.wait(lambda shown: shown.masks is not None)
        shown = live.probe.last
        assert shown is not None and shown.frame is not None and shown.masks is not None
    # Side by side and probability views are made of the frame, so that is blanked as well as the picture.
    assert not shown.picture[OUTSIDE].any() and not shown.frame.image[OUTSIDE].any()
    assert shown.frame.image[~OUTSIDE].all() and shown.masks[0].any()
    assert json.loads(ledger.read_text().splitlines()[0])["blank_outside"] is True
