"""What the model sees of live pictures, and what of it is drawn, measured and written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.runtime.live.rig import MODEL, Frames, NullSession, Run
from vivim_runtime.errors import UsageError
from vivim_runtime.live.run import LiveOptions, Outputs  # noqa: F401
from vivim_runtime.live.screens.hud import Hud, lesion_lines
from vivim_runtime.live.seeing import Seeing
from vivim_runtime.live.status import Controls, State, Status
from vivim_runtime.locating import LOOKED_AT
from vivim_runtime.measuring import parse_mm_per_pixel
from vivim_runtime.offline import RunOptions
from vivim_runtime.regions import Region, RegionRule
from vivim_runtime.sources import Frame

SIZE, REGION = (96, 128), Region(30, 20, 64, 64)
CONTRACT = MODEL.takes


def screen() -> np.ndarray:
    """A disc within the region, and letters of a scanner outside of it: all of it bright."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.zeros((*SIZE, 3), np.uint8)
    image[(columns - 62) ** 2 + (rows - 52) ** 2 <= 12**2] = 255
    image[4:12, 4:60] = 255
    image[80:92, 100:126] = 255
    return image


def forever() -> Iterator[np.ndarray]:
    while True:
        yield screen()
        time.sleep(0.02)


def options(region: str | None = None, **more: object) -> LiveOptions:
    rule = None if region is None else RegionRule.parse(region)
    return LiveOptions(run=RunOptions(region=rule, layers=("overlay", "contour"), **more))  # type: ignore[arg-type]


def test_nothing_is_seen_marked_or_drawn_outside_the_region(tmp_path: Path) -> None:
    session = NullSession()
    session.clips = []
    ledger = tmp_path / "l.jsonl"
    with Run(
        Frames([forever]), session, options(str(REGION), scales=parse_mm_per_pixel("0.5")), ledger=(ledger, {})
    ) as run:
        run.probe.wait(lambda shown: shown.masks is not None)
        shown = run.probe.last
        assert shown is not None and shown.masks is not None
    outside = ~REGION.mask(SIZE)
    assert shown.masks[0].sum() > 400 and not shown.masks[0][outside].any()
    assert np.array_equal(shown.picture[outside], screen()[outside])  # to the last pixel
    assert not np.array_equal(shown.picture, screen())
    # 64 x 64 of the picture is what the model takes: bit for bit.
    assert np.array_equal(session.clips[-1][0, 0], REGION.cut(screen()))
    status = shown.status
    assert status.regions == ((30, 20, 64, 64),) and status.region == str(REGION) and status.size == SIZE
    (lesion,) = status.lesions
    value, error = lesion["longest_mm"]
    assert abs(value - 12.0) <= error and "0.5 mm" in status.scale
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    seen = [line for line in lines if line.get("mask_of") is not None]
    assert seen[-1]["region"] == [str(REGION)] and seen[-1]["lesions"][0]["class"] == "lesion"


def test_people_draw_the_region_while_it_runs_and_drop_it_again() -> None:
    with Run(Frames([forever]), None, options()) as run:
        run.probe.wait(lambda shown: shown.masks is not None and bool(shown.masks[0][8, 30]))  # the letters too
        run.controls.see(REGION)
        # From the next clip on; no picture between has masks of the other region.
        run.probe.wait(lambda shown: shown.status.regions == ((30, 20, 64, 64),) and shown.masks is not None)
        shown = run.probe.last
        assert shown is not None and shown.masks is not None
        assert not shown.masks[0][~REGION.mask(SIZE)].any() and shown.status.region == "drawn by hand"
        run.controls.see(None)
        run.probe.wait(lambda shown: shown.masks is not None and bool(shown.masks[0][8, 30]))
        assert run.probe.last is not None and run.probe.last.status.regions == ()


def test_a_region_that_does_not_fit_ends_the_run_with_a_line() -> None:
    run = Run(Frames([forever]), None, options("100,0,64,64"))
    run._thread.start()
    run.join()
    assert isinstance(run.error, UsageError) and "reaches beyond the picture of 128x96" in str(run.error)


def frames(count: int, first: int = 0) -> tuple[Frame, ...]:
    return tuple(Frame(first + i, i / 25, screen()) for i in range(count))


def test_a_region_is_looked_for_in_the_first_frames_and_once() -> None:
    calls: list[int] = []

    def finder(images: Sequence[np.ndarray]) -> Region | None:
        calls.append(len(images))
        return REGION if len(calls) > 1 else None

    controls = Controls((), 0.5, 0.4)
    seeing = Seeing(CONTRACT, RegionRule("auto"), Frames([]), controls, finder)
    assert seeing.views(frames(LOOKED_AT - 1)) is None and "looking for" in seeing.message
    assert seeing.views(frames(5, LOOKED_AT - 5)) is None and "no picture of a scanner" in seeing.message
    views = seeing.views(frames(LOOKED_AT, 100))
    assert views is not None and views.regions == (REGION,) and seeing.message == "" and calls == [LOOKED_AT] * 2
    assert seeing.views(frames(1, 200)) is views and len(calls) == 2
    smaller = tuple(replace(frame, image=frame.image[:80]) for frame in frames(3, 300))
    assert seeing.views(smaller) is None  # another picture, another region
    controls.see(Region(0, 0, 40, 40))
    assert seeing.views(smaller).regions == (Region(0, 0, 40, 40),)  # type: ignore[union-attr]


def test_the_display_shows_the_region_just_within_it_and_sizes_with_their_bounds() -> None:
    status = Status(State.live, size=SIZE, regions=((30, 20, 64, 64),))
    black = np.zeros((*SIZE, 3), np.uint8)
    plain = Hud(MODEL.classes).draw(black, replace(status, regions=()))
    changed = (Hud(MODEL.classes).draw(black, status) != plain).any(axis=2)
    edge = np.zeros(SIZE, np.bool_)
    edge[20:84, 30:94] = True
    edge[21:83, 31:93] = False
    assert changed.any() and not changed[~edge].any()
    lesion = {"lesion": 2, "longest_mm": [12.34, 0.61], "across_mm": [8.0, 0.5], "longest_px": 24.0, "across_px": 16.0}
    assert lesion_lines([lesion]) == ("2: 12.3 x 8.0 mm (+-0.6, +-0.5)",)
    assert lesion_lines([lesion], short=True) == ("2: 12.3 x 8.0 mm",)
    assert lesion_lines([{"lesion": 1, "longest_px": 24.2, "across_px": 16.0}]) == ("1: 24 x 16 px",)
    assert len(lesion_lines([lesion] * 9)) == 3
