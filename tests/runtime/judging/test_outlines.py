"""Average precision and Dice of edge heads, against sorting all pixels by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.runtime.judging.sets import SIZE, KnownSession, MadeVideo, brightness, dataset, moving, nothing
from vivim.training.losses import sobel_edges
from vivim_runtime.judging import Bootstrap, EvaluationOptions, Report, csv_text, evaluate, markdown, record
from vivim_runtime.judging.outlines import EDGE_FIGURES, EdgeTally, edge_estimates, outline_of
from vivim_runtime.sessions.base import Clips, Logits

ROWS, COLUMNS = np.indices((20, 24))
DISC = (ROWS - 9) ** 2 + (COLUMNS - 12) ** 2 < 30


def outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return sobel_edges(torch.from_numpy(mask)[None, None].float())[0, 0].numpy() > 0


def average_precision(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> float:
    """The mean, over outline pixels, of the share of outlines among what is marked at least as surely."""
    scores = logits.ravel()
    shares = [truth.ravel()[scores >= score].mean() for score in scores[truth.ravel()]]
    return float(np.mean(shares))


def test_figures_are_those_of_all_pixels_sorted() -> None:
    rng = np.random.default_rng(0)
    frames = [np.roll(DISC, 2, 1), DISC]
    # Logits on the middles of bins, so that counting loses nothing.
    logits = [((np.round(rng.normal(0, 2, DISC.shape) * 100) + 0.5) / 100).astype(np.float32) for _ in frames]
    tally = EdgeTally()
    for plane, mask in zip(logits, frames, strict=True):
        tally.add(plane, mask)
    found = tally.scores()
    truth, all_logits = np.stack([outline(mask) for mask in frames]), np.stack(logits)
    assert found is not None
    # Sums of some hundred quotients in float64.
    assert found.ap == pytest.approx(average_precision(all_logits, truth), rel=1e-12)
    marked = all_logits > 0
    assert found.dice == pytest.approx(2 * (marked & truth).sum() / (marked.sum() + truth.sum()), rel=1e-12)


def test_a_perfect_head_has_one_and_a_blank_one_the_share_of_outlines() -> None:
    perfect, blank = EdgeTally(), EdgeTally()
    perfect.add(np.where(outline(DISC), 30.0, -30.0).astype(np.float32), DISC)
    blank.add(np.full(DISC.shape, -4.0, np.float32), DISC)
    assert (perfect.scores().ap, perfect.scores().dice) == (1.0, 1.0)  # type: ignore[union-attr]
    assert blank.scores().ap == pytest.approx(outline(DISC).mean())  # type: ignore[union-attr]
    assert blank.scores().dice == 0.0  # type: ignore[union-attr]


def test_frames_without_outlines_have_no_figures_and_count_as_false_alarms_beside_others() -> None:
    tally = EdgeTally()
    tally.add(np.full(DISC.shape, 3.0, np.float32), np.zeros_like(DISC))
    assert tally.scores() is None
    tally.add(np.where(outline(DISC), 3.0, -3.0).astype(np.float32), DISC)
    found, lines = tally.scores(), outline(DISC).sum()
    assert found is not None and found.dice == pytest.approx(2 * lines / (2 * lines + DISC.size))


def test_outlines_are_those_that_the_head_is_trained_on() -> None:
    rng = np.random.default_rng(1)
    for mask in (DISC, np.ones((5, 6), bool), np.zeros((4, 4), bool), rng.random((17, 9)) < 0.5):
        np.testing.assert_array_equal(outline_of(mask), outline(mask))


class OutlineSession(KnownSession):
    """Marks lesions perfectly; as a second class the outlines of what is bright, surely or not at all."""

    def __init__(self, head: bool = True, blank: bool = False) -> None:
        super().__init__(brightness, classes=("lesion",))
        self.head, self.blank = head, blank

    def with_outlines(self) -> OutlineSession | None:
        if not self.head:
            return None
        session = OutlineSession(blank=self.blank)
        session.classes = ("lesion", "outline")
        return session

    def __call__(self, clips: Clips) -> Logits:
        logits = super().__call__(clips)
        if len(self.classes) == 2 and not self.blank:
            marks = np.array([[outline_of(frame[..., 1] > 128) for frame in clip] for clip in clips])
            logits[:, :, 1] = np.where(marks, 5.0, -5.0)
        elif self.blank:
            logits[:, :, 1:] = -5.0
        return logits


def test_an_evaluation_has_the_edge_head_where_there_is_one() -> None:
    data = dataset(MadeVideo("a", moving, 11), MadeVideo("b", moving, 7), MadeVideo("c", nothing, 5))
    found = [evaluate(s, data, EvaluationOptions()) for s in (OutlineSession(), OutlineSession(False))]
    with_head, without = (evaluation.overall["all"] for evaluation in found)
    assert with_head["edge_ap"].value == with_head["edge_dice"].value == 1.0
    assert without.keys() == with_head.keys() - EDGE_FIGURES.keys()
    assert all(with_head[key] == estimate for key, estimate in without.items())  # masks are not touched by it
    assert [v.figures["all"]["edge_ap"] for v in found[0].videos] == [1.0, 1.0, None]
    blank = evaluate(OutlineSession(blank=True), data, EvaluationOptions())
    share = np.mean([outline_of(moving(i)).sum() for n in (11, 7) for i in range(n)]) * 18 / 23 / (SIZE[0] * SIZE[1])
    assert blank.overall["all"]["edge_ap"].value == pytest.approx(share) and share < 0.2
    assert blank.overall["all"]["edge_dice"].value == 0.0

    text = markdown(Report("made", "", EvaluationOptions(), ("x", "y"), tuple(found)))
    assert "edge AP | edge Dice" in text
    lines = csv_text(Report("made", "", EvaluationOptions(), ("x", "y"), tuple(found))).splitlines()
    assert [line for line in lines if "edge_ap" in line] == [
        "x,,all,edge_ap,1.0,1.0,1.0",
        "x,a,all,edge_ap,1.0,,",
        "x,b,all,edge_ap,1.0,,",
        "x,c,all,edge_ap,,,",
    ]
    models = record(Report("made", "", EvaluationOptions(), ("x", "y"), tuple(found)))["models"]
    assert models[0]["overall"]["all"]["edge_dice"]["value"] == 1.0
    assert "edge_dice" not in models[1]["overall"]["all"]
    assert "edge" not in markdown(Report("made", "", EvaluationOptions(), ("y",), (found[1],)))


def test_intervals_of_edge_figures_are_over_videos() -> None:
    rng = np.random.default_rng(2)
    tallies = []
    for blur in (0.5, 1.0, 4.0):
        tallies.append(EdgeTally())
        tallies[-1].add((np.where(outline(DISC), 1.0, -1.0) + rng.normal(0, blur, DISC.shape)).astype(np.float32), DISC)
    values = [tally.scores().ap for tally in tallies]  # type: ignore[union-attr]
    found = edge_estimates(tallies, Bootstrap(200))["edge_ap"]
    assert found.value is not None and found.low is not None and found.high is not None
    assert min(values) < found.value < max(values) and found.low < found.value < found.high
    assert edge_estimates(tallies[:1], Bootstrap(200))["edge_ap"].low is None  # one video says nothing of others
