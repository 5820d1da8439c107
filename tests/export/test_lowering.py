"""The operators in standard layers for a GPU compiler: the numbers of their bodies, at every length and direction."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.export.conftest import COUNTS, ODD
from tests.vivim.scan.test_operators import ALL_DIRECTIONS, GRIDS, scan_arguments
from vivim import Vivim
from vivim.preprocessing import normalised
from vivim.scan.operators import selective_scan
from vivim.scan.reference import causal_conv1d_reference, selective_scan_reference
from vivim_export.functions import DOMAIN
from vivim_export.lowering import LowerConvolution, LowerScan, NodeSite, lower_operators
from vivim_runtime.datasets.phantom import phantom_clip
from vivim_runtime.errors import UsageError
from vivim_runtime.phantom import PhantomSpec

OPSET = 20
# Inputs that are data, by operator; the others are parameters and constants of the graph.
DATA = {"CausalConv1d": ["xz"], "SelectiveScan": ["xc", "dbc", "xz"]}
PARAMETERS = {"CausalConv1d": ["weight", "bias"], "SelectiveScan": ["A_log2e", "dt_weight", "dt_bias", "d_skip"]}


def one_node(
    op_type: str, arguments: list[torch.Tensor], dtype: type, batch: str | int, **attributes
) -> onnx.ModelProto:
    data, parameters = DATA[op_type], PARAMETERS[op_type]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shapes = [list(a.shape) for a in arguments[: len(data)]]
    for name, shape in zip(data, shapes, strict=True):
        shape[0 if name == "xz" else 1] = batch
    constants = [
        numpy_helper.from_array(a.numpy().astype(np.float32), name)
        for name, a in zip(parameters, arguments[len(data) :], strict=True)
    ]
    graph = helper.make_graph(
        [helper.make_node(op_type, [*data, *parameters], ["y"], name="site", domain=DOMAIN, **attributes)],
        "one",
        [helper.make_tensor_value_info(name, element, shape) for name, shape in zip(data, shapes, strict=True)],
        [helper.make_tensor_value_info("y", element, [None] * (4 if op_type == "CausalConv1d" else 3))],
        constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(
    op_type: str,
    arguments: list[torch.Tensor],
    dtype: type = np.float32,
    batch: str | int = "B",
    steps: int = 16,
    **attributes,
) -> np.ndarray:
    """One lowered node in ONNX Runtime, its batch open."""
    model = lower_operators(one_node(op_type, arguments, dtype, batch, **attributes), steps)
    assert {entry.domain for entry in model.opset_import} == {""}
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {name: a.numpy().astype(dtype) for name, a in zip(DATA[op_type], arguments, strict=False)}
    return session.run(None, feed)[0]


def relative(value: np.ndarray, expected: torch.Tensor) -> float:
    return float(np.linalg.norm(value - expected.numpy()) / np.linalg.norm(expected.numpy()))


@pytest.mark.parametrize("directions", ALL_DIRECTIONS)
@pytest.mark.parametrize(("length", "rows"), GRIDS)
def test_lowered_scan_equals_the_sequential_loop(directions: list[int], length: int, rows: int) -> None:
    arguments = scan_arguments(len(directions), 2, length, 8)
    value = run("SelectiveScan", arguments, rows=rows, directions=directions, mean=1)
    # float32: some ulp (6e-8) of rounding a step, forgotten with the decay, as for the PyTorch operator.
    assert relative(value, selective_scan_reference(*arguments, rows, directions, True)) <= 5e-7


@pytest.mark.parametrize("steps", [pytest.param(1, id="every step a chunk"), 2, 7, pytest.param(64, id="one chunk")])
def test_any_number_of_steps_gives_the_same(steps: int) -> None:
    arguments = scan_arguments(2, 1, 35, 8)
    value = run("SelectiveScan", arguments, steps=max(steps, 2), rows=5, directions=[1, 2], mean=0)
    assert relative(value, selective_scan_reference(*arguments, 5, [1, 2], False)) <= 5e-7


def test_lowered_scan_survives_extreme_decays() -> None:
    """dt A from 0 (nothing is forgotten) to -1e4 (everything is, at once): no overflow, no NaN."""
    arguments = scan_arguments(3, 1, 1030, 8)
    arguments[3][:, :4] = 0.0
    arguments[3][:, 4:] = -1e4
    value = run("SelectiveScan", arguments, rows=5, directions=[0, 1, 2], mean=1)
    assert np.isfinite(value).all()
    # Without decay the rounding of 1,030 additions stays: at worst 1030 * 6e-8, in the mean its square root.
    assert relative(value, selective_scan_reference(*arguments, 5, [0, 1, 2], True)) <= 5e-6


def test_half_data_keeps_its_state_in_float32() -> None:
    arguments = [a.half().double() for a in scan_arguments(3, 1, 1030, 8)]
    value = run("SelectiveScan", arguments, np.float16, rows=5, directions=[0, 1, 2], mean=1)
    assert value.dtype == np.float16
    expected = selective_scan_reference(*arguments, 5, [0, 1, 2], True)
    assert relative(value.astype(np.float64), expected) <= 2**-11  # the output's own rounding; a half state gives 1e-3


@pytest.mark.parametrize("directions", ALL_DIRECTIONS)
@pytest.mark.parametrize(("length", "rows"), GRIDS)
def test_lowered_convolution_equals_the_sequential_loop(directions: list[int], length: int, rows: int) -> None:
    g = torch.Generator().manual_seed(3)
    xz = torch.randn(2, length, 16, generator=g, dtype=torch.float64)
    weight = torch.randn(len(directions), 8, 4, generator=g, dtype=torch.float64)
    bias = torch.randn(len(directions), 8, generator=g, dtype=torch.float64)
    value = run("CausalConv1d", [xz, weight, bias], rows=rows, directions=directions)
    assert (
        relative(value, causal_conv1d_reference(xz, weight, bias, rows, directions)) <= 3e-7
    )  # four products, a sigmoid


@pytest.mark.parametrize(
    ("length", "width"),
    [
        pytest.param(20480, 128, id="stage 1", marks=pytest.mark.slow),
        pytest.param(5120, 256, id="stage 2"),
        pytest.param(1280, 640, id="stage 3"),
        pytest.param(320, 1024, id="stage 4"),
    ],
)
def test_lowered_scan_is_right_at_the_shapes_of_b3(length: int, width: int) -> None:
    arguments = scan_arguments(3, 1, length, width)
    value = run("SelectiveScan", arguments, rows=5, directions=[0, 1, 2], mean=1)
    expected = selective_scan(*arguments, 5, [0, 1, 2], True)  # float64
    assert relative(value, expected) <= 5e-7


@pytest.mark.parametrize("frames", COUNTS)
def test_lowered_network_computes_what_pytorch_does(
    odd_files: Callable[[int], tuple[Vivim, Path]], frames: int
) -> None:
    """The issue's bound, 1e-5, in float32; an odd size, so that no length divides."""
    model, path = odd_files(frames)
    pixels = phantom_clip(PhantomSpec(seed=5, frames=frames, size=ODD)).pixels[None]
    proto = lower_operators(onnx.load(path))
    assert not proto.functions and not any(node.domain == DOMAIN for node in proto.graph.node)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    value = session.run(None, {"frames": pixels})[0]
    with torch.no_grad():
        expected = model(normalised(pixels)).logits.numpy()
    assert np.linalg.norm(value - expected) / np.linalg.norm(expected - expected.mean()) <= 1e-5


def test_depth_grows_with_the_logarithm_of_the_length() -> None:
    def nodes(length: int) -> int:
        arguments = scan_arguments(1, 1, length, 8)
        model = one_node("SelectiveScan", arguments, np.float32, 1, rows=1, directions=[0], mean=1)
        return len(lower_operators(model).graph.node)

    assert nodes(16 * 256) - nodes(256) == nodes(16 * 16 * 256) - nodes(16 * 256)  # one level more for 16 times as long


def five_nodes() -> onnx.ModelProto:
    """Relu, the convolution, a sum, the scan, Abs: 20 tokens of width 8 in one direction."""
    model = one_node("SelectiveScan", scan_arguments(1, 1, 20, 8), np.float32, 1, rows=5, directions=[0], mean=1)
    graph, (scan,) = model.graph, model.graph.node
    weights = [numpy_helper.from_array(np.zeros(s, np.float32), n) for n, s in (("w", (1, 8, 4)), ("b", (1, 8)))]
    graph.initializer.extend(weights)
    conv = helper.make_node(
        "CausalConv1d", ["gated", "w", "b"], ["conv"], name="c", domain="vivim", rows=5, directions=[0]
    )
    graph.value_info.append(helper.make_tensor_value_info("gated", TensorProto.FLOAT, [1, 20, 16]))
    graph.value_info.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 1, 20, 8]))
    scan.input[0], scan.output[0] = "sum", "scanned"
    nodes = [
        helper.make_node("Relu", ["xz"], ["gated"], name="before"),
        conv,
        helper.make_node("Add", ["conv", "xc"], ["sum"], name="between"),
        scan,
        helper.make_node("Abs", ["scanned"], ["y"], name="after"),
    ]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def sites(model: onnx.ModelProto) -> list[NodeSite]:
    graph = model.graph
    shapes = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input)}
    return [NodeSite(node, "n_", shapes, {t.name: t for t in graph.initializer}) for node in graph.node]


def test_a_rule_takes_its_own_node_and_no_other() -> None:
    model = five_nodes()
    assert [LowerConvolution().matches(site) for site in sites(model)] == [False, True, False, False, False]
    assert [LowerScan().matches(site) for site in sites(model)] == [False, False, False, True, False]
    lowered = lower_operators(model)
    onnx.checker.check_model(lowered, full_check=True)
    assert [n.name for n in lowered.graph.node if "_" not in n.name] == ["before", "between", "after"]
    assert all(node.domain == "" for node in lowered.graph.node)


@pytest.mark.parametrize(
    ("rule", "which", "spoil", "reason"),
    [
        pytest.param(
            LowerScan(),
            3,
            lambda m: m.graph.input[1].type.tensor_type.ClearField("shape"),
            "the shape of dbc is not known",
            id="no shape",
        ),
        pytest.param(
            LowerScan(), 3, lambda m: m.graph.initializer.pop(0), "A_log2e, .* is no constant", id="computed parameter"
        ),
        pytest.param(
            LowerConvolution(),
            1,
            lambda m: m.graph.initializer.pop(-1),
            "b, .* of c, is no constant",
            id="computed bias",
        ),
        pytest.param(
            LowerConvolution(),
            1,
            lambda m: setattr(m.graph.node[1].attribute[1], "i", 3),
            "20 tokens do not divide into 3 rows",
            id="rows that do not divide",
        ),
    ],
)
def test_a_rule_declines_with_a_reason_that_the_user_is_told(rule, which: int, spoil, reason: str) -> None:
    model = five_nodes()
    assert rule.reason_to_decline(sites(model)[which]) == ""
    spoil(model)
    assert re.match(reason, rule.reason_to_decline(sites(model)[which]))
    with pytest.raises(UsageError, match=f"{rule.name} is not possible: {reason}.*; export the model again"):
        lower_operators(model)


def test_half_types_of_the_site_are_kept() -> None:
    model = lower_operators(one_node("CausalConv1d", scan_like_conv(), np.float16, 1, rows=1, directions=[0]))
    assert model.graph.node[-1].op_type == "Cast"
    assert helper.get_attribute_value(model.graph.node[-1].attribute[0]) == TensorProto.FLOAT16


def scan_like_conv() -> list[torch.Tensor]:
    return [torch.zeros(1, 6, 16), torch.zeros(1, 8, 4), torch.zeros(1, 8)]
