"""int8 of streaming files: ranges of what comes after many frames, states in float32, judged as films."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.runtime.models import remembering_model
from vivim.checkpoint import load_checkpoint
from vivim.conversion import streaming_from
from vivim_calibration.calibration import learn_ranges
from vivim_calibration.clips import whole_clips
from vivim_calibration.float_model import FILM, load_float_model
from vivim_calibration.procedure import Options, calibrate
from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx
from vivim_runtime.sessions import open_session

SIZE = (256, 256)  # at which the weights learnt


def adding_model(path: Path) -> Path:
    """A streaming file whose state grows by one a frame, and is what a linear layer reads."""
    model = onnx.load(remembering_model(path))
    for node in model.graph.node:
        if node.name == "" and "next_state_h" in node.output:
            node.input[:] = ["state_h", "ones"]
    model.graph.node.append(helper.make_node("MatMul", ["state_h", "weight"], ["layer"], name="layer"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 2), np.float32), "ones"))
    model.graph.initializer.append(numpy_helper.from_array(np.eye(2, dtype=np.float32), "weight"))
    model.graph.output.append(helper.make_tensor_value_info("layer", TensorProto.FLOAT, [1, 2]))
    onnx.save(model, path)
    return path


def test_ranges_are_those_of_films_and_not_of_first_frames(tmp_path: Path) -> None:
    model = load_float_model(adding_model(tmp_path / "m.onnx"))
    assert model.frames == FILM == 8
    clips = whole_clips(["phantom:frames=16,size=32x48"], model.frames, model.info.framing())
    ranges = learn_ranges(model.proto, model.info, model.sha256, clips, "minmax", 1).ranges
    # Frames 1 to 8 read 0 to 7, and the second film begins at 0 again. Of first frames alone it would be 0.
    assert ranges["state_h"] == 7.0


@pytest.mark.slow
def test_streaming_file_becomes_int8_with_states_in_float32(tmp_path: Path) -> None:
    source, output = tmp_path / "s.onnx", tmp_path / "s.int8.onnx"
    save_onnx(onnx_from_model(streaming_from(load_checkpoint("tiny")).eval(), OnnxOptions(size=SIZE)), source)
    learnt, judged = ["phantom:seed=21,frames=16,size=256x256"], ["phantom:seed=25,frames=24,size=256x256"]
    outcome = calibrate(source, output, learnt, judged, Options(target="a test", runs=1, threads=1, device="cpu"))
    assert outcome.passed and outcome.calibration_clips == 2 and outcome.evaluation_clips == 3
    for value in (*(model := onnx.load(output)).graph.input[1:], *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "StreamingScan"} <= kinds
    with open_session(source, "cpu", 1) as a, open_session(output, "cpu", 1) as b:
        assert b.info.streaming and b.info.states == a.info.states and b.info.precision == "int8"
        film = np.stack([clip.pixels for clip in whole_clips(judged, 24, SIZE)])
        expected, found = (session(film).reshape(24, -1) for session in (a, b))
        error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert 1e-4 < error.max() < 0.3 and error[-4:].mean() < 2 * error[4:8].mean()  # it does not build up
