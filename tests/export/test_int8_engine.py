"""Quantised files as engines: what is between Q/DQ becomes float16, and TensorRT for RTX takes every layer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.export.conftest import lively
from vivim import VivimConfig
from vivim.checkpoint import load_checkpoint, resolve_weights
from vivim_calibration.calibration import learn_ranges
from vivim_calibration.clips import whole_clips
from vivim_calibration.float_model import FloatModel, load_float_model
from vivim_calibration.quantise import quantise_layers
from vivim_export.engine import EngineOptions, build_engine, emit_graph, plan_engine
from vivim_export.engine_graph import default_precision, engine_graph
from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx
from vivim_export.precision_check import check_layers
from vivim_runtime.commands.entry import main
from vivim_runtime.errors import ModelError, PrecisionError
from vivim_runtime.judging.parity import compare
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.backends import BACKENDS
from vivim_runtime.sessions.sidecar import EngineRecord, LayerRecord

RTX = EngineOptions(backend="rtx", precision="int8")
SIZE = (128, 128)


@pytest.fixture(scope="module")
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'vivim-edge[rtx]'")


def save_quantised(proto: onnx.ModelProto, ranges: dict[str, float], path: Path) -> Path:
    result = quantise_layers(proto, ranges)
    description = {entry.key: entry.value for entry in result.metadata_props}
    description.pop("vivim.parity", None)
    del result.metadata_props[:]
    helper.set_model_props(result, {**description, "vivim.precision": "int8"})
    onnx.save(result, path)
    return path


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights, whose trained biases differ from zero: zero ones would hide what a parser refuses."""
    folder = tmp_path_factory.mktemp("int8")
    save_onnx(onnx_from_model(load_checkpoint(resolve_weights("tiny"), 3), OnnxOptions(size=SIZE)), folder / "net.onnx")
    model = load_float_model(folder / "net.onnx")
    return save_quantised(model.proto, ranges_of(model), folder / "net.int8.onnx")


def ranges_of(model: FloatModel) -> dict[str, float]:
    """Ranges that one phantom clip teaches."""
    clips = whole_clips([f"phantom:?seed=1&frames={model.info.frames}"], model.info.frames, model.info.size)
    return dict(learn_ranges(model.proto, model.info, model.sha256, clips, "minmax", 1).ranges)


def layers_with_biases(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The bias of every quantised layer that has one, whichever way the graph adds it."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    users = {name: node for node in model.graph.node for name in node.input}
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm") or not node.input[1].endswith("_dq"):
            continue
        after = users.get(node.output[0])
        added = [*node.input[2:3], *(after.input if after is not None and after.op_type == "Add" else ())]
        biases = [constants[name] for name in added if name in constants]
        if biases:
            found[node.name] = numpy_helper.to_array(biases[0])
    return found


def test_biases_of_quantised_layers_are_not_zero(int8: Path) -> None:
    biases = layers_with_biases(onnx.load(int8))
    assert len(biases) > 40  # of 61 layers; in_proj and out_proj have none
    assert all(bias.any() and bias.dtype == np.float32 for bias in biases.values())


def test_what_is_beside_int8_becomes_float16(int8: Path) -> None:
    graph = engine_graph(int8, "int8", BACKENDS["rtx"])
    onnx.checker.check_model(graph.typed, full_check=True)
    assert graph.converted and graph.description["vivim.precision"] == "int8"
    types = {v.name: v.type.tensor_type.elem_type for v in graph.typed.graph.value_info}
    kinds = [types[n.output[0]] for n in graph.typed.graph.node if n.op_type in ("Conv", "MatMul", "Gemm")]
    assert kinds[0] == TensorProto.FLOAT and set(kinds[1:]) == {TensorProto.FLOAT16}


def test_scales_are_the_same_numbers_in_float16(int8: Path) -> None:
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(int8).graph.initializer}
    typed = engine_graph(int8, "int8", BACKENDS["rtx"]).typed
    after = {t.name: numpy_helper.to_array(t) for t in typed.graph.initializer}
    scales = [name for name in before if name.endswith("_scale")]
    assert len(scales) > 100
    for name in scales:
        assert after[f"{name}_half"].dtype == np.float16
        np.testing.assert_array_equal(after[f"{name}_half"].astype(np.float32), before[name])


def test_the_float16_form_gives_the_masks_of_the_file(int8: Path, tmp_path: Path) -> None:
    onnx.save(engine_graph(int8, "int8", BACKENDS["rtx"]).typed, tmp_path / "half.onnx")
    with open_session(int8, "cpu", 1) as a, open_session(tmp_path / "half.onnx", "cpu", 1) as b:
        comparison = compare(a, b)
    assert comparison.passed and comparison.masks.dice is not None and comparison.tensor.relative_l2 > 0


def test_the_graph_for_tensorrt_keeps_every_rounding(int8: Path, tmp_path: Path) -> None:
    emit_graph(int8, tmp_path / "m.onnx", EngineOptions(precision="int8"))
    made, source = onnx.load(tmp_path / "m.onnx"), onnx.load(int8)
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        counts = [sum(node.op_type == kind for node in model.graph.node) for model in (made, source)]
        assert counts[0] == counts[1] > 50
    assert not made.functions and sum(node.domain == "vivim" for node in made.graph.node) == 8


def test_a_file_says_by_itself_what_it_is_built_in(int8: Path, tmp_path: Path) -> None:
    assert default_precision(int8) == "int8" and default_precision(int8.with_name("net.onnx")) == "fp16"
    with pytest.raises(ModelError, match="there is no model"):
        default_precision(tmp_path / "absent.onnx")


def test_a_float32_product_beside_int8_is_an_error() -> None:
    right = [
        LayerRecord("conv_0", "CONVOLUTION", "fp32"),
        LayerRecord("quantise_x", "QUANTIZE", "fp16"),
        LayerRecord("conv_1", "CONVOLUTION", "int8"),
        LayerRecord("gemm_1", "MATRIX_MULTIPLY", "fp16"),
    ]
    check_layers(right, "int8")
    with pytest.raises(PrecisionError, match=r"1 of 4 .* are not int8: gemm_2 \(fp32\)"):
        check_layers([*right, LayerRecord("gemm_2", "MATRIX_MULTIPLY", "fp32")], "int8")


@pytest.mark.usefixtures("rtx")
def test_tensorrt_for_rtx_parses_every_layer(int8: Path) -> None:
    plan = plan_engine(int8, RTX)
    quantised_layers = [n for n in onnx.load(int8).graph.node if any(name.endswith("_dq") for name in n.input)]
    activations = {n.input[0] for n in quantised_layers}
    assert plan.compute_layers["QUANTIZE"] == len(activations)
    assert plan.compute_layers["DEQUANTIZE"] == len(activations) + len({n.input[1] for n in quantised_layers})


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
def test_the_command_builds_it_without_being_told_int8(
    int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    engine = tmp_path / "net.engine"
    arguments = [str(int8), "--backend", "rtx", "--compute-capability", "8.9", "-o", str(engine)]
    monkeypatch.setattr(sys, "argv", ["vivim-export", "trt", *arguments])
    with pytest.raises(SystemExit) as caught:
        main("vivim-export", "vivim_export.commands")
    assert not caught.value.code
    assert "time it against fp16" in " ".join(capsys.readouterr().out.split())
    assert EngineRecord.read(engine).precision == "int8"


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
def test_b3_is_small_and_builds(tmp_path: Path) -> None:
    model = lively(VivimConfig.preset("b3"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter += 0.05 * torch.randn_like(parameter)
    # Weights, layers and kernels do not depend on the size of the pictures; the comparison before the build does.
    save_onnx(onnx_from_model(model, OnnxOptions(size=SIZE)), tmp_path / "b3.onnx")
    exported = load_float_model(tmp_path / "b3.onnx")
    path = save_quantised(exported.proto, ranges_of(exported), tmp_path / "b3.int8.onnx")
    biases = layers_with_biases(onnx.load(path))
    assert len(biases) > 150 and all(bias.any() for bias in biases.values())
    # 57 million weights of 4 bytes in float32.
    assert path.stat().st_size <= 0.35 * 228e6
    record, _ = build_engine(path, tmp_path / "b3.engine", EngineOptions(backend="rtx", precision="int8"))
    # Three of four bytes of the float16 engine's 118 MB of weights are gone where they are int8; the rest is kernels.
    assert record.engine_bytes < 250e6
