"""The calls of CUDA: their arguments suit cuda-python, their errors become messages. Without a GPU every call fails,
which shows both; what succeeds is looked at with a fake (test_engine_session.py) and on a GPU (test_engine_gpu.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from tests.runtime.fake_gpu import FakeCuda
from vivim_runtime.errors import CudaError, MissingExtraError
from vivim_runtime.sessions.cuda import Cuda, host_array

CALLS: dict[str, Callable[[Cuda], object]] = {
    "cudaMemGetInfo": lambda cuda: cuda._call("cudaMemGetInfo"),
    "cudaMalloc": lambda cuda: cuda.allocate(16),
    "cudaFree": lambda cuda: cuda.free(4096),
    "cudaHostAlloc": lambda cuda: cuda.allocate_host(16),
    "cudaFreeHost": lambda cuda: cuda.free_host(4096),
    "cudaStreamCreateWithFlags": lambda cuda: cuda.create_stream(),
    "cudaStreamDestroy": lambda cuda: cuda.destroy_stream(1),
    "cudaStreamSynchronize": lambda cuda: cuda.synchronize(1),
    "cudaMemcpyAsync": lambda cuda: cuda.upload(4096, 8192, 16, 1),
    "cudaMemcpyAsync, to the host": lambda cuda: cuda.download(8192, 4096, 16, 1),
    "cudaMemcpyAsync, on the GPU": lambda cuda: cuda.copy(4096, 8192, 7, 16, 1),
    "cudaStreamBeginCapture": lambda cuda: cuda.begin_capture(1),
    "cudaStreamEndCapture": lambda cuda: cuda.end_capture(1),
    "cudaGraphLaunch": lambda cuda: cuda.launch(1, 1),
    "cudaGraphExecDestroy": lambda cuda: cuda.destroy_graph(1),
}


@pytest.fixture
def without_gpu() -> Cuda:
    """The real bindings, past the constructor, which would fail."""
    api = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    driver = pytest.importorskip("cuda.bindings.driver")
    if int(api.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("this machine has a GPU, on which these addresses would be used")
    cuda = Cuda.__new__(Cuda)
    cuda._runtime, cuda._driver, cuda._device, cuda._context = api, driver, 0, 7
    return cuda


# Of the driver, which no wheel brings: without one, cuda-python says so in a sentence of its own.
DRIVER_CALLS: dict[str, Callable[[Cuda], object]] = {
    "cuInit": lambda cuda: cuda._call("cuInit", 0),
    "cuDeviceGet": lambda cuda: cuda._call("cuDeviceGet", 0),
    "cuDevicePrimaryCtxRetain": lambda cuda: cuda._call("cuDevicePrimaryCtxRetain", 0),
    "cuCtxPushCurrent": lambda cuda: cuda.current().__enter__(),
    "cuCtxPopCurrent": lambda cuda: cuda._call("cuCtxPopCurrent"),
    "cuCtxSynchronize": lambda cuda: cuda._call("cuCtxSynchronize"),
    "cuStreamSynchronize": lambda cuda: cuda._call("cuStreamSynchronize", 1),
    "cuPointerGetAttributes": lambda cuda: cuda.owner(4096),
    "cuMemcpyPeerAsync": lambda cuda: cuda.copy(4096, 8192, 8, 16, 1),
}


@pytest.mark.parametrize("name", DRIVER_CALLS)
def test_call_reaches_the_driver_and_its_absence_is_told(name: str, without_gpu: Cuda) -> None:
    with pytest.raises(CudaError, match=rf"^{name} failed on GPU 0: .*\S.*$"):
        DRIVER_CALLS[name](without_gpu)


@pytest.mark.parametrize("name", CALLS)
def test_call_reaches_cuda_and_its_failure_is_named(name: str, without_gpu: Cuda) -> None:
    """A wrong number or type of arguments would be a TypeError of cuda-python."""
    with pytest.raises(CudaError, match=rf"^{name.partition(',')[0]} failed on GPU 0: cudaError\w+ \(.+\)$"):
        CALLS[name](without_gpu)


def test_graph_is_made_from_what_was_recorded(without_gpu: Cuda) -> None:
    """The two calls behind the first one that fails in `end_capture`: no TypeError either."""
    for name, arguments in (("cudaGraphInstantiate", (1, 0)), ("cudaGraphDestroy", (1,))):
        with pytest.raises(CudaError, match=name):
            without_gpu._call(name, *arguments)


def test_machine_without_a_driver_is_told_when_a_gpu_is_opened(without_gpu: Cuda) -> None:
    with pytest.raises(CudaError, match="cuInit failed on GPU 0: .*driver"):
        Cuda()


def test_bindings_that_raise_where_there_is_no_driver_are_told_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda-python 12.6 to 12.8."""

    def raises(flags: int) -> tuple[int]:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    fake = FakeCuda()
    monkeypatch.setattr(fake.driver, "cuInit", raises)
    fake.install(monkeypatch)
    with pytest.raises(CudaError, match=r"cuInit failed on GPU 0: Failed to dlopen libcuda\.so\.1"):
        Cuda()


@pytest.mark.parametrize("extra", ["trt", "rtx"])
def test_missing_bindings_name_the_extra(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"cuda-python is missing.*vivim-edge\[{extra}\]"):
        Cuda(0, extra)


def test_graph_that_cannot_be_instantiated_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    fake.install(monkeypatch)
    cuda = Cuda()
    stream = cuda.create_stream()
    cuda.begin_capture(stream)
    fake.fail = "cudaGraphInstantiate"
    with pytest.raises(CudaError, match=r"cudaGraphInstantiate failed .*cudaErrorMemoryAllocation \(out of memory\)"):
        cuda.end_capture(stream)
    assert list(fake.live.values()) == ["stream"]


def test_host_array_is_a_view_of_the_memory() -> None:
    memory = np.zeros(12, np.uint8)
    view = host_array(memory.ctypes.data, (1, 3), np.float32)
    view[0, 1] = 1.0
    assert memory.view(np.float32).tolist() == [0.0, 1.0, 0.0]
