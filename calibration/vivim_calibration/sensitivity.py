"""Which layer costs what: every layer quantised alone, and every layer alone returned to float.

The two rankings differ where errors add up or cancel. What is left in float to meet a budget is taken from the first:
layers in order of the points that they cost alone (of the logits' error where points are equal), and of these the
fewest that suffice, found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from vivim_calibration.layers import Layer, quantisable_layers
from vivim_calibration.quantise import quantise_layers
from vivim_calibration.verdict import agreement_of, logits_of_clips
from vivim_runtime.clips import Clip
from vivim_runtime.judging.agreement import BUDGETS, Agreement, budget_failures
from vivim_runtime.sessions.onnx import OnnxSession

__all__ = ["Analysis", "LayerCost", "Trial", "fewest_in_float", "rank_layers"]


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs; points are hundredths of Dice, errors the relative L2 of the logits.

    Attributes:
        alone_points, alone_error: with only this layer in int8.
        gained_points, gained_error: of the whole int8 model, when this layer alone returns to float.
    """

    layer: Layer
    alone_points: float
    alone_error: float
    gained_points: float
    gained_error: float


@dataclass(frozen=True)
class Analysis:
    """Layers by what they cost, the dearest first, and the model with all of them in int8."""

    costs: tuple[LayerCost, ...]
    all_int8: Agreement
    clips: int


class Trial:
    """Tries quantised versions of one model on the same few clips; a context manager."""

    def __init__(
        self, model: onnx.ModelProto, ranges: dict[str, float], reference: Path, clips: Sequence[Clip], threads: int
    ) -> None:
        """`reference`: the float32 file of `model`."""
        self.layers = quantisable_layers(model)
        self.clips = tuple(clips)
        self._model, self._ranges, self._threads = model, ranges, threads
        with OnnxSession(reference, "cpu", threads, fused=False) as session:
            self._expected = logits_of_clips(session, self.clips)

    def without(self, left_in_float: Collection[str]) -> Agreement:
        """How far the model is from float32 with all layers but these in int8."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "trial.onnx"
            onnx.save(quantise_layers(self._model, self._ranges, left_in_float), path)
            with OnnxSession(path, "cpu", self._threads, fused=False) as session:
                return agreement_of(session, self.clips, self._expected)

    def only(self, name: str) -> Agreement:
        """How far it is with one layer in int8."""
        return self.without({layer.name for layer in self.layers} - {name})


def rank_layers(trial: Trial, on_layer: Callable[[int, int], None] = lambda done, count: None) -> Analysis:
    """Rank all layers. `on_layer` is told how many are done, and of how many."""
    together = trial.without(())
    costs = []
    for done, layer in enumerate(trial.layers, 1):
        alone, rest = trial.only(layer.name), trial.without({layer.name})
        costs.append(
            LayerCost(
                layer,
                alone.points_lost,
                alone.tensor.relative_l2,
                together.points_lost - rest.points_lost,
                together.tensor.relative_l2 - rest.tensor.relative_l2,
            )
        )
        on_layer(done, len(trial.layers))
    costs.sort(key=lambda cost: (cost.alone_points, cost.alone_error), reverse=True)
    return Analysis(tuple(costs), together, len(trial.clips))


def fewest_in_float(trial: Trial, ranked: Sequence[str], budget: float, always: Sequence[str] = ()) -> list[str]:
    """The first layers of a ranking, as few as bring the model within `budget` points and the budget of int8.

    All of them where nothing less does: the model is then float32 again. Layers in `always` are in float besides.
    """

    def suffices(count: int) -> bool:
        agreement = trial.without({*always, *ranked[:count]})
        return agreement.points_lost <= budget and not any(budget_failures(agreement, BUDGETS["int8"]))

    low, high = 0, len(ranked)
    while low < high:
        middle = (low + high) // 2
        if suffices(middle):
            high = middle
        else:
            low = middle + 1
    return list(ranked[:low])
