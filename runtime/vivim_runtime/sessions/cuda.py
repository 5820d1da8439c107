"""The few calls of CUDA that a session makes, each one checked; by cuda-python, for one GPU.

Addresses and handles are plain integers. Nothing here is freed by itself: who takes gives back.

Streams, graphs and engines belong to a context, and CUDA works in the one that is current on the calling thread. Ours
is the primary context of the GPU, which the CUDA runtime, PyTorch and CuPy share; PyCUDA makes contexts of its own. So
ours is pushed before a thread's calls and popped after them. `cudaSetDevice` would do for the calls, and leave the
thread with another context than its caller had, whose next kernel launch, in PyCUDA, would fail.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import CudaError, MissingExtraError

__all__ = ["Cuda", "host_array"]

# The runtime and the driver: cuda-python 12.6.1 and later, and what they were called before.
_MODULES = (("cuda.bindings.runtime", "cuda.bindings.driver"), ("cuda.cudart", "cuda.cuda"))


class Cuda:
    """CUDA on one GPU. Methods other than `memory` are called with its context current.

    Args:
        device: number of the GPU.
        extra: of vivim-edge, whose installation brings cuda-python.

    Raises:
        MissingExtraError: cuda-python is not installed.
        CudaError: no such GPU, or no driver. Every method raises it when its call fails.
    """

    def __init__(self, device: int = 0, extra: str = "trt") -> None:
        self._runtime, self._driver = _bindings(extra)
        self._device = device
        self._call("cuInit", 0)
        # Kept until the process ends, as the runtime keeps it: what TensorRT and its plugins hold lives there.
        self._context = int(self._call("cuDevicePrimaryCtxRetain", *self._call("cuDeviceGet", device))[0])

    @contextmanager
    def current(self) -> Iterator[None]:
        """Have the GPU's context current on the calling thread; afterwards the caller's is, whatever happened."""
        with self._pushed(self._context):
            yield

    def memory(self) -> tuple[int, int]:
        """Free and total memory of the GPU, bytes."""
        with self.current():
            free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        """`size` bytes on the GPU; their address."""
        return int(self._call("cudaMalloc", size)[0])

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        self._call("cudaFree", address)

    def allocate_host(self, size: int) -> int:
        """`size` bytes of page-locked host memory, which the GPU copies from and to by itself; their address."""
        return int(self._call("cudaHostAlloc", size, 0)[0])

    def free_host(self, address: int) -> None:
        """Give back what `allocate_host` gave."""
        self._call("cudaFreeHost", address)

    def create_stream(self) -> int:
        """A stream that does not wait for the default stream."""
        return int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)[0])

    def destroy_stream(self, stream: int) -> None:
        """Give back what `create_stream` gave."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until a stream has done everything."""
        self._call("cudaStreamSynchronize", stream)

    def owner(self, address: int) -> int:
        """The context that memory on a GPU was taken in; the GPU's own for that of no context, as in memory pools."""
        attribute = self._driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_CONTEXT
        # The call for one attribute would fail for that of no context.
        return int(self._call("cuPointerGetAttributes", 1, [attribute], address)[0][0] or 0) or self._context

    def wait_for(self, context: int, stream: int | None) -> None:
        """Wait for a stream of a context, which need not be this GPU's, or for everything that the context does."""
        with self._pushed(context):
            if stream is None:
                self._call("cuCtxSynchronize")
            else:
                self._call("cuStreamSynchronize", stream)

    def upload(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes from host to GPU, as the next thing that the stream does."""
        self._copy(target, source, size, "cudaMemcpyHostToDevice", stream)

    def download(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes from GPU to host, as the next thing that the stream does."""
        self._copy(target, source, size, "cudaMemcpyDeviceToHost", stream)

    def copy(self, target: int, source: int, owner: int, size: int, stream: int) -> None:
        """Copy `size` bytes to the GPU's context from memory of `owner`, as the next thing that the stream does."""
        if owner == self._context:
            self.duplicate(target, source, size, stream)
        else:
            self._call("cuMemcpyPeerAsync", target, self._context, source, owner, size, stream)

    def duplicate(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes within the GPU, as the next thing that the stream does."""
        self._copy(target, source, size, "cudaMemcpyDeviceToDevice", stream)

    def clear(self, address: int, size: int, stream: int) -> None:
        """Set `size` bytes on the GPU to zero, as the next thing that the stream does."""
        self._call("cudaMemsetAsync", address, 0, size, stream)

    def begin_capture(self, stream: int) -> None:
        """From now on, record what this thread asks of the stream instead of doing it."""
        self._call(
            "cudaStreamBeginCapture", stream, self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )

    def end_capture(self, stream: int) -> int:
        """What was recorded, ready to be launched."""
        graph = int(self._call("cudaStreamEndCapture", stream)[0])
        try:
            executable = int(self._call("cudaGraphInstantiate", graph, 0)[0])
        except CudaError:
            self._call("cudaGraphDestroy", graph)
            raise
        try:
            self._call("cudaGraphDestroy", graph)
        except CudaError:
            self.destroy_graph(executable)
            raise
        return executable

    def launch(self, graph: int, stream: int) -> None:
        """Do what was recorded."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give back what `end_capture` gave."""
        self._call("cudaGraphExecDestroy", graph)

    @contextmanager
    def _pushed(self, context: int) -> Iterator[None]:
        self._call("cuCtxPushCurrent", context)
        try:
            yield
        except BaseException:
            with suppress(CudaError):  # what failed first is told
                self._call("cuCtxPopCurrent")
            raise
        self._call("cuCtxPopCurrent")

    def _copy(self, target: int, source: int, size: int, kind: str, stream: int) -> None:
        self._call("cudaMemcpyAsync", target, source, size, getattr(self._runtime.cudaMemcpyKind, kind), stream)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        api = self._runtime if name.startswith("cuda") else self._driver
        try:
            error, *results = getattr(api, name)(*arguments)
        except RuntimeError as failure:  # cuda-python up to 12.8 where there is no driver, or one without this function
            raise CudaError(f"{name} failed on GPU {self._device}: {failure}") from None
        if int(error) != 0:
            raise CudaError(f"{name} failed on GPU {self._device}: {_explain(api, error)}")
        return tuple(results)


def host_array(address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Host memory at an address as an array. It must outlive the array."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = memoryview((ctypes.c_uint8 * size).from_address(address))
    return np.frombuffer(memory, np.dtype(dtype)).reshape(shape)


def _explain(api: Any, error: Any) -> str:
    """Name of an error of the runtime or of the driver, and what it means."""
    kind = "cuda" if hasattr(api, "cudaGetErrorName") else "cu"
    name, meaning = (getattr(api, f"{kind}GetError{text}")(error)[1].decode() for text in ("Name", "String"))
    return f"{name} ({meaning})"


def _bindings(extra: str) -> tuple[Any, Any]:
    for runtime, driver in _MODULES:
        try:
            return importlib.import_module(runtime), importlib.import_module(driver)
        except ModuleNotFoundError:
            continue
    raise MissingExtraError("running an engine (cuda-python is missing)", extra)
