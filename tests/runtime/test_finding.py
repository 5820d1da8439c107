"""The finder of regions: where phantoms and real scanners have their picture, and None rather than a guess."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.data import get_testdata_file

from vivim_runtime.finding import RegionFinder, find, find_region
from vivim_runtime.phantom import PhantomSpec, phantom_frames, phantom_screen
from vivim_runtime.phantom.layouts import LAYOUTS
from vivim_runtime.regions import Region
from vivim_runtime.sources import open_source

Image = npt.NDArray[np.uint8]
SIZE = (300, 480)


def images(seed: int, screen: str, frames: int = 10, size: tuple[int, int] = SIZE) -> list[Image]:
    return [image for image, _ in phantom_frames(PhantomSpec(seed, frames, size, screen=screen))]


def cine(name: str) -> list[Image]:
    with open_source(str(get_testdata_file(name, download=False))) as source:
        return [frame.image for frame in source]


def iou(found: Region | None, shown: npt.NDArray[np.bool_]) -> float:
    if found is None:
        return 0.0
    mask = found.mask((shown.shape[0], shown.shape[1]))
    return float((mask & shown).sum() / (mask | shown).sum())


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_finds_the_region_of_every_layout(layout: str) -> None:
    overlaps = []
    for seed in range(100, 108):
        screen = phantom_screen(PhantomSpec(seed, 24, (400, 640), screen=layout))
        assert screen is not None
        overlaps.append(iou(find_region([image for image, _ in screen.frames()]), screen.shown))
    # `benchmarks/regions.py` measures more of them: 95 % of clips are to be 0.95 or better. Of eight, seven come close.
    assert np.sort(overlaps)[1] >= 0.94 and np.sort(overlaps)[2] >= 0.95 and min(overlaps) > 0.8


@pytest.mark.parametrize("layout", ["cardiac-sector", "older-linear"])
def test_finds_a_region_in_a_few_small_frames(layout: str) -> None:
    screen = phantom_screen(PhantomSpec(2, 8, SIZE, screen=layout))
    assert screen is not None
    assert iou(find_region([image for image, _ in screen.frames()]), screen.shown) >= 0.95


def test_a_picture_with_nothing_around_it_is_all_region() -> None:
    rng = np.random.default_rng(0)
    speckle = [rng.integers(20, 200, (96, 128, 3), np.uint8) for _ in range(5)]
    assert find_region(speckle) == Region(0, 0, 128, 96)


def test_the_real_cine_shows_its_sector_and_not_what_is_written_around_it() -> None:
    found = find(cine("examples_ybr_color.dcm"))
    assert found.shape == "fan" and found.region is not None
    mask = found.region.mask((240, 320))
    # Seen by eye in the brightened mean of the frames: the sector spans columns 41 to 297 and rows 12 to 201; letters
    # are left of column 38 and right of 298, the keys below row 226.
    assert mask[30:195, 168].all() and mask[150, 60:280].all()
    assert not mask[:, :36].any() and not mask[:, 304:].any() and not mask[210:].any() and not mask[:60, :110].any()


def test_a_still_picture_has_a_region_only_where_a_shape_fits_well() -> None:
    linear = find(cine("examples_jpeg2k.dcm"))
    assert linear.shape == "rectangle" and not linear.moves and linear.region is not None
    # By eye: columns 12 to 622, rows 108 to 336 of 640 x 480, with the colour bars at its sides.
    assert iou(linear.region, Region(12, 108, 611, 229).mask((480, 640))) > 0.95
    fading = find(cine("examples_palette.dcm"))  # a fan that is black below: its end cannot be seen
    assert fading.region is None and "shape" in fading.reason


@pytest.mark.parametrize("count", [1, 5])
def test_a_black_picture_has_none(count: int) -> None:
    found = find([np.zeros((64, 96, 3), np.uint8)] * count)
    assert found.region is None and "no picture" in found.reason
    assert find([]).region is None


def test_a_clock_alone_is_no_picture() -> None:
    frames = [np.zeros((240, 320, 3), np.uint8) for _ in range(8)]
    for number, frame in enumerate(frames):
        frame[10:22, 250 + 6 * number : 262 + 6 * number] = 220
    assert find_region(frames) is None


def test_live_pictures_keep_their_region_through_a_freeze_and_lost_contact() -> None:
    clip = images(3, "cardiac-sector", 16)
    finder = RegionFinder(window=8)
    changed = [finder.add(image) for image in clip]
    assert changed.index(True) == 7 and sum(changed) == 1 and finder.finding is not None
    region = finder.finding.region
    for image in [clip[-1]] * 8 + [np.zeros_like(clip[0])] * 16:
        assert not finder.add(image)
    assert finder.finding.region == region and finder.changes == 0


def test_live_pictures_get_a_new_region_when_the_layout_changes_and_two_windows_agree() -> None:
    finder = RegionFinder(window=6)
    for image in images(3, "cardiac-sector", 6):
        finder.add(image)
    before = finder.finding
    changes = [finder.add(image) for image in images(4, "small-parts", 12)]
    assert sum(changes) == 1 and changes[11] and finder.changes == 1  # not after the first window of the new ones
    screen = phantom_screen(PhantomSpec(4, 1, SIZE, screen="small-parts"))
    assert before is not None and finder.finding is not None and screen is not None
    assert iou(finder.finding.region, screen.shown) >= 0.95


def test_live_pictures_of_another_size_begin_anew() -> None:
    finder = RegionFinder(window=4)
    for image in images(3, "cardiac-sector", 4):
        finder.add(image)
    assert finder.finding is not None
    assert finder.add(np.zeros((64, 64, 3), np.uint8)) and finder.finding is None
