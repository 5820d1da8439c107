"""An engine of TensorRT or TensorRT for RTX as a session: checked before it is loaded, replayed as a CUDA graph.

What a call does, all of it on one stream of the session's own:

    clips -> page-locked buffer -> GPU      (clips that are on the GPU: GPU -> GPU, once what makes them is done)
    execute                                 1st call of a batch size as it is, 2nd captured as CUDA graph, then replayed
    GPU -> page-locked buffer -> a copy     which the caller may keep

The buffers hold the largest batch of the engine's profile, are taken once, and keep their addresses, as a graph needs.
A graph belongs to the batch size that it was captured with; another size drops it. What a streaming engine remembers
stays on the GPU (vivim_runtime.sessions.films): a film has two graphs, which are replayed by turns. TensorRT for RTX
captures by itself, since it replaces kernels while it runs, and keeps what it compiled in a file of the user's cache
folder.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import CudaError, ModelError, PluginError, UsageError, VivimError
from vivim_runtime.sessions.backends import BACKENDS
from vivim_runtime.sessions.base import Clips, Logits, ModelInfo, Stream, model_input, no_stream
from vivim_runtime.sessions.cuda import Cuda, host_array
from vivim_runtime.sessions.engine import Engine
from vivim_runtime.sessions.films import Film, Films, Remembered
from vivim_runtime.sessions.machine import Machine
from vivim_runtime.sessions.plugin import Plugin
from vivim_runtime.sessions.sidecar import EngineRecord, check_engine
from vivim_runtime.text import parse_number

__all__ = ["DeviceArray", "TensorRTSession"]

# A context cannot be waited for while something is captured in it, by whichever session.
_CAPTURE = threading.Lock()


class DeviceArray(Protocol):
    """An array on the GPU, of CuPy, PyTorch, Numba or PyCUDA."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class _Buffer:
    """An input or output of the engine, for its largest batch.

    Attributes:
        name: of the tensor.
        device: address on the GPU.
        host: address in page-locked host memory.
        array: the host memory as an array, the batch first.
    """

    name: str
    device: int
    host: int
    array: npt.NDArray[Any]

    def size(self, batch: int) -> int:
        """Bytes that a batch takes."""
        return int(self.array[0].nbytes) * batch


class TensorRTSession:
    """An engine of vivim-export on a GPU. One call at a time; more threads wait for each other.

    Args:
        path: the .engine file, with its record beside it.
        device: "auto", "cuda" or "cuda:<index>".
        graphs: replay CUDA graphs; without, every call launches every kernel anew.
        plugin: the library that the engine calls; None searches.

    Raises:
        IncompatibleEngineError: the engine is not for this machine; found out before anything of it is loaded.
        ModelError: TensorRT cannot load it all the same.
        MissingExtraError: TensorRT or cuda-python is not installed.
        CudaError: the GPU has too little memory, or fails.
    """

    device = "cuda"

    def __init__(
        self, path: Path, device: str = "auto", graphs: bool = True, plugin: Plugin | PluginError | None = None
    ) -> None:
        index = _gpu_index(device, path)
        self.record = record = EngineRecord.read(path)
        self.info = _info(path, record)
        backend = BACKENDS[record.backend]
        self.backend = backend.title
        if plugin is None and record.plugin:
            plugin = _plugin()
        self._opened_with = (path, device, False, plugin)  # for layer_times: without graphs
        content = check_engine(record, path, Machine.here(index, (record.backend,)), plugin)
        self._lock = threading.Lock()
        self._compiles = backend.compiles
        self._graphs = graphs and not backend.compiles
        self._graph: list[int | None] = [None]  # of clips; films have their own
        self._batch = 0  # that the context is set to
        self._placed: tuple[Film, int] | None = None  # whose states the context reads and writes, and the side it reads
        self._cuda = Cuda(index, backend.extra)
        with ExitStack() as opened:  # gives all back, should the caller's context not come back
            with self._cuda.current(), ExitStack() as stack:
                self._stream = self._cuda.create_stream()
                stack.callback(self._cuda.destroy_stream, self._stream)
                if isinstance(plugin, Plugin):
                    plugin.load(backend.load())
                self._engine = Engine(path, record, content, graphs)
                stack.callback(self._engine.release)
                states = self.info.states
                self._input = self._take(stack, *self._engine.tensor("INPUT", [state.input for state in states]))
                self._output = self._take(stack, *self._engine.tensor("OUTPUT", [state.output for state in states]))
                self._check_tensors()
                self._films = Films(self._cuda, states, swaps=not backend.compiles)
                stack.callback(self._films.release)
                for buffer in (self._input, self._output):
                    self._engine.place(buffer.name, buffer.device)
                stack.callback(self._drop_graphs)
                stack.callback(self._wait)
                self._resources = opened.enter_context(stack.pop_all())
            opened.pop_all()
        self._closed = False

    def _take(self, stack: ExitStack, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> _Buffer:
        """Buffers of a tensor's largest shape, which `stack` gives back."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        device = self._cuda.allocate(size)
        stack.callback(self._cuda.free, device)
        host = self._cuda.allocate_host(size)
        stack.callback(self._cuda.free_host, host)
        return _Buffer(name, device, host, host_array(host, shape, dtype))

    def _check_tensors(self) -> None:
        """The engine takes and gives what its description says: sizes of copies rest on it."""
        info, most = self.info, self.record.profile.max_batch
        pixels = (most, info.frames, *info.size, 3), np.dtype(np.uint8)
        raw = (most, info.frames, 3, *info.size), np.dtype(np.float32)
        logits = (most, info.frames, len(info.classes), *info.size), np.dtype(np.float32)
        expected = (raw if info.input == "float32" else pixels, logits)
        for buffer, (shape, dtype) in zip((self._input, self._output), expected, strict=True):
            if (buffer.array.shape, buffer.array.dtype) != (shape, dtype):
                raise ModelError(
                    f"{info.path} has {buffer.name} as {buffer.array.dtype} {buffer.array.shape}, its description "
                    f"says {dtype} {shape}; build it again: {self.record.build_command}"
                )
        for state in info.states:
            for name in (state.input, state.output):
                shape, dtype = self._engine.shape(name)  # type: ignore[assignment]
                if (shape, dtype) != (state.shape, np.dtype(np.float32)):
                    raise ModelError(
                        f"{info.path} has {name} as {dtype} {shape}, its description says float32 {state.shape}; "
                        f"build it again: {self.record.build_command}"
                    )

    def __call__(self, clips: Clips | DeviceArray, stream: object = None) -> Logits:
        """uint8 RGB (B, T, H, W, 3) at the model's size -> float32 logits (B, T, K, H, W).

        Clips on the GPU have the shape and type of the engine's own input, and lie in one piece. B is within the
        engine's profile. The context that is current on the calling thread stays so. A streaming engine takes clips of
        any T as films from their first frame on.

        Args:
            clips: an array of NumPy, or one on the GPU in whatever context.
            stream: what makes clips on the GPU: a stream of PyTorch, CuPy or PyCUDA, or its handle. None: the one that
                the array names; where it names none, everything that its context does is waited for.

        Raises:
            ModelError: clips of another shape or type.
            CudaError: the GPU fails.
        """
        if self.info.streaming:
            return Stream(self)(clips) if isinstance(clips, np.ndarray) else self.step(clips, None, stream)[0]
        with self._begin():
            batch = self._feed(clips, stream)
            self._execute(batch)
            return self._results(batch)

    def step(self, frames: Clips | DeviceArray, states: object, stream: object = None) -> tuple[Logits, Remembered]:
        """One more frame of a streaming engine; see vivim_runtime.sessions.base.Session.

        Args:
            frames: (B, 1, H, W, 3), in host memory or on the GPU, as `__call__` takes clips.
            states: can be given once, since they stay where they are on the GPU.
            stream: as of `__call__`.

        Raises:
            ModelError: it does not stream, or the states are of another session or were given before.
        """
        if not self.info.streaming:
            raise no_stream(self.info)
        with self._begin():
            batch = self._feed(frames, stream)
            film = self._films.begin(self._stream) if states is None else self._films.resume(states, self.info.path)
            try:
                self._execute(batch, film)
                logits = self._results(batch)
            except BaseException:
                if states is None:
                    self._films.end(film)
                raise
            return logits, self._films.advanced(film)

    def _results(self, batch: int) -> Logits:
        """What the output buffer holds, once the stream has come to it."""
        output = self._output
        self._cuda.download(output.host, output.device, output.size(batch), self._stream)
        self._cuda.synchronize(self._stream)
        return output.array[:batch].copy()

    def warm_up(self) -> None:
        """Run on black pixels: the first call prepares the shapes, the second captures the graph, and of a film's two
        graphs the third the other."""
        batch, frames = self.record.profile.min_batch, self.info.frames
        if self.info.streaming:
            self(np.zeros((batch, 3, *self.info.size, 3), np.uint8))
        else:
            for _ in range(2):
                self(np.zeros((batch, frames, *self.info.size, 3), np.uint8))
        with self._begin():
            self._engine.keep_kernels()

    def layer_times(self, clips: Clips, runs: int) -> list[dict[str, float]]:
        """Milliseconds of every layer in each of some runs, in order of execution.

        The engine is opened once more for it: layers have times only where no graph is replayed.
        """
        with TensorRTSession(*self._opened_with) as session:
            session(clips)
            return session._profiled(clips, runs)

    def _profiled(self, clips: Clips, runs: int) -> list[dict[str, float]]:
        times: list[dict[str, float]] = []
        with self._begin():
            batch = self._feed(clips)
            film = self._films.begin(self._stream) if self.info.streaming else None
            with self._engine.profiled() as profile:
                for _ in range(runs):
                    profile.clear()
                    self._execute(batch, film)
                    self._cuda.synchronize(self._stream)
                    times.append(dict(profile))
                    if film is not None:
                        film.turn += 1
        return times

    def __enter__(self) -> TensorRTSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock, ExitStack() as current:
            self._closed = True
            try:
                current.enter_context(self._cuda.current())
            finally:  # a thread that cannot have the GPU's context gives back all the same
                self._resources.close()

    @contextmanager
    def _begin(self) -> Iterator[None]:
        """The session for this thread alone, and the GPU's context current on it."""
        with self._lock:
            if self._closed:
                raise VivimError(f"{self.info.path} was closed; open it again")
            with self._cuda.current():
                yield

    def _feed(self, clips: Clips | DeviceArray, stream: object = None) -> int:
        """Put clips into the input buffer on the GPU; how many they are."""
        interface = getattr(clips, "__cuda_array_interface__", None)
        if interface is None:
            if not isinstance(clips, np.ndarray):
                raise ModelError(
                    f"clips are a {type(clips).__name__}; expected an array of NumPy, or one on the GPU that has "
                    "__cuda_array_interface__, as those of CuPy, PyTorch and PyCUDA (GPUArray) have"
                )
            array = model_input(self.info, clips)
            batch = self._allowed(len(array))
            np.copyto(self._input.array[:batch], array)
            self._cuda.upload(self._input.device, self._input.host, self._input.size(batch), self._stream)
        else:
            batch = self._allowed(interface["shape"][0] if interface["shape"] else 0)
            address = self._device_address(interface, batch)
            owner = self._cuda.owner(address)
            # PyTorch's arrays name no stream. PyCUDA's and Numba's say None, which should mean that there is nothing to
            # wait for, also while kernels still write them.
            with _CAPTURE:
                self._cuda.wait_for(owner, _handle(interface.get("stream") if stream is None else stream))
            self._cuda.copy(self._input.device, address, owner, self._input.size(batch), self._stream)
        return batch

    def _allowed(self, batch: int) -> int:
        least, most = self.record.profile.min_batch, self.record.profile.max_batch
        if not least <= batch <= most:
            raise ModelError(
                f"{batch} clips at once; {self.info.path} was built for {least} to {most}; "
                f"build it with --max-batch: {self.record.build_command}"
            )
        return batch

    def _device_address(self, interface: dict[str, Any], batch: int) -> int:
        """Where an array on the GPU lies, once it is what the engine takes."""
        shape, dtype, strides = tuple(interface["shape"]), np.dtype(interface["typestr"]), interface.get("strides")
        expected = self._input.array[:batch]
        if (shape, dtype) != (expected.shape, expected.dtype):
            raise ModelError(
                f"clips on the GPU of {dtype} {shape}; {self.info.path} takes {expected.dtype} {expected.shape}"
            )
        axes = [axis for axis, length in enumerate(shape) if length > 1]  # any stride will do along one element
        if strides is not None and any(strides[axis] != expected.strides[axis] for axis in axes):
            raise ModelError(
                f"clips on the GPU with strides {tuple(strides)}; expected them in one piece, {expected.strides}"
            )
        if interface.get("mask") is not None:
            raise ModelError("clips on the GPU with a mask; expected every pixel")
        return int(interface["data"][0])

    def _execute(self, batch: int, film: Film | None = None) -> None:
        """Let the stream compute the output buffer from the input buffer, and what a film remembers from its states."""
        graphs, which = (self._graph, 0) if film is None else (film.graphs, self._films.side(film))
        fresh = batch != self._batch
        if fresh:
            self._drop_graphs()
            self._batch = 0  # neither the old nor the new, should this fail
            self._engine.set_shape(self._input.name, (batch, *self._input.array.shape[1:]))
        elif self._graphs and graphs[which] is None:
            self._capture(graphs, which, film)
        graph = graphs[which]
        if fresh or graph is None:
            self._enqueue(film)
        else:
            self._cuda.launch(graph, self._stream)
        self._batch = batch
        if film is not None:
            self._films.carry(film, self._stream)

    def _place(self, film: Film | None) -> None:
        """Let the next execution read and write a film's states; a graph has its own addresses."""
        if film is not None and self._placed != (now := (film, self._films.side(film))):
            self._placed = None  # neither the old nor the new, should this fail
            for name, address in self._films.places(film):
                self._engine.place(name, address)
            self._placed = now

    def _enqueue(self, film: Film | None) -> None:
        """Launch the engine's kernels; TensorRT for RTX may capture them."""
        self._place(film)
        with _CAPTURE if self._compiles else nullcontext():
            self._engine.execute(self._stream)

    def _capture(self, graphs: list[int | None], which: int, film: Film | None) -> None:
        """Make the execution a CUDA graph. An engine that cannot be captured is executed as it is, from now on."""
        self._place(film)
        try:
            with _CAPTURE:
                self._cuda.begin_capture(self._stream)
                try:
                    self._engine.execute(self._stream)
                finally:
                    graphs[which] = self._cuda.end_capture(self._stream)
        except CudaError:
            self._graphs = False
            self._drop_graphs()

    def _drop_graphs(self) -> None:
        graph, self._graph[0] = self._graph[0], None
        if graph is not None:
            self._cuda.destroy_graph(graph)
        self._films.drop_graphs()

    def _wait(self) -> None:
        """Let the GPU come to rest before its memory is given back; what failed was reported where it failed."""
        with suppress(CudaError):
            self._cuda.synchronize(self._stream)


def _handle(stream: object) -> int | None:
    """The handle of a stream: a number, or what PyTorch, CuPy, PyCUDA and cuda.core have with one; None for None.

    Raises:
        ModelError: it is no stream.
    """
    if stream is None:
        return None
    if protocol := getattr(stream, "__cuda_stream__", None):
        stream = (protocol() if callable(protocol) else protocol)[1]
    for name in ("cuda_stream", "ptr", "handle"):
        stream = getattr(stream, name, stream)
    if not isinstance(stream, int) or isinstance(stream, bool) or stream < 0:
        raise ModelError(f"the stream of clips on the GPU is {stream!r}; expected one of PyTorch, CuPy or PyCUDA")
    return stream or 1  # 0 and 1 are both the legacy default stream of a context


def _info(path: Path, record: EngineRecord) -> ModelInfo:
    """The description of the ONNX file, with what the engine decided."""
    info = ModelInfo.from_metadata(path, record.description)
    fixed = record.profile.min_batch == record.profile.max_batch
    return replace(info, precision=record.precision, batch=record.profile.max_batch if fixed else None)


def _plugin() -> Plugin | PluginError:
    try:
        return Plugin.find()
    except PluginError as error:
        return error


def _gpu_index(device: str, path: Path) -> int:
    """The number of the GPU that --device names."""
    kind, _, index = device.partition(":")
    if kind == "cpu" and not index:
        raise UsageError(f"--device is cpu, but {path} is an engine, which runs on a GPU; run the ONNX file instead")
    number = parse_number(index or "0")
    if kind not in ("auto", "cuda") or (index and kind != "cuda") or number is None:
        raise UsageError(f"--device is {device}; expected auto, cuda or cuda:<index>")
    return number
