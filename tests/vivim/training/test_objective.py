"""Eq. 9: which terms a recipe adds up, and over which frames."""

from __future__ import annotations

import pytest
import torch

import vivim
from vivim.model import VivimOutput
from vivim.training.losses import boundary_loss, flicker_loss, segmentation_loss, sobel_edges
from vivim.training.objective import Objective
from vivim.training.recipe import FitConfig

CPU = torch.device("cpu")


def example(frames: int = 3) -> tuple[VivimOutput, torch.Tensor]:
    """An output of (2, frames, 1, 64, 64), and a truth that moves from frame to frame."""
    g = torch.Generator().manual_seed(1)
    truth = torch.zeros(2, frames, 1, 64, 64)
    for frame in range(frames):
        truth[:, frame, :, 10 + 4 * frame : 40, 12:44] = 1
    shape = truth.shape
    return VivimOutput(torch.randn(shape, generator=g), torch.randn(shape, generator=g)), truth


def test_total_is_the_weighted_sum_of_the_terms() -> None:
    output, truth = example()
    losses = Objective(FitConfig(preset="tiny"), CPU)(output, truth)
    assert set(losses) == {"segmentation", "boundary", "affine", "total"}
    expected = losses["segmentation"] + 0.3 * losses["affine"] + 0.3 * losses["boundary"]
    assert losses["total"].item() == pytest.approx(expected.item(), rel=1e-6)  # float32, three terms
    assert losses["segmentation"] == segmentation_loss(output.logits, truth)
    outlines = sobel_edges(truth.flatten(0, 1)).view_as(truth)
    assert output.edge is not None and losses["boundary"] == boundary_loss(output.edge, outlines)
    assert losses["affine"].item() > 0


def test_recipe_leaves_terms_out() -> None:
    output, truth = example()
    assert set(Objective(FitConfig(preset="tiny", affine=0), CPU)(output, truth)) == {
        "segmentation",
        "boundary",
        "total",
    }
    assert set(Objective(FitConfig(preset="tiny", boundary=0), CPU)(output, truth)) == {
        "segmentation",
        "affine",
        "total",
    }
    plain = Objective(FitConfig(preset="tiny", affine=0, boundary=0), CPU)(VivimOutput(output.logits, None), truth)
    assert set(plain) == {"segmentation", "total"} and plain["total"] == plain["segmentation"]


def test_flicker_is_added_where_it_is_asked_for() -> None:
    output, truth = example()
    losses = Objective(FitConfig(preset="tiny", affine=0, boundary=0, flicker=0.5), CPU)(output, truth)
    assert losses["flicker"] == flicker_loss(output.logits, truth) and losses["flicker"].item() > 0
    assert losses["total"] == losses["segmentation"] + 0.5 * losses["flicker"]


def test_outlines_without_an_edge_head_are_refused() -> None:
    output, truth = example()
    with pytest.raises(vivim.ConfigError, match="no edge head"):
        Objective(FitConfig(preset="tiny"), CPU)(VivimOutput(output.logits, None), truth)


def test_centre_looks_at_the_middle_frame_and_still_knows_the_first() -> None:
    output, truth = example()
    assert output.edge is not None
    centre = Objective(FitConfig(preset="tiny", target="centre"), CPU)(output, truth)
    middle = VivimOutput(output.logits[:, 1:2], output.edge[:, 1:2])
    alone = Objective(FitConfig(preset="tiny"), CPU)(middle, truth[:, 1:2])
    assert centre["segmentation"] == alone["segmentation"] and centre["boundary"] == alone["boundary"]
    # Alone, the middle frame is the first one too; here, frame 0 is, whose outline is another.
    assert centre["affine"] != alone["affine"]


def test_weights_and_weighting_of_the_recipe_are_used() -> None:
    output, truth = example()
    authors = FitConfig(preset="tiny", weighting="authors", balanced=True, boundary=2.0, delta_1=0.0, delta_2=1.0)
    losses = Objective(authors, CPU)(output, truth)
    assert losses["segmentation"] == segmentation_loss(output.logits, truth, "authors")
    outlines = sobel_edges(truth.flatten(0, 1)).view_as(truth)
    assert output.edge is not None and losses["boundary"] == boundary_loss(output.edge, outlines, balanced=True)
    assert losses["affine"].item() < 0  # only the push is left
    total = losses["segmentation"] + 2.0 * losses["boundary"] + 0.3 * losses["affine"]
    assert losses["total"].item() == pytest.approx(total.item(), rel=1e-6)


def test_half_precision_outputs_are_judged_in_float32() -> None:
    output, truth = example()
    assert output.edge is not None
    halves = VivimOutput(output.logits.bfloat16(), output.edge.bfloat16())
    losses = Objective(FitConfig(preset="tiny"), CPU)(halves, truth)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
