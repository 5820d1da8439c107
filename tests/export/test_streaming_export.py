"""A streaming network as a file: its states, equality with PyTorch over a film, fp16, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from vivim.checkpoint import load_checkpoint
from vivim.conversion import streaming_from
from vivim.model import Vivim
from vivim.preprocessing import normalised
from vivim_export.engine import EngineOptions, plan_engine
from vivim_export.engine_graph import engine_graph
from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx
from vivim_runtime.errors import ModelError, UsageError
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.sessions.backends import BACKENDS
from vivim_runtime.sessions.base import ModelInfo, Stream
from vivim_runtime.sessions.onnx import OnnxSession
from vivim_runtime.sessions.sidecar import Profile

SIZE = (64, 64)


@pytest.fixture(scope="module")
def network() -> Vivim:
    return streaming_from(load_checkpoint("tiny")).eval()


@pytest.fixture(scope="module")
def model(network: Vivim) -> onnx.ModelProto:
    return onnx_from_model(network, OnnxOptions(size=SIZE))


def opened(model: onnx.ModelProto, folder: Path) -> OnnxSession:
    path = folder / "stream.onnx"
    save_onnx(model, path)
    return OnnxSession(path, "cpu", 1, bodies=True)


def film(frames: int) -> np.ndarray:
    return np.stack([image for image, _ in phantom_frames(PhantomSpec(seed=3, frames=frames, size=SIZE))])[None]


def reference(network: Vivim, pixels: np.ndarray, info: ModelInfo) -> np.ndarray:
    with torch.no_grad():
        return network(normalised(pixels, info.mean, info.std)).logits.numpy()


def relative(value: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def test_steps_in_onnx_runtime_equal_one_clip_in_pytorch(
    network: Vivim, model: onnx.ModelProto, tmp_path: Path
) -> None:
    with opened(model, tmp_path) as session:
        pixels = film(12)
        expected = reference(network, pixels, session.info)
        stream = Stream(session)
        found = np.concatenate([stream(pixels[:, t : t + 1]) for t in range(12)], axis=1)
        assert relative(found, expected) <= 1e-5  # what is promised; measured 1e-7
        assert np.array_equal(session(pixels), found)  # a call begins anew and forgets
        stream.reset()
        assert np.array_equal(stream(pixels[:, :1]), found[:, :1])
        # Several films through one session: each has states of its own.
        others = [Stream(session), Stream(session)]
        for t in range(3):
            for offset, other in enumerate(others):
                part = other(pixels[:, t + 4 * offset : t + 4 * offset + 1])
        assert relative(part, expected[:, 6:7]) > 1e-4  # it began at frame 4, and remembers none before
        assert np.array_equal(others[0](pixels[:, 3:4]), found[:, 3:4])


@pytest.mark.slow
def test_half_precision_has_states_in_float32(network: Vivim, model: onnx.ModelProto, tmp_path: Path) -> None:
    half = onnx_from_model(network, OnnxOptions(size=SIZE, precision="fp16"))
    for values in (half.graph.input, half.graph.output):
        states = [value for value in values if "state" in value.name]
        assert len(states) == 12 and all(v.type.tensor_type.elem_type == TensorProto.FLOAT for v in states)
    with opened(half, tmp_path) as session:
        pixels = film(12)
        # As of clip files in fp16: 2^-11 a rounding, some dozen in a row; measured 1e-4.
        assert relative(session(pixels), reference(network, pixels, session.info)) <= 2e-3


def test_description_says_which_output_feeds_which_input(model: onnx.ModelProto, tmp_path: Path) -> None:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    info = ModelInfo.from_metadata(tmp_path / "m.onnx", metadata)
    assert info.streaming and info.frames == info.hop == 1 and metadata["vivim.format"] == "2"
    assert [s.input for s in info.states[:3]] == ["state_1_1_scan", "state_1_1_tail", "state_1_1_frames"]
    inputs = {value.name: value for value in model.graph.input}
    outputs = {value.name: value for value in model.graph.output}
    for state in info.states:
        for value in (inputs[state.input], outputs[state.output]):
            assert tuple(d.dim_value for d in value.type.tensor_type.shape.dim) == state.shape
    assert {function.name for function in model.functions} == {"StreamingConv1d", "StreamingScan"}


@pytest.mark.slow
def test_network_without_a_carried_scan_has_the_operators_of_clip_networks(tmp_path: Path) -> None:
    network = streaming_from(load_checkpoint("tiny"), ("frame_forward", "frame_backward")).eval()
    model = onnx_from_model(network, OnnxOptions(size=SIZE))
    assert {function.name for function in model.functions} == {"CausalConv1d", "SelectiveScan"}
    with opened(model, tmp_path) as session:
        assert [s.input.rsplit("_")[-1] for s in session.info.states] == ["frames"] * 4
        pixels = film(6)
        assert relative(session(pixels), reference(network, pixels, session.info)) <= 1e-5


def test_file_whose_states_are_not_as_described_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    for entry in (wrong := onnx.ModelProto.FromString(model.SerializeToString())).metadata_props:
        if entry.key == "vivim.states":
            entry.value = entry.value.replace("[1, 16, 32]", "[1, 16, 33]", 1)
    with pytest.raises(ModelError, match=r"state_1_1_scan as tensor\(float\) \[1, 16, 32\], its description says"):
        opened(wrong, tmp_path)
    for text, message in (
        ("[{}]", "'shape' is missing"),
        ('[{"input": "a", "output": "a", "shape": [1]}]', "one name"),
        ('[{"input": "a", "output": "b", "shape": [0]}]', "shape"),
        ("7", "expected a list"),
    ):
        metadata = {e.key: e.value for e in model.metadata_props} | {"vivim.states": text}
        with pytest.raises(ModelError, match=f"describes itself wrongly: .*{message}"):
            ModelInfo.from_metadata(tmp_path / "m.onnx", metadata)


def test_dynamic_batch_is_refused_for_a_streaming_file(network: Vivim) -> None:
    with pytest.raises(UsageError, match="give --batch 1"):
        onnx_from_model(network, OnnxOptions(size=SIZE, batch=None))


def test_clip_file_does_not_step(tmp_path: Path) -> None:
    config = replace(load_checkpoint("tiny").config, frames=2)
    torch.manual_seed(0)
    model = onnx_from_model(Vivim(config).eval(), OnnxOptions(size=(32, 32)))
    with opened(model, tmp_path) as session, pytest.raises(ModelError, match="takes clips of 2 frames"):
        session.step(np.zeros((1, 1, 32, 32, 3), np.uint8), None)


def test_engines_get_our_operators_with_a_state(model: onnx.ModelProto, tmp_path: Path) -> None:
    """Plugins for TensorRT, standard layers for TensorRT for RTX; states float32 in a half-precision graph too."""
    path = tmp_path / "stream.onnx"
    save_onnx(model, path)
    plugins, layers = (engine_graph(path, "fp16", BACKENDS[name]) for name in ("tensorrt", "rtx"))
    assert plugins.input_name == layers.input_name == "frames" and plugins.input_shape == (1, 1, *SIZE, 3)
    ours = Counter(node.op_type for node in plugins.parsed.graph.node if node.domain == "vivim")
    assert ours == {"StreamingConv1d": 4, "StreamingScan": 4} and not plugins.parsed.functions
    assert {node.domain for node in layers.parsed.graph.node} == {""}
    assert not {"Loop", "Scan"} & {node.op_type for node in layers.parsed.graph.node}
    for graph in (plugins, layers):
        for value in (*graph.parsed.graph.input, *graph.parsed.graph.output):
            if "state" in value.name:
                assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    wrong = onnx.ModelProto.FromString(model.SerializeToString())
    for entry in wrong.metadata_props:
        entry.value = entry.value.replace("[1, 16, 32]", "[1, 16, 33]", 1)
    onnx.save(wrong, path)
    with pytest.raises(ModelError, match=r"has no state_1_1_scan of float32 \(1, 16, 33\), as its description says"):
        engine_graph(path, "fp16", BACKENDS["rtx"])


def test_engine_graph_of_tensorrt_for_rtx_is_parsed_in_the_precision_asked(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'vivim-edge[rtx]'")
    path = tmp_path / "stream.onnx"
    save_onnx(model, path)
    plan = plan_engine(path, EngineOptions(backend="rtx", precision="fp16"))
    assert plan.converted and plan.profile == Profile(1, 1, 1) and plan.precision_found["fp16"] > 100
