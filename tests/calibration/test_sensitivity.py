from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from vivim_calibration.layers import Layer
from vivim_calibration.plot import sensitivity_svg
from vivim_calibration.report import sensitivity_table
from vivim_calibration.sensitivity import Analysis, LayerCost, rank_layers
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


def test_a_ranking_may_leave_out_what_the_return_of_a_layer_gains() -> None:
    costs = rank_layers(Sums(), returned=False).costs  # type: ignore[arg-type]
    assert [cost.layer.name for cost in costs] == ["b", "c", "a", "d"]
    assert all(cost.gained_points is None and cost.gained_error is None for cost in costs)
