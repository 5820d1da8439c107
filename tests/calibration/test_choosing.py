"""`--budget`: layers are chosen on clips of their own, with a margin, and the promise holds on clips never seen."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.calibration.conftest import clips_of
from tests.calibration.test_sensitivity import COSTS, MASKS, TENSOR
from vivim.checkpoint import load_checkpoint
from vivim_calibration.choosing import choose_layers, upper_bound
from vivim_calibration.clips import whole_clips
from vivim_calibration.procedure import Options, calibrate
from vivim_calibration.verdict import agreement_of, logits_of_clips
from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx
from vivim_runtime.errors import DataError, VerdictError
from vivim_runtime.judging.agreement import BUDGETS, Agreement, budget_failures
from vivim_runtime.sessions.onnx import OnnxSession

RANKED = ["b", "c", "a", "d"]


@dataclass(frozen=True)
class NamedClip:
    source: str


@dataclass(frozen=True)
class Sums:
    """Stands for a Trial: every layer in int8 costs its own points, times what each clip makes of them."""

    factors: tuple[float, ...]
    sources: tuple[str, ...] = ("w", "x", "y", "z")

    @property
    def clips(self) -> list[NamedClip]:
        return [NamedClip(source) for source in self.sources]

    def each_without(self, left_in_float: Collection[str]) -> tuple[Agreement, list[Agreement]]:
        points = sum(points for name, points in COSTS.items() if name not in left_in_float)
        each = [self._of(points * factor) for factor in self.factors]
        return self._of(points * float(np.mean(self.factors))), each

    @staticmethod
    def _of(lost: float) -> Agreement:
        masks = replace(MASKS, truth_b=MASKS.truth_a - lost / 100, dice=1 - lost / 100)  # type: ignore[operator]
        return Agreement(replace(TENSOR, relative_l2=lost / 100), masks)


# Of all four layers 0.42 points; 1e-9 covers the rounding of the sums.
@pytest.mark.parametrize(
    ("budget", "expected"),
    [(0.42, []), (0.4, ["b"]), (0.121, ["b"]), (0.05, ["b", "c"]), (0.001, ["b", "c", "a"])],
)
def test_the_fewest_layers_that_suffice_are_left_in_float(budget: float, expected: list[str]) -> None:
    choice = choose_layers(Sums((1.0,) * 4), lambda: RANKED, budget + 1e-9)  # type: ignore[arg-type]
    assert choice is not None and list(choice.left_in_float) == expected
    assert choice.points_bound == pytest.approx(choice.points_lost)  # every clip says the same


def test_the_ranking_is_not_asked_for_where_nothing_need_stay() -> None:
    def asked() -> list[str]:
        raise AssertionError

    assert choose_layers(Sums((1.0,) * 4), asked, 0.5) is not None  # type: ignore[arg-type]


def test_layers_that_are_in_float_anyway_count_and_are_kept() -> None:
    choice = choose_layers(Sums((1.0,) * 4), lambda: ["c", "a", "d"], 0.121, ["b"])  # type: ignore[arg-type]
    assert choice is not None and choice.left_in_float == ("b",)


def test_clips_that_differ_take_a_margin() -> None:
    """Their mean is within the budget; what it may be on other clips is not, until the dearest layer is in float."""
    trial = Sums((0.2, 1.8, 0.4, 1.6))
    choice = choose_layers(trial, lambda: RANKED, 0.43)  # type: ignore[arg-type]
    assert choice is not None and choice.left_in_float == ("b",)
    assert choice.points_lost < choice.points_bound <= 0.43


def test_clips_of_one_video_are_one_opinion() -> None:
    factors, videos = (0.2, 0.2, 1.8, 1.8, 1.0, 1.0, 1.0, 1.0), tuple("aabbccdd")
    apart = choose_layers(Sums(factors, tuple("abcdefgh")), lambda: RANKED, 2.0)  # type: ignore[arg-type]
    together = choose_layers(Sums(factors, videos), lambda: RANKED, 2.0)  # type: ignore[arg-type]
    assert apart is not None and together is not None
    assert (apart.groups, together.groups) == (8, 4) and together.points_bound > apart.points_bound


def test_nothing_is_chosen_where_no_choice_holds() -> None:
    assert choose_layers(Sums((-1e3, 1e3, -1e3, 1e3)), lambda: RANKED[:3], 0.4) is None  # type: ignore[arg-type]


# Quantiles of Student's t at 0.95, from tables.
@pytest.mark.parametrize(("count", "t"), [(3, 2.920), (4, 2.353), (8, 1.895), (12, 1.796), (31, 1.697)])
def test_the_bound_is_that_of_student(count: int, t: float) -> None:
    values = [float(i % 2) for i in range(count)]
    error = np.std(values, ddof=1) / math.sqrt(count)
    assert (upper_bound(values) - np.mean(values)) / error == pytest.approx(t, rel=0.02)
    assert upper_bound(values[:2]) == math.inf


def test_a_budget_needs_clips_of_its_own(exported: Path) -> None:
    options = Options(target="a test", runs=1, threads=1, budget=0.2)
    with pytest.raises(DataError, match="has 1 clips to choose layers on and needs at least 3"):
        calibrate(exported, None, [clips_of(1), clips_of(21)], [clips_of(25)], options)


@pytest.mark.slow
def test_a_budget_that_cannot_be_promised_is_refused(exported: Path) -> None:
    options = Options(target="a test", runs=1, threads=1, budget=0.0001, analyse_clips=1)
    data = [clips_of(seed, 2) for seed in (21, 22, 23, 24, 25, 26, 27, 28)]
    with pytest.raises(VerdictError, match="margin included"):
        calibrate(exported, None, data, [clips_of(40)], options)


@pytest.mark.slow
def test_the_budget_holds_on_clips_that_nobody_has_seen(tmp_path: Path) -> None:
    """Learnt, chosen and judged on 48 phantoms of the size that the weights learnt; then three sets of 16 others, none
    of which may be over the budget.

    With nothing in float but the depthwise convolutions the mean of the clips held out is within the budget (0.05
    points), and its bound is not (0.16).
    """
    source, output, frames, size = tmp_path / "net.onnx", tmp_path / "net.int8.onnx", 2, (256, 256)
    save_onnx(onnx_from_model(load_checkpoint("tiny", frames), OnnxOptions(size=size)), source)

    def phantoms(first: int, count: int) -> list[str]:
        return [f"phantom:?seed={seed}&frames={frames}&size=256x256" for seed in range(first, first + count)]

    budget = 0.15
    options = Options(target="a test", runs=1, threads=1, budget=budget, choose_clips=12, analyse_clips=1)
    outcome = calibrate(source, output, phantoms(100, 48), [], options)
    choice = outcome.choice
    assert choice is not None and choice.groups == 6 and 0 < len(choice.left_in_float) < outcome.layers / 2
    assert any(".dwconv" not in name for name in choice.left_in_float)
    assert choice.points_lost < choice.points_bound <= budget
    assert choice.mask_dice is not None and choice.mask_dice_bound is not None
    assert BUDGETS["int8"].mask_dice <= choice.mask_dice_bound < choice.mask_dice
    assert any("95 % bound" in note for note in outcome.notes)
    with OnnxSession(source, "cpu", 1) as reference, OnnxSession(output, "cpu", 1, fused=False) as int8:
        for first in (200, 300, 400):
            clips = whole_clips(phantoms(first, 16), frames, size)
            agreement = agreement_of(int8, clips, logits_of_clips(reference, clips))
            assert agreement.points_lost <= budget, first
            assert not list(budget_failures(agreement, BUDGETS["int8"])), first
