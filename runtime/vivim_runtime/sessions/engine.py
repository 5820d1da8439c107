"""An engine loaded by TensorRT or TensorRT for RTX: their runtime, engine and context, and their messages as errors."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import CudaError, IncompatibleEngineError, ModelError, SinkError
from vivim_runtime.files import atomic_path, cache_folder
from vivim_runtime.sessions.backends import BACKENDS
from vivim_runtime.sessions.sidecar import EngineRecord

__all__ = ["Engine", "error_logger", "start", "start_runtime"]


class Engine:
    """An engine and one context to execute it in.

    Args:
        path: of the file, for messages.
        record: of the engine.
        content: of the file, checked (vivim_runtime.sessions.sidecar.check_engine).
        graphs: let a library that captures CUDA graphs itself do so.

    Raises:
        ModelError: the library cannot load it.
        IncompatibleEngineError: the library says that this machine is not for it.
        MissingExtraError: the library is not installed.
    """

    def __init__(self, path: Path, record: EngineRecord, content: bytes, graphs: bool) -> None:
        backend = BACKENDS[record.backend]
        self._path, self._record, self._title = path, record, backend.title
        self._module = module = backend.load()
        self._logger = error_logger(module)
        self._runtime = start_runtime(module, self._logger, record.version_compatible)
        if backend.compiles:
            self._check_validity(content)
        self._engine = self._made(self._runtime.deserialize_cuda_engine(content), "load the engine")
        self._kernels: Any = None
        if backend.compiles:
            configuration = self._engine.create_runtime_config()
            if graphs:
                configuration.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._kernels = self._loaded_kernels(configuration)
            context = self._engine.create_execution_context(configuration)
        else:
            context = self._engine.create_execution_context()
        self._context = self._made(context, "make an execution context")

    def tensor(self, mode: str, states: Collection[str] = ()) -> tuple[str, tuple[int, ...], npt.DTypeLike]:
        """Name, largest shape and type of the only input or output that is none of `states`."""
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = [name for name in names if engine.get_tensor_mode(name) == getattr(self._module.TensorIOMode, mode)]
        if missing := sorted(set(states) - set(found)):
            raise ModelError(f"{self._path} has no {mode.lower()} {missing[0]}, which its description names")
        found = [name for name in found if name not in states]
        if len(found) != 1:
            raise ModelError(f"{self._path} has {len(found)} {mode.lower()}s; expected one, as vivim-export builds")
        return found[0], *self.shape(found[0])

    def shape(self, name: str) -> tuple[tuple[int, ...], npt.DTypeLike]:
        """Largest shape and type of a tensor."""
        engine = self._engine
        shape = tuple(engine.get_tensor_shape(name))
        if -1 in shape[1:]:
            raise ModelError(f"{self._path} has {name} as {shape}; expected only the batch to vary")
        dtype = np.dtype(self._module.nptype(engine.get_tensor_dtype(name)))
        return (self._record.profile.max_batch if shape[0] == -1 else shape[0], *shape[1:]), dtype

    def place(self, name: str, address: int) -> None:
        """Say where a tensor lies on the GPU."""
        self._done(self._context.set_tensor_address(name, address), f"place {name}")

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Choose the shape of the input."""
        self._done(self._context.set_input_shape(name, shape), f"take {name} as {shape}")

    def execute(self, stream: int) -> None:
        """Give a stream the work of one call."""
        self._done(self._context.execute_async_v3(stream), "execute")

    @contextmanager
    def profiled(self) -> Iterator[dict[str, float]]:
        """Within the block, executions add the milliseconds of each layer to what it gives."""
        times: dict[str, float] = {}

        class Profiler(self._module.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times[layer_name] = times.get(layer_name, 0.0) + ms

        profiler = Profiler()
        self._context.profiler = profiler
        try:
            yield times
        finally:
            self._context.profiler = None

    def keep_kernels(self) -> None:
        """Write what was compiled, for the next time. A folder that cannot be written costs time only."""
        if self._kernels is None or (path := _kernel_file(self._record)) is None:
            return
        if (kernels := self._kernels.serialize()) is None:
            return
        content = bytes(kernels)
        with suppress(SinkError, OSError):
            if not path.is_file() or path.read_bytes() != content:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(content)

    def release(self) -> None:
        """Give everything back, the newest first."""
        self.keep_kernels()
        self._context = self._kernels = self._engine = self._runtime = None

    def _loaded_kernels(self, configuration: Any) -> Any:
        """The runtime cache of a context, with what an earlier run compiled. The library refuses what does not fit."""
        cache = configuration.create_runtime_cache()
        with suppress(OSError):
            if (path := _kernel_file(self._record)) is not None:
                cache.deserialize(path.read_bytes())
        configuration.set_runtime_cache(cache)
        return cache

    def _check_validity(self, content: bytes) -> None:
        """What the library itself says from an engine's first bytes: drivers that are too old, above all."""
        validity, diagnostics = self._runtime.get_engine_validity(content)
        if validity == self._module.EngineValidity.INVALID:
            members = self._module.EngineInvalidityDiagnostics.__members__.items()
            reasons = [name.lower().replace("_", " ") for name, flag in members if int(diagnostics) & int(flag)]
            reason = ", ".join(reasons) or self._logger.reason()
            raise IncompatibleEngineError(
                f"{self._path} is not for this machine, says {self._title} "
                f"{self._module.__version__}: {reason}; build it again: {self._record.build_command}"
            )

    def _made(self, thing: Any, what: str) -> Any:
        if thing is None:
            raise ModelError(
                f"{self._path}: {self._title} {self._module.__version__} could not {what}: {self._logger.reason()}"
            )
        return thing

    def _done(self, success: bool, what: str) -> None:
        if not success:
            raise CudaError(f"{self._path}: {self._title} could not {what}: {self._logger.reason()}")


def start_runtime(module: Any, logger: Any, version_compatible: bool) -> Any:
    """The runtime of a library, in which an engine can be loaded.

    Args:
        module: tensorrt or tensorrt_rtx.
        logger: of error_logger().
        version_compatible: the engine brings the code that runs it, which must be allowed. The file is the one that was
            built: it was checked.

    Raises:
        CudaError: it does not start.
    """
    runtime = start(module, "Runtime", logger)
    runtime.engine_host_code_allowed = version_compatible
    return runtime


def start(module: Any, kind: str, logger: Any) -> Any:
    """The Builder or the Runtime of a library.

    Without a GPU, or with a driver that is too old for it, the library logs an error and returns nothing, or raises, or
    returns an object that ends the process when it is used or deleted. So what was logged decides.

    Raises:
        CudaError: it does not start.
    """
    logger.first()
    try:
        made = getattr(module, kind)(logger)
        reason = logger.first()
    except (TypeError, RuntimeError) as error:  # pybind11: factory function returned nullptr
        made, reason = None, logger.first() or str(error)
    if made is None or reason:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))  # never deleted
        raise CudaError(
            f"the {kind} of {module.__name__} {module.__version__} does not start on this machine: "
            f"{reason or 'no reason given'}; vivim-doctor looks for the cause"
        )
    return made


def error_logger(module: Any) -> Any:
    """A logger that keeps errors, until the first of them is asked for."""
    severities = (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR)

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in severities:
                self._errors.append(" ".join(msg.split()))

        def first(self) -> str:
            """The first error since the last time: what follows it are consequences."""
            errors, self._errors = self._errors, []
            return errors[0] if errors else ""

        def reason(self) -> str:
            """The same, for a message."""
            return self.first() or "no reason given"

    return Logger()


def _kernel_file(record: EngineRecord) -> Path | None:
    """Where compiled kernels are kept from one run to the next; None for a user without a home."""
    folder = cache_folder()
    return folder / f"{record.engine_sha256[:16]}.rtx-kernels" if folder else None
