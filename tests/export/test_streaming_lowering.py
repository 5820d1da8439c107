"""The operators with a state in standard layers: the numbers of the float64 loop, for one frame and a whole file."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from tests.vivim.scan.test_operators import GRIDS, scan_arguments
from vivim.checkpoint import load_checkpoint
from vivim.conversion import streaming_from
from vivim.scan.reference import causal_conv1d_reference, streaming_scan_reference
from vivim_export.functions import DOMAIN
from vivim_export.lowering import lower_operators
from vivim_export.onnx_export import OnnxOptions, onnx_from_model
from vivim_runtime.errors import UsageError

OPSET = 20
SCAN = ["xc", "dbc", "xz", "A_log2e", "dt_weight", "dt_bias", "d_skip", "initial"]
CONV = ["xz", "tail", "weight", "bias"]
PARAMETERS = {"A_log2e", "dt_weight", "dt_bias", "d_skip", "weight", "bias"}


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    assert {entry.domain for entry in model.opset_import} == {""}
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(op_type: str, arguments: list[Tensor], steps: int = 16, **attributes: object) -> list[np.ndarray]:
    """One lowered node in ONNX Runtime."""
    names, outputs = (SCAN, ["y", "final"]) if op_type == "StreamingScan" else (CONV, ["y"])
    given = dict(zip(names, (a.numpy().astype(np.float32) for a in arguments), strict=True))
    rank = 4 if op_type == "StreamingConv1d" else 3
    graph = helper.make_graph(
        [helper.make_node(op_type, names, outputs, name="site", domain=DOMAIN, **attributes)],
        "one",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
            for name, value in given.items()
            if name not in PARAMETERS
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in given.items() if name in PARAMETERS],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    feed = {name: value for name, value in given.items() if name not in PARAMETERS}
    return session(lower_operators(model, steps)).run(None, feed)


def relative(value: np.ndarray, expected: Tensor) -> float:
    return float(np.linalg.norm(value - expected.numpy()) / np.linalg.norm(expected.numpy()))


@pytest.mark.parametrize("steps", [2, 16, pytest.param(2000, id="one chunk")])
@pytest.mark.parametrize("directions", [[0], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize(("length", "rows"), GRIDS)
def test_lowered_scan_goes_on_from_a_state(directions: list[int], length: int, rows: int, steps: int) -> None:
    if length > 100 and steps != 16:
        length, rows = 100, 5  # a graph of a thousand steps takes seconds to load
    arguments = scan_arguments(len(directions), 2, length, 8)
    arguments.append(torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    arguments[3] = arguments[3] / 20  # some of what comes in is still there at the end
    y, final = run("StreamingScan", arguments, steps, rows=rows, directions=directions, mean=1)
    expected = streaming_scan_reference(*arguments, rows, directions, True)
    assert relative(y, expected[0]) <= 2e-6  # as of the body (test_streaming_functions.py)
    assert relative(final, expected[1]) <= 2e-6


@pytest.mark.parametrize(("length", "rows"), [(1, 1), (2, 1), (35, 5)])
def test_lowered_convolution_goes_on_from_its_tail(length: int, rows: int) -> None:
    g = torch.Generator().manual_seed(3)
    x, tail, weight, bias = (
        torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, length, 16), (2, 3, 8), (3, 8, 4), (3, 8))
    )
    value = run("StreamingConv1d", [x, tail, weight, bias], rows=rows, directions=[0, 1, 2])[0]
    assert relative(value, causal_conv1d_reference(x, weight, bias, rows, [0, 1, 2], tail)) <= 3e-7


def test_another_direction_that_carries_is_declined() -> None:
    arguments = [*scan_arguments(1, 1, 6, 8), torch.zeros(1, 16, 8)]
    with pytest.raises(UsageError, match="direction 1 of site goes on from a state; only 0 is known to"):
        run("StreamingScan", arguments, rows=2, directions=[1], mean=1)


@pytest.mark.slow
def test_lowered_file_equals_the_file_with_bodies_frame_after_frame() -> None:
    model = onnx_from_model(streaming_from(load_checkpoint("tiny")).eval(), OnnxOptions(size=(32, 32)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    bodies = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    lowered = session(lower_operators(model))
    names = [value.name for value in bodies.get_inputs()][1:]
    rng = np.random.default_rng(0)
    states = [{v.name: np.zeros(v.shape, np.float32) for v in bodies.get_inputs()[1:]} for _ in range(2)]
    for _ in range(8):
        frame = rng.integers(0, 256, (1, 1, 32, 32, 3), np.uint8)
        found = []
        for which, runner in enumerate((bodies, lowered)):
            logits, *after = runner.run(None, {"frames": frame, **states[which]})
            states[which] = dict(zip(names, after, strict=True))
            found.append(logits)
        assert relative(found[1], torch.from_numpy(found[0])) <= 1e-5
