"""Where millimetres come from, and when there are none."""

from __future__ import annotations

import pytest

from vivim_runtime.errors import UsageError
from vivim_runtime.measuring import Scales, parse_mm_per_pixel, ultrasound_scales
from vivim_runtime.measuring.scale import spacing_scale
from vivim_runtime.regions import Region, UltrasoundRegion, tissue_regions

SIZE = (240, 320)
TISSUE = UltrasoundRegion(1, 1, 10, 20, 209, 219, (3, 3), (0.02, 0.03))
# As in pydicom's examples_ybr_color.dcm, whose picture is 320x240.
OF_ANOTHER_PICTURE = UltrasoundRegion(1, 1, 84, 31, 595, 414, (3, 3), (0.051, 0.051))
SPECTRUM = UltrasoundRegion(3, 3, 0, 120, 319, 239, (4, 7), (0.01, 1.0))
ECG = UltrasoundRegion(4, 10, 0, 200, 319, 239, (4, 0), (0.01, 0.0))
FLOW = UltrasoundRegion(1, 2, 50, 60, 90, 100, (3, 3), (0.02, 0.03))
OTHER = UltrasoundRegion(1, 1, 220, 20, 318, 219, (3, 3), (0.04, 0.04))


def test_centimetres_become_millimetres_as_the_picture_is_shown() -> None:
    scales = ultrasound_scales([SPECTRUM, TISSUE], SIZE, SIZE, "x.dcm")
    (scale,) = scales.scales
    assert (scale.mm_x, scale.mm_y) == pytest.approx((0.2, 0.3)) and scale.region == Region(10, 20, 200, 200)
    (shown,) = ultrasound_scales([TISSUE], SIZE, (360, 320), "x.dcm").scales  # stretched to 3:2 rows
    assert (shown.mm_x, shown.mm_y) == pytest.approx((0.2, 0.2)) and shown.region == Region(10, 30, 200, 300)


def test_each_part_of_a_picture_has_its_own_scale() -> None:
    scales = ultrasound_scales([TISSUE, OTHER], SIZE, SIZE, "x.dcm")
    left, right = scales.at(100, 100), scales.at(300, 100)
    assert left is not None and right is not None and (left.mm_x, right.mm_x) == pytest.approx((0.2, 0.4))
    assert scales.at(215, 100) is None and scales.at(100, 5) is None


def test_a_scale_that_contradicts_the_picture_is_refused_with_the_reason() -> None:
    scales = ultrasound_scales([OF_ANOTHER_PICTURE], SIZE, SIZE, "cine.dcm")
    assert scales.scales == () and scales.refusal == (
        "cine.dcm contradicts itself: its ultrasound region spans (84,31)-(595,414), its picture is 320x240, "
        "so its scale is of another picture"
    )
    assert scales.record() == {"refused": scales.refusal} and "no millimetres" in scales.describe()


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        (SPECTRUM, "no ultrasound region of tissue"),
        (UltrasoundRegion(1, 1, 0, 0, 100, 100, (5, 5), (0.1, 0.1)), "gives its region no centimetres"),
        (UltrasoundRegion(1, 1, 0, 0, 100, 100, (3, 3), None), "gives its region no centimetres"),
        (UltrasoundRegion(1, 1, 0, 0, 100, 100, (3, 3), (0.0, 0.1)), "which cannot be"),
        (UltrasoundRegion(1, 1, 0, 0, 100, 100, (3, 3), (float("nan"), 0.1)), "which cannot be"),
        (UltrasoundRegion(1, 1, 0, 0, 100, 100, (3, 3), (50.0, 0.1)), "which cannot be"),
    ],
)
def test_what_is_no_scale_is_refused(region: UltrasoundRegion, reason: str) -> None:
    assert reason in ultrasound_scales([region], SIZE, SIZE, "x.dcm").refusal


def test_spacing_and_hands_give_scales_too() -> None:
    (scale,) = spacing_scale((0.3, 0.2), SIZE, (360, 320), "x.dcm").scales
    assert (scale.mm_x, scale.mm_y) == pytest.approx((0.2, 0.2))
    assert "cannot be" in spacing_scale((0.0, 0.2), SIZE, SIZE, "x.dcm").refusal
    (scale,) = parse_mm_per_pixel("0.2x0.3").scales
    assert (scale.mm_x, scale.mm_y) == (0.2, 0.3) and parse_mm_per_pixel("0.2").scales[0].mm_y == 0.2
    for text in ("", "0", "-1", "0.2x", "20", "0.2mm", "nan", "1e-2"):
        with pytest.raises(UsageError, match=r"--mm-per-pixel is .*; expected"):
            parse_mm_per_pixel(text)
    assert isinstance(parse_mm_per_pixel("0.1"), Scales)


def test_only_tissue_is_seen() -> None:
    assert tissue_regions([SPECTRUM, TISSUE, FLOW, ECG], SIZE, SIZE, "x") == (Region(10, 20, 200, 200),)
    assert tissue_regions([TISSUE, OTHER], SIZE, SIZE, "x") == (Region(10, 20, 200, 200), Region(220, 20, 99, 200))
    assert tissue_regions([FLOW], SIZE, SIZE, "x") == (Region(50, 60, 41, 41),)  # coloured tissue is tissue
    # A last column counted as the first one beyond it.
    assert tissue_regions([UltrasoundRegion(1, 1, 0, 0, 320, 240)], SIZE, SIZE, "x") == (Region(0, 0, 320, 240),)


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ([], "x has no ultrasound regions; give --region"),
        ([SPECTRUM, ECG], "x has 2 ultrasound regions, none of them of tissue; give --region"),
        ([TISSUE, OF_ANOTHER_PICTURE], r"x contradicts itself: .*\(595,414\), its picture is 320x240; give --region"),
    ],
)
def test_regions_that_cannot_be_used_are_refused_in_one_line(regions: list[UltrasoundRegion], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        tissue_regions(regions, SIZE, SIZE, "x")
