"""Engines of the real libraries. On a machine with an NVIDIA GPU they run and are compared with ONNX Runtime; without
one, TensorRT for RTX still builds them, and what becomes of opening them there is tested.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

# `make gpu-check` runs the tests of the GPU with any Python that has torch and pytest.
if any(importlib.util.find_spec(name) is None for name in ("av", "cv2", "onnx", "onnxruntime", "typer")):
    pytest.skip("the runtime is not installed: pip install 'vivim-edge[cpu,export]'", allow_module_level=True)

import numpy as np

from tests.runtime.engines import ADA, real_engine
from tests.runtime.fake_gpu import FakeCuda
from vivim_runtime.commands.entry import main
from vivim_runtime.errors import IncompatibleEngineError, ModelError
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.backends import BACKENDS
from vivim_runtime.sessions.base import Stream
from vivim_runtime.sessions.cuda import Cuda
from vivim_runtime.sessions.machine import Machine
from vivim_runtime.sessions.sidecar import Profile
from vivim_runtime.sessions.tensorrt import TensorRTSession

PROFILE = Profile(1, 2, 4)
# Means of three bytes and a division by 16, of values up to 8: four roundings of float32.
TOLERANCE = 4 * 2.0**-24 * 8


def clips(batch: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (batch, 5, 32, 48, 3), dtype=np.uint8)


# --- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=BACKENDS)
def build(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """What makes an engine for the GPU of this machine, or a reason to skip."""
    backend = BACKENDS[request.param]
    machine = Machine.here(backends=())
    if machine.gpu is None:
        pytest.skip(machine.no_gpu)
    for module in (backend.module, "cuda"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'vivim-edge[{backend.extra}]'")
    capability = machine.compute_capability or ""
    known = getattr(importlib.import_module(backend.module), "ComputeCapability", None)
    if backend.compiles and not hasattr(known, f"SM{capability.replace('.', '')}"):
        pytest.skip(f"{backend.title} has no engines for {machine}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gpu = None if backend.compiles else machine.gpu
    return partial(real_engine, tmp_path / "m.engine", backend.name, capability, gpu, PROFILE)


@pytest.fixture
def engine(build: Callable[..., Path]) -> Path:
    return build()


@pytest.mark.gpu
def test_streaming_engine_gives_the_logits_of_onnx_runtime(build: Callable[..., Path]) -> None:
    path = build(streams=True)
    film = np.random.default_rng(0).integers(0, 256, (2, 1, 12, 32, 48, 3), dtype=np.uint8)
    with open_session(path) as session, open_session(path.with_suffix(".onnx"), "cpu") as reference:
        session.warm_up()
        expected = [reference(one) for one in film]
        films = [Stream(session), Stream(session)]
        for t in range(12):  # by turns, replayed from both sides
            for stream, one, right in zip(films, film, expected, strict=True):
                found = stream(one[:, t : t + 1])
                assert np.abs(found - right[:, t : t + 1]).max() <= 3 * TOLERANCE  # the state adds two roundings


@pytest.mark.gpu
def test_engine_gives_the_logits_of_onnx_runtime(engine: Path) -> None:
    with open_session(engine) as session, open_session(engine.with_suffix(".onnx"), "cpu") as reference:
        session.warm_up()
        for seed, batch in enumerate((1, 1, 1, 4, 4, 4, 2, 1, 3)):  # plain, captured, replayed, and back
            given = clips(batch, seed)
            assert np.abs(session(given) - reference(given)).max() <= TOLERANCE


@pytest.mark.gpu
def test_engine_without_graphs_gives_the_same(engine: Path) -> None:
    with TensorRTSession(engine) as captured, TensorRTSession(engine, graphs=False) as plain:
        for seed in range(3):
            np.testing.assert_array_equal(captured(clips(2, seed)), plain(clips(2, seed)))


@pytest.mark.gpu
def test_clips_of_torch_on_the_gpu_are_taken_as_they_are(engine: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    with open_session(engine) as session:
        for seed in range(3):
            given = clips(2, seed)
            there: Any = torch.from_numpy(given).cuda()
            np.testing.assert_array_equal(session(there), session(given))
        with pytest.raises(ModelError, match="in one piece"):
            session(torch.from_numpy(np.concatenate([given, given], 4)).cuda()[..., :3])


@pytest.mark.gpu
def test_clips_that_another_stream_of_torch_still_writes_are_waited_for(engine: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    with open_session(engine) as reference, TensorRTSession(engine) as session:
        side = torch.cuda.Stream()
        given = clips(2, 1)
        content: Any = torch.from_numpy(given).cuda()
        for stream in (None, side, side.cuda_stream):
            there: Any = torch.zeros_like(content)
            torch.cuda.synchronize()
            with torch.cuda.stream(side):
                torch.cuda._sleep(100_000_000)  # cycles: some 50 ms
                there.copy_(content)
            np.testing.assert_array_equal(session(there, stream), reference(given))


@pytest.mark.gpu
def test_clips_of_cupy_are_taken_from_the_stream_that_writes_them(engine: Path) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: pip install cupy-cuda13x to test its arrays")
    with TensorRTSession(engine) as session:
        given = clips(2, 1)
        wanted = session(given)
        content = cupy.asarray(given)
        for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
            with stream:
                there = cupy.zeros_like(content)
                for _ in range(200):  # work that the copy stands behind
                    cupy.add(there, 1, out=there)
                cupy.copyto(there, content)
                np.testing.assert_array_equal(session(there), wanted)
            np.testing.assert_array_equal(session(there, stream), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("primary", [False, True], ids=["context of its own", "primary context"])
def test_arrays_of_pycuda_are_taken_and_its_context_is_current_again(engine: Path, primary: bool) -> None:
    driver = pytest.importorskip(
        "pycuda.driver", reason="PyCUDA is not installed: pip install pycuda to test its arrays"
    )
    gpuarray = importlib.import_module("pycuda.gpuarray")
    given = clips(2, 1)
    driver.init()
    device = driver.Device(0)
    if primary:
        context = device.retain_primary_context()
        context.push()
    else:
        context = device.make_context()
    try:
        with TensorRTSession(engine) as session:
            wanted = session(given)
            stream = driver.Stream()
            there = gpuarray.to_gpu(given)
            later = gpuarray.zeros_like(there)
            for _ in range(3):  # plain, captured, replayed
                np.testing.assert_array_equal(session(there), wanted)
                later.fill(0)
                driver.memcpy_dtod_async(later.gpudata, there.gpudata, there.nbytes, stream)
                np.testing.assert_array_equal(session(later, stream), wanted)
                # A kernel of PyCUDA, in its own context: it would fail in another.
                np.testing.assert_array_equal((there + there).get(), given + given)
            with pytest.raises(ModelError, match="DeviceAllocation"):
                session(there.gpudata)
        np.testing.assert_array_equal((there + there).get(), given + given)
        del there, later, stream
    finally:
        context.pop()


@pytest.mark.gpu
def test_memory_comes_back(engine: Path) -> None:
    with open_session(engine) as session:  # what the libraries keep for themselves is taken now
        session(clips(4))
    cuda = Cuda()
    before = cuda.memory()[0]
    for _ in range(5):
        with open_session(engine) as session:
            session.warm_up()
            session(clips(4))
    # A leak of one context's buffers a round would be 5 x 4 x 5 x 32 x 48 x 7 bytes; CUDA takes memory in 2 MiB pages.
    assert before - cuda.memory()[0] <= 2 << 20


@pytest.mark.gpu
def test_every_layer_has_a_time(engine: Path) -> None:
    with TensorRTSession(engine) as session:
        runs = session.layer_times(clips(1), 3)
    assert len(runs) == 3 and all(run.keys() == runs[0].keys() and min(run.values()) >= 0 for run in runs)
    assert sum(runs[-1].values()) > 0


# --- without a GPU --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of TensorRT for RTX for the GPU of ADA, built on whatever machine this is."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install tensorrt-rtx-cu13 to test its runtime")
    path = tmp_path_factory.mktemp("rtx") / "m.engine"
    return real_engine(path, "rtx", ADA.compute_capability or "", None, PROFILE)


@pytest.fixture
def without_gpu() -> None:
    if Machine.here(backends=()).gpu is not None:
        pytest.skip("this machine has a GPU")


def test_run_on_a_machine_without_a_gpu_says_which_one_it_needs(
    built: Path, without_gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vivim-run", "phantom:?frames=5&size=48x64", "--model", str(built)])
    with pytest.raises(SystemExit) as caught:
        main("vivim-run", "vivim_runtime.commands.run")
    line = capsys.readouterr().err
    assert caught.value.code == 4 and line.count("\n") == 1
    assert "needs an NVIDIA GPU of compute capability 8.9, this machine has no GPU (" in line
    assert "vivim-export trt" in line


@pytest.fixture
def fake_machine(built: Path, without_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
    """A machine with the GPU of ADA and the real TensorRT for RTX, which finds no driver."""
    rtx = importlib.import_module("tensorrt_rtx")
    here = replace(ADA, versions={"rtx": rtx.__version__})
    monkeypatch.setattr(Machine, "here", lambda device, backends: here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


def test_real_library_that_finds_no_driver_is_told_in_one_line(built: Path, fake_machine: FakeCuda) -> None:
    with pytest.raises(IncompatibleEngineError, match=r"says TensorRT for RTX \d.*CUDA driver") as caught:
        open_session(built)
    assert "\n" not in str(caught.value)
    del caught
    assert fake_machine.live == {}


def test_real_library_that_cannot_load_is_told_in_one_line(
    built: Path, fake_machine: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vivim_runtime.sessions.engine.Engine._check_validity", lambda self, content: None)
    with pytest.raises(ModelError, match=r"could not load the engine: .*Error Code 1: Cuda Runtime") as caught:
        open_session(built)
    assert "\n" not in str(caught.value)
    del caught
    assert fake_machine.live == {}


def test_real_library_has_every_name_that_a_session_uses() -> None:
    """What the fake of tests/runtime/fake_gpu.py pretends, and no GPU can show here."""
    rtx = pytest.importorskip("tensorrt_rtx")
    names = {
        rtx.ICudaEngine: "get_tensor_name num_io_tensors get_tensor_mode get_tensor_shape get_tensor_dtype "
        "create_runtime_config create_execution_context",
        rtx.IExecutionContext: "set_tensor_address set_input_shape execute_async_v3 profiler",
        rtx.IRuntimeConfig: "cuda_graph_strategy create_runtime_cache set_runtime_cache",
        rtx.IRuntimeCache: "serialize deserialize",
        rtx.Runtime: "engine_host_code_allowed deserialize_cuda_engine get_engine_validity",
        rtx.IPluginRegistry: "load_library get_creator",
        rtx.TensorIOMode: "INPUT OUTPUT",
        rtx.ILogger: "INTERNAL_ERROR ERROR",
        rtx.CudaGraphStrategy: "WHOLE_GRAPH_CAPTURE",
        rtx.EngineValidity: "INVALID",
    }
    assert [f"{kind}.{name}" for kind, all_ in names.items() for name in all_.split() if not hasattr(kind, name)] == []
    assert rtx.nptype(rtx.uint8) == np.uint8 and rtx.nptype(rtx.float32) == np.float32
    assert {int(flag) for flag in rtx.EngineInvalidityDiagnostics.__members__.values()} == {1, 2, 4, 8, 16, 32, 64}
