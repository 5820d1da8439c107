"""The figures of a comparison, on sides whose logits are known, and its verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vivim_runtime.errors import UsageError
from vivim_runtime.judging.agreement import BUDGETS, Budget
from vivim_runtime.judging.parity import compare
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
    assert f"mask Dice {masks.dice:.6f} is under 0.999" in result.failures
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


@pytest.mark.parametrize("precision", BUDGETS)
@pytest.mark.parametrize(("offset", "what"), [(-5, "neither side marks anything"), (5, "both sides mark everything")])
def test_masks_without_an_outline_prove_nothing_and_fail_however_equal_the_sides_are(
    precision: str, offset: float, what: str
) -> None:
    result = compare(Side(lambda x: x + offset), Side(lambda x: x + offset, precision), CLIPS)
    assert result.tensor.relative_l2 == 0.0
    assert result.failures == (f"{what} in any of 8 frames, so the masks prove nothing: give clips with findings",)


def test_one_frame_with_an_outline_proves_something() -> None:
    def first(x: np.ndarray) -> np.ndarray:
        y = x - 5
        y[0, :, :10] = 1.0
        return y

    assert compare(Side(first), Side(first), CLIPS).passed


def test_budgets_are_these() -> None:
    # Of the logits: docs/parity.md says what they were drawn from.
    assert {
        "fp32": Budget(relative_l2=1e-4, mask_dice=0.9999, truth_points=None),
        "fp16": Budget(relative_l2=5e-3, mask_dice=0.999, truth_points=None),
        "bf16": Budget(relative_l2=4e-2, mask_dice=0.999, truth_points=None),
        "int8": Budget(relative_l2=0.15, mask_dice=0.99, truth_points=0.5),
    } == BUDGETS


@pytest.mark.parametrize("precision", BUDGETS)
def test_logits_have_a_budget_in_every_precision_where_masks_are_the_same(precision: str) -> None:
    """Logits that are all too large by one factor mark the same pixels; the mask sees none of it."""
    budget = BUDGETS[precision].relative_l2
    # ||e a|| / ||a - mean(a)|| is e times a constant of the clips, which a first comparison tells.
    scale = compare(Side(same), Side(lambda x: 2 * same(x), "int8"), CLIPS).tensor.relative_l2
    # float32 logits near 1 are rounded by 6e-8, thousandths of the finest budget: 2 % on either side are enough.
    for share, passes in ((0.98, True), (1.02, False)):
        error = share * budget / scale
        result = compare(Side(same), Side(lambda x, e=error: same(x) * np.float32(1 + e), precision), CLIPS)
        assert result.masks.dice == 1.0 and result.passed is passes
        assert passes or result.failures == (
            f"relative L2 of the logits {result.tensor.relative_l2:.2e} is over {budget:g}",
        )


def partly_annotated(root: Path) -> Path:
    """A plain data set with a video of 4 frames, white on black bars that move; only the last two have a mask."""
    for kind in ("images", "masks"):
        (root / kind / "v").mkdir(parents=True)
    for index in range(FRAMES):
        mask = np.zeros(SIZE, np.uint8)
        mask[:, 10 * index : 10 * index + 10] = 255
        cv2.imwrite(str(root / "images" / "v" / f"{index}.png"), mask)
        if index >= 2:
            cv2.imwrite(str(root / "masks" / "v" / f"{index}.png"), mask)
    return root


def test_truth_of_a_partly_annotated_clip_belongs_to_its_own_frames(tmp_path: Path) -> None:
    result = compare(Side(lambda x: x), Side(lambda x: x), [str(partly_annotated(tmp_path))])
    # A pixel is marked where it is white, which is what the masks say; against the mask of another frame Dice is 0.
    assert (result.masks.truth_a, result.masks.truth_b, result.masks.truths) == (1.0, 1.0, 2)
    assert "2 of 4 frames have a true mask, and count for Dice with truth" in result.notes


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
    assert budget.truth_points == 0.5
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
    assert "REFUSED" in page
    for name, _, _ in rows(result):
        assert name.replace("|", "|") in page or name in page
