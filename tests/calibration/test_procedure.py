from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.calibration.conftest import FRAMES, SIZE, clips_of
from tests.runtime.models import brightness_model
from vivim_calibration import procedure
from vivim_calibration.calibration import Calibration
from vivim_calibration.clips import DrawOptions, whole_clips
from vivim_calibration.float_model import FloatModel
from vivim_calibration.layers import quantisable_layers
from vivim_calibration.procedure import Options, Outcome, calibrate
from vivim_export.precision import half_from_float
from vivim_runtime import open_session
from vivim_runtime.commands.entry import main
from vivim_runtime.errors import DataError, ModelError, UsageError, VerdictError
from vivim_runtime.files import sha256_file
from vivim_runtime.provenance import TrainingData, data_to_json

# Phantoms 21 and 25 have lesions at this size; others among the low numbers show none.
CALIBRATION, EVALUATION = [clips_of(1), clips_of(2)], [clips_of(21), clips_of(25)]
OPTIONS = Options(target="a test", runs=1, threads=1, device="cpu")


@pytest.fixture(scope="session")
def made(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, Path]:
    """The int8 file of the small network, what was found out about it, and the cache of its ranges."""
    folder = tmp_path_factory.mktemp("int8")
    output, cache = folder / "net.int8.onnx", folder / "ranges.json"
    outcome = calibrate(exported, output, CALIBRATION, EVALUATION, replace(OPTIONS, cache=cache))
    return output, outcome, cache


def changed(model: onnx.ModelProto, path: Path, **description: str) -> Path:
    """The model as another file, with other words about itself."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {**entries, **{f"vivim.{k}": v for k, v in description.items()}})
    onnx.save(model, path)
    return path


def test_the_file_runs_and_describes_itself(made: tuple[Path, Outcome, Path], exported: Path) -> None:
    output, outcome, cache = made
    with open_session(output, "cpu", 1) as session, open_session(exported, "cpu", 1) as reference:
        (clip,) = whole_clips([clips_of(5)], FRAMES, SIZE)
        assert np.isfinite(session(clip.pixels[None])).all()
        assert session.info.precision == "int8"
        assert session.info.weights_sha256 == reference.info.weights_sha256
        metadata = session.info.metadata
    assert metadata["vivim.calibration_sha256"] == outcome.calibration_sha256 == Calibration.load(cache).sha256
    assert "vivim.parity" not in metadata
    assert json.loads(metadata["vivim.int8"])["agreement"]["masks"]["dice"] == outcome.sides[-1].agreement.masks.dice  # type: ignore[union-attr]
    # int8 weights are a quarter; this small network spends the rest on its graph.
    assert output.stat().st_size < exported.stat().st_size


def test_depthwise_convolutions_stay_in_float_unless_they_are_asked_for(
    made: tuple[Path, Outcome, Path], exported: Path, tmp_path: Path
) -> None:
    def quantised_depthwise(path: Path) -> set[str]:
        graph = onnx.load(path).graph
        makers = {output: node.op_type for node in graph.node for output in node.output}
        layers = {layer.node: layer.name for layer in quantisable_layers(onnx.load(exported)) if layer.is_depthwise}
        rounded = {n.name for n in graph.node if n.op_type == "Conv" and makers.get(n.input[0]) == "DequantizeLinear"}
        return {name for node, name in layers.items() if node in rounded}

    depthwise = {layer.name for layer in quantisable_layers(onnx.load(exported)) if layer.is_depthwise}
    assert quantised_depthwise(made[0]) == set() and set(made[1].left_in_float) == depthwise != set()
    path = tmp_path / "all.int8.onnx"
    asked = calibrate(exported, path, CALIBRATION, EVALUATION, replace(OPTIONS, cache=made[2], depthwise=True))
    assert quantised_depthwise(path) == depthwise and asked.left_in_float == ()


def test_the_outcome_compares_the_sides(made: tuple[Path, Outcome, Path]) -> None:
    outcome = made[1]
    assert [side.precision for side in outcome.sides] == ["fp32", "int8"]
    agreement = outcome.sides[-1].agreement
    assert agreement is not None and agreement.masks.dice is not None and agreement.masks.truth_b is not None
    assert 0.99 <= agreement.masks.dice < 1.0 and 0 < agreement.tensor.relative_l2 <= 0.15
    assert all(side.milliseconds > 0 for side in outcome.sides)
    assert json.loads(json.dumps(outcome.record()))["passed"] is True
    assert any("a test" in note for note in outcome.notes)


@pytest.mark.slow
def test_clips_on_which_nothing_is_marked_prove_nothing(exported: Path, tmp_path: Path) -> None:
    blind = marking_nothing(onnx.load(exported), tmp_path / "blind.onnx")
    with pytest.raises(VerdictError, match="neither side marks anything.*so the masks prove nothing") as caught:
        calibrate(blind, tmp_path / "net.int8.onnx", CALIBRATION, EVALUATION, OPTIONS)
    assert caught.value.exit_code == 3 and not (tmp_path / "net.int8.onnx").exists()
    options = replace(OPTIONS, budget=0.4, analyse_clips=1)
    with pytest.raises(DataError, match="nothing is marked on the 4 clips that --budget chooses layers on"):
        calibrate(blind, None, [clips_of(seed, 4) for seed in range(1, 5)], EVALUATION, options)


def marking_nothing(model: onnx.ModelProto, path: Path) -> Path:
    """The model with a bias of its classifier so low that no logit is above 0."""
    (bias,) = [t for t in model.graph.initializer if t.name.endswith("classifier.bias")]
    bias.CopyFrom(numpy_helper.from_array(np.full(bias.dims[0], -1e3, np.float32), bias.name))
    onnx.save(model, path)
    return path


def test_a_cache_gives_the_same_file_without_calibrating(
    made: tuple[Path, Outcome, Path], exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procedure, "learn_ranges", None)  # whoever calls it fails
    calibrate(exported, tmp_path / "again.onnx", CALIBRATION, EVALUATION, replace(OPTIONS, cache=made[2]))
    calibrate(exported, tmp_path / "bare.onnx", [], EVALUATION, replace(OPTIONS, cache=made[2]))
    for name in ("again.onnx", "bare.onnx"):
        assert onnx.load(tmp_path / name) == onnx.load(made[0])


def test_a_cache_is_refused_for_another_model_method_or_clips(
    made: tuple[Path, Outcome, Path], exported: Path, tmp_path: Path
) -> None:
    options = replace(OPTIONS, cache=made[2])
    other = changed(onnx.load(exported), tmp_path / "other.onnx", preset="other")
    with pytest.raises(DataError, match="another model"):
        calibrate(other, None, CALIBRATION, EVALUATION, options)
    with pytest.raises(DataError, match="--method mse, not minmax"):
        calibrate(exported, None, CALIBRATION, EVALUATION, replace(options, method="minmax"))
    with pytest.raises(DataError, match="other clips"):
        calibrate(exported, None, [clips_of(3)], EVALUATION, options)
    with pytest.raises(DataError, match="also among the calibration clips"):
        calibrate(exported, None, [], CALIBRATION[:1], options)


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"format": 1}', '{"format": 9}'])
def test_a_damaged_cache_is_refused_in_one_line(exported: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "ranges.json"
    cache.write_text(damage)
    with pytest.raises(DataError, match="no calibration cache"):
        calibrate(exported, None, CALIBRATION, EVALUATION, replace(OPTIONS, cache=cache))


def test_models_that_are_not_float32_are_refused(
    made: tuple[Path, Outcome, Path], exported: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half.onnx"
    onnx.save(half_from_float(onnx.load(exported)), half)
    foreign = tmp_path / "foreign.onnx"
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, foreign)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    for path, error, text in (
        (made[0], ModelError, "quantised already"),
        (half, ModelError, "is fp16"),
        (foreign, ModelError, "was not written by vivim-export"),
        (broken, ModelError, "is no ONNX model"),
        (tmp_path / "absent.onnx", ModelError, "there is no model"),
    ):
        with pytest.raises(error, match=text) as caught:
            calibrate(path, None, CALIBRATION, EVALUATION, OPTIONS)
        assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def damaged(exported: Path, path: Path) -> Path:
    """The model with a bias that is not finite, in front of its third stage."""
    model = onnx.load(exported)
    (bias,) = [t for t in model.graph.initializer if t.name.endswith("stages.2.patch_embed.proj.bias")]
    bias.CopyFrom(numpy_helper.from_array(np.full(bias.dims[0], np.nan, np.float32), bias.name))
    onnx.save(model, path)
    return path


def images_in(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((40, 50, 3), 7, np.uint8))
    return folder


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param("empty", "holds no image, video or DICOM file", id="a folder with nothing in it"),
        pytest.param("flat", "has the same value, which teaches nothing", id="one colour"),
        pytest.param("short", f"has {FRAMES - 1} frames, fewer than the {FRAMES} of a clip", id="too short for a clip"),
        pytest.param("broken.mp4", "broken.mp4", id="no video in the file"),
        pytest.param("cut.dcm", "cut.dcm", id="DICOM that ends early"),
        pytest.param("nowhere", "there is no file or folder", id="no file"),
        pytest.param("rtsp://camera", "is live and has no end", id="a stream"),
        pytest.param("NaN", r"what stages.2", id="activations that are not finite"),
        pytest.param("int8", "is quantised already", id="a model that is int8"),
    ],
)
def test_bad_data_is_one_line_of_exit_code_2_and_nothing_is_written(
    exported: Path,
    made: tuple[Path, Outcome, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    data: str,
    text: str,
) -> None:
    model, source = exported, str(tmp_path / data)
    if data == "empty":
        (tmp_path / data).mkdir()
    elif data in ("flat", "short"):
        images_in(tmp_path / data, FRAMES if data == "flat" else FRAMES - 1)
    elif data == "broken.mp4":
        (tmp_path / data).write_bytes(b"no video")
    elif data == "cut.dcm":
        (tmp_path / data).write_bytes(bytes(128) + b"DICM" + bytes(40))
    elif data.startswith("rtsp"):
        source = data
    elif data in ("NaN", "int8"):
        source = CALIBRATION[0]
        model = damaged(exported, tmp_path / "nan.onnx") if data == "NaN" else made[0]
    out = tmp_path / "out"
    arguments = [str(model), "--calib-data", source, "--eval-data", *EVALUATION, "-o", str(out / "net.int8.onnx")]
    code = run_command(monkeypatch, *arguments, "--cache", str(out / "ranges.json"), "--threads", "1")
    error = capsys.readouterr().err
    assert code == 2 and text in error and error.count("\n") == 1
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("output", "data", "text"),
    [("net.engine", CALIBRATION, "ending in .onnx"), ("net.onnx", [], "nothing to calibrate on")],
)
def test_what_is_missing_or_misnamed_is_said(
    exported: Path, tmp_path: Path, output: str, data: list, text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        calibrate(exported, tmp_path / output, data, EVALUATION, OPTIONS)


def test_the_model_itself_is_never_overwritten(exported: Path) -> None:
    with pytest.raises(UsageError, match="the model itself"):
        calibrate(exported, exported, CALIBRATION, EVALUATION, OPTIONS)


def test_over_budget_nothing_is_written_and_an_earlier_file_stays(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = procedure.learn_ranges

    def narrow(*arguments: object) -> Calibration:
        found = real(*arguments)  # type: ignore[arg-type]
        return replace(found, ranges={name: reach / 20 for name, reach in found.ranges.items()})

    monkeypatch.setattr(procedure, "learn_ranges", narrow)
    output = tmp_path / "net.int8.onnx"
    output.write_text("earlier")
    with pytest.raises(VerdictError, match=r"mask Dice 0\.\d+ is under 0\.99.*nothing was written") as caught:
        calibrate(exported, output, CALIBRATION, EVALUATION, OPTIONS)
    assert caught.value.exit_code == 3 and not caught.value.outcome.passed
    assert [path.name for path in tmp_path.iterdir()] == ["net.int8.onnx"] and output.read_text() == "earlier"


@pytest.mark.parametrize(("int8", "refused"), [(11.0, True), (9.0, False)])
def test_int8_has_to_be_faster_here_unless_it_is_for_another_device(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int8: float, refused: bool
) -> None:
    monkeypatch.setattr(procedure, "latencies", lambda *arguments: [10.0, int8])
    here = replace(OPTIONS, target="")
    if refused:
        with pytest.raises(VerdictError, match=r"int8 takes 11\.0 ms and fp32 10\.0 ms .* --target"):
            calibrate(exported, tmp_path / "a.onnx", CALIBRATION, EVALUATION, here)
        calibrate(exported, tmp_path / "a.onnx", CALIBRATION, EVALUATION, OPTIONS)
    else:
        calibrate(exported, tmp_path / "a.onnx", CALIBRATION, EVALUATION, here)
    assert (tmp_path / "a.onnx").is_file()


@pytest.mark.parametrize("when", ["learning", "judging"])
def test_interrupted_it_leaves_nothing(exported: Path, tmp_path: Path, when: str) -> None:
    def stop(stage: str) -> None:
        if stage.startswith(when):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(exported, tmp_path / "net.onnx", CALIBRATION, EVALUATION, OPTIONS, stop)
    assert not list(tmp_path.iterdir())


def test_a_float16_rival_is_measured_too(exported: Path, tmp_path: Path, made: tuple[Path, Outcome, Path]) -> None:
    half = tmp_path / "half.onnx"
    onnx.save(half_from_float(onnx.load(exported)), half)
    outcome = calibrate(exported, None, CALIBRATION, EVALUATION, replace(OPTIONS, cache=made[2], fp16=half))
    assert [side.precision for side in outcome.sides] == ["fp32", "fp16", "int8"]
    with pytest.raises(ModelError, match="is not the fp16 file"):
        calibrate(exported, None, CALIBRATION, EVALUATION, replace(OPTIONS, cache=made[2], fp16=exported))


@pytest.mark.parametrize("options", [{"budget": 0.0}, {"budget": 0.6}, {"method": "max"}, {"runs": 0}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(UsageError, match="expected"):
        Options(**options)


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vivim-calibrate", *arguments])
    with pytest.raises(SystemExit) as caught:
        main("vivim-calibrate", "vivim_calibration.commands")
    return int(caught.value.code or 0)


def test_the_command_writes_file_and_reports(
    exported: Path,
    made: tuple[Path, Outcome, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    output, report = tmp_path / "net.int8.onnx", tmp_path / "report.json"
    arguments = [str(exported), "--calib-data", *CALIBRATION, "--eval-data", *EVALUATION, "-o", str(output)]
    common = ["--cache", str(made[2]), "--threads", "1", "--runs", "1", "--json", str(report)]
    assert run_command(monkeypatch, *arguments, *common, "--target", "Orin") == 0
    printed = capsys.readouterr().out
    assert "int8 earns its place" in printed and "made for Orin" in printed
    assert output.is_file() and json.loads(report.read_text())["target"] == "Orin"


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (["--fraction", "2"], "--fraction is 2"),
        (["--calib-data", "nowhere.mp4"], "there is no file or folder nowhere.mp4"),
        (["--plot", "x.svg"], "add --analyse"),
        (["--exclude", "nothing"], "names no layer"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, extra: list[str], text: str
) -> None:
    code = run_command(monkeypatch, str(exported), "--calib-data", *CALIBRATION, *extra)
    error = capsys.readouterr().err
    assert code == 2 and text in error and error.count("\n") == 1


def test_draw_options_reach_the_draw(exported: Path) -> None:
    options = replace(OPTIONS, draw=DrawOptions(max_clips=1))
    assert calibrate(exported, None, CALIBRATION, EVALUATION, options).calibration_clips == 1


def test_int8_is_judged_on_videos_that_trained_nothing(tmp_path: Path) -> None:
    """Without --eval-data, where a quarter of the training videos would have been set apart."""
    trained = data_to_json([TrainingData("phantom", "by seeds", {}, 100)])
    path = brightness_model(tmp_path / "m.onnx", frames=FRAMES, size=SIZE, training_data=trained)
    phantoms = f"phantom:clips=5,frames={FRAMES},size={SIZE[0]}x{SIZE[1]}"
    with open_session(path, "cpu") as session:
        model = FloatModel(onnx.load(path), session.info, sha256_file(path))
    learnt_from, _, judged_on, notes = procedure._clips(model, [phantoms], [], OPTIONS)
    assert learnt_from is not None and notes == []
    assert all("train-" in source for source in learnt_from.sources)
    assert judged_on.sources == tuple(f"{phantoms}, test-000{i}" for i in range(5))
    apart = procedure._clips(model, [phantoms], [], replace(OPTIONS, allow_trained=True))
    assert all("train-" in source for source in apart[2].sources) and "--allow-trained" in apart[3][0]
