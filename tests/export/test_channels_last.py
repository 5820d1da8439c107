"""Depthwise convolution and GELU as one node: exact, with a body, and undone where engines are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.plugins.native_library import library
from vivim.checkpoint import load_checkpoint, resolve_weights
from vivim_export.channels_last import fuse_depthwise
from vivim_export.cpu_graph import standard_nodes
from vivim_export.engine_graph import engine_graph
from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx
from vivim_runtime.errors import UsageError
from vivim_runtime.sessions.backends import BACKENDS
from vivim_runtime.sessions.onnx import OnnxSession

CHANNELS = 24
SHAPES = {2: (3, 9, 7, CHANNELS), 3: (2, 5, 6, 7, CHANNELS)}


def model(spatial: int, stride: int = 1, approximate: str = "none", shared: bool = False) -> onnx.ModelProto:
    """The five nodes, as the exporter writes them, on a graph of their own."""
    rng = np.random.default_rng(0)
    shape = SHAPES[spatial]
    flat = [shape[0], -1, CHANNELS]
    first, last = [0, spatial + 1, *range(1, spatial + 1)], [0, *range(2, spatial + 2), 1]
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=first),
        helper.make_node(
            "Conv", ["a", "w", "b"], ["c"], group=CHANNELS, pads=[1] * 2 * spatial, strides=[stride] * spatial,
            kernel_shape=[3] * spatial,
        ),
        helper.make_node("Transpose", ["c"], ["d"], perm=last),
        helper.make_node("Reshape", ["d", "flat"], ["e"]),
        helper.make_node("Gelu", ["e"], ["y"], approximate=approximate),
    ]  # fmt: skip
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 3)]
    if shared:
        outputs.append(helper.make_tensor_value_info("d", TensorProto.FLOAT, [None] * len(shape)))
    weight = rng.standard_normal((CHANNELS, 1, *[3] * spatial)).astype(np.float32)
    initializers = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(rng.standard_normal(CHANNELS).astype(np.float32), "b"),
        numpy_helper.from_array(np.array(flat), "flat"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "g", [x], outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(proto: onnx.ModelProto, native: bool) -> np.ndarray:
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    if native:
        options.register_custom_ops_library(str(library()))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return session.run(["y"], {"x": x})[0]


def kinds(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("spatial", [2, 3])
def test_five_nodes_become_one_that_computes_the_same(spatial: int) -> None:
    proto = model(spatial)
    expected = run(proto, native=False)
    assert fuse_depthwise(proto) == 1
    assert kinds(proto) == [f"DepthwiseConvGelu{spatial}d", "Reshape"]
    # 10 or 28 float32 products in another order, and erf to 1.5e-7.
    for native in (False, True):
        value = run(proto, native)
        assert np.linalg.norm(value - expected) <= 3e-7 * np.linalg.norm(expected)


@pytest.mark.parametrize("spatial", [2, 3])
def test_engines_get_the_standard_nodes_back(spatial: int) -> None:
    proto = model(spatial)
    expected = run(proto, native=False)
    fuse_depthwise(proto)
    back = standard_nodes(proto)
    assert not back.functions and sorted(set(kinds(back))) == [
        "Constant",
        "Conv",
        "Gelu",
        "Reshape",
        "Transpose",
        "Unsqueeze",
    ]
    assert np.linalg.norm(run(back, native=False) - expected) <= 3e-7 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: model(2, stride=2), id="strided"),
        pytest.param(lambda: model(3, approximate="tanh"), id="another GELU"),
        pytest.param(lambda: model(3, shared=True), id="something else uses what lies between"),
    ],
)
def test_what_the_rule_does_not_hold_for_stays_as_it_is(other: Callable[[], onnx.ModelProto]) -> None:
    proto = other()
    before = proto.SerializeToString()
    assert fuse_depthwise(proto) == 0
    assert proto.SerializeToString() == before


def test_half_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="--cpu and --fp16 contradict each other"):
        OnnxOptions(precision="fp16", cpu=True)


def test_a_file_for_the_cpu_has_no_gelu_left_and_becomes_the_usual_engine_graph(tmp_path: Path) -> None:
    output = tmp_path / "model.onnx"
    network = load_checkpoint(resolve_weights("tiny"), frames=2)
    save_onnx(onnx_from_model(network, OnnxOptions((64, 64), cpu=True)), output)
    exported = onnx.load(output)
    assert kinds(exported).count("DepthwiseConvGelu2d") == 5 and kinds(exported).count("DepthwiseConvGelu3d") == 4
    assert kinds(exported).count("AddLayerNorm") == 10 and kinds(exported).count("MergeScales") == 1
    assert not {"Gelu", "Relu"} & set(kinds(exported)) and kinds(exported).count("Resize") == 1
    clips = np.random.default_rng(2).integers(0, 256, (1, 2, 64, 64, 3), np.uint8)
    bodies = OnnxSession(output, "cpu", 1, bodies=True)(clips)
    assert np.linalg.norm(OnnxSession(output, "cpu", 1)(clips) - bodies) <= 1e-5 * np.linalg.norm(bodies)
    graph = engine_graph(output, "fp16", BACKENDS["tensorrt"]).parsed
    assert kinds(graph).count("Gelu") == 9 and kinds(graph).count("Resize") == 4
    assert {node.op_type for node in graph.graph.node if node.domain} == {"CausalConv1d", "SelectiveScan"}
