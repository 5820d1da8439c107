"""libvivim_ort.so with a state: it wins over the bodies, in every data type, and its functions serve PyTorch too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from tests.plugins.native_library import library
from tests.plugins.test_ort_operators import BFLOAT, FLOAT, OPSET, TOLERANCES, TYPES, relative, session
from tests.vivim.scan.test_operators import scan_arguments
from vivim.scan.kernels import CpuLibrary
from vivim.scan.reference import causal_conv1d_reference, streaming_scan_reference
from vivim_export.functions import DOMAIN, causal_conv1d_function, selective_scan_function
from vivim_runtime.sessions.native import NativeLibrary

SCAN = ("xc", "dbc", "xz", "A_log2e", "dt_weight", "dt_bias", "d_skip", "initial")
CONV = ("xz", "tail", "weight", "bias")


def arguments_of(name: str, directions: list[int]) -> dict[str, Tensor]:
    if name == "StreamingScan":
        values = scan_arguments(len(directions), 2, 35, 24)
        values[3] = values[3] / 20  # some of what comes in is still there at the end
        values.append(torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
        return dict(zip(SCAN, values, strict=True))
    g = torch.Generator().manual_seed(3)
    k = len(directions)
    shapes = ((2, 35, 48), (2, 3, 24), (k, 24, 4), (k, 24))
    return dict(zip(CONV, (torch.randn(s, generator=g, dtype=torch.float64) for s in shapes), strict=True))


def model_of(name: str, arguments: dict[str, Tensor], element: int, directions: list[int]) -> bytes:
    """One node with its body, the data cast to `element` in the graph; float32 in and out."""
    scan = name == "StreamingScan"
    function = (
        selective_scan_function(tuple(directions), True, OPSET, streaming=True)
        if scan
        else causal_conv1d_function(tuple(directions), 4, OPSET, streaming=True)
    )
    data = SCAN[:3] if scan else CONV[:2]
    casts = [helper.make_node("Cast", [key], [f"{key}_"], to=element) for key in data]
    inputs = [f"{key}_" if key in data else key for key in arguments]
    outputs = ["y_", "final"] if scan else ["y_"]
    attributes = {"rows": 5, "directions": directions, **({"mean": 1} if scan else {})}
    node = helper.make_node(name, inputs, outputs, domain=DOMAIN, name="node", **attributes)
    graph = helper.make_graph(
        [*casts, node, helper.make_node("Cast", ["y_"], ["y"], to=FLOAT)],
        "one",
        [helper.make_tensor_value_info(key, FLOAT, list(a.shape)) for key, a in arguments.items()],
        [helper.make_tensor_value_info(key, FLOAT, None) for key in ["y", *outputs[1:]]],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("directions", [[0], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize("name", ["StreamingScan", "StreamingConv1d"])
def test_operators_with_a_state_win_over_the_bodies_and_equal_the_reference(
    name: str, directions: list[int], element: int, tmp_path: Path
) -> None:
    arguments = arguments_of(name, directions)
    opened = session(model_of(name, arguments, element, directions), profile=tmp_path / name)
    found = opened.run(None, {key: value.float().numpy() for key, value in arguments.items()})
    assert f'"op_name" : "{name}"' in Path(opened.end_profiling()).read_text()  # a body would be other nodes
    dtype = {TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16, BFLOAT: torch.bfloat16}[element]
    data = SCAN[:3] if name == "StreamingScan" else CONV[:2]
    exact = [(v.to(dtype) if key in data else v.float()).double() for key, v in arguments.items()]
    if name == "StreamingConv1d":
        x, tail, weight, bias = exact
        assert relative(found[0], causal_conv1d_reference(x, weight, bias, 5, directions, tail)) <= TOLERANCES[element]
        return
    y, final = streaming_scan_reference(*exact, 5, directions, True)
    assert relative(found[0], y) <= TOLERANCES[element]
    assert found[1].dtype == np.float32 and relative(found[1], final) <= TOLERANCES[FLOAT]  # whatever the data are


def test_functions_for_pytorch_equal_the_reference_and_may_write_the_state_in_place() -> None:
    kernels = CpuLibrary(NativeLibrary(library(), "", "", ""))
    assert kernels.streams
    arguments = [a.float() for a in arguments_of("StreamingScan", [0, 1]).values()]
    y, final = kernels.streaming_scan(*arguments, 5, [0, 1], True)
    expected = streaming_scan_reference(*arguments, 5, [0, 1], True)
    assert relative(y.numpy(), expected[0]) <= TOLERANCES[FLOAT]
    assert relative(final.numpy(), expected[1]) <= TOLERANCES[FLOAT]
    x, tail, weight, bias = (a.float() for a in arguments_of("StreamingConv1d", [0, 1]).values())
    value = kernels.streaming_conv1d(x, tail, weight, bias, 5, [0, 1])
    assert relative(value.numpy(), causal_conv1d_reference(x, weight, bias, 5, [0, 1], tail)) <= TOLERANCES[FLOAT]


def test_wrong_state_is_refused_by_name() -> None:
    arguments = arguments_of("StreamingScan", [0])
    model = onnx.load_from_string(model_of("StreamingScan", arguments, FLOAT, [0]))
    initial = next(value for value in model.graph.input if value.name == "initial")
    initial.type.tensor_type.shape.dim[1].dim_param = "states"
    opened = session(model.SerializeToString())
    arguments["initial"] = arguments["initial"][:, :-1]
    with pytest.raises(Exception, match=r"input initial has shape \(2, 15, 24\); expected \(2, 16, 24\)"):
        opened.run(None, {key: value.float().numpy() for key, value in arguments.items()})
    assert isinstance(opened, onnxruntime.InferenceSession)
