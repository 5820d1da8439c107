"""The picture of runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vivim
from vivim.training.curve import curve_svg, read_log


def epochs(*figures: tuple[float, float]) -> list[dict[str, object]]:
    return [{"loss": loss, "scores": {"dice": dice}} for loss, dice in figures]


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    """The lines that are thicker than the grid."""
    lines = re.findall(r'<polyline points="([^"]+)" fill="none" stroke="[^"]+" stroke-width="2"', svg)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in lines]


def test_runs_stand_one_behind_the_other_at_the_heights_of_their_values() -> None:
    svg = curve_svg([("a", epochs((1.0, 0.5), (0.5, 0.75))), ("b", epochs((0.0, 1.0)))])
    losses_a, losses_b, dice_a, dice_b = points_of(svg)
    assert losses_a[0][0] < losses_a[1][0] < losses_b[0][0]
    top, bottom = losses_a[0][1], losses_b[0][1]  # 1.0 is the largest loss, 0 the floor
    assert losses_a[1][1] == pytest.approx((top + bottom) / 2)
    assert dice_a[0][1] - dice_b[0][1] == pytest.approx(bottom - top)  # 0.5 to 1.0 fill the other panel
    assert "a: 2 epochs, best Dice 0.7500" in svg and "b: 1 epochs, best Dice 1.0000" in svg


def test_best_epochs_are_marked() -> None:
    svg = curve_svg([("a", epochs((1.0, 0.5), (0.2, 0.9), (0.4, 0.7)))])
    dots = re.findall(r'<circle cx="([\d.]+)"', svg)
    assert [float(x) for x in dots] == [points_of(svg)[0][1][0]] * 2  # lowest loss, highest Dice: the second epoch


def test_names_are_escaped() -> None:
    assert "a&lt;b" in curve_svg([("a<b", epochs((1.0, 0.5)))])


def test_folders_without_a_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(vivim.DataError, match="expected the --out folder of fit"):
        read_log(tmp_path)
    (tmp_path / "log.jsonl").write_text("no json\n")
    with pytest.raises(vivim.DataError, match="is no log"):
        read_log(tmp_path)
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(vivim.DataError, match="no epoch has ended"):
        curve_svg([("a", read_log(tmp_path))])
