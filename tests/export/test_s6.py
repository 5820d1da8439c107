"""The plain scan in ONNX: its body and its lowered form in ONNX Runtime, against the float64 loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.vivim.scan.test_s6 import SHAPES, s6_arguments
from vivim.scan.s6 import s6_scan_reference
from vivim_export.engine_graph import _has_plugin, default_precision, engine_graph
from vivim_export.functions import DOMAIN
from vivim_export.lowering import lower_operators
from vivim_export.s6 import S6_INPUTS, LowerS6Scan, s6_scan_function
from vivim_runtime.errors import UsageError
from vivim_runtime.sessions.backends import BACKENDS

OPSET = 20
# The order of the operator's arguments in PyTorch, in that of the node's inputs.
FROM_TORCH = (0, 1, 3, 4, 2, 5, 6)


def s6_model(
    arguments: list[torch.Tensor],
    element: int = TensorProto.FLOAT,
    with_softplus: bool = True,
    free_batch: bool = False,
) -> onnx.ModelProto:
    """One node with its body; A, skip and bias are weights of the file."""
    ordered = [arguments[i] for i in FROM_TORCH]
    graph = helper.make_graph(
        [helper.make_node("S6Scan", list(S6_INPUTS), ["y"], domain=DOMAIN, name="scan", softplus=int(with_softplus))],
        "one",
        [
            helper.make_tensor_value_info(name, element, ["batch" if free_batch else a.shape[0], *a.shape[1:]])
            for name, a in zip(S6_INPUTS[:4], ordered[:4], strict=True)
        ],
        [helper.make_tensor_value_info("y", element, [None] * 3)],
        [
            numpy_helper.from_array(a.numpy().astype(np.float32), name)
            for name, a in zip(S6_INPUTS[4:], ordered[4:], strict=True)
        ],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    functions = [s6_scan_function(with_softplus, OPSET)]
    model = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto, arguments: list[torch.Tensor], dtype: type = np.float32) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ordered = [arguments[i] for i in FROM_TORCH[:4]]
    return session.run(None, {n: a.numpy().astype(dtype) for n, a in zip(S6_INPUTS[:4], ordered, strict=True)})[0]


def relative(value: np.ndarray, expected: torch.Tensor) -> float:
    return float(np.linalg.norm(value - expected.numpy()) / np.linalg.norm(expected.numpy()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["body", "lowered"])
def test_scan_equals_the_sequential_loop(shape: tuple[int, int, int, int, int], form: str) -> None:
    arguments = s6_arguments(shape)
    model = s6_model(arguments, free_batch=True)
    if form == "lowered":
        model = lower_operators(model, others=[LowerS6Scan()])
        assert not model.functions and all(node.domain != DOMAIN for node in model.graph.node)
    # float32: some ulp (6e-8) of rounding a step, forgotten with the decay, as for the fused scan.
    assert relative(run(model, arguments), s6_scan_reference(*arguments, True)) <= 5e-7


@pytest.mark.parametrize("form", ["body", "lowered"])
def test_time_steps_may_come_as_they_are_and_vectors_may_be_zero(form: str) -> None:
    arguments = s6_arguments((2, 2, 8, 4, 50))
    arguments[1] = arguments[1].abs()
    arguments[5:] = [torch.zeros_like(a) for a in arguments[5:]]
    model = s6_model(arguments, with_softplus=False)
    if form == "lowered":
        model = lower_operators(model, others=[LowerS6Scan()])
    expected = s6_scan_reference(*arguments[:5], None, None, False)
    assert relative(run(model, arguments), expected) <= 5e-7


@pytest.mark.parametrize("form", ["body", "lowered"])
def test_half_data_keep_their_state_in_float32(form: str) -> None:
    arguments = [a.half().double() for a in s6_arguments((1, 2, 8, 16, 300))]
    model = s6_model(arguments, TensorProto.FLOAT16)
    if form == "lowered":
        model = lower_operators(model, others=[LowerS6Scan()])
    value = run(model, arguments, np.float16)
    assert value.dtype == np.float16
    # The rounding of the result; that of a half state is ten times as much.
    assert relative(value.astype(np.float64), s6_scan_reference(*arguments, True)) <= 2**-11


def test_a_parameter_that_is_computed_is_not_lowered() -> None:
    model = s6_model(s6_arguments((1, 2, 8, 4, 50)))
    model.graph.initializer[0].name = "other"
    with pytest.raises(UsageError, match="A, a parameter of scan, is no constant"):
        lower_operators(model, others=[LowerS6Scan()])


def test_loops_are_not_unrolled() -> None:
    function = s6_scan_function(True, OPSET)
    assert sum(node.op_type == "Scan" for node in function.node) == 3
    assert len(function.node) < 150


def test_the_body_has_what_old_releases_of_onnx_runtime_ask_for() -> None:
    """Up to 1.21 nodes must have names that differ, and up to 1.24 `value_ints` loses its shape when inlined."""
    function = s6_scan_function(True, OPSET)
    names = [node.name for node in function.node]
    assert all(names) and len(set(names)) == len(names)
    constants = [a for node in function.node if node.op_type == "Constant" for a in node.attribute]
    assert {a.name for a in constants} == {"value"}


def test_what_the_plugin_lacks_becomes_standard_layers_for_tensorrt_too() -> None:
    """A fused scan without a gate; what has a plugin stays a node, and its body goes."""
    model = s6_model(s6_arguments((1, 2, 8, 4, 50)))
    kept = lower_operators(model, others=[LowerS6Scan()], keep=lambda node: True)
    assert [node.op_type for node in kept.graph.node] == ["S6Scan"]
    assert [function.name for function in kept.functions] == ["S6Scan"]
    assert DOMAIN in {entry.domain for entry in kept.opset_import}
    scan = helper.make_node("SelectiveScan", ["xc", "dbc", "xz"], ["y"], domain=DOMAIN)
    conv = helper.make_node("CausalConv1d", ["xz", "w", "b"], ["y"], domain=DOMAIN)
    assert _has_plugin(scan) and _has_plugin(conv)
    scan.input[2] = ""
    assert not _has_plugin(scan) and _has_plugin(model.graph.node[0])


def test_a_file_of_others_is_built_as_it_was_proven(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = s6_model(s6_arguments((1, 2, 8, 4, 50)))
    del model.graph.input[1:]  # one input is what engines have
    model.graph.node[0].input[1] = "u"
    for index, (name, kind) in enumerate((("B", 3), ("C", 4)), 2):
        tensor = s6_arguments((1, 2, 8, 4, 50))[kind].numpy().astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(tensor, name))
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, tensor.shape))
        assert model.graph.node[0].input[index] == name
    helper.set_model_props(model, {"vivim.network": "scan", "vivim.precision": "fp32"})
    onnx.save(model, path)
    assert default_precision(path) == "fp32"
    for_plugin, lowered = (engine_graph(path, "fp32", BACKENDS[name]) for name in ("tensorrt", "rtx"))
    assert for_plugin.operators == {"S6Scan"} and not for_plugin.parsed.functions
    (node,) = [node for node in for_plugin.parsed.graph.node if node.domain == DOMAIN]
    said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert said == {"softplus": 1, "plugin_namespace": b"vivim", "plugin_version": b"1"}
    assert lowered.operators == frozenset()
    with pytest.raises(UsageError, match="is fp32 and --fp16 was asked for; export it so"):
        engine_graph(path, "fp16", BACKENDS["rtx"])
