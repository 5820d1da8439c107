"""The library in NVIDIA's own plugin registry and ONNX parser, those of TensorRT for RTX, which need no GPU.

Its networks take no plugin layers: the process ends, often by abort, when the parser adds the first one. So each file
is parsed in a process of its own, and what the parser had logged by then is looked at.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.plugins.trt_library import build

if importlib.util.find_spec("tensorrt_rtx") is None:
    pytest.skip(
        "tensorrt_rtx is not installed: pip install tensorrt-rtx-cu13 to test NVIDIA's registry and parser",
        allow_module_level=True,
    )

PARSE = """
import sys
import tensorrt_rtx as trt

class Logger(trt.ILogger):
    def __init__(self):
        super().__init__()
    def log(self, severity, message):
        print(message, flush=True)

logger = Logger()
registry = trt.get_plugin_registry()
print("loaded", registry.load_library(sys.argv[1]) is not None, flush=True)
for name in ("CausalConv1d", "SelectiveScan", "S6Scan"):
    creator = registry.get_creator(name, "1", "vivim")
    print("creator", creator.name, [field.name for field in creator.field_names], flush=True)
network = trt.Builder(logger).create_network()
parser = trt.OnnxParser(network, logger)
print("parsed", parser.parse_from_file(sys.argv[2]), flush=True)
"""

B, L, D, K, R, N, G = 1, 20, 16, 3, 8, 16, 2
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "CausalConv1d": {"rows": 5, "directions": [0, 1, 2]},
    "SelectiveScan": {"rows": 5, "directions": [0, 1, 2], "mean": 1},
    "S6Scan": {"softplus": 1},
}
# inputs; those with a shape are constants of the file
INPUTS: dict[str, dict[str, tuple[int, ...] | None]] = {
    "CausalConv1d": {"xz": None, "weight": (K, D, 4), "bias": (K, D)},
    "SelectiveScan": {
        "xc": None,
        "dbc": None,
        "xz": None,
        "A_log2e": (K, D, N),
        "dt_weight": (K, D, R),
        "dt_bias": (K, D),
        "d_skip": (K, D),
    },
    "S6Scan": {"u": None, "delta": None, "B": None, "C": None, "A": (D, N), "s6_skip": (D,), "s6_bias": (D,)},
}
GRAPH_INPUTS = {
    "xz": (B, L, 2 * D),
    "xc": (K, B, L, D),
    "dbc": (K, B, L, R + 2 * N),
    **dict.fromkeys(("u", "delta"), (B, D, L)),
    **dict.fromkeys(("B", "C"), (B, G, N, L)),
}


def all_nodes(path: Path, first: str, **changed: Any) -> Path:
    """A file of the operators side by side, `first` parsed first, with some of its attributes changed."""
    order = [first, *(name for name in ATTRIBUTES if name != first)]
    nodes, constants = [], {}
    for name in order:
        attributes = {**ATTRIBUTES[name], **(changed if name == first else {})}
        given = {key: value for key, value in attributes.items() if value is not None}
        nodes.append(
            helper.make_node(
                name,
                list(INPUTS[name]),
                [f"{name}_out"],
                name=f"the_{name}",
                domain="vivim",
                plugin_namespace="vivim",
                plugin_version="1",
                **given,
            )
        )
        constants.update({key: shape for key, shape in INPUTS[name].items() if shape})
    graph = helper.make_graph(
        nodes,
        "all_nodes",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in GRAPH_INPUTS.items()],
        [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None) for name in order],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("vivim", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def parse(model: Path) -> str:
    library = build("emulated") / "libvivim_trt.so"
    command = [sys.executable, "-c", PARSE, str(library), str(model)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.parametrize("first", ATTRIBUTES)
def test_parser_finds_the_creator_and_makes_the_plugin(tmp_path: Path, first: str) -> None:
    log = parse(all_nodes(tmp_path / "model.onnx", first))
    assert "loaded True" in log
    assert "creator CausalConv1d ['rows', 'directions']" in log
    assert "creator SelectiveScan ['rows', 'directions', 'mean']" in log
    assert "creator S6Scan ['softplus']" in log
    assert f"Found registered plugin: {first}" in log
    # All attributes are required, so they have come through.
    assert f"Successfully created plugin: {first}" in log


@pytest.mark.parametrize(
    ("first", "changed", "message"),
    [
        ("CausalConv1d", {"rows": 0}, "attribute rows holds 0"),
        ("CausalConv1d", {"directions": [1, 7]}, "attribute directions holds 7"),
        ("CausalConv1d", {"directions": None}, "attribute directions is missing"),
        ("SelectiveScan", {"mean": 2}, "attribute mean holds 2"),
        ("SelectiveScan", {"directions": [0, 1, 2, 3, 0]}, "attribute directions has 5 values"),
        ("S6Scan", {"softplus": 2}, "attribute softplus holds 2"),
    ],
)
def test_attributes_arrive_as_the_file_has_them(
    tmp_path: Path, first: str, changed: dict[str, Any], message: str
) -> None:
    log = parse(all_nodes(tmp_path / "model.onnx", first, **changed))
    assert f"vivim::{first}: {message}" in log
    assert f"Successfully created plugin: {first}" not in log


OPEN = """
import ctypes, sys
if sys.argv[2] == "with TensorRT":
    import tensorrt_rtx as trt
for _ in range(2):
    ctypes.CDLL(sys.argv[1])
if sys.argv[2] == "with TensorRT":
    registry = trt.get_plugin_registry()
    print([registry.get_creator(name, "1", "vivim") is not None for name in ("CausalConv1d", "SelectiveScan")])
"""


@pytest.mark.parametrize(
    ("process", "said", "warned"),
    [
        pytest.param("with TensorRT", "[True, True]\n", "", id="as polygraphy --plugins opens it"),
        pytest.param("without", "", "no TensorRT is loaded in this process; nothing was registered", id="too early"),
    ],
)
def test_opening_the_registering_library_is_enough(process: str, said: str, warned: str) -> None:
    library = build("emulated") / "libvivim_trt_register.so"
    done = subprocess.run([sys.executable, "-c", OPEN, str(library), process], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == said
    assert (warned in done.stderr) if warned else not done.stderr
