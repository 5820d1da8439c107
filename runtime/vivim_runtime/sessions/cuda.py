"""The few calls of the CUDA runtime that a session makes, each one checked; by cuda-python, for one GPU.

Addresses and handles are plain integers. Nothing here is freed by itself: who takes gives back.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import CudaError, MissingExtraError

__all__ = ["Cuda", "host_array"]

# cuda-python 12.6.1 and later, and what it was called before.
_MODULES = ("cuda.bindings.runtime", "cuda.cudart")


class Cuda:
    """The CUDA runtime on one GPU.

    Args:
        device: number of the GPU.
        extra: of vivim-edge, whose installation brings cuda-python.

    Raises:
        MissingExtraError: cuda-python is not installed.
        CudaError: no such GPU, or no driver. Every method raises it when its call fails.
    """

    def __init__(self, device: int = 0, extra: str = "trt") -> None:
        self._api = _bindings(extra)
        self._device = device
        self.use()

    def use(self) -> None:
        """Make this the GPU of the calling thread: CUDA keeps that for each thread."""
        self._call("cudaSetDevice", self._device)

    def memory(self) -> tuple[int, int]:
        """Free and total memory of the GPU, bytes."""
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
        return int(self._call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking)[0])

    def destroy_stream(self, stream: int) -> None:
        """Give back what `create_stream` gave."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until a stream has done everything."""
        self._call("cudaStreamSynchronize", stream)

    def upload(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes from host to GPU, as the next thing that the stream does."""
        self._copy(target, source, size, "cudaMemcpyHostToDevice", stream)

    def download(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes from GPU to host, as the next thing that the stream does."""
        self._copy(target, source, size, "cudaMemcpyDeviceToHost", stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes within the GPU, as the next thing that the stream does."""
        self._copy(target, source, size, "cudaMemcpyDeviceToDevice", stream)

    def begin_capture(self, stream: int) -> None:
        """From now on, record what this thread asks of the stream instead of doing it."""
        self._call("cudaStreamBeginCapture", stream, self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)

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

    def _copy(self, target: int, source: int, size: int, kind: str, stream: int) -> None:
        self._call("cudaMemcpyAsync", target, source, size, getattr(self._api.cudaMemcpyKind, kind), stream)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        try:
            error, *results = getattr(self._api, name)(*arguments)
        except RuntimeError as failure:  # cuda-python up to 12.8 where there is no driver, or one without this function
            raise CudaError(f"{name} failed on GPU {self._device}: {failure}") from None
        if int(error) != 0:
            raise CudaError(f"{name} failed on GPU {self._device}: {self._explain(error)}")
        return tuple(results)

    def _explain(self, error: Any) -> str:
        """Name of an error and what it means."""
        texts = [getattr(self._api, name)(error)[1].decode() for name in ("cudaGetErrorName", "cudaGetErrorString")]
        return f"{texts[0]} ({texts[1]})"


def host_array(address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Host memory at an address as an array. It must outlive the array."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = memoryview((ctypes.c_uint8 * size).from_address(address))
    return np.frombuffer(memory, np.dtype(dtype)).reshape(shape)


def _bindings(extra: str) -> Any:
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise MissingExtraError("running an engine (cuda-python is missing)", extra)
