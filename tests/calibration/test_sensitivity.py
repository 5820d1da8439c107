from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.calibration.conftest import clips_of
from vivim_calibration.layers import Layer
from vivim_calibration.plot import sensitivity_svg
from vivim_calibration.procedure import Options, calibrate
from vivim_calibration.report import sensitivity_table
from vivim_calibration.sensitivity import Analysis, LayerCost, fewest_in_float, rank_layers
from vivim_runtime.judging.agreement import Agreement, MaskFigures, TensorFigures

COSTS = {"a": 0.02, "b": 0.3, "c": 0.1, "d": 0.0}
LAYERS = tuple(Layer(name, name, "MatMul", name, name, 1, 1) for name in COSTS)
TENSOR = TensorFigures(max_abs=0.0, relative_l2=0.0, p50=0.0, p99=0.0, p999=0.0, cosine=1.0, not_finite=0)
MASKS = MaskFigures(
    dice=1.0, iou=1.0, worst_dice=1.0, hd95=0.0, changed_pixels=0, frames=1, empty=0, full=0, flicker_a=0.0,
    flicker_b=0.0, truth_a=0.9, truth_b=0.9, truths=1,
)  # fmt: skip


class Sums:
    """Stands for a Trial: every layer in int8 costs its own points, and they add up."""

    layers, clips = LAYERS, ((),)

    def without(self, left_in_float: Collection[str]) -> Agreement:
        lost = sum(points for name, points in COSTS.items() if name not in left_in_float)
        # A hundredth of the points: within the budget of the logits, which is not what this is about.
        tensor = replace(TENSOR, relative_l2=lost / 100)
        return Agreement(tensor, replace(MASKS, truth_b=0.9 - lost / 100, dice=1 - lost / 100))

    def only(self, name: str) -> Agreement:
        return self.without(set(COSTS) - {name})


def test_layers_are_ranked_by_what_they_cost_alone() -> None:
    analysis = rank_layers(Sums())  # type: ignore[arg-type]
    assert [cost.layer.name for cost in analysis.costs] == ["b", "c", "a", "d"]
    # Where costs add up, what a layer costs alone is what its return gains.
    for cost in analysis.costs:
        assert cost.alone_points == pytest.approx(COSTS[cost.layer.name])
        assert cost.gained_points == pytest.approx(cost.alone_points, abs=1e-12)
        assert cost.gained_error == pytest.approx(cost.alone_error, abs=1e-12)


@pytest.mark.parametrize(
    ("budget", "expected"), [(0.42, []), (0.4, ["b"]), (0.121, ["b"]), (0.05, ["b", "c"]), (1e-6, ["b", "c", "a"])]
)
def test_the_fewest_layers_that_suffice_are_left_in_float(budget: float, expected: list[str]) -> None:
    # All together cost 0.42 points; 1e-9 covers the rounding of the sums.
    assert fewest_in_float(Sums(), ["b", "c", "a", "d"], budget + 1e-9) == expected  # type: ignore[arg-type]


def test_layers_that_are_in_float_anyway_count() -> None:
    assert fewest_in_float(Sums(), ["c", "a", "d"], 0.13, always=["b"]) == []  # type: ignore[arg-type]


def test_the_plot_shows_every_layer_and_escapes_names() -> None:
    costs = [LayerCost(replace(layer, name=f"<{layer.name}>"), 0.1, 0.2, 0.1, 0.2) for layer in LAYERS]
    svg = sensitivity_svg(costs, ["<a>"])
    assert svg.count("&lt;") == len(LAYERS) and "<a>" not in svg and "left in float (1)" in svg


def test_the_table_has_room_for_the_names_of_layers_in_80_columns() -> None:
    longest = "stages.3.blocks.17.attention.value_and"  # as long as those of b5
    costs = tuple(LayerCost(replace(layer, name=f"{longest}{layer.name}"), 0.1, 0.2, -0.1, 0.2) for layer in LAYERS)
    console = Console(width=80, record=True, file=StringIO())
    console.print(sensitivity_table(Analysis(costs, Agreement(TENSOR, MASKS), 2), (costs[1].layer.name,)))
    lines = console.export_text().splitlines()
    for cost in costs:
        (line,) = [line for line in lines if cost.layer.name in line]
        assert line.split()[1:] == ["+0.100", "0.2000", "-0.100", "+0.2000", "float32" if cost is costs[1] else "int8"]


@pytest.mark.slow
def test_a_real_network_is_ranked_and_brought_within_a_budget(exported: Path) -> None:
    options = Options(target="a test", runs=1, threads=1, budget=0.01, analyse_clips=1)
    # Phantom 24 is a hard one: fully quantised it loses more than the budget of 0.01 points asks for.
    outcome = calibrate(exported, None, [clips_of(24), clips_of(1)], [clips_of(21)], options)
    assert outcome.analysis is not None and len(outcome.analysis.costs) == outcome.layers
    assert outcome.analysis.all_int8.points_lost > 0.01
    assert 0 < len(outcome.left_in_float) < outcome.layers
    errors = [cost.alone_error for cost in outcome.analysis.costs]
    assert all(error > 0 for error in errors)
