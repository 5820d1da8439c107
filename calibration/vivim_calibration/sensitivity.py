"""Which layer costs what: every layer quantised alone, and every layer alone returned to float.

The two rankings differ where errors add up or cancel. What is left in float to meet a budget is taken from the first:
layers in order of the points that they cost alone (of the logits' error where points are equal). How many of them is
found on other clips (vivim_calibration.choosing).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from vivim_calibration.layers import Layer, quantisable_layers
from vivim_calibration.quantise import quantise_layers
from vivim_calibration.verdict import logits_of_clips
from vivim_runtime.clips import Clip
from vivim_runtime.judging.agreement import Agreement, AgreementMeter, logits_of
from vivim_runtime.sessions.onnx import OnnxSession

__all__ = ["Analysis", "LayerCost", "Trial", "rank_layers"]


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs; points are hundredths of Dice, errors the relative L2 of the logits.

    Attributes:
        alone_points, alone_error: with only this layer in int8.
        gained_points, gained_error: of the whole int8 model, when this layer alone returns to float; None where only
            the first was asked for.
    """

    layer: Layer
    alone_points: float
    alone_error: float
    gained_points: float | None
    gained_error: float | None


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
        return self.each_without(left_in_float)[0]

    def each_without(self, left_in_float: Collection[str]) -> tuple[Agreement, list[Agreement]]:
        """The same, over all clips and of every clip by itself."""
        together, each = AgreementMeter(), []
        with TemporaryDirectory() as folder:
            path = Path(folder) / "trial.onnx"
            onnx.save(quantise_layers(self._model, self._ranges, left_in_float), path)
            with OnnxSession(path, "cpu", self._threads, fused=False) as session:
                for clip, expected in zip(self.clips, self._expected, strict=True):
                    found, alone = logits_of(session, clip.pixels), AgreementMeter()
                    together.add(clip, expected, found)
                    alone.add(clip, expected, found)
                    each.append(alone.value())
        return together.value(), each

    def only(self, name: str) -> Agreement:
        """How far it is with one layer in int8."""
        return self.without({layer.name for layer in self.layers} - {name})


def rank_layers(
    trial: Trial, on_layer: Callable[[int, int], None] = lambda done, count: None, returned: bool = True
) -> Analysis:
    """Rank all layers.

    Args:
        on_layer: told how many are done, and of how many.
        returned: try every layer back in float, too, which takes as long again.
    """
    together = trial.without(())
    costs = []
    for done, layer in enumerate(trial.layers, 1):
        alone, rest = trial.only(layer.name), trial.without({layer.name}) if returned else None
        costs.append(
            LayerCost(
                layer,
                alone.points_lost,
                alone.tensor.relative_l2,
                together.points_lost - rest.points_lost if rest else None,
                together.tensor.relative_l2 - rest.tensor.relative_l2 if rest else None,
            )
        )
        on_layer(done, len(trial.layers))
    costs.sort(key=lambda cost: (cost.alone_points, cost.alone_error), reverse=True)
    return Analysis(tuple(costs), together, len(trial.clips))
