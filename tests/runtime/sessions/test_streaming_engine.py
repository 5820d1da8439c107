"""A streaming engine on a GPU of host memory: its states stay there, and are those of the film that is asked for."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.engines import RECORD, RTX, description, engine_file
from tests.runtime.fake_gpu import FakeCuda, FakeTensorRT
from tests.runtime.sessions.test_tensorrt import OnDevice
from vivim_runtime.errors import CudaError, ModelError
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.base import StateInfo, Stream, states_to_json
from vivim_runtime.sessions.sidecar import Profile
from vivim_runtime.sessions.tensorrt import TensorRTSession

STATES = (StateInfo("state_a", "next_state_a", (2, 3)), StateInfo("state_b", "next_state_b", (2, 2, 2)))
DESCRIPTION = description(frames=1, batch=2) | {
    "vivim.format": "2",
    "vivim.streaming": "1",
    "vivim.states": states_to_json(STATES),
}
RECORDS = {
    "tensorrt": replace(RECORD, plugin=None, description=DESCRIPTION, profile=Profile(2, 2, 2)),
    "rtx": replace(RTX, description=DESCRIPTION, profile=Profile(2, 2, 2)),
}
TENSORS: dict[str, tuple[str, tuple[int, ...], Any]] = {
    "frames": ("input", (2, 1, 4, 6, 3), np.uint8),
    "logits": ("output", (2, 1, 1, 4, 6), np.float32),
    **{state.input: ("input", state.shape, np.float32) for state in STATES},
    **{state.output: ("output", state.shape, np.float32) for state in STATES},
}


@pytest.fixture(params=["tensorrt", "rtx"])
def library(request: pytest.FixtureRequest, tensorrt: FakeTensorRT, rtx: FakeTensorRT) -> FakeTensorRT:
    module: FakeTensorRT = {"tensorrt": tensorrt, "rtx": rtx}[request.param]
    module.tensors = dict(TENSORS)
    return module


@pytest.fixture
def engine(library: FakeTensorRT, tmp_path: Path) -> Path:
    return engine_file(tmp_path / "tiny.engine", RECORDS["rtx" if library.compiles else "tensorrt"])


def film(frames: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (2, frames, 4, 6, 3), dtype=np.uint8)


def expected(of: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the network of the stand-in gives a film from its first frame on."""
    found, state = [], np.float32(0)
    for frame in of.swapaxes(0, 1):
        logits = frame.mean(-1, dtype=np.float32)[:, None, None] - np.float32(128)
        found.append(logits + state)
        state = state / np.float32(2) + np.float32(logits.mean())
    return np.concatenate(found, axis=1)


def nothing_is_held(cuda: FakeCuda, module: FakeTensorRT) -> bool:
    gc.collect()
    return cuda.live == {} and module.alive == 0


def test_films_remember_each_its_own_frames(engine: Path, library: FakeTensorRT) -> None:
    with open_session(engine) as session:
        session.warm_up()
        films = [film(11, seed) for seed in (1, 2, 3)]
        streams = [Stream(session) for _ in films]
        found: list[list[Any]] = [[], [], []]
        # Two by turns and uneven pieces; a third begins later, and one forgets and begins anew.
        for begin, end in ((0, 1), (1, 2), (2, 5), (5, 6), (6, 11)):
            for which in (0, 1) if begin < 2 else (1, 2, 0):
                found[which].append(streams[which](films[which][:, begin:end]))
        for which, begin in enumerate((0, 0, 2)):
            np.testing.assert_array_equal(np.concatenate(found[which], 1), expected(films[which][:, begin:]))
        streams[1].reset()
        np.testing.assert_array_equal(streams[1](films[0]), expected(films[0]))
        np.testing.assert_array_equal(session(films[2]), expected(films[2]))  # a film by itself, forgotten afterwards
    assert nothing_is_held(library.cuda, library)


def test_two_graphs_are_replayed_by_turns_and_nothing_is_copied(
    engine: Path, library: FakeTensorRT, request: pytest.FixtureRequest
) -> None:
    cuda = library.cuda
    with open_session(engine) as session:
        stream = Stream(session)
        stream(film(9))
        kinds = [kind for kind, _ in cuda.copies]
        if library.compiles:  # it captures by itself, for addresses that stay: two states go back after every frame
            assert library.log.count("execute") == 9 and "cudaGraphLaunch" not in cuda.calls
            assert kinds.count("copy") == 2 * 9 and library.log.count("place") == 2 + 4
        else:  # the first frame is executed as it is, the two sides are captured with the second and the third
            assert library.log.count("execute") == 3 and cuda.calls.count("cudaStreamBeginCapture") == 2
            assert cuda.calls.count("cudaGraphLaunch") == 8 and "copy" not in kinds
        assert kinds.count("upload") == kinds.count("download") == 9  # pictures and logits alone leave and enter


def test_buffers_of_a_film_that_is_over_serve_the_next(engine: Path, library: FakeTensorRT) -> None:
    cuda = library.cuda
    with open_session(engine) as session:
        taken = cuda.calls.count("cudaMalloc")
        for seed in range(4):
            np.testing.assert_array_equal(session(film(4, seed)), expected(film(4, seed)))
        assert cuda.calls.count("cudaMalloc") == taken + 4  # two states, two sides
        streams = [Stream(session), Stream(session)]
        for stream in streams:
            stream(film(1))
        assert cuda.calls.count("cudaMalloc") == taken + 8
        captured = cuda.calls.count("cudaStreamBeginCapture")
        streams[0].reset()
        session(film(5))
        assert cuda.calls.count("cudaMalloc") == taken + 8
        assert cuda.calls.count("cudaStreamBeginCapture") == captured  # their graphs, too


def test_states_are_given_once_and_to_their_own_session(engine: Path, library: FakeTensorRT) -> None:
    with TensorRTSession(engine) as session, TensorRTSession(engine) as other:
        frame = film(1)
        first = session.step(frame, None)[1]
        second = session.step(frame, first)[1]
        with pytest.raises(ModelError, match="were given twice; its film went on"):
            session.step(frame, first)
        with pytest.raises(ModelError, match="did not give; a film goes through one session"):
            other.step(frame, second)
        with pytest.raises(ModelError, match="did not give"):
            session.step(frame, [np.zeros((2, 3), np.float32)])
        del second
        again = session.step(frame, None)[1]  # the buffers of the film that is over
        with pytest.raises(ModelError, match="were given twice"):
            session.step(frame, first)
        # Such calls, and pictures of another size, take nothing away.
        with pytest.raises(ModelError, match="takes uint8"):
            session.step(frame[:, :, :2], again)
        np.testing.assert_array_equal(session.step(frame, again)[0], expected(film(1).repeat(2, 1))[:, 1:])


@pytest.mark.parametrize("call", ["cudaMemsetAsync", "cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_film_goes_on_after_a_call_that_failed(call: str, engine: Path, library: FakeTensorRT) -> None:
    cuda = library.cuda
    session = TensorRTSession(engine)
    stream, frames = Stream(session), film(3)
    np.testing.assert_array_equal(stream(frames[:, :1]), expected(frames)[:, :1])
    cuda.fail = call
    with pytest.raises(CudaError, match=f"^{call} failed"):
        session(film(1, 7))
    cuda.fail = None
    np.testing.assert_array_equal(stream(frames[:, 1:]), expected(frames)[:, 1:])
    np.testing.assert_array_equal(session(film(4, 8)), expected(film(4, 8)))
    session.__exit__(None, None, None)
    del stream, session
    assert nothing_is_held(cuda, library)


def test_engine_that_cannot_be_captured_remembers_all_the_same(engine: Path, library: FakeTensorRT) -> None:
    library.refuse = "capture"
    with open_session(engine) as session:
        np.testing.assert_array_equal(session(film(6)), expected(film(6)))


def test_frames_on_the_gpu_are_steps_too(engine: Path, library: FakeTensorRT) -> None:
    cuda = library.cuda
    with TensorRTSession(engine) as session:
        frames, states, found = film(3), None, []
        for t in range(3):
            there = OnDevice(cuda, np.ascontiguousarray(frames[:, t : t + 1]), strides=None)
            logits, states = session.step(there, states)
            found.append(logits)
            cuda.cudaFree(there.address)
        np.testing.assert_array_equal(np.concatenate(found, 1), expected(frames))
        there = OnDevice(cuda, frames[:, :1].copy(), strides=None)
        np.testing.assert_array_equal(session(there), expected(frames[:, :1]))
        cuda.cudaFree(there.address)


def test_layers_of_a_streaming_engine_have_times(engine: Path, library: FakeTensorRT) -> None:
    with TensorRTSession(engine) as session:
        assert session.layer_times(film(1), 3) == [{"conv": 1.0, "norm": 0.25}] * 3


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("state_a", ("input", (2, 4), np.float32), r"state_a as float32 \(2, 4\), its description says float32"),
        ("next_state_b", ("output", (2, 2, 2), np.float16), "next_state_b as float16"),
        ("state_b", None, "has no input state_b, which its description names"),
        ("next_state_a", None, "has no output next_state_a"),
        ("state_c", ("input", (1, 1), np.float32), "has 2 inputs; expected one"),
    ],
)
def test_engine_whose_states_are_not_as_described_is_refused(
    name: str, tensor: Any, message: str, engine: Path, library: FakeTensorRT
) -> None:
    library.tensors = {key: value for key, value in (TENSORS | {name: tensor}).items() if value}
    with pytest.raises(ModelError, match=message):
        TensorRTSession(engine)
    assert nothing_is_held(library.cuda, library)


def test_clip_engine_does_not_step(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    path = engine_file(tmp_path / "clip.engine", replace(RECORD, plugin=None))
    with TensorRTSession(path) as session, pytest.raises(ModelError, match="takes clips of 2 frames"):
        session.step(np.zeros((1, 2, 4, 6, 3), np.uint8), None)


def test_states_in_the_record_are_those_of_the_file() -> None:
    assert json.loads(DESCRIPTION["vivim.states"])[0] == {"input": "state_a", "output": "next_state_a", "shape": [2, 3]}
