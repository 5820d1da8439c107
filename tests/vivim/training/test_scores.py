"""Scores of a network on clips, against masks counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vivim
from vivim.model import VivimOutput
from vivim.session import open_runner
from vivim.training.batches import MemoryClips, PhantomClips, phantom_clips
from vivim.training.scores import Scores, evaluate
from vivim_runtime import judging
from vivim_runtime.clips import Clip
from vivim_runtime.datasets import open_dataset


class Oracle(nn.Module):
    """Finds the lesion where the red channel is bright; `sign` -1 finds everything else."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign
        self.seen: list[tuple[torch.Size, bool, bool]] = []

    def forward(self, clip: Tensor) -> VivimOutput:
        self.seen.append((clip.shape, self.training, torch.is_grad_enabled()))
        return VivimOutput(0.01 * self.sign * clip[:, :, :1], None)  # -0.02 to 0.02


def bright(*masks: np.ndarray) -> Clip:
    """A clip whose frames are white on the mask."""
    stack = np.stack(masks)
    return Clip(np.repeat(stack[..., None] * np.uint8(255), 3, axis=-1), stack)


def marking(predicted: np.ndarray, truth: np.ndarray) -> Clip:
    """A clip of one frame of which the oracle says `predicted`."""
    return Clip(bright(predicted).pixels, truth[None])


ROWS, COLUMNS = np.indices((6, 8))
LEFT, TOP, NOTHING = COLUMNS < 4, ROWS < 3, np.zeros((6, 8), bool)


def test_network_that_tells_the_truth_scores_one() -> None:
    model = Oracle().train()
    assert evaluate(model, [bright(LEFT, TOP), bright(TOP)]) == Scores(1.0, 1.0, 1.0, 1.0, 0.0, 3, 1.0)
    assert evaluate(Oracle(-1.0), [bright(LEFT)]) == Scores(0.0, 0.0, 0.0, 0.0, pytest.approx(4.0), 1, 0.0)


def test_clips_are_given_whole_one_after_the_other_in_evaluation_mode_without_gradients() -> None:
    model = Oracle().train()
    evaluate(model, [bright(LEFT, TOP), bright(TOP)])
    assert model.seen == [((1, 2, 3, 6, 8), False, False), ((1, 1, 3, 6, 8), False, False)]


def test_scores_are_means_over_frames_not_over_clips() -> None:
    right = bright(LEFT)
    wrong = Clip(bright(LEFT, LEFT, LEFT).pixels, np.stack([~LEFT] * 3))
    assert evaluate(Oracle(), [right, wrong]).dice == pytest.approx(1 / 4)


def test_scores_are_not_confused_with_each_other() -> None:
    scores = evaluate(Oracle(), [marking(LEFT, ROWS < 2)])
    # 24 pixels predicted, 16 true, 8 in both: Dice 16 / 40, IoU 8 / 32, precision 8 / 24, recall 8 / 16.
    assert (scores.dice, scores.iou, scores.precision, scores.recall) == pytest.approx((0.4, 0.25, 1 / 3, 0.5))


def test_distance_of_outlines_is_in_pixels_over_the_frames_where_both_mark_something() -> None:
    one = np.zeros((6, 8), bool)
    one[2, 1] = True
    three_on, four_on = (np.roll(one, shift, axis=1) for shift in (3, 4))
    apart = [marking(one, three_on), marking(one, four_on)]
    assert evaluate(Oracle(), apart).hd95 == pytest.approx(3.5)
    missed, invented = marking(NOTHING, one), marking(one, NOTHING)
    rightly_empty = marking(NOTHING, NOTHING)
    scores = evaluate(Oracle(), [*apart, missed, invented, rightly_empty])
    assert (scores.hd95, scores.frames) == (pytest.approx(3.5), 5)
    assert scores.dice == pytest.approx(1 / 5)  # of the last one
    assert evaluate(Oracle(), [missed, rightly_empty]).hd95 is None


def test_a_source_and_a_list_of_its_clips_score_alike() -> None:
    torch.manual_seed(0)
    model = vivim.Vivim(vivim.VivimConfig.preset("tiny"))
    listed = phantom_clips("validation", 2, 2, (32, 32))
    expected = evaluate(model, listed)
    assert evaluate(model, MemoryClips(listed)) == expected
    # Fresh ones, too: to evaluate means to evaluate on the same clips every time.
    assert evaluate(model, PhantomClips("validation", 2, 2, (32, 32))) == expected


def test_training_and_vivim_eval_measure_alike() -> None:
    scores = evaluate(vivim.load_checkpoint("tiny", 2), phantom_clips("test", 4, 2, (128, 128)))
    with open_runner("tiny", (128, 128), 2, "cpu") as session:
        dataset = open_dataset("phantom:clips=4,frames=2,size=128", "test")
        found = judging.evaluate(session, dataset, judging.EvaluationOptions(bootstrap=judging.Bootstrap(0)))
    figures = {name: found.overall["all"][name].value for name in ("dice", "iou", "precision", "recall", "hd95")}
    assert 0.1 < scores.dice < 1.0 and scores.hd95
    # The same masks and the same functions; only the order of the sums differs.
    assert {name: getattr(scores, name) for name in figures} == pytest.approx(figures, rel=1e-12)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(vivim.DataError, match="no clips to evaluate on"):
        evaluate(Oracle(), [])
    model = vivim.Vivim(vivim.VivimConfig.preset("tiny", classes=("a", "b")))
    with pytest.raises(vivim.DataError, match="2 classes"):
        evaluate(model, phantom_clips("validation", 1, 1, (32, 32)))
