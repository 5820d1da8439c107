"""The bodies of the operators with a state, in ONNX Runtime against the float64 loop."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from tests.vivim.scan.test_operators import GRIDS, scan_arguments
from vivim.scan.reference import causal_conv1d_reference, streaming_scan_reference
from vivim_export.functions import DOMAIN, causal_conv1d_function, selective_scan_function

OPSET = 20
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def run(
    function: onnx.FunctionProto, arguments: list[Tensor], element: int = FLOAT, data: int = 99, **attributes: object
) -> list[np.ndarray]:
    """One node of the function; shapes of the file are left open. The first `data` inputs and y have type `element`."""
    types = [element if i < data else FLOAT for i in range(len(arguments))]
    names, outputs = list(function.input), [f"out_{name}" for name in function.output]
    rank = 4 if function.name == "StreamingConv1d" else 3
    declared = [(outputs[0], element), *((name, FLOAT) for name in outputs[1:])]
    graph = helper.make_graph(
        [helper.make_node(function.name, names, outputs, domain=DOMAIN, **attributes)],
        "one",
        [helper.make_tensor_value_info(n, t, [None] * a.ndim) for n, t, a in zip(names, types, arguments, strict=True)],
        [helper.make_tensor_value_info(name, kind, [None] * rank) for name, kind in declared],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [helper.tensor_dtype_to_np_dtype(kind) for kind in types]
    return session.run(None, {n: a.numpy().astype(k) for n, a, k in zip(names, arguments, kinds, strict=True)})


def relative(value: np.ndarray, expected: Tensor) -> float:
    return float(np.linalg.norm(value - expected.numpy()) / np.linalg.norm(expected.numpy()))


@pytest.mark.parametrize("directions", [[0], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize(("length", "rows"), GRIDS)
def test_scan_body_goes_on_from_a_state(directions: list[int], length: int, rows: int) -> None:
    """1030 tokens are 64 chunks of 17, of which the last run past the end: the state must be that of token 1029."""
    arguments = scan_arguments(len(directions), 2, length, 8)
    arguments.append(torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    arguments[3] = arguments[3] / 20  # some of what comes in is still there at the end
    function = selective_scan_function(tuple(directions), True, OPSET, streaming=True)
    y, final = run(function, arguments, rows=rows, directions=directions, mean=1)
    expected = streaming_scan_reference(*arguments, rows, directions, True)
    # As of the body without a state; slower decays keep roundings 20 times as long, and their root is 4.5.
    assert relative(y, expected[0]) <= 2e-6
    assert relative(final, expected[1]) <= 2e-6


def test_half_precision_data_keeps_its_state_in_float32() -> None:
    arguments = [a.half().double() for a in scan_arguments(2, 1, 1030, 8)]
    arguments.append(torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(5)).double())
    function = selective_scan_function((0, 1), True, OPSET, streaming=True)
    y, final = run(function, arguments, HALF, 3, rows=5, directions=[0, 1], mean=1)
    assert y.dtype == np.float16 and final.dtype == np.float32
    expected = streaming_scan_reference(*arguments, 5, [0, 1], True)
    assert relative(y.astype(np.float64), expected[0]) <= 2**-11
    assert relative(final, expected[1]) <= 2e-6


@pytest.mark.parametrize(("length", "rows"), [(1, 1), (2, 1), (35, 5)])
def test_convolution_body_goes_on_from_its_tail(length: int, rows: int) -> None:
    g = torch.Generator().manual_seed(3)
    x, tail, weight, bias = (
        torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, length, 16), (2, 3, 8), (3, 8, 4), (3, 8))
    )
    function = causal_conv1d_function((0, 1, 2), 4, OPSET, streaming=True)
    value = run(function, [x, tail, weight, bias], rows=rows, directions=[0, 1, 2])[0]
    assert relative(value, causal_conv1d_reference(x, weight, bias, rows, [0, 1, 2], tail)) <= 3e-7


def test_bodies_without_a_state_are_what_files_always_had() -> None:
    """To the byte, so that an export of a clip network is the file that it was."""
    bodies = [causal_conv1d_function((0, 1, 2), 4, OPSET), selective_scan_function((0, 1, 2), True, OPSET)]
    found = [hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest()[:16] for body in bodies]
    assert found == ["5e170a0e04cee88c", "d3b2d89e4f483a16"]


def test_nodes_of_the_bodies_have_names_that_differ() -> None:
    """ONNX Runtime up to 1.21 refuses others."""
    for function in (
        causal_conv1d_function((0, 1), 4, OPSET, streaming=True),
        selective_scan_function((0, 1), True, OPSET, streaming=True),
    ):
        names = [node.name for node in function.node]
        assert all(names) and len(set(names)) == len(names)
