"""A model on a data set: the pipeline of `vivim-run`, every frame once, in memory that does not grow."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.engines import ADA, RECORD, engine_file
from tests.runtime.fake_gpu import FakeCuda, FakeTensorRT
from tests.runtime.judging.masks import VTUS
from tests.runtime.judging.sets import SIZE, KnownSession, MadeVideo, brightness, dataset, moving, nothing, shifted
from tests.runtime.models import brightness_model
from vivim_runtime.datasets import Part, open_dataset
from vivim_runtime.errors import DataError, ModelError, UsageError
from vivim_runtime.framing import logits_at, resized
from vivim_runtime.judging import Bootstrap, EvaluationOptions, evaluate, metrics
from vivim_runtime.judging.outlines import EDGE_FIGURES
from vivim_runtime.sessions import open_session, runner_of
from vivim_runtime.sessions.base import Clips
from vivim_runtime.sessions.machine import Machine

OPTIONS = EvaluationOptions()


def test_perfect_masks_have_perfect_figures() -> None:
    found = evaluate(KnownSession(brightness), dataset(MadeVideo("a", moving, 11), MadeVideo("b", moving, 7)), OPTIONS)
    for key in ("dice", "iou", "precision", "recall", "max_dice", "max_specificity", "max_iou"):
        assert found.overall["all"][key].value == 1.0, key
    for key in ("hd95", "flicker", "missed"):
        assert found.overall["all"][key].value == 0.0, key
    assert found.overall["all"]["false_alarm"].value is None
    assert (found.frames, found.lesion_frames, found.worst) == (18, 18, ())
    assert [(v.name, v.frames, v.lesion_frames) for v in found.videos] == [("a", 11, 11), ("b", 7, 7)]
    assert found.drawn == "2 videos" and found.hop == 5


def test_figures_are_means_over_the_frames_of_all_videos() -> None:
    videos = [MadeVideo("a", moving, 11), MadeVideo("b", nothing, 6)]
    found = evaluate(KnownSession(shifted), dataset(*videos), OPTIONS)
    dice = [float(metrics.dice(np.roll(moving(i), -2, 1), moving(i))) for i in range(11)]
    assert found.overall["lesion"]["dice"].value == pytest.approx(np.mean(dice), rel=1e-12)
    assert found.overall["all"]["dice"].value == pytest.approx((sum(dice) + 6) / 17, rel=1e-12)
    assert found.videos[0].figures["all"]["dice"] == found.videos[0].dice.value == pytest.approx(np.mean(dice))
    assert found.videos[1].figures["lesion"]["dice"] is None and found.videos[1].dice.value == 1.0
    assert any("6 of 17 frames have no lesion" in note for note in found.notes)


def test_masks_are_judged_at_the_size_of_the_truth() -> None:
    large = (60, 100)
    video = MadeVideo("a", lambda i: moving(i, large), 5)
    found = evaluate(KnownSession(brightness), dataset(video, video), OPTIONS)
    dice = []
    for i in range(5):
        image, truth = video.read(i)
        probability = np.clip(resized(image, SIZE)[..., 1] / 255.0, 1e-3, 1 - 1e-3)
        logits = np.log(probability / (1 - probability))[None].astype(np.float32)
        dice.append(float(metrics.dice(logits_at(logits, large)[0] > 0, truth)))
    assert 0.9 < np.mean(dice) < 1.0
    assert found.overall["all"]["dice"].value == pytest.approx(np.mean(dice), rel=1e-12)


def by_position(clips: Clips) -> np.ndarray:
    """Perfect at the last position of a clip, nothing elsewhere."""
    marks = np.zeros(clips.shape[:-1])
    marks[:, -1] = brightness(clips)[:, -1]
    return marks


def test_hop_and_show_choose_the_clip_that_a_mask_is_from() -> None:
    data = dataset(MadeVideo("a", moving, 9))

    def dice(options: EvaluationOptions) -> tuple[float | None, int]:
        session = KnownSession(by_position)
        found = evaluate(session, data, options)
        return found.overall["all"]["dice"].value, len(session.clips)

    # Of 9 frames, the first clip serves 4 that are not its newest; two clips without overlap serve 9 frames.
    assert dice(EvaluationOptions(hop=1)) == (pytest.approx(5 / 9), 5)
    assert dice(EvaluationOptions(hop=1, show="centre")) == (pytest.approx(1 / 9), 5)
    assert dice(EvaluationOptions()) == (pytest.approx(2 / 9), 2)


def test_the_threshold_is_a_probability() -> None:
    def half_sure(clips: Clips) -> np.ndarray:
        return 0.6 * brightness(clips)

    data = dataset(MadeVideo("a", moving, 5))
    low, high = (evaluate(KnownSession(half_sure), data, EvaluationOptions(threshold=t)) for t in (0.5, 0.7))
    assert low.overall["all"]["dice"].value == 1.0 and high.overall["all"]["missed"].value == 1.0
    assert low.best_threshold == pytest.approx(0.5, abs=0.5 / 255 + 1e-12)  # of those that are perfect
    assert low.overall["all"]["max_dice"].value == high.overall["all"]["max_dice"].value == 1.0
    assert low.dice_at.tolist() == high.dice_at.tolist()


def test_a_video_shorter_than_a_clip_is_judged_and_said_so() -> None:
    session = KnownSession(brightness)
    found = evaluate(session, dataset(MadeVideo("a", moving, 3), MadeVideo("b", moving, 5)), OPTIONS)
    assert session.clips == [[0, 1, 2, 2, 2], [0, 1, 2, 3, 4]] and found.frames == 8
    assert any("1 of 2 videos are shorter than a clip of 5" in note for note in found.notes)


def test_one_video_is_resampled_in_stretches_and_said_so() -> None:
    found = evaluate(KnownSession(shifted), dataset(MadeVideo("a", moving, 40)), OPTIONS)
    assert found.drawn == "5 stretches of 8 frames of one video"
    assert any("say nothing about other patients" in note for note in found.notes)
    dice = found.overall["all"]["dice"]
    assert dice.low is not None and dice.value is not None and dice.high is not None
    assert dice.low <= dice.value <= dice.high and dice == found.videos[0].dice


def test_few_videos_are_said_to_be_few() -> None:
    def notes(count: int, options: EvaluationOptions) -> str:
        videos = [MadeVideo(str(i), moving, 3) for i in range(count)]
        return " ".join(evaluate(KnownSession(brightness, frames=3), dataset(*videos), options).notes)

    assert "few videos: intervals from 10" in notes(10, OPTIONS)
    assert "few videos" not in notes(11, OPTIONS)
    assert "few videos" not in notes(9, EvaluationOptions(bootstrap=Bootstrap(0)))


def test_the_worst_frames_are_kept_one_of_each_neighbourhood() -> None:
    def blind_at(clips: Clips) -> np.ndarray:
        numbers = clips[:, :, 0, 0, 0]
        return np.where(np.isin(numbers, (3, 4, 20))[..., None, None], 0.0, shifted(clips))

    found = evaluate(KnownSession(blind_at), dataset(MadeVideo("a", moving, 48)), EvaluationOptions(worst=3))
    assert [frame.dice for frame in found.worst[:2]] == [0.0, 0.0] and found.worst[2].dice > 0.5
    assert {frame.frame for frame in found.worst[:2]} == {3, 20}
    first = found.worst[0]
    assert (first.truth == moving(first.frame)).all() and not first.mask.any()
    assert first.wrong == np.count_nonzero(first.truth)


@pytest.mark.parametrize(
    ("session", "options", "message"),
    [
        (KnownSession(brightness), EvaluationOptions(hop=6), "--hop is 6; expected 1 to 5"),
        (KnownSession(brightness), EvaluationOptions(hop=0), "--hop is 0; expected 1 to 5"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(session: KnownSession, options: EvaluationOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(session, dataset(MadeVideo("a", moving, 5)), options)
    assert session.clips == []


def test_options_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"threshold": 1.0},
        {"worst": -1},
        {"bootstrap": Bootstrap(-1)},
        {"bootstrap": Bootstrap(9, seed=-1)},
    ):
        with pytest.raises(UsageError):
            EvaluationOptions(**wrong)  # type: ignore[arg-type]


def test_a_set_without_frames_is_an_error() -> None:
    for data in (dataset(), dataset(MadeVideo("a", moving, 0))):
        with pytest.raises(DataError, match="made holds no frames in the split test"):
            evaluate(KnownSession(brightness), data, OPTIONS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_gives_no_numbers_is_an_error(bad: float) -> None:
    class Broken(KnownSession):
        def __call__(self, clips: Clips) -> np.ndarray:  # type: ignore[override]
            logits = super().__call__(clips)
            logits[0, 2, 0, 5, 5] = bad
            return logits

    with pytest.raises(ModelError, match=r"known.onnx on a: .*not finite .*in frame 2 at"):
        evaluate(Broken(brightness), dataset(MadeVideo("a", moving, 5)), OPTIONS)


def test_an_interrupted_evaluation_has_no_result() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(KnownSession(brightness), dataset(MadeVideo("a", moving, 5)), OPTIONS, stop)


def test_progress_is_told_of_every_frame() -> None:
    seen: list[int] = []
    videos = MadeVideo("a", moving, 11), MadeVideo("b", moving, 2)
    evaluate(KnownSession(brightness), dataset(*videos), OPTIONS, lambda: seen.append(1))
    assert len(seen) == 13


def test_memory_does_not_grow_with_the_number_of_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivim_runtime.judging.tally._MOST", 4)  # so that few frames are many

    def measured(frames: int) -> int:
        def constant(clips: Clips) -> np.ndarray:
            return np.zeros(clips.shape[:-1])

        session = KnownSession(constant)
        data = dataset(MadeVideo("a", lambda i: moving(i % 200), frames))
        tracemalloc.start()
        try:
            evaluate(session, data, EvaluationOptions(bootstrap=Bootstrap(10)), session.clips.clear)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    for frames in (20, 128):  # what is allocated once, and what Python keeps after the first long one
        measured(frames)
    # Four stretches each, of 16 and of 32 frames.
    assert measured(128) < measured(64) * 1.05


def test_a_real_video_is_evaluated_from_its_files(tmp_path: Path) -> None:
    if not VTUS.is_dir():
        pytest.skip("the real video is not there")
    data = open_dataset(str(VTUS))
    assert (len(data.videos), len(data)) == (1, 91)
    part = Part(data.videos[0], 30, 47)
    with open_session(brightness_model(tmp_path / "m.onnx", size=(64, 64)), "cpu", 1) as session:
        found = evaluate(session, replace(data, videos=(part,)), EvaluationOptions(bootstrap=Bootstrap(100)))
    assert (found.frames, found.lesion_frames, found.videos[0].name) == (17, 17, "0002[30:47]")
    dice = []
    for i in range(17):
        image, truth = part.read(i)
        # What brightness_model computes.
        logits = (resized(image, (64, 64)).astype(np.float32).mean(axis=2) - 128) / 16
        dice.append(float(metrics.dice(logits_at(logits[None], truth.shape)[0] > 0, truth)))
    # A pixel on the edge of the mask may change sides between two float32 libraries.
    assert found.overall["all"]["dice"].value == pytest.approx(np.mean(dice), abs=1e-4)


def test_an_engine_is_evaluated_like_any_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # On the GPU of host memory, whose engine marks what is bright.
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(cuda, "10.13.3.9"))
    monkeypatch.setattr(Machine, "here", lambda device, backends: ADA)
    name = str(engine_file(tmp_path / "tiny.engine", replace(RECORD, plugin=None)))
    data = dataset(MadeVideo("a", lambda i: moving(i, (48, 64)), 5), MadeVideo("b", lambda i: moving(i, (4, 6)), 3))
    with runner_of(name)(name, (256, 256), None, "auto", 0) as session:
        found = evaluate(session, data, OPTIONS)
    assert (found.model.backend, found.model.device, found.model.frames) == ("TensorRT", "cuda", 2)
    assert found.videos[1].dice.value == 1.0 and found.videos[0].dice.value is not None
    assert 0.6 < found.videos[0].dice.value < 1.0  # of a mask of 4 x 6 pixels, enlarged


@pytest.mark.slow
def test_an_export_has_the_dice_of_its_checkpoint(tmp_path: Path) -> None:
    from vivim_export.onnx_export import OnnxOptions, export_onnx

    export_onnx("tiny", tmp_path / "tiny.onnx", OnnxOptions(size=(128, 128)))
    data = open_dataset("phantom:clips=4,size=128", "test")
    found = []
    for name in ("tiny", str(tmp_path / "tiny.onnx")):
        with runner_of(name)(name, (128, 128), None, "cpu", 1) as session:
            found.append(evaluate(session, data, OPTIONS))
    a, b = found
    assert a.overall["lesion"]["dice"].value is not None and a.overall["lesion"]["dice"].value > 0.5
    for subset in ("all", "lesion"):
        for key, estimate in b.overall[subset].items():
            # A pixel whose logit is within float32 rounding of the threshold may change sides: 1e-5 of a small lesion.
            assert a.overall[subset][key].value == pytest.approx(estimate.value, abs=1e-4), key
    assert a.overall["all"].keys() - b.overall["all"].keys() == EDGE_FIGURES.keys()  # exports leave the edge head out
    assert b.overall["all"]["dice"].value == pytest.approx(a.overall["all"]["dice"].value, abs=1e-6)
