"""The figures of a comparison, on sides whose logits are known, and its verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivim_runtime.errors import UsageError
from vivim_runtime.judging.parity import BUDGETS, compare
from vivim_runtime.judging.parity_report import html_report, rows
from vivim_runtime.sessions.base import ClassInfo, ModelInfo

SIZE, FRAMES = (40, 48), 4
CLIPS = [f"phantom:?seed=1&frames=8&size={SIZE[0]}x{SIZE[1]}"]


class Side:
    """A session whose logits are a function of the grey values (T, 1, H, W) in -1 .. 1."""

    backend, device = "test", "cpu"

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], precision: str = "fp32", **changes: Any) -> None:
        self._function = function
        values = {
            "path": Path(f"{precision}.onnx"),
            "preset": "p",
            "frames": FRAMES,
            "size": SIZE,
            "classes": (ClassInfo("lesion", (0, 255, 0)),),
            "precision": precision,
            "input": "uint8",
            "mean": (),
            "std": (),
            "batch": None,
            "weights_sha256": "0" * 64,
            "metadata": {},
        }
        self.info = ModelInfo(**{**values, **changes})

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        grey = clips.astype(np.float32).mean(-1) / 127.5 - 1.0
        return np.stack([self._function(clip[:, None]) for clip in grey]).astype(np.float32)

    def warm_up(self) -> None:
        pass

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def same(x: np.ndarray) -> np.ndarray:
    return x + 0.2


def test_equal_sides_differ_in_nothing() -> None:
    result = compare(Side(same), Side(same), CLIPS)
    assert result.passed and result.tensor.max_abs == result.tensor.relative_l2 == 0.0
    assert result.tensor.cosine == pytest.approx(1.0)
    assert result.masks.dice == result.masks.worst_dice == 1.0 and result.masks.changed_pixels == 0
    assert result.masks.frames == 8 and result.sources == {CLIPS[0]: 8}


def test_figures_of_the_logits_are_those_of_their_definition() -> None:
    kept: list[np.ndarray] = []

    def a(x: np.ndarray) -> np.ndarray:
        kept.append(x + 0.2)
        return x + 0.2

    def b(x: np.ndarray) -> np.ndarray:
        return x + 0.2 + 1e-3 * np.linspace(0, 1, x.size).reshape(x.shape)

    result = compare(Side(a), Side(b), CLIPS)
    reference = np.concatenate(kept).astype(np.float64)
    error = np.concatenate([1e-3 * np.linspace(0, 1, k.size).reshape(k.shape) for k in kept])
    tensor = result.tensor
    # float32 logits near 1 carry errors of 6e-8, four digits below the 1e-3 that was added.
    assert tensor.max_abs == pytest.approx(1e-3, rel=1e-3)
    centred = np.linalg.norm(reference - reference.mean())
    assert tensor.relative_l2 == pytest.approx(np.linalg.norm(error) / centred, rel=1e-3)
    # Bins a 16th of a decade wide: right to 15 %.
    assert tensor.p50 == pytest.approx(5e-4, rel=0.16)
    assert tensor.p99 == pytest.approx(9.9e-4, rel=0.16)


def test_a_shared_offset_cannot_hide_an_error() -> None:
    """With logits around 1000, ||error|| / ||a|| would be a thousandth of what it is."""

    def noisy(x: np.ndarray) -> np.ndarray:
        return x + 1000.0 + 0.01 * (np.arange(x.size).reshape(x.shape) % 2)

    assert not compare(Side(lambda x: x + 1000.0), Side(noisy), CLIPS).passed


def test_masks_that_shrink_are_counted() -> None:
    result = compare(Side(lambda x: x + 0.2), Side(lambda x: x + 0.1, "fp16"), CLIPS)
    masks = result.masks
    assert masks.dice is not None and masks.iou is not None and masks.worst_dice is not None
    assert 0 < masks.worst_dice <= masks.dice < 1
    assert masks.iou < masks.dice
    assert masks.changed_pixels > 0 and not result.passed
    assert result.failures == (f"mask Dice {masks.dice:.6f} is under 0.999",)
    assert [w.dice for w in result.worst] == sorted(w.dice for w in result.worst)
    assert result.worst[0].dice == masks.worst_dice


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_value_that_is_not_finite_always_fails(bad: float, side: str) -> None:
    def broken(x: np.ndarray) -> np.ndarray:
        y = same(x)
        y[0, 0, 0, 0] = bad
        return y

    sides = [Side(broken, "int8"), Side(same, "int8")]
    result = compare(*(sides if side == "a" else sides[::-1]), CLIPS)
    assert result.tensor.not_finite == 2  # one a clip
    assert result.failures[0] == "2 logits are not finite"
    json.dumps(result.record(), allow_nan=False)


def test_masks_that_are_all_empty_prove_nothing_and_say_so() -> None:
    result = compare(Side(lambda x: x - 5), Side(lambda x: x - 5), CLIPS)
    assert result.passed and result.masks.dice is None
    assert "prove nothing" in result.notes[0]


def test_empty_masks_do_not_dilute_dice() -> None:
    """Marked in the first frame only, and there half as large on one side."""

    def first(share: float) -> Callable[[np.ndarray], np.ndarray]:
        def logits(x: np.ndarray) -> np.ndarray:
            y = np.full_like(x, -1.0)
            y[0, :, : int(share * SIZE[0])] = 1.0
            return y

        return logits

    result = compare(Side(first(1.0)), Side(first(0.5), "int8"), CLIPS)
    assert result.masks.empty == 6
    assert result.masks.dice == pytest.approx(2 * 0.5 / 1.5)
    assert "6 of 8 frames" in result.notes[0]


def test_dice_against_truth_is_measured_on_phantoms() -> None:
    everything = compare(Side(lambda x: 0 * x + 1), Side(lambda x: 0 * x + 1), CLIPS).masks
    nothing = compare(Side(lambda x: 0 * x - 1), Side(lambda x: 0 * x - 1), CLIPS).masks
    assert everything.truth_a is not None and 0 < everything.truth_a < 1
    assert everything.truth_a == everything.truth_b
    assert nothing.truth_a == 0.0


def test_int8_may_not_lose_half_a_point_against_truth() -> None:
    budget = BUDGETS["int8"]
    assert (budget.relative_l2, budget.mask_dice, budget.truth_points) == (None, 0.99, 0.5)
    result = compare(Side(lambda x: 0 * x + 1), Side(lambda x: 0 * x - 1, "int8"), CLIPS)
    assert any("against ground truth falls by" in failure for failure in result.failures)


def test_the_coarser_side_gives_the_budget() -> None:
    assert compare(Side(same, "fp16"), Side(same), CLIPS).budget == BUDGETS["fp16"]
    assert compare(Side(same, "fp16"), Side(same, "int8"), CLIPS).budget == BUDGETS["int8"]
    with pytest.raises(UsageError, match="no budget for the precision fp4"):
        compare(Side(same), Side(same, "fp4"), CLIPS)


@pytest.mark.parametrize(
    "changes", [{"frames": 5}, {"size": (48, 40)}, {"classes": (ClassInfo("vessel", (0, 0, 0)),)}], ids=str
)
def test_sides_of_different_shape_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="can only be compared when these are the same"):
        compare(Side(same), Side(same, **changes), CLIPS)


def test_a_source_shorter_than_a_clip_is_refused() -> None:
    with pytest.raises(UsageError, match="fewer than 4 frames"):
        compare(Side(same), Side(same), ["phantom:?frames=3&size=40x48"])


def test_other_weights_are_noticed() -> None:
    result = compare(Side(same), Side(same, weights_sha256="1" * 64), CLIPS)
    assert "other weights" in result.notes[0]


def test_report_is_one_file_with_every_figure_and_the_worst_frames() -> None:
    result = compare(Side(lambda x: x + 0.2), Side(lambda x: x + 0.1, "fp16"), CLIPS)
    page = html_report(result)
    assert page.count("data:image/png;base64,") == len(result.worst) == 4
    assert "http" not in page and "<script" not in page and 'src="data:' in page
    assert "OVER BUDGET" in page
    for name, _, _ in rows(result):
        assert name.replace("|", "|") in page or name in page


def test_budgets_are_those_of_the_documentation() -> None:
    """A looser budget lets a wrong model pass everywhere; it is changed here too, with a reason, or not at all."""
    assert {name: (b.relative_l2, b.mask_dice, b.truth_points) for name, b in BUDGETS.items()} == {
        "fp32": (1e-4, 0.9999, None),
        "fp16": (None, 0.999, None),
        "bf16": (None, 0.999, None),
        "int8": (None, 0.99, 0.5),
    }
