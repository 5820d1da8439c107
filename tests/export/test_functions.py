"""The operators' bodies in ONNX Runtime against the float64 loop."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from tests.vivim.scan.test_operators import ALL_DIRECTIONS, GRIDS, scan_arguments
from vivim.scan.reference import causal_conv1d_reference, selective_scan_reference
from vivim_export.functions import DOMAIN, causal_conv1d_function, selective_scan_function

OPSET = 20


def run(function: onnx.FunctionProto, arguments: list[torch.Tensor], dtype: type, **attributes: object) -> np.ndarray:
    """One node of the function, in ONNX Runtime; shapes of the file are left open."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names = list(function.input)
    graph = helper.make_graph(
        [helper.make_node(function.name, names, ["y"], domain=DOMAIN, **attributes)],
        "one",
        [helper.make_tensor_value_info(n, element, [None] * a.ndim) for n, a in zip(names, arguments, strict=True)],
        [helper.make_tensor_value_info("y", element, [None] * (4 if function.name == "CausalConv1d" else 3))],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {n: a.numpy().astype(dtype) for n, a in zip(names, arguments, strict=True)})[0]


def relative(value: np.ndarray, expected: torch.Tensor) -> float:
    return float(np.linalg.norm(value - expected.numpy()) / np.linalg.norm(expected.numpy()))


@pytest.mark.parametrize("directions", ALL_DIRECTIONS)
@pytest.mark.parametrize(("length", "rows"), GRIDS)
def test_scan_body_equals_the_sequential_loop(directions: list[int], length: int, rows: int) -> None:
    arguments = scan_arguments(len(directions), 2, length, 8)
    function = selective_scan_function(tuple(directions), True, OPSET)
    value = run(function, arguments, np.float32, rows=rows, directions=directions, mean=1)
    expected = selective_scan_reference(*arguments, rows, directions, True)
    # float32: some ulp (6e-8) of rounding a step, forgotten with the decay, as for the PyTorch operator.
    assert relative(value, expected) <= 5e-7


def test_scan_body_sums_where_it_is_asked_to() -> None:
    arguments = scan_arguments(3, 1, 35, 8)
    function = selective_scan_function((0, 1, 2), False, OPSET)
    value = run(function, arguments, np.float32, rows=5, directions=[0, 1, 2], mean=0)
    assert relative(value, selective_scan_reference(*arguments, 5, [0, 1, 2], False)) <= 5e-7


def test_scan_body_survives_extreme_decays() -> None:
    """dt A from 0 (nothing is forgotten) to -1e4 (everything is, at once): no overflow, no NaN."""
    arguments = scan_arguments(3, 1, 1030, 8)
    arguments[3][:, :4] = 0.0
    arguments[3][:, 4:] = -1e4
    function = selective_scan_function((0, 1, 2), True, OPSET)
    value = run(function, arguments, np.float32, rows=5, directions=[0, 1, 2], mean=1)
    assert np.isfinite(value).all()
    # Without decay the rounding of 1,030 additions stays: at worst 1030 * 6e-8, in the mean its square root.
    assert relative(value, selective_scan_reference(*arguments, 5, [0, 1, 2], True)) <= 5e-6


def test_half_precision_data_keeps_its_state_in_float32() -> None:
    arguments = [a.half().double() for a in scan_arguments(3, 1, 1030, 8)]
    function = selective_scan_function((0, 1, 2), True, OPSET)
    value = run(function, arguments, np.float16, rows=5, directions=[0, 1, 2], mean=1)
    assert value.dtype == np.float16
    expected = selective_scan_reference(*arguments, 5, [0, 1, 2], True)
    assert relative(value.astype(np.float64), expected) <= 2**-11  # the output's own rounding; a half state gives 1e-3


@pytest.mark.parametrize("directions", ALL_DIRECTIONS)
@pytest.mark.parametrize(("length", "rows"), GRIDS)
def test_convolution_body_equals_the_sequential_loop(directions: list[int], length: int, rows: int) -> None:
    g = torch.Generator().manual_seed(3)
    xz = torch.randn(2, length, 16, generator=g, dtype=torch.float64)
    weight = torch.randn(len(directions), 8, 4, generator=g, dtype=torch.float64)
    bias = torch.randn(len(directions), 8, generator=g, dtype=torch.float64)
    function = causal_conv1d_function(tuple(directions), 4, OPSET)
    value = run(function, [xz, weight, bias], np.float32, rows=rows, directions=directions)
    expected = causal_conv1d_reference(xz, weight, bias, rows, directions)
    assert relative(value, expected) <= 3e-7  # four products and a sigmoid


def test_loops_are_not_unrolled() -> None:
    """However long the sequence, the body is the same; its loops are three Scan nodes."""
    function = selective_scan_function((0, 1, 2), True, OPSET)
    assert sum(node.op_type == "Scan" for node in function.node) == 3
    assert len(function.node) < 250


@pytest.mark.parametrize("body", ["convolution", "scan"])
def test_bodies_have_what_old_releases_of_onnx_runtime_ask_for(body: str) -> None:
    """Up to 1.21 nodes must have names that differ, and up to 1.24 `value_ints` loses its shape when inlined."""
    if body == "scan":
        function = selective_scan_function((0, 1, 2), True, OPSET)
    else:
        function = causal_conv1d_function((0, 1, 2), 4, OPSET)
    names = [node.name for node in function.node]
    assert all(names) and len(set(names)) == len(names)
    constants = [a for node in function.node if node.op_type == "Constant" for a in node.attribute]
    assert {a.name for a in constants if not a.ref_attr_name} == {"value"}
    assert [a.ref_attr_name for a in constants if a.ref_attr_name] == ["rows"]


def test_the_bodies_of_vivim_are_what_they_were() -> None:
    """Byte for byte those of the first release: what is added for networks of others leaves Vivim's files alone."""
    for function, digest in (
        (selective_scan_function((0, 1, 2), True, OPSET), "d3b2d89e4f483a16"),
        (selective_scan_function((0, 2, 1, 3), False, OPSET), "09e54d64c82c4d5d"),
        (causal_conv1d_function((0, 1, 2), 4, OPSET), "5e170a0e04cee88c"),
    ):
        content = function.SerializeToString(deterministic=True)
        assert hashlib.sha256(content).hexdigest().startswith(digest)
