"""The session of an engine, on a GPU of host memory (tests/runtime/fake_gpu.py): what it does, in which order, and that
it gives everything back. With a real GPU: tests/runtime/sessions/test_engine_gpu.py.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.runtime.engines import ADA, COMMAND, CONTENT, RECORD, RTX, description, engine_file
from tests.runtime.fake_gpu import LEGACY, PRIMARY, FakeCuda, FakeTensorRT
from vivim_runtime.errors import (
    CudaError,
    IncompatibleEngineError,
    MissingExtraError,
    ModelError,
    PluginError,
    UsageError,
    VivimError,
)
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.machine import Machine
from vivim_runtime.sessions.plugin import Plugin
from vivim_runtime.sessions.sidecar import EngineRecord, Profile
from vivim_runtime.sessions.tensorrt import TensorRTSession

# Engines that call no plugin: loading one is tests/runtime/sessions/test_plugin.py's matter.
PLAIN = replace(RECORD, plugin=None)
RECORDS = {"tensorrt": PLAIN, "rtx": RTX}


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return engine_file(tmp_path / "tiny.engine", PLAIN)


@pytest.fixture
def rtx_engine(tmp_path: Path) -> Path:
    return engine_file(tmp_path / "tiny.engine", RTX)


def clips(batch: int = 1, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (batch, 2, 4, 6, 3), dtype=np.uint8)


def expected(of: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return of.mean(-1, dtype=np.float32)[:, :, None] - 128


@pytest.fixture(scope="module", autouse=True)
def nothing_from_before_is_searched() -> Iterator[None]:
    """`nothing_is_held` collects garbage many times: of these tests, not of all that came before."""
    gc.freeze()
    yield
    gc.unfreeze()


def nothing_is_held(cuda: FakeCuda, module: FakeTensorRT) -> bool:
    gc.collect()
    return cuda.live == {} and module.alive == 0


@pytest.mark.parametrize("backend", RECORDS)
def test_logits_of_every_call_are_those_of_its_clips(
    backend: str, tmp_path: Path, tensorrt: FakeTensorRT, rtx: FakeTensorRT
) -> None:
    path = engine_file(tmp_path / "tiny.engine", RECORDS[backend])
    with open_session(path) as session:
        assert (session.device, session.info.preset, session.info.precision) == ("cuda", "tiny", "fp16")
        assert session.backend == {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}[backend]
        session.warm_up()
        results = []
        # A size that stays (captured, replayed), one that comes and goes, and the largest.
        for seed, batch in enumerate((1, 1, 1, 1, 3, 1, 1, 1, 4, 4, 4)):
            given = clips(batch, seed)
            results.append((given, session(given)))
    for given, logits in results:  # after the end: results are copies, not the buffers
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, expected(given))  # a mean of three bytes, as the engine computes it
    assert nothing_is_held(tensorrt.cuda, {"tensorrt": tensorrt, "rtx": rtx}[backend])


def test_graph_is_captured_once_for_a_batch_size_and_then_replayed(engine: Path, tensorrt: FakeTensorRT) -> None:
    cuda = tensorrt.cuda
    with open_session(engine) as session:
        for batch in (1, 1, 1, 1, 2, 2, 2, 1):
            session(clips(batch))
        # batch 1: plain, capture + launch, launch, launch; batch 2: plain, capture + launch, launch; batch 1: plain
        assert cuda.calls.count("cudaStreamBeginCapture") == 2
        assert cuda.calls.count("cudaGraphLaunch") == 5
        assert tensorrt.log.count("execute") == 3 + 2
        assert tensorrt.log.count("shape") == 3
        assert cuda.calls.count("cudaGraphExecDestroy") == 2  # another size drops the graph: it is bound to the context
        assert "executable" not in cuda.live.values()


def test_buffers_are_taken_once_for_the_largest_batch(engine: Path, tensorrt: FakeTensorRT) -> None:
    cuda = tensorrt.cuda
    with open_session(engine) as session:
        free, total = cuda.cudaMemGetInfo()[1:]
        # 4 clips of 2 frames of 4x6: uint8 RGB and float32 logits, each on the GPU and in the host.
        assert total - free == 2 * (4 * 2 * 4 * 6 * 3 + 4 * 2 * 4 * 6 * 4)
        taken = cuda.calls.count("cudaMalloc"), cuda.calls.count("cudaHostAlloc")
        for batch in (4, 1, 2):
            session(clips(batch))
        assert (cuda.calls.count("cudaMalloc"), cuda.calls.count("cudaHostAlloc")) == taken == (2, 2)
        # Only what the batch needs is copied.
        assert cuda.copies[-2:] == [("upload", 2 * 2 * 4 * 6 * 3), ("download", 2 * 2 * 4 * 6 * 4)]


def test_session_without_graphs_captures_nothing(engine: Path, tensorrt: FakeTensorRT) -> None:
    with TensorRTSession(engine, graphs=False) as session:
        for _ in range(3):
            np.testing.assert_array_equal(session(clips()), expected(clips()))
    assert "cudaStreamBeginCapture" not in tensorrt.cuda.calls and tensorrt.log.count("execute") == 3


@pytest.mark.parametrize(
    "refuse", ["execute in capture", "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_engine_that_cannot_be_captured_is_executed_as_it_is(refuse: str, engine: Path, tensorrt: FakeTensorRT) -> None:
    with open_session(engine) as session:
        session(clips())
        if refuse.startswith("cuda"):
            tensorrt.cuda.fail = refuse
        else:
            tensorrt.refuse = "capture"
        for seed in range(3):
            np.testing.assert_array_equal(session(clips(seed=seed)), expected(clips(seed=seed)))
        assert tensorrt.cuda.calls.count("cudaStreamBeginCapture") == 1  # tried once, not at every call
        tensorrt.cuda.fail = None
    assert nothing_is_held(tensorrt.cuda, tensorrt)


def test_library_that_compiles_captures_by_itself(rtx_engine: Path, rtx: FakeTensorRT) -> None:
    with open_session(rtx_engine) as session:
        for _ in range(3):
            session(clips())
    assert "graphs whole" in rtx.log and "cudaStreamBeginCapture" not in rtx.cuda.calls
    with TensorRTSession(rtx_engine, graphs=False):
        assert rtx.log.count("graphs whole") == 1 and "graphs None" in rtx.log


def test_compiled_kernels_are_kept_in_the_cache_folder_for_the_next_time(
    tmp_path: Path, rtx_engine: Path, rtx: FakeTensorRT
) -> None:
    kept = tmp_path / "cache/vivim-edge" / f"{RTX.engine_sha256[:16]}.rtx-kernels"
    with open_session(rtx_engine) as session:
        session.warm_up()
        assert kept.read_bytes() == b"+compiled"  # at once, since a live run may be ended by its power switch
    rtx.kernels = b""
    with open_session(rtx_engine):
        assert rtx.kernels == b"+compiled"
    assert kept.read_bytes() == b"+compiled+compiled"


def test_cache_folder_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, rtx_engine: Path, rtx: FakeTensorRT
) -> None:
    (tmp_path / "cache").write_text("a file in the place of the folder")
    with open_session(rtx_engine) as session:
        session.warm_up()
    assert nothing_is_held(rtx.cuda, rtx)


class OnDevice:
    """An array of another library in memory of the fake GPU: taken in the context that is current.

    Args:
        writes: the stream that its content is written on, as late as CUDA may do it; None: it is there.
    """

    def __init__(
        self, cuda: FakeCuda, content: np.ndarray[Any, Any], writes: int | None = None, /, **interface: Any
    ) -> None:
        _, address = cuda.cudaMalloc(content.nbytes)
        assert address is not None
        self.address, self._content = address, content
        if writes is None:
            self._write()
        else:
            cuda.driver.later(cuda.driver.current, writes, self._write)
        self.__cuda_array_interface__ = {
            "shape": content.shape,
            "typestr": content.dtype.str,
            "data": (address, False),
            "version": 3,
            **interface,
        }

    def _write(self) -> None:
        ctypes.memmove(self.address, self._content.ctypes.data, self._content.nbytes)


ONE_PIECE = (144, 72, 18, 3, 1)
PYCUDA = {"stream": None, "strides": ONE_PIECE}  # GPUArray says None whatever is under way, and strides always
TORCH = {"strides": None, "version": 2}  # names no stream
THEIRS = 9001  # a context that is no primary one, as pycuda.autoinit makes it


@pytest.mark.parametrize(
    ("stream", "interface", "waits"),
    [
        pytest.param(None, {}, "cuCtxSynchronize", id="no stream named, no strides"),
        pytest.param(77, {"stream": 77, "strides": None}, "cuStreamSynchronize", id="CuPy, a stream of its own"),
        pytest.param(LEGACY, {"stream": LEGACY, "strides": None}, "cuStreamSynchronize", id="CuPy, default stream"),
        pytest.param(2, {"stream": 2}, "cuStreamSynchronize", id="default stream of the thread"),
        pytest.param(LEGACY, TORCH, "cuCtxSynchronize", id="torch, default stream"),
        pytest.param(77, TORCH, "cuCtxSynchronize", id="torch, another stream"),
        pytest.param(LEGACY, PYCUDA, "cuCtxSynchronize", id="PyCUDA, default stream"),
        pytest.param(77, PYCUDA, "cuCtxSynchronize", id="PyCUDA, a stream of its own"),
        pytest.param(LEGACY, {"stream": None}, "cuCtxSynchronize", id="Numba, default stream"),
    ],
)
def test_clips_on_the_gpu_stay_there_and_what_writes_them_is_waited_for(
    engine: Path, tensorrt: FakeTensorRT, stream: int | None, interface: dict[str, Any], waits: str
) -> None:
    cuda = tensorrt.cuda
    with TensorRTSession(engine) as session:
        there = OnDevice(cuda, clips(2, seed=5), stream, **interface)
        before = len(cuda.calls)
        logits = session(there)
        np.testing.assert_array_equal(logits, expected(clips(2, seed=5)))
        assert [kind for kind, _ in cuda.copies] == ["copy", "download"]
        assert [call for call in cuda.calls[before:] if call in ("cuCtxSynchronize", "cuStreamSynchronize")] == [waits]
        cuda.cudaFree(there.address)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(77, id="a handle"),
        pytest.param(SimpleNamespace(cuda_stream=77, device="cuda:0"), id="torch.cuda.Stream"),
        pytest.param(SimpleNamespace(ptr=77), id="cupy.cuda.Stream"),
        pytest.param(SimpleNamespace(handle=77), id="pycuda.driver.Stream"),
        pytest.param(SimpleNamespace(__cuda_stream__=lambda: (0, 77), handle=object()), id="cuda.core.Stream"),
    ],
)
def test_stream_that_is_told_is_the_only_one_waited_for(engine: Path, tensorrt: FakeTensorRT, stream: object) -> None:
    cuda = tensorrt.cuda
    with TensorRTSession(engine) as session:
        there = OnDevice(cuda, clips(2, seed=5), 77, **TORCH)
        np.testing.assert_array_equal(session(there, stream), expected(clips(2, seed=5)))
        assert cuda.calls.count("cuStreamSynchronize") == 1 and "cuCtxSynchronize" not in cuda.calls
        cuda.cudaFree(there.address)


@pytest.mark.parametrize("stream", ["77", object(), True, -1, 7.0])
def test_what_is_no_stream_is_refused(engine: Path, tensorrt: FakeTensorRT, stream: object) -> None:
    with TensorRTSession(engine) as session, pytest.raises(ModelError, match="expected one of PyTorch, CuPy or PyCUDA"):
        session(OnDevice(tensorrt.cuda, clips()), stream)


def test_null_stream_of_torch_and_cupy_is_the_default_one(engine: Path, tensorrt: FakeTensorRT) -> None:
    with TensorRTSession(engine) as session:
        there = OnDevice(tensorrt.cuda, clips(seed=5), LEGACY, **TORCH)
        np.testing.assert_array_equal(session(there, SimpleNamespace(cuda_stream=0)), expected(clips(seed=5)))


@pytest.mark.parametrize("stream", [LEGACY, 77])
@pytest.mark.parametrize("told", [False, True], ids=["no stream told", "its stream told"])
def test_clips_of_another_context_are_copied_from_it_and_it_is_current_again(
    engine: Path, tensorrt: FakeTensorRT, stream: int, told: bool
) -> None:
    """A GPUArray of PyCUDA, whose context pycuda.autoinit made and left current."""
    cuda = tensorrt.cuda
    cuda.driver.stack.append(THEIRS)
    with TensorRTSession(engine) as session:
        assert cuda.driver.stack == [THEIRS]
        for seed in range(4):  # plain, captured, replayed
            there = OnDevice(cuda, clips(2, seed), stream, **PYCUDA)
            logits = session(there, SimpleNamespace(handle=stream) if told else None)
            np.testing.assert_array_equal(logits, expected(clips(2, seed)))
            assert cuda.driver.stack == [THEIRS]
            cuda.cudaFree(there.address)
        assert {kind for kind, _ in cuda.copies} == {"peer", "download"}
    assert cuda.driver.stack == [THEIRS] and nothing_is_held(cuda, tensorrt)


def test_clips_of_another_context_are_taken_on_a_thread_that_has_none(engine: Path, tensorrt: FakeTensorRT) -> None:
    """A camera's thread makes them with PyCUDA, another runs the model."""
    cuda = tensorrt.cuda
    cuda.driver.stack.append(THEIRS)
    there = OnDevice(cuda, clips(seed=5), LEGACY, **PYCUDA)
    results: list[Any] = []

    def work() -> None:
        with TensorRTSession(engine) as session:
            results.append(session(there))
            results.append(list(cuda.driver.stack))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(results[0], expected(clips(seed=5)))
    assert results[1] == []


@pytest.mark.parametrize("before", [[], [THEIRS], [PRIMARY], [PRIMARY + 1], [THEIRS, THEIRS + 1]])
def test_threads_contexts_are_as_they_were_whatever_a_session_does(
    before: list[int], engine: Path, tensorrt: FakeTensorRT
) -> None:
    """Opened, run, timed, measured, refused, failed and closed."""
    cuda = tensorrt.cuda
    cuda.driver.stack.extend(before)

    def kept() -> bool:
        return cuda.driver.stack == before

    session = TensorRTSession(engine)
    assert kept()
    session.warm_up()
    session.layer_times(clips(), 2)
    assert kept()
    with pytest.raises(ModelError):
        session(clips(5))
    assert kept()
    for call in ("cudaGraphLaunch", "cudaStreamSynchronize", "cuCtxSynchronize", "cuCtxPushCurrent"):
        cuda.fail = call
        with pytest.raises(CudaError, match=f"^{call} failed"):
            session(OnDevice(cuda, clips()))
        assert kept(), call
    cuda.fail = None
    session.__exit__(None, None, None)
    assert kept()
    with pytest.raises(VivimError, match="was closed"):
        session(clips())
    assert kept()
    for call in ("cudaStreamCreateWithFlags", "cudaMalloc", "cudaHostAlloc"):
        cuda.fail = call
        with pytest.raises(CudaError, match=f"^{call} failed"):
            TensorRTSession(engine)
        assert kept(), call


def test_context_is_not_waited_for_while_another_session_captures(engine: Path, tensorrt: FakeTensorRT) -> None:
    """CUDA refuses that wait, and the capture may be lost with it."""
    cuda = tensorrt.cuda
    there = OnDevice(cuda, clips(), LEGACY, **TORCH)
    with TensorRTSession(engine) as capturing, TensorRTSession(engine) as waiting:
        capturing(clips())
        thread = threading.Thread(target=lambda: waiting(there))
        begin = cuda.cudaStreamBeginCapture

        def begin_and_start_the_other(stream: int, mode: int) -> tuple[int]:
            result = begin(stream, mode)
            if not thread.ident:
                thread.start()
                thread.join(0.2)  # it has to wait for the end of this capture
                assert thread.is_alive()
            return result

        cuda.cudaStreamBeginCapture = begin_and_start_the_other  # type: ignore[method-assign]
        capturing(clips())
        thread.join()
        assert cuda.calls.count("cuCtxSynchronize") == 1


def test_what_is_no_array_is_refused_and_told_what_is(engine: Path, tensorrt: FakeTensorRT) -> None:
    """DeviceAllocation of PyCUDA is an address without shape and type."""
    with TensorRTSession(engine) as session:
        for given in (type("DeviceAllocation", (), {"__int__": lambda self: 4096})(), clips().tolist()):
            with pytest.raises(ModelError, match=r"clips are a \w+; expected an array of NumPy, or one on the GPU"):
                session(given)


def test_memory_of_a_pool_belongs_to_the_primary_context(engine: Path, tensorrt: FakeTensorRT) -> None:
    """That of CuPy's and PyTorch's stream-ordered allocators; CUDA names no context for it."""
    cuda = tensorrt.cuda
    with TensorRTSession(engine) as session:
        there = OnDevice(cuda, clips(seed=5), LEGACY, **TORCH)
        cuda.driver.pools.add(there.address)
        cuda.driver.stack.append(THEIRS)
        np.testing.assert_array_equal(session(there), expected(clips(seed=5)))
        assert cuda.copies[0][0] == "copy"


def test_any_stride_along_one_element_is_of_one_piece(engine: Path, tensorrt: FakeTensorRT) -> None:
    with TensorRTSession(engine) as session:
        there = OnDevice(tensorrt.cuda, clips(seed=5), strides=(999, *ONE_PIECE[1:]))
        np.testing.assert_array_equal(session(there), expected(clips(seed=5)))


@pytest.mark.parametrize(
    ("content", "interface", "message"),
    [
        pytest.param(np.zeros((1, 2, 6, 4, 3), np.uint8), {}, r"takes uint8 \(1, 2, 4, 6, 3\)", id="turned"),
        pytest.param(np.zeros((1, 2, 4, 6, 3), np.int8), {}, "clips on the GPU of int8", id="another type"),
        pytest.param(np.zeros((5, 2, 4, 6, 3), np.uint8), {}, "built for 1 to 4", id="too many"),
        pytest.param(np.zeros((), np.uint8), {}, "0 clips at once", id="no dimensions"),
        pytest.param(np.zeros((1, 2, 4, 6, 3), np.uint8), {"strides": (144, 72, 3, 12, 1)}, "one piece", id="strided"),
        pytest.param(np.zeros((1, 2, 4, 6, 3), np.uint8), {"mask": object()}, "with a mask", id="masked"),
    ],
)
def test_other_arrays_on_the_gpu_are_refused(
    engine: Path, tensorrt: FakeTensorRT, content: np.ndarray[Any, Any], interface: dict[str, Any], message: str
) -> None:
    with TensorRTSession(engine) as session, pytest.raises(ModelError, match=message):
        session(OnDevice(tensorrt.cuda, content, **interface))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(np.zeros((5, 2, 4, 6, 3), np.uint8), "5 clips at once.*built for 1 to 4", id="too many"),
        pytest.param(np.zeros((0, 2, 4, 6, 3), np.uint8), "0 clips at once", id="none"),
        pytest.param(np.zeros((1, 2, 6, 4, 3), np.uint8), r"takes uint8 \(B, 2, 4, 6, 3\)", id="turned"),
    ],
)
def test_clips_that_the_engine_cannot_take_are_refused_and_the_next_ones_run(
    engine: Path, tensorrt: FakeTensorRT, given: np.ndarray[Any, Any], message: str
) -> None:
    with open_session(engine) as session:
        with pytest.raises(ModelError, match=message):
            session(given)
        np.testing.assert_array_equal(session(clips()), expected(clips()))


def test_raw_input_is_normalised_before_it_is_uploaded(tmp_path: Path, tensorrt: FakeTensorRT) -> None:
    raw = replace(PLAIN, description={**description(), "vivim.input": "float32"})
    tensorrt.tensors["frames"] = ("input", (-1, 2, 3, 4, 6), np.float32)
    with TensorRTSession(engine_file(tmp_path / "tiny.engine", raw)) as session:
        session._engine.execute = lambda stream: None  # type: ignore[method-assign]  # the fake engine reads bytes
        session(np.full((1, 2, 4, 6, 3), 255, np.uint8))
        assert session._input.array.dtype == np.float32 and (session._input.array[0] == 1).all()  # (1 - 0.5) / 0.5
        assert tensorrt.cuda.copies[0] == ("upload", 4 * 2 * 3 * 4 * 6)


def test_fixed_batch_is_told_and_kept(tmp_path: Path, tensorrt: FakeTensorRT) -> None:
    fixed = replace(PLAIN, profile=Profile(2, 2, 2))
    with open_session(engine_file(tmp_path / "tiny.engine", fixed)) as session:
        session.warm_up()
        assert session.info.batch == 2
        with pytest.raises(ModelError, match=r"takes uint8 \(2, 2, 4, 6, 3\)"):
            session(clips(1))


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_whatever_fails_while_opening_nothing_stays_behind(
    record: EngineRecord, tmp_path: Path, cuda: FakeCuda, tensorrt: FakeTensorRT, rtx: FakeTensorRT
) -> None:
    path = engine_file(tmp_path / "tiny.engine", record)
    module = rtx if record is RTX else tensorrt
    with TensorRTSession(path):
        opening = len(cuda.calls)
    assert opening == 10  # the driver and its context, which is pushed and popped, the stream, four buffers
    failures: list[Callable[[], None]] = [
        lambda n=n: setattr(cuda, "fail", len(cuda.calls) + n) for n in range(opening)
    ]
    failures += [lambda what=what: setattr(module, "refuse", what) for what in ("deserialize", "context", "place")]
    for fail in failures:
        fail()
        with pytest.raises((CudaError, ModelError)) as caught:
            TensorRTSession(path)
        assert "\n" not in str(caught.value)
        del caught
        assert nothing_is_held(cuda, module)
        cuda.fail = module.refuse = None


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_whichever_call_fails_nothing_stays_behind_and_no_memory_is_pulled_from_under_the_stream(
    record: EngineRecord, tmp_path: Path, cuda: FakeCuda, tensorrt: FakeTensorRT, rtx: FakeTensorRT
) -> None:
    """Opening, the first call, the capture, a replay, another batch, clips on the GPU, closing: every call of CUDA."""
    path = engine_file(tmp_path / "tiny.engine", record)
    module = rtx if record is RTX else tensorrt
    cuda.driver.stack.append(THEIRS)
    there = OnDevice(cuda, clips(2))

    def session_of_all() -> None:
        with TensorRTSession(path) as session:
            session.warm_up()
            session(clips())
            session(clips(2))
            session(there)

    before = len(cuda.calls)
    session_of_all()
    count = len(cuda.calls) - before
    assert count > 30
    failed = 0
    for number in range(count):
        cuda.fail = len(cuda.calls) + number
        try:
            session_of_all()
        except CudaError as error:
            failed += 1
            assert "\n" not in str(error)
            del error
        cuda.fail = None
        assert list(cuda.live) == [there.address] and module.alive == 0, f"call {number}"
        assert cuda.driver.stack == [THEIRS], f"call {number}"
        cuda.pending.clear()
    # All but the last wait, before memory is given back, and the four calls of two captures: one that fails is replaced
    # by plain execution.
    assert count - failed == {"rtx": 1, "tensorrt": 1 + 2 * 4}[record.backend]


def test_stand_in_refuses_what_a_driver_refuses(cuda: FakeCuda) -> None:
    """Or the tests above would pass on a session that uses memory after it was given back."""
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    _, memory = cuda.cudaMalloc(16)
    _, host = cuda.cudaHostAlloc(16, 0)
    assert stream and memory and host
    cuda.cudaMemcpyAsync(memory, host, 16, "upload", stream)
    with pytest.raises(AssertionError, match="the stream still has work on it"):
        cuda.cudaFreeHost(host)
    with pytest.raises(AssertionError, match="expected a device, it is unknown or given back"):
        cuda.cudaFree(4096)
    cuda.pending.clear()
    cuda.cudaStreamBeginCapture(stream, 1)
    for refused in (
        lambda: cuda.cudaMalloc(16),
        lambda: cuda.cudaFree(memory),
        lambda: cuda.cudaStreamSynchronize(stream),
    ):
        with pytest.raises(AssertionError, match="cannot be captured"):
            refused()
    cuda.cudaStreamEndCapture(stream)
    cuda.cudaFree(memory)
    with pytest.raises(AssertionError):
        cuda.cudaMemcpyAsync(memory, host, 16, "upload", stream)
    cuda.driver.stack.append(THEIRS)
    for call in (lambda: cuda.cudaMemcpyAsync(memory, host, 16, "upload", stream), lambda: cuda.check_stream(stream)):
        with pytest.raises(AssertionError, match="of a context that is not current"):
            call()
    with pytest.raises(AssertionError, match=f"the context {THEIRS} has no stream {stream}"):
        cuda.driver.cuStreamSynchronize(stream)
    cuda.cudaSetDevice(0)
    assert cuda.driver.stack == [PRIMARY]  # in the place of theirs, which is lost


@pytest.mark.parametrize("name", ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaGraphLaunch"])
def test_failure_of_a_call_is_told_and_everything_given_back(name: str, engine: Path, tensorrt: FakeTensorRT) -> None:
    cuda = tensorrt.cuda
    cuda.error = 719
    message = rf"{name} failed on GPU 0: cudaErrorLaunchFailure \(launch failure\)"
    with pytest.raises(CudaError, match=message) as caught, open_session(engine) as session:
        session.warm_up()
        cuda.fail = name
        session(clips())
    assert caught.value.exit_code == 1
    del caught, session
    assert nothing_is_held(cuda, tensorrt)


def test_failure_while_closing_does_not_keep_the_rest(engine: Path, tensorrt: FakeTensorRT) -> None:
    session = open_session(engine)
    tensorrt.cuda.fail = "cudaFree"
    with pytest.raises(CudaError, match="cudaFree"):
        session.__exit__(None, None, None)
    del session
    assert nothing_is_held(tensorrt.cuda, tensorrt)


@pytest.mark.parametrize("refuse", ["shape", "execute"])
def test_first_error_of_the_library_is_the_message(refuse: str, engine: Path, tensorrt: FakeTensorRT) -> None:
    with open_session(engine) as session:
        tensorrt.refuse = refuse
        with pytest.raises(CudaError, match=r"TensorRT could not .*: Error Code 1: first$"):
            session(clips())
        tensorrt.reported = ["Error Code 3: another"]
        with pytest.raises(CudaError, match=r": Error Code 3: another$"):
            session(clips())


@pytest.mark.parametrize("refuse", ["shape", "execute"])
def test_session_goes_on_after_a_change_of_batch_that_failed(refuse: str, engine: Path, tensorrt: FakeTensorRT) -> None:
    with open_session(engine) as session:
        session.warm_up()
        tensorrt.refuse = refuse
        with pytest.raises(CudaError):
            session(clips(2))
        tensorrt.refuse = None
        shapes = tensorrt.log.count("shape")
        for batch in (1, 1, 1, 2):
            np.testing.assert_array_equal(session(clips(batch)), expected(clips(batch)))
        assert tensorrt.log.count("shape") - shapes == 2  # for 1 as well: who knows what the context has now


def test_library_that_fails_without_a_word_gets_a_message_all_the_same(engine: Path, tensorrt: FakeTensorRT) -> None:
    tensorrt.refuse, tensorrt.reported = "deserialize", []
    with pytest.raises(ModelError, match=r"TensorRT 10\.13\.3\.9 could not load the engine: no reason given"):
        open_session(engine)


def test_order_of_release_is_the_reverse_of_the_order_of_taking(engine: Path, tensorrt: FakeTensorRT) -> None:
    cuda = tensorrt.cuda
    with open_session(engine) as session:
        session.warm_up()
        before = len(cuda.calls)
    assert cuda.calls[before:] == [
        "cuCtxPushCurrent",
        "cudaStreamSynchronize",
        "cudaGraphExecDestroy",
        *["cudaFreeHost", "cudaFree"] * 2,
        "cudaStreamDestroy",
        "cuCtxPopCurrent",
    ]
    gone = [line for line in tensorrt.log if line.endswith("gone")]
    assert gone == ["_Context gone", "_Engine gone", "_Runtime gone"]


def test_closing_twice_gives_back_once_and_a_closed_session_does_not_run(engine: Path, tensorrt: FakeTensorRT) -> None:
    session = open_session(engine)
    for _ in range(2):
        session.__exit__(None, None, None)
    assert tensorrt.cuda.calls.count("cudaStreamDestroy") == 1
    with pytest.raises(VivimError, match="was closed"):
        session(clips())


def test_threads_take_turns_and_each_chooses_the_gpu(engine: Path, tensorrt: FakeTensorRT) -> None:
    wrong: list[int] = []
    with open_session(engine) as session:
        session.warm_up()
        before = tensorrt.cuda.calls.count("cuCtxPushCurrent")

        def work(seed: int) -> None:
            given = clips(1 + seed % 2, seed)
            wrong.extend(seed for _ in range(20) if not np.array_equal(session(given), expected(given)))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert tensorrt.cuda.calls.count("cuCtxPushCurrent") - before == 4 * 20
    assert wrong == []


def test_layer_times_are_those_of_each_run(engine: Path, tensorrt: FakeTensorRT) -> None:
    with TensorRTSession(engine) as session:
        assert session.layer_times(clips(), 3) == [{"conv": 1.0, "norm": 0.25}] * 3  # two layers of one name: together
        assert [line for line in tensorrt.log if "profiler" in line] == ["profiler on", "profiler off"]
        session.warm_up()
        assert tensorrt.cuda.calls.count("cudaGraphLaunch") == 1  # layers were timed without graphs, and not here
    assert nothing_is_held(tensorrt.cuda, tensorrt)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"frames": ("input", (-1, 2, 6, 4, 3), np.uint8)}, r"frames as uint8 \(4, 2, 6, 4, 3\), its description says"),
        ({"frames": ("input", (-1, 2, 4, 6, 3), np.float32)}, "frames as float32"),
        ({"logits": ("output", (-1, 2, 1, 4, 6), np.float16)}, "logits as float16"),
        ({"frames": ("input", (-1, -1, 4, 6, 3), np.uint8)}, "expected only the batch to vary"),
        ({"edges": ("output", (-1, 2, 1, 4, 6), np.float32)}, "has 2 outputs; expected one"),
    ],
)
def test_engine_that_is_not_as_its_record_says_is_refused(
    engine: Path, tensorrt: FakeTensorRT, tensors: dict[str, Any], message: str
) -> None:
    tensorrt.tensors.update(tensors)
    with pytest.raises(ModelError, match=message):
        open_session(engine)
    assert nothing_is_held(tensorrt.cuda, tensorrt)


@pytest.mark.parametrize("compatible", [False, True])
def test_code_within_an_engine_is_trusted_only_where_the_record_says_so(
    compatible: bool, tmp_path: Path, tensorrt: FakeTensorRT
) -> None:
    with open_session(engine_file(tmp_path / "tiny.engine", PLAIN, version_compatible=compatible)):
        assert f"host code {compatible}" in tensorrt.log


def test_library_that_says_no_to_an_engine_is_believed_before_loading(rtx_engine: Path, rtx: FakeTensorRT) -> None:
    rtx.validity = 2, 4
    with pytest.raises(IncompatibleEngineError, match="says TensorRT for RTX 1.7.1.116: old cuda driver") as caught:
        open_session(rtx_engine)
    assert COMMAND in str(caught.value)
    assert "deserialize" not in rtx.log


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path, patch: path.write_bytes(CONTENT[:-1]), id="cut off"),
        pytest.param(lambda path, patch: path.with_name("tiny.engine.json").unlink(), id="no record"),
        pytest.param(
            lambda path, patch: patch.setattr(Machine, "here", lambda device, backends: Machine(no_gpu="none")),
            id="no GPU",
        ),
        pytest.param(
            lambda path, patch: patch.setattr(
                Machine, "here", lambda device, backends: replace(ADA, versions={"tensorrt": "10.3.0"})
            ),
            id="another TensorRT",
        ),
        pytest.param(lambda path, patch: RECORD.write(path), id="no plugin"),
    ],
)
def test_mismatch_is_found_before_anything_is_loaded(
    change: Callable[[Path, pytest.MonkeyPatch], Any],
    engine: Path,
    tensorrt: FakeTensorRT,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_plugin() -> Plugin:
        raise PluginError("it was not found")

    monkeypatch.setattr(Plugin, "find", no_plugin)
    change(engine, monkeypatch)
    with pytest.raises(IncompatibleEngineError) as caught:
        open_session(engine)
    assert caught.value.exit_code == 4 and "vivim-export trt" in str(caught.value)
    assert tensorrt.cuda.calls == [] and tensorrt.log == []


def test_plugin_of_the_record_is_loaded_before_the_engine(
    tmp_path: Path, tensorrt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RECORD.plugin is not None
    found = Plugin(tmp_path / "libvivim_trt.so", **vars(RECORD.plugin))
    monkeypatch.setattr(Plugin, "find", lambda: found)
    monkeypatch.setattr(Plugin, "load", lambda self, module: module.log.append(f"plugin {self.path.name}"))
    with open_session(engine_file(tmp_path / "tiny.engine", RECORD)):
        assert tensorrt.log.index("plugin libvivim_trt.so") < tensorrt.log.index("deserialize")


def test_missing_cuda_python_names_the_extra(
    engine: Path, tensorrt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"cuda-python is missing.*vivim-edge\[trt\]"):
        open_session(engine)


def test_older_cuda_python_is_taken(engine: Path, tensorrt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt.cuda.install(monkeypatch, "cuda.cudart cuda.cuda")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with open_session(engine) as session:
        np.testing.assert_array_equal(session(clips()), expected(clips()))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cpu", "tiny.engine is an engine, which runs on a GPU; run the ONNX file instead"),
        ("gpu", "expected auto, cuda or cuda:<index>"),
        ("cuda:x", "expected auto, cuda or cuda:<index>"),
        ("auto:1", "expected auto, cuda or cuda:<index>"),
    ],
)
def test_devices_that_are_no_gpu_are_refused(engine: Path, device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_session(engine, device)


def test_second_gpu_is_asked_and_used(engine: Path, tensorrt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    driver = tensorrt.cuda.driver
    monkeypatch.setattr(Machine, "here", lambda device, backends: asked.append((device, backends)) or ADA)
    with open_session(engine, "cuda:1") as session:
        held = list(tensorrt.cuda.live)
        session(clips())
    assert asked == [(1, ("tensorrt",))] and {tensorrt.cuda.context(handle) for handle in held} == {PRIMARY + 1}
    assert driver.stack == []
