"""libvivim_ort.so in ONNX Runtime: it wins over the bodies, for every data type, and says what it cannot take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from tests.plugins.native_library import library
from tests.vivim.scan.test_operators import scan_arguments
from vivim.scan.reference import causal_conv1d_reference, selective_scan_reference
from vivim_export.functions import DOMAIN, causal_conv1d_function, selective_scan_function

OPSET = 20
FLOAT, HALF, BFLOAT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
SCAN = ("xc", "dbc", "xz", "A_log2e", "dt_weight", "dt_bias", "d_skip")
CONV = ("xz", "weight", "bias")
DATA = {"SelectiveScan": SCAN[:3], "CausalConv1d": CONV[:1]}


def node_model(
    name: str, arguments: dict[str, Tensor], element: int, shapes: dict[str, Sequence[object]], **attributes: object
) -> bytes:
    """One node with its body, data in type `element` and parameters in float32; float32 in and out.

    The graph casts itself, since NumPy has no bfloat16.
    """
    directions = tuple(attributes["directions"])  # type: ignore[arg-type]
    if name == "CausalConv1d":
        function = causal_conv1d_function(directions, arguments["weight"].shape[2], OPSET)
    else:
        function = selective_scan_function(directions, bool(attributes["mean"]), OPSET)
    nodes, inputs = [], []
    for key in arguments:
        if key in DATA[name]:
            nodes.append(helper.make_node("Cast", [key], [f"{key}_"], to=element))
        inputs.append(f"{key}_" if key in DATA[name] else key)
    nodes.append(helper.make_node(name, inputs, ["y_"], domain=DOMAIN, name="node", **attributes))
    nodes.append(helper.make_node("Cast", ["y_"], ["y"], to=FLOAT))
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info(k, FLOAT, shapes.get(k, list(a.shape))) for k, a in arguments.items()],
        [helper.make_tensor_value_info("y", FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10).SerializeToString()


def session(model: bytes, threads: int = 2, profile: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a node that refuses its shapes also says so on stderr
    options.intra_op_num_threads = threads
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    options.register_custom_ops_library(str(library()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feed(arguments: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {key: value.float().numpy() for key, value in arguments.items()}


def scan_of(directions: Sequence[int], batch: int, length: int, width: int) -> dict[str, Tensor]:
    return dict(zip(SCAN, scan_arguments(len(directions), batch, length, width), strict=True))


def conv_of(directions: Sequence[int], batch: int, length: int, width: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    shapes = ((batch, length, 2 * width), (len(directions), width, 4), (len(directions), width))
    return dict(zip(CONV, (torch.randn(s, generator=g, dtype=torch.float64) for s in shapes), strict=True))


def relative(value: np.ndarray, expected: Tensor) -> float:
    return float(np.linalg.norm(value - expected.numpy()) / np.linalg.norm(expected.numpy()))


# float32: roundings of 2^x and of sums, some ulp (6e-8). Others: of data read and written, half an ulp each at most.
TOLERANCES = {FLOAT: 5e-7, HALF: 2**-10, BFLOAT: 2**-7}
TYPES = [pytest.param(FLOAT, id="fp32"), pytest.param(HALF, id="fp16"), pytest.param(BFLOAT, id="bf16")]


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("directions", [[0, 1, 2], [3, 2, 1, 0], [2]])
def test_operators_win_over_the_bodies_and_equal_the_reference(
    directions: list[int], element: int, tmp_path: Path
) -> None:
    for name, arguments in (
        ("SelectiveScan", scan_of(directions, 2, 35, 24)),
        ("CausalConv1d", conv_of(directions, 2, 35, 24)),
    ):
        mean = {"mean": 1} if name == "SelectiveScan" else {}
        model = node_model(name, arguments, element, {}, rows=5, directions=directions, **mean)
        opened = session(model, profile=tmp_path / name)
        value = opened.run(None, feed(arguments))[0]
        exact = [tensor.float().double() for tensor in arguments.values()]
        if name == "SelectiveScan":
            expected = selective_scan_reference(*exact, 5, directions, True)
        else:
            expected = causal_conv1d_reference(*exact, 5, directions)
        assert relative(value, expected) <= TOLERANCES[element]
        assert f'"op_name" : "{name}"' in Path(opened.end_profiling()).read_text()  # a body would be other nodes


def test_results_are_the_same_bits_for_any_number_of_threads() -> None:
    arguments = scan_of([0, 1, 2], 1, 1030, 40)
    model = node_model("SelectiveScan", arguments, FLOAT, {}, rows=5, directions=[0, 1, 2], mean=1)
    values = [session(model, threads).run(None, feed(arguments))[0] for threads in (1, 2, 5)]
    assert all(np.array_equal(values[0], value) for value in values[1:])


def test_batch_and_length_may_be_open() -> None:
    directions = [0, 1, 2]
    shapes = {"xc": [3, "b", "l", 24], "dbc": [3, "b", "l", None], "xz": ["b", "l", 48]}
    some = scan_of(directions, 1, 10, 24)
    opened = session(node_model("SelectiveScan", some, FLOAT, shapes, rows=5, directions=directions, mean=1))
    for batch, length in ((1, 10), (3, 35)):
        arguments = scan_of(directions, batch, length, 24)
        expected = selective_scan_reference(*arguments.values(), 5, directions, True)
        assert relative(opened.run(None, feed(arguments))[0], expected) <= TOLERANCES[FLOAT]


def test_shapes_that_do_not_fit_are_refused_by_name() -> None:
    directions = [0, 1, 2]
    shapes = {"dbc": [3, "b", "l", "columns"]}
    arguments = scan_of(directions, 1, 10, 24)
    opened = session(node_model("SelectiveScan", arguments, FLOAT, shapes, rows=5, directions=directions, mean=1))
    arguments["dbc"] = arguments["dbc"][..., :-1]
    with pytest.raises(Exception, match=r"input dbc has shape \(3, 1, 10, \d+\); expected \(3, 1, 10, \d+\)"):
        opened.run(None, feed(arguments))
    model = node_model("SelectiveScan", scan_of(directions, 1, 10, 24), FLOAT, {}, rows=4, directions=[0, 1, 2], mean=1)
    with pytest.raises(Exception, match="the number of tokens is 10; expected a multiple of rows, 4"):
        session(model).run(None, feed(scan_of(directions, 1, 10, 24)))


def test_a_direction_that_does_not_exist_is_refused_when_the_file_is_opened() -> None:
    model = onnx.load_from_string(node_model("CausalConv1d", conv_of([0], 1, 10, 8), FLOAT, {}, rows=5, directions=[0]))
    del model.functions[:]
    attribute = next(a for n in model.graph.node for a in n.attribute if a.name == "directions")
    attribute.ints[0] = 4
    with pytest.raises(Exception, match="directions holds 4; expected codes of 0 to 3"):
        session(model.SerializeToString())


def test_parameters_may_be_initializers() -> None:
    """As in every exported file."""
    directions = [0, 1, 2]
    arguments = scan_of(directions, 1, 35, 24)
    model = onnx.load_from_string(
        node_model("SelectiveScan", arguments, FLOAT, {}, rows=5, directions=directions, mean=1)
    )
    values = feed(arguments)
    for key in SCAN[3:]:
        model.graph.initializer.append(numpy_helper.from_array(values.pop(key), key))
    kept = [value for value in model.graph.input if value.name in values]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    value = session(model.SerializeToString()).run(None, values)[0]
    assert relative(value, selective_scan_reference(*arguments.values(), 5, directions, True)) <= TOLERANCES[FLOAT]
