"""Streaming models side by side: each side keeps its own states, and one that forgets is found out."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType

import numpy as np
import pytest

from tests.runtime.live.rig import MODEL
from vivim_runtime.datasets import open_dataset
from vivim_runtime.errors import UsageError
from vivim_runtime.judging.evaluation import EvaluationOptions, evaluate
from vivim_runtime.judging.figures import Bootstrap
from vivim_runtime.judging.parity import compare
from vivim_runtime.sessions.base import Clips, Logits, Stream


class Fading:
    """Marks what is dark in a mean of the frames so far, in which older ones fade; or in the newest alone."""

    backend, device = "fading", "cpu"
    info = replace(MODEL, frames=1, streaming=True)

    def __init__(self, remembers: bool = True) -> None:
        self._remembers = remembers

    def step(self, frames: Clips, states: np.ndarray | None) -> tuple[Logits, np.ndarray]:
        grey = frames.mean(axis=-1, dtype=np.float32)[:, :, None]
        if states is not None and self._remembers:
            grey = 0.5 * grey + 0.5 * states
        return 3.0 - grey / 16.0, grey

    def __call__(self, clips: Clips) -> Logits:
        return Stream(self)(clips)

    def warm_up(self) -> None:
        pass

    def __enter__(self) -> Fading:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def test_sides_that_remember_alike_agree_and_one_that_forgets_does_not() -> None:
    sources = ["phantom:seed=11,frames=6,size=64"]
    same = compare(Fading(), Fading(), sources)
    assert same.passed and same.sources and sum(same.sources.values()) == 6
    assert not compare(Fading(), Fading(remembers=False), sources).passed


def test_by_default_films_are_long_enough_to_drift() -> None:
    assert sum(compare(Fading(), Fading()).sources.values()) == 80


def test_a_streaming_model_is_not_compared_with_one_for_clips() -> None:
    clips = Fading()
    clips.info = replace(MODEL, frames=1)
    with pytest.raises(UsageError, match=r"streams.*has T = 1.*only be compared"):
        compare(Fading(), clips, ["phantom:seed=11,frames=6,size=64"])


def test_evaluation_remembers_from_frame_to_frame_and_forgets_between_videos() -> None:
    dataset = open_dataset("phantom:clips=2,frames=6,size=64", "test")
    options = EvaluationOptions(bootstrap=Bootstrap(0))
    dice = [evaluate(Fading(remembers), dataset, options).overall["all"]["dice"].value for remembers in (True, False)]
    assert dice[0] != dice[1]
    again = [evaluate(Fading(), dataset, options).videos[number].dice.value for number in (0, 1)]
    alone = [
        evaluate(Fading(), replace(dataset, videos=dataset.videos[n : n + 1]), options).videos[0].dice.value
        for n in (0, 1)
    ]
    assert again == alone
