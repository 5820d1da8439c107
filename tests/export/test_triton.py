"""Triton repositories: read by Triton's own protobuf, and run in ONNX Runtime with exactly what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format

from tests.wheels import wheel
from vivim.checkpoint import load_checkpoint
from vivim.conversion import streaming_from
from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx
from vivim_export.triton import TritonOptions, write_repository
from vivim_runtime.errors import ModelError, SinkError, UsageError
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.onnx import OnnxSession

pytestmark = pytest.mark.slow  # three exports

TRITON_CLIENT = "2.73.0"
NUMPY = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32}


@pytest.fixture(scope="module")
def proto() -> Any:
    """Triton's messages, of the client's wheel; its package would ask for grpc."""
    file = wheel("tritonclient", TRITON_CLIENT) / "tritonclient" / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def parsed(proto: Any, config: Path) -> Any:
    return text_format.Parse(config.read_text(), proto.ModelConfig())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    network = load_checkpoint("tiny")
    made = {
        "fixed": (network, OnnxOptions(size=(64, 64))),
        "open": (network, OnnxOptions(size=(64, 64), batch=None)),
        "streams": (streaming_from(network).eval(), OnnxOptions(size=(64, 64))),
    }
    for name, (model, options) in made.items():
        save_onnx(onnx_from_model(model, options), folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in made}


def data_type(proto: Any, number: int) -> str:
    return str(proto.DataType.Name(number))


def fed(proto: Any, config: Any, tensor: Any, batch: int, seed: int = 0) -> np.ndarray:
    """Random values of just the shape and type that a configuration asks for."""
    shape = [batch, *tensor.dims] if config.max_batch_size else [*tensor.dims]
    values = np.random.default_rng(seed).integers(0, 256, shape)
    return values.astype(NUMPY[data_type(proto, tensor.data_type)])


@pytest.mark.parametrize(("name", "clips"), [("fixed", 1), ("open", 3)])
def test_the_model_runs_as_its_configuration_says(
    name: str, clips: int, files: dict[str, Path], proto: Any, tmp_path: Path
) -> None:
    config = parsed(proto, write_repository(files[name], tmp_path))
    assert config.name == name and config.backend == "onnxruntime"
    assert config.max_batch_size == (8 if name == "open" else 0)
    assert config.HasField("dynamic_batching") is (name == "open")
    session = onnxruntime.InferenceSession(tmp_path / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    (taken,), (given,) = config.input, config.output
    pixels = fed(proto, config, taken, clips)
    (logits,) = session.run([given.name], {taken.name: pixels})
    assert [*logits.shape] == ([clips, *given.dims] if config.max_batch_size else [*given.dims])
    assert logits.dtype == NUMPY[data_type(proto, given.data_type)]
    with OnnxSession(files[name], "cpu", 1, bodies=True) as ours:
        assert np.array_equal(logits, ours(pixels))


def test_a_streaming_model_keeps_its_states_as_the_configuration_says(
    files: dict[str, Path], proto: Any, tmp_path: Path
) -> None:
    config = parsed(proto, write_repository(files["streams"], tmp_path))
    batching = config.sequence_batching
    assert batching.max_sequence_idle_microseconds > 1_000_000 and len(batching.state) > 0
    assert {tensor.name for tensor in config.input}.isdisjoint(state.input_name for state in batching.state)
    session = onnxruntime.InferenceSession(
        tmp_path / "streams" / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    assert {value.name for value in session.get_inputs()} == {t.name for t in config.input} | {
        s.input_name for s in batching.state
    }
    states = {}
    for state in batching.state:
        (first,) = state.initial_state
        assert first.zero_data and [*first.dims] == [*state.dims]
        states[state.input_name] = np.zeros([*state.dims], NUMPY[data_type(proto, state.data_type)])
    after = [state.output_name for state in batching.state]
    film = [fed(proto, config, config.input[0], 1, seed) for seed in range(3)]
    served = []
    for frame in film:
        logits, *found = session.run(["logits", *after], {config.input[0].name: frame, **states})
        states = {state.input_name: value for state, value in zip(batching.state, found, strict=True)}
        served.append(logits)
    with OnnxSession(files["streams"], "cpu", 1, bodies=True) as ours:
        remembered = None
        for frame, logits in zip(film, served, strict=True):
            expected, remembered = ours.step(frame, remembered)
            assert np.array_equal(logits, expected)


def test_names_parameters_and_places_are_what_was_asked_for(files: dict[str, Path], proto: Any, tmp_path: Path) -> None:
    options = TritonOptions(name='wärd "1"', device="gpu", instances=2, mount="/srv/models")
    config = parsed(proto, write_repository(files["fixed"], tmp_path, options))
    assert config.name == 'wärd "1"'
    (group,) = config.instance_group
    assert group.count == 2 and proto.ModelInstanceGroup.Kind.Name(group.kind) == "KIND_GPU"
    with open_session(files["fixed"], "cpu") as session:
        info = session.info
    assert config.parameters["vivim_hop"].string_value == str(info.hop)
    assert config.parameters["vivim_weights_sha256"].string_value == info.weights_sha256


def test_compiled_operators_are_placed_beside_the_model(
    files: dict[str, Path], proto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "libvivim_ort.so"
    library.write_bytes(b"library")
    monkeypatch.setattr("vivim_export.triton.native_library", lambda: type("Found", (), {"path": library})())
    config = parsed(proto, write_repository(files["fixed"], tmp_path / "r", TritonOptions(operators=True)))
    assert [*config.model_operations.op_library_filename] == ["/models/fixed/libvivim_ort.so"]
    assert (tmp_path / "r" / "fixed" / "libvivim_ort.so").read_bytes() == b"library"


def test_what_cannot_be_served_is_refused_and_leaves_nothing(files: dict[str, Path], tmp_path: Path) -> None:
    foreign = tmp_path / "other.onnx"
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), foreign)
    with pytest.raises(ModelError):
        write_repository(foreign, tmp_path / "r")
    with pytest.raises(UsageError, match="--max-batch wants --dynamic-batch"):
        write_repository(files["fixed"], tmp_path / "r", TritonOptions(max_batch=4))
    assert not (tmp_path / "r").exists()
    write_repository(files["fixed"], tmp_path / "r")
    with pytest.raises(SinkError, match="is there already"):
        write_repository(files["fixed"], tmp_path / "r")
