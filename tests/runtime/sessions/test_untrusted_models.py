"""ONNX files of unknown origin: whatever they hold, each command that loads them ends in one line and exit code 2."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.runtime.models import brightness_model
from vivim_runtime.commands.entry import main
from vivim_runtime.errors import ModelError
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.onnx_file import check_onnx_file

CONTROL = "a\x1b[2J\nb"
COMMANDS = {
    "vivim-run": ("vivim_runtime.commands.run", ["phantom:frames=5", "o.jsonl", "--device", "cpu", "--model"]),
    "vivim-export": ("vivim_export.commands", ["trt", "--backend", "rtx", "--fp32", "--emit-onnx", "o.onnx"]),
    "vivim-calibrate": ("vivim_calibration.commands", ["-o", "o.onnx", "--calib-data", "phantom:frames=10"]),
}


def ended(folder: Path, command: str) -> tuple[int, str]:
    """Exit code and standard error of a command on `m.onnx`."""
    module, arguments = COMMANDS[command]
    here, argv, handler, error = Path.cwd(), sys.argv, signal.getsignal(signal.SIGTERM), StringIO()
    os.chdir(folder)
    sys.argv = [command, *arguments, "m.onnx"]
    try:
        with redirect_stderr(error), pytest.raises(SystemExit) as found:
            main(command, module)
    finally:
        os.chdir(here)
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    return int(found.value.code or 0), error.getvalue()


def elsewhere(location: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def call(model: Any, bodies: dict[str, list[str]], first: str) -> None:
    """Functions that call each of some others in turn, "" being an operator; the graph calls the first."""
    opset = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    for name, called in bodies.items():
        values = ["x", *(f"v{index}" for index in range(len(called) - 1)), "z"]
        nodes = [
            helper.make_node(other or "Identity", [values[i]], [values[i + 1]], domain="local" if other else "")
            for i, other in enumerate(called)
        ]
        model.functions.append(helper.make_function("local", name, ["x"], ["z"], nodes, opset))
    model.graph.node[-1].output[0] = "right"
    model.graph.node.append(helper.make_node(first, ["right"], ["logits"], domain="local"))
    model.opset_import.append(opset[1])


def circle(model: Any) -> None:
    call(model, {"F": ["G"], "G": ["F"]}, "F")


def tower(model: Any) -> None:
    """2^40 nodes."""
    call(model, {f"F{level}": [f"F{level - 1}" if level else ""] * 2 for level in range(40)}, "F39")


def declare(dims: list[int]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor = model.graph.initializer.add(name="huge", data_type=TensorProto.FLOAT, raw_data=bytes(8))
        tensor.dims.extend(dims)
        model.graph.node.insert(0, helper.make_node("Size", ["huge"], ["unused"]))

    return change


def constant(model: Any) -> None:
    """The same in an attribute."""
    value = TensorProto(name="huge", data_type=TensorProto.FLOAT, raw_data=bytes(8), dims=[10 << 28])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], value=value))


def sparse(model: Any) -> None:
    """One value that becomes 10 GB when the rest is filled with zeros."""
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10 << 28]))


def rename(what: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        graph = model.graph
        if what == "node":
            graph.node[0].name = CONTROL
        elif what == "tensor":
            graph.node[0].output[0] = graph.node[1].input[0] = CONTROL
        elif what == "input":
            graph.input[0].name = graph.node[0].input[0] = CONTROL
        elif what == "weight":
            graph.initializer[0].name = CONTROL
            graph.node[2].input[1] = CONTROL
        elif what == "operator":
            graph.node[0].op_type = CONTROL
        elif what == "attribute":
            graph.node[1].attribute.append(helper.make_attribute(CONTROL, 1))
        elif what == "function":
            call(model, {CONTROL: [""]}, CONTROL)
        else:
            graph.name = CONTROL

    return change


NAMED = ("node", "tensor", "input", "weight", "operator", "attribute", "function", "graph")
HOSTILE = [
    pytest.param(elsewhere("../secret"), "keeps the tensor offset in another file", id="weights outside the folder"),
    pytest.param(elsewhere("/etc/hostname"), "in another file", id="weights at an absolute path"),
    pytest.param(elsewhere("link"), "in another file", id="weights behind a link"),
    pytest.param(elsewhere("beside"), "in another file", id="weights beside it, which no SHA-256 of it covers"),
    pytest.param(circle, "functions that become more than 1000000 nodes, or never end", id="functions that recurse"),
    pytest.param(tower, "functions that become more than 1000000 nodes", id="functions that grow"),
    pytest.param(declare([10 << 28]), "says that the tensor huge is 2684354560 values", id="10 GB that are not there"),
    pytest.param(declare([1 << 62, 1 << 62, 4]), "says that the tensor huge is", id="more than any number of 64 bits"),
    pytest.param(declare([1] * 65), "the tensor huge has 65 axes", id="many axes"),
    pytest.param(constant, "says that the tensor huge is", id="10 GB in a constant"),
    pytest.param(sparse, "says that a tensor is 2684354560 values", id="10 GB of a sparse tensor"),
    *(pytest.param(rename(what), "has names with control characters", id=f"name: {what}") for what in NAMED),
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_a_hostile_model_is_one_line_and_exit_code_2(
    tmp_path: Path, command: str, change: Callable[[Any], None], message: str
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4))
    (folder / "beside").write_bytes(bytes(4))
    (folder / "link").symlink_to(tmp_path / "secret")
    model = onnx.load(brightness_model(folder / "m.onnx"))
    change(model)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    before, began = sorted(folder.iterdir()), time.monotonic()
    code, said = ended(folder, command)
    assert code == 2 and message in said
    assert said.endswith("\n") and said[:-1].isprintable()
    assert sorted(folder.iterdir()) == before
    assert time.monotonic() - began < 20.0  # the tower would take years


def test_emulation_looks_at_a_file_before_it_loads_it(tmp_path: Path) -> None:
    """vivim-check asks whether a file is bf16 before it opens it."""
    from vivim_export.emulation import open_artefact

    model = onnx.load(brightness_model(tmp_path / "m.onnx"))
    elsewhere("../secret")(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="in another file"):
        open_artefact(tmp_path / "m.onnx")


def test_a_graph_for_trtexec_is_that_of_the_description(tmp_path: Path) -> None:
    model = onnx.load(brightness_model(tmp_path / "m.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 20
    onnx.save(model, tmp_path / "m.onnx")
    code, said = ended(tmp_path, "vivim-export")
    assert code == 2 and "has its input as (1, 5, 1048576, 48, 3)" in said


@pytest.mark.parametrize("kind", ["float", "int4", "string", "empty", "letters"])
def test_what_is_unusual_and_harmless_is_loaded(tmp_path: Path, kind: str) -> None:
    model = onnx.load(brightness_model(tmp_path / "m.onnx"))
    if kind == "letters":
        model.graph.node[0].name = "Schicht 1 層"
    else:
        made = {
            "float": lambda: helper.make_tensor("more", TensorProto.FLOAT, [4096], [0.0] * 4096),
            "int4": lambda: helper.make_tensor("more", TensorProto.INT4, [4096], [1] * 4096),
            "string": lambda: helper.make_tensor("more", TensorProto.STRING, [4096], [b""] * 4096),
            "empty": lambda: helper.make_tensor("more", TensorProto.FLOAT, [0], []),
        }[kind]()
        model.graph.initializer.append(made)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    check_onnx_file(tmp_path / "m.onnx")
    with open_session(tmp_path / "m.onnx", "cpu") as session:
        session.warm_up()
