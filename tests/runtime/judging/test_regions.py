"""The region of a contract, obeyed by evaluation, comparison and the clips that calibrate; compared where two meet."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.judging.sets import SIZE, KnownSession, MadeVideo, brightness, dataset, moving
from tests.runtime.models import brightness_model
from vivim_runtime.clips import cut_clips
from vivim_runtime.contract import InputContract
from vivim_runtime.datasets.as_source import VideoSource
from vivim_runtime.datasets.videos import framed
from vivim_runtime.errors import DataError, UsageError
from vivim_runtime.framing import Framing
from vivim_runtime.judging import EvaluationOptions, compare, evaluate
from vivim_runtime.regions import Region, RegionRule
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.base import ModelInfo
from vivim_runtime.sources.base import Image

SCREEN, REGION = (60, 80), Region(11, 7, 32, 24)
CONTRACT = InputContract(SIZE, 5, 5, region=str(REGION))


@dataclass(frozen=True)
class Screen(MadeVideo):
    """A video within a bright screen."""

    def read(self, index: int) -> tuple[Image, np.ndarray]:
        image, mask = super().read(index)
        screen, truth = np.full((*SCREEN, 3), 240, np.uint8), np.zeros(SCREEN, np.bool_)
        screen[REGION.slices], truth[REGION.slices] = image, mask
        return screen, truth

    def frame(self, index: int) -> Image:
        return self.read(index)[0]


@dataclass
class Taught(KnownSession):
    """A session whose weights say what they were trained on."""

    contract: InputContract | None = field(default=None)

    @property
    def info(self) -> ModelInfo:
        return replace(super().info, contract=self.contract)


def test_evaluation_sees_the_region_and_judges_the_whole_frame() -> None:
    screens, alone = dataset(Screen("a", moving, 11)), dataset(MadeVideo("a", moving, 11))
    session = KnownSession(brightness)
    expected = evaluate(session, alone, EvaluationOptions()).overall["all"]
    given = evaluate(session, screens, EvaluationOptions(region=RegionRule("given", REGION))).overall["all"]
    for key in ("dice", "iou", "precision", "recall", "max_dice"):
        assert given[key].value == expected[key].value == 1.0, key
    whole = evaluate(session, screens, EvaluationOptions()).overall["all"]["dice"].value
    assert whole is not None and whole < 0.2  # the screen is marked
    # Without a word, it is that of the training.
    taught = evaluate(Taught(brightness, contract=CONTRACT), screens, EvaluationOptions()).overall["all"]
    assert taught["dice"].value == 1.0


def test_a_region_beyond_a_frame_is_refused() -> None:
    with pytest.raises(UsageError, match="reaches beyond the picture of 80x60"):
        evaluate(
            KnownSession(brightness),
            dataset(Screen("a", moving, 5)),
            EvaluationOptions(region=RegionRule.parse("60,0,32,24")),
        )


def test_clips_that_calibrate_and_compare_show_the_region() -> None:
    video = Screen("a", moving, 10)
    with VideoSource(video) as source:
        clips = list(cut_clips(source, 5, Framing(CONTRACT)))
    with VideoSource(MadeVideo("a", moving, 10)) as source:
        alone = list(cut_clips(source, 5, Framing.stretched(SIZE)))
    assert len(clips) == 2
    for clip, other in zip(clips, alone, strict=True):
        assert np.array_equal(clip.pixels, other.pixels) and np.array_equal(clip.masks, other.masks)


def test_a_video_tells_its_region_once_and_training_reads_it() -> None:
    video = Screen("a", moving, 5)
    assert framed(video, Framing(CONTRACT)).region == REGION  # type: ignore[arg-type]
    assert framed(video, Framing.stretched(SIZE)).region is None  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a is no DICOM file"):
        framed(video, Framing(replace(CONTRACT, region="dicom")))  # type: ignore[arg-type]


def test_artefacts_that_meet_with_different_contracts_say_so_in_one_line(tmp_path: Path) -> None:
    contract = InputContract((32, 48), 5, 5)
    a = brightness_model(tmp_path / "a.onnx", input_contract=contract.to_json())
    grey = replace(contract, colour="grey", shape="kept")
    b = brightness_model(tmp_path / "b.onnx", input_contract=grey.to_json())
    with open_session(str(a), "cpu") as one, open_session(str(b), "cpu") as other:
        notes = compare(one, other).notes
        assert (
            "a.onnx and b.onnx were taught to see other pictures: shape stretched and kept, colour rgb and grey; "
            "both were given what the first one takes"
        ) in notes
        assert not [note for note in compare(one, one).notes if "taught" in note]
