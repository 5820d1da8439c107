"""What CI holds int8 to: the shipped weights, calibrated on some phantoms, judged on others and on real ultrasound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from vivim.checkpoint import load_checkpoint, resolve_weights
from vivim_calibration.calibration import learn_ranges
from vivim_calibration.clips import DrawOptions, check_disjoint, drawn_clips, whole_clips
from vivim_calibration.float_model import load_float_model
from vivim_calibration.procedure import Options, Outcome, calibrate
from vivim_calibration.quantise import quantise_layers
from vivim_calibration.verdict import agreement_of, logits_of_clips
from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx
from vivim_runtime.errors import VerdictError
from vivim_runtime.judging.agreement import BUDGETS
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.onnx import OnnxSession

pytestmark = pytest.mark.slow  # networks are calibrated, or two processes started: a minute

VTUS = Path(__file__).parents[3] / "shared" / "data" / "vtus"
# What the weights were trained at: at other sizes they mark specks, whose Dice says little.
FRAMES, SIZE = 5, (256, 256)
PHANTOMS = f"phantom:clips=10,frames={FRAMES},size={SIZE[0]}"
OPTIONS = Options(target="CI", runs=1, threads=1, device="cpu", draw=DrawOptions(max_clips=4))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    save_onnx(onnx_from_model(load_checkpoint(resolve_weights("tiny"), FRAMES), OnnxOptions(size=SIZE)), path)
    return path


@pytest.fixture(scope="module")
def judged(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    output = tmp_path_factory.mktemp("int8") / "net.int8.onnx"
    return output, calibrate(exported, output, [PHANTOMS], [PHANTOMS], OPTIONS)


def test_on_phantoms_that_it_has_not_seen_int8_keeps_the_masks(judged: tuple[Path, Outcome]) -> None:
    outcome = judged[1]
    agreement = outcome.sides[-1].agreement
    assert agreement is not None and agreement.masks.dice is not None and agreement.masks.truth_b is not None
    assert agreement.masks.frames - agreement.masks.empty >= 30, "too few masks to compare"
    assert agreement.masks.dice >= 0.99 and agreement.points_lost <= 0.5


def test_it_has_not_seen_them() -> None:
    learnt, _ = drawn_clips([PHANTOMS], FRAMES, SIZE, OPTIONS.draw)
    check_disjoint([clip.digest for clip in learnt], whole_clips([PHANTOMS], FRAMES, SIZE))


def thyroid() -> str:
    if not VTUS.is_dir():
        pytest.skip("the annotated thyroid video is not part of the repository")
    return str(VTUS)


def cine() -> str:
    examples = pytest.importorskip("pydicom.examples", reason="pydicom is not installed")
    return str(examples.get_path("ybr_color"))


@pytest.mark.parametrize("video", [cine, thyroid])
def test_ranges_of_phantoms_are_refused_on_real_ultrasound_and_the_reason_is_said(
    exported: Path, video: Callable[[], str], tmp_path: Path
) -> None:
    options = replace(OPTIONS, eval_clips=2)
    with pytest.raises(VerdictError, match=r"mask Dice 0\.\d+ is under 0\.99"):
        calibrate(exported, tmp_path / "net.int8.onnx", [PHANTOMS], [video()], options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("video", [cine, thyroid])
def test_with_real_clips_among_those_learnt_from_others_of_the_video_keep_their_logits(
    exported: Path, judged: tuple[Path, Outcome], video: Callable[[], str], tmp_path: Path
) -> None:
    # What weights that have seen phantoms only mark on real tissue means little, so logits are compared, not masks. The
    # clips lie all over the video, as those that are drawn do: what follows on two of its beginning is not like them
    # (0.50 on the thyroid). Measured: 0.03 of the cine loop and 0.10 of the thyroid.
    clips = whole_clips([video()], FRAMES, SIZE)
    learnt, others = (replace(clips, chosen=chosen) for chosen in (clips.chosen[:8:2], clips.chosen[1:7:2]))
    model = load_float_model(exported)
    ranges = dict(learn_ranges(model.proto, model.info, model.sha256, learnt, "mse", 1).ranges)
    onnx.save(quantise_layers(model.proto, ranges), tmp_path / "real.onnx")
    with open_session(exported, "cpu", 1) as reference:
        expected = logits_of_clips(reference, others)
    errors = []
    for path in (judged[0], tmp_path / "real.onnx"):
        with OnnxSession(path, "cpu", 1, fused=False) as session:
            errors.append(agreement_of(session, others, expected).tensor.relative_l2)
    budget = BUDGETS["int8"].relative_l2
    assert budget is not None and errors[1] <= budget
    assert video is thyroid or errors[1] < 0.5 * errors[0]
