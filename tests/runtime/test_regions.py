"""Regions, and how they are named."""

from __future__ import annotations

import numpy as np
import pytest

from vivim_runtime.errors import UsageError
from vivim_runtime.regions import Region, RegionRule


@pytest.mark.parametrize(
    ("text", "kind", "region"),
    [
        ("whole", "whole", None),
        ("DICOM", "dicom", None),
        ("auto", "auto", None),
        ("10,20,300,200", "given", Region(10, 20, 300, 200)),
        (" 10, 20, 300, 200 ", "given", Region(10, 20, 300, 200)),
    ],
)
def test_rules_are_read_and_written(text: str, kind: str, region: Region | None) -> None:
    rule = RegionRule.parse(text)
    assert (rule.kind, rule.region) == (kind, region) and RegionRule.parse(str(rule)) == rule


@pytest.mark.parametrize("text", ["", "half", "1,2,3", "1,2,3,4,5", "-1,2,3,4", "1.5,2,3,4", "1,2,0,4", "१,2,3,4"])
def test_what_is_no_rule_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"region.*expected") as raised:
        RegionRule.parse(text)
    assert "\n" not in str(raised.value)


def test_a_region_beyond_the_picture_is_refused() -> None:
    region = Region(10, 20, 300, 200)
    assert region.check((220, 310), "clip") is region  # to the last row and column
    for size in ((219, 310), (220, 309)):
        with pytest.raises(UsageError, match=r"^clip: the region 10,20,300,200 .* reaches beyond the picture of \d+x"):
            region.check(size, "clip")
    with pytest.raises(UsageError, match="too small"):
        Region(0, 0, 7, 20).check((100, 100), "clip")


def test_an_outline_says_which_pixels_of_the_rectangle_belong_to_it() -> None:
    region = Region(2, 1, 3, 3, ((2, 1), (4, 1), (2, 3)))
    assert region.inside is not None and region.inside.tolist() == [
        [True, True, True],
        [True, True, False],
        [True, False, False],
    ]
    whole = region.mask((5, 6))
    assert whole.sum() == 6 and whole[1, 2] and not whole[3, 4]
    assert Region(2, 1, 3, 3).mask((5, 6)).sum() == 9


def test_cutting_a_region_copies_nothing() -> None:
    image = np.zeros((5, 6, 3), np.uint8)
    part = Region(2, 1, 3, 3).cut(image)
    assert part.shape == (3, 3, 3) and part.base is image
