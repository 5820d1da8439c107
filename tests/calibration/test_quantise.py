from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from vivim_calibration.layers import quantisable_layers
from vivim_calibration.quantise import quantise_layers, quantised_weight

GENERATOR = np.random.default_rng(0)


def linear_graph() -> onnx.ModelProto:
    """x (4, 8) -> two linear layers that read it, their sum, and a product of two activations."""
    weights = [numpy_helper.from_array(GENERATOR.normal(size=(8, 8)).astype(np.float32), name) for name in ("wa", "wb")]
    nodes = [
        helper.make_node("MatMul", ["x", "wa"], ["a"], name="first"),
        helper.make_node("MatMul", ["x", "wb"], ["b"], name="second"),
        helper.make_node("Add", ["a", "b"], ["sum"], name="residual"),
        helper.make_node("Transpose", ["b"], ["bt"], name="turn"),
        helper.make_node("MatMul", ["sum", "bt"], ["y"], name="attention"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [4, 8]), ("y", [4, 4]))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run_exactly(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    """Every node as it stands in the file: no fusion, so no int8 kernel of this CPU."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def rounded(x: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """QuantizeLinear and back; ONNX clips at -128, which a weight scaled by its largest magnitude never reaches."""
    return np.clip(np.round(x / scale), -128, 127) * scale


def level(reach: float) -> float:
    """What a level is worth: a 127th, or the first float16 number above it."""
    numbers = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)  # all that are finite, in order
    return float(numbers[np.searchsorted(numbers, np.float32(reach) / np.float32(127))])


def test_what_the_file_computes_is_the_rounding_that_it_says() -> None:
    model = linear_graph()
    x = GENERATOR.normal(size=(4, 8)).astype(np.float32)
    reach = 2.0  # less than the largest x: clipping is tested too
    assert np.abs(x).max() > reach
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    xq = rounded(x, level(reach))
    a, b = (
        xq @ rounded(weights[n], np.array([level(r) for r in np.abs(weights[n]).max(axis=0)])) for n in ("wa", "wb")
    )
    # Sums of 8 products in float32: 8 * 2^-24 relative to sums of up to about 30.
    np.testing.assert_allclose(run_exactly(quantise_layers(model, {"x": reach}), {"x": x}), (a + b) @ b.T, atol=1e-4)


def test_layers_that_read_one_tensor_share_its_rounding() -> None:
    result = quantise_layers(linear_graph(), {"x": 1.0})
    assert [n.op_type for n in result.graph.node].count("QuantizeLinear") == 1
    assert [n.op_type for n in result.graph.node].count("DequantizeLinear") == 3  # x, wa, wb


def test_products_of_activations_and_sums_stay_in_float() -> None:
    nodes = {n.name: list(n.input) for n in quantise_layers(linear_graph(), {"x": 1.0}).graph.node}
    assert nodes["attention"] == ["sum", "bt"] and nodes["residual"] == ["a", "b"]


def test_a_layer_that_is_left_out_is_untouched() -> None:
    result = quantise_layers(linear_graph(), {"x": 1.0}, ["first"])
    assert {t.name for t in result.graph.initializer} >= {"wa", "wb_int8"}
    assert next(n for n in result.graph.node if n.name == "first").input[:] == ["x", "wa"]


def test_with_every_layer_left_out_the_model_is_what_it_was() -> None:
    model = linear_graph()
    assert quantise_layers(model, {"x": 1.0}, ["first", "second"]).SerializeToString() == model.SerializeToString()


def test_the_model_given_is_not_changed() -> None:
    model = linear_graph()
    before = model.SerializeToString()
    quantise_layers(model, {"x": 1.0})
    assert model.SerializeToString() == before


@pytest.mark.parametrize("reach", [0.0, 1e-30, 3e-6, 0.5, 1.0, 127.0, 1e4, 8e6])
def test_scales_are_numbers_of_float16_that_reach_as_far(reach: float) -> None:
    _, (scale,) = quantised_weight(np.array([[reach]], np.float32), 0)
    assert scale == (level(reach) if reach else 1.0)
    assert np.float16(scale) == scale and 127 * scale >= np.float32(reach) * (1 - 2**-22)  # two roundings of float32


def test_a_range_beyond_float16_keeps_its_scale() -> None:
    _, (scale,) = quantised_weight(np.array([[1e30]], np.float32), 0)
    assert scale == np.float32(1e30) / np.float32(127)


@pytest.mark.parametrize(("shape", "axis"), [((16, 3, 3, 3), 0), ((16, 32), 1), ((8, 1, 3, 3, 3), 0)])
def test_weights_have_one_scale_a_channel_and_lose_half_a_level_at_most(shape: tuple[int, ...], axis: int) -> None:
    weight = (
        GENERATOR.normal(size=shape)
        * 10.0 ** GENERATOR.uniform(-3, 3, shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    ).astype(np.float32)
    levels, scale = quantised_weight(weight, axis)
    assert levels.dtype == np.int8 and levels.min() >= -127 and scale.shape == (shape[axis],)
    wide = scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    # Half a level, and the float32 rounding of the division, 127 * 2^-24 of a level.
    assert (np.abs(levels * wide - weight) <= wide * (0.5 + 1e-4)).all()


def test_a_channel_of_zeros_has_a_scale() -> None:
    levels, scale = quantised_weight(np.zeros((2, 3), np.float32), 0)
    assert not levels.any() and (scale == 1.0).all()


def test_layers_of_an_exported_network_are_the_linear_ones_but_the_first_and_the_last(exported: Path) -> None:
    model = onnx.load(exported)
    layers = quantisable_layers(model)
    names = {layer.name for layer in layers}
    assert len(names) == len(layers)
    # One block of each kind, in the words of the checkpoint.
    assert {
        "stages.0.blocks.0.attention.query",
        "stages.0.blocks.0.attention.reduce",
        "stages.0.blocks.0.mlp.dwconv",
        "stages.0.mamba.0.mixer.in_proj",
        "stages.0.mamba.0.mixer.out_proj",
        "stages.0.mamba.0.mlp.fc2",
        "stages.1.patch_embed.proj",
    } <= names
    assert not {"stages.0.patch_embed.proj", "decoder.classifier"} & names
    # Those over rows and columns, and those over frames too.
    assert {layer.name for layer in layers if layer.is_depthwise} == {name for name in names if "dwconv" in name}
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    known = {layer.node for layer in layers} | {convolutions[0], convolutions[-1]}
    constants = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm") and node.name not in known:
            # Attention has no constant; time step, B and C come from one of three dimensions.
            assert constants.get(node.input[1]) in (None, 3), node.name


def test_operators_functions_and_biases_are_left_as_they_are(exported: Path) -> None:
    model = onnx.load(exported)
    layers = quantisable_layers(model)
    result = quantise_layers(model, {layer.activation: 1.0 for layer in layers})
    onnx.checker.check_model(result, full_check=True)

    def own(proto: onnx.ModelProto) -> list[bytes]:
        return [n.SerializeToString() for n in proto.graph.node if n.domain == "vivim"]

    assert own(result) == own(model) and len(own(model)) == 8
    assert [f.SerializeToString() for f in result.functions] == [f.SerializeToString() for f in model.functions]
    nodes = {node.name: node for node in result.graph.node}
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
            bias = nodes[node.name].input[2]
            assert bias == node.input[2] and constants[bias].data_type == TensorProto.FLOAT
            assert numpy_helper.to_array(constants[bias]).any(), "a zero bias would prove nothing"


def test_all_quantisation_is_symmetric_and_signed(exported: Path) -> None:
    model = onnx.load(exported)
    layers = quantisable_layers(model)
    result = quantise_layers(model, {layer.activation: 1.0 for layer in layers})
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    pairs = [node for node in result.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert sum(node.op_type == "QuantizeLinear" for node in pairs) == len({layer.activation for layer in layers})
    for node in pairs:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any()
