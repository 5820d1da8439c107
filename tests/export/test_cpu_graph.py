"""Rules of `vivim-export onnx --cpu`: the operator computes what its nodes did, and says why where it may not be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.plugins.native_library import library
from vivim_export.cpu_graph import for_cpu, standard_nodes

FRAMES, CHANNELS, CLASSES = 2, 24, 2
SIZES = ((8, 12), (4, 6), (2, 3), (1, 2))  # of the four scales; 3 of 12 columns is no whole factor of the last


def values(shape: tuple[int, ...], name: str) -> onnx.TensorProto:
    generator = np.random.default_rng(sum(name.encode()))
    return numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, ...]],
    outputs: dict[str, tuple[int, ...]],
    constants: list[onnx.TensorProto],
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    known = [[helper.make_tensor_value_info(n, kind, s) for n, s in some.items()] for some in (inputs, outputs)]
    graph = helper.make_graph(nodes, "g", *known, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def residual(axis: int = -1, y: tuple[int, ...] = (3, 7, CHANNELS), norms: int = 1) -> onnx.ModelProto:
    shape = (3, 7, CHANNELS)
    nodes = [helper.make_node("Add", ["x", "y"], ["sum"])]
    for i in range(norms):
        normed = helper.make_node("LayerNormalization", ["sum", "gamma", "beta"], [f"normed{i}"], f"norm{i}")
        normed.attribute.extend([helper.make_attribute("axis", axis), helper.make_attribute("epsilon", 0.25)])
        nodes.append(normed)
    outputs = {"sum": shape, **{f"normed{i}": shape for i in range(norms)}}
    constants = [values(shape[axis:], name) for name in ("gamma", "beta")]
    return model(nodes, {"x": shape, "y": y}, outputs, constants)


def decoder(scales: int = 4, mode: str = "linear", kernel: int = 1, shared: bool = False) -> onnx.ModelProto:
    full = SIZES[0]
    size = numpy_helper.from_array(np.array([FRAMES, CHANNELS, *full]), "size")
    constants = [values((CHANNELS, 1, 1), "bias"), values((CLASSES, CHANNELS, kernel, kernel), "w"), size]
    constants.append(values((CLASSES,), "b"))
    nodes, total = [], "bias"
    for i in range(scales):
        nodes.append(helper.make_node("Transpose", [f"x{i}"], [f"t{i}"], perm=[0, 3, 1, 2]))
        term = f"t{i}"
        if i:
            modes = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
            nodes.append(helper.make_node("Resize", [term, "", "", "size"], [f"r{i}"], **modes))
            term = f"r{i}"
        nodes.append(helper.make_node("Add", [total, term], [f"a{i}"]))
        total = f"a{i}"
    nodes.append(helper.make_node("Relu", [total], ["relu"]))
    nodes.append(helper.make_node("Conv", ["relu", "w", "b"], ["y"], "conv", pads=[kernel // 2] * 4))
    outputs = {"y": (FRAMES, CLASSES, *full)}
    if shared:
        outputs["relu"] = (FRAMES, CHANNELS, *full)
    return model(nodes, {f"x{i}": (FRAMES, *SIZES[i], CHANNELS) for i in range(scales)}, outputs, constants)


def run(proto: onnx.ModelProto, native: bool) -> list[np.ndarray]:
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if native:
        options.register_custom_ops_library(str(library()))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(1)
    feed = {i.name: generator.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
    return session.run(None, feed)


@pytest.mark.parametrize(
    ("made", "operator"), [pytest.param(residual, "AddLayerNorm"), pytest.param(decoder, "MergeScales")]
)
def test_nodes_become_one_that_computes_the_same(made: Callable[[], onnx.ModelProto], operator: str) -> None:
    proto = made()
    expected = run(proto, native=False)
    assert for_cpu(proto) == []
    assert [node.op_type for node in proto.graph.node] == [operator]
    back = standard_nodes(proto)
    assert not back.functions and operator not in {node.op_type for node in back.graph.node}
    for found in (run(proto, native=False), run(proto, native=True), run(back, native=False)):
        for a, b in zip(found, expected, strict=True):
            # Sums of 24 products in another order; ONNX Runtime's places between pixels are float32.
            assert np.linalg.norm(a - b) <= 5e-7 * np.linalg.norm(b)


def test_what_is_no_number_is_passed_on() -> None:
    proto = decoder()
    for_cpu(proto)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library()))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
    feed["x0"][1, 2, 3, 5] = np.nan
    wrong = np.isnan(session.run(["y"], feed)[0])
    assert wrong[1, :, 2, 3].all() and wrong.sum() == CLASSES


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        pytest.param(lambda: residual(axis=1), "not over the last of three axes"),
        pytest.param(lambda: residual(y=(1, 7, CHANNELS)), "not of one known shape"),
        pytest.param(lambda: residual(norms=2), "two norms take the sum"),
        pytest.param(lambda: decoder(scales=3), "it adds 3 tensors to bias"),
        pytest.param(lambda: decoder(mode="nearest"), "resized with mode b'nearest'"),
        pytest.param(lambda: decoder(kernel=3), "not 1x1 with a bias"),
        pytest.param(lambda: decoder(shared=True), "the sum is used elsewhere"),
    ],
)
def test_what_a_rule_does_not_hold_for_stays_as_it_is(made: Callable[[], onnx.ModelProto], reason: str) -> None:
    proto = made()
    before = proto.SerializeToString()
    declined = for_cpu(proto)
    assert declined and all(reason in str(some) for some in declined)
    assert proto.SerializeToString() == before
