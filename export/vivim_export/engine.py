"""ONNX to an engine: one way for TensorRT and TensorRT for RTX, whose few differences stand in `_prepared`.

Networks are strongly typed: every layer computes in the type that the graph gives it. After the parse (and, where there
is a GPU, after the build, by the engine inspector) the layers' types are read back and compared with what was asked.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from vivim_export.emulation import open_artefact
from vivim_export.engine_graph import EngineGraph, engine_graph
from vivim_export.precision_check import check_layers, layers_of_engine, layers_of_network
from vivim_runtime.errors import MissingExtraError, ModelError, ParityError, PrecisionError, UsageError, VivimError
from vivim_runtime.files import atomic_path, sha256_file, writable_file, write_text
from vivim_runtime.judging.parity import Comparison, compare
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.backends import BACKENDS, Backend
from vivim_runtime.sessions.engine import error_logger, start, start_runtime
from vivim_runtime.sessions.machine import Machine
from vivim_runtime.sessions.plugin import Plugin
from vivim_runtime.sessions.sidecar import (
    HARDWARE_COMPATIBILITIES,
    PRECISIONS,
    EngineRecord,
    LayerRecord,
    PluginRecord,
    Profile,
    sidecar_path,
)
from vivim_runtime.sessions.tensorrt import TensorRTSession

__all__ = ["EngineOptions", "EnginePlan", "Progress", "build_engine", "choose_backend", "emit_graph", "plan_engine"]

# GPUs that an engine of TensorRT for RTX is built for when none are named: GeForce RTX 30, 40 and 50.
RTX_CAPABILITIES = ("8.6", "8.9", "12.0")
_MOST_TIMINGS = 1 << 28  # bytes; TensorRT writes some MB
VERBOSITIES = ("none", "layer_names_only", "detailed")

# phase, steps done, steps in all
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EngineOptions:
    """How to build.

    Attributes:
        precision: fp32, fp16, bf16 or int8.
        backend: tensorrt, rtx, or auto: TensorRT where it is installed, else TensorRT for RTX.
        min_batch, opt_batch, max_batch: clips a call, for a file with an open batch; None is 1, min and opt.
        workspace: GiB that a layer may use for scratch; None leaves it to the library.
        timing_cache: file of measured tactics, read and written (TensorRT).
        optimization_level: 0 to 5; None leaves it to the library.
        hardware_compatibility: of vivim_runtime.sessions.sidecar.HARDWARE_COMPATIBILITIES (TensorRT).
        version_compatible: the engine runs in later versions of the same major too (TensorRT).
        compute_capabilities: GPUs to build for, such as ("8.9", "12.0") (TensorRT for RTX).
        verbosity: what the engine keeps to say about its layers.
        plugin: libvivim_trt.so; None searches (TensorRT).
        clips: what the result is compared on, as vivim_runtime.judging.parity.compare takes it; default two phantoms.
        command: the command line, for the sidecar.
    """

    precision: str = "fp16"
    backend: str = "auto"
    min_batch: int | None = None
    opt_batch: int | None = None
    max_batch: int | None = None
    workspace: float | None = None
    timing_cache: Path | None = None
    optimization_level: int | None = None
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    compute_capabilities: tuple[str, ...] = ()
    verbosity: str = "detailed"
    plugin: Path | None = None
    clips: tuple[str, ...] = ()
    command: str = ""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("the precision", self.precision, PRECISIONS),
            ("--backend", self.backend, ("auto", *BACKENDS)),
            ("--hardware-compatibility", self.hardware_compatibility, HARDWARE_COMPATIBILITIES),
            ("--profiling-verbosity", self.verbosity, VERBOSITIES),
        ):
            if value not in choices:
                raise UsageError(f"{name} is {value}; expected {', '.join(choices)}")
        least = self.min_batch or 1
        usual = self.opt_batch or least
        if not 1 <= least <= usual <= (self.max_batch or usual):
            raise UsageError("expected 1 <= --min-batch <= --opt-batch <= --max-batch")
        if self.workspace is not None and not self.workspace > 0:
            raise UsageError(f"--workspace is {self.workspace:g}; expected GiB, more than 0")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"--builder-optimization-level is {self.optimization_level}; expected 0 to 5")

    def check_backend(self, backend: Backend) -> None:
        """UsageError for an option that the backend has not."""
        for name, given, of in (
            ("--timing-cache-file", self.timing_cache is not None, "tensorrt"),
            ("--hardware-compatibility", self.hardware_compatibility != "none", "tensorrt"),
            ("--version-compatible", self.version_compatible, "tensorrt"),
            ("--plugin", self.plugin is not None, "tensorrt"),
            ("--compute-capability", bool(self.compute_capabilities), "rtx"),
        ):
            if given and backend.name != of:
                raise UsageError(f"{name} is an option of --backend {of}; this is --backend {backend.name}")


@dataclass(frozen=True)
class EnginePlan:
    """What would be built, without building it."""

    backend: str
    library_version: str
    gpu: str
    plugin: str
    precision: str
    converted: bool
    layers: int
    precision_found: dict[str, int]
    compute_layers: dict[str, int]
    profile: Profile
    compute_capabilities: tuple[str, ...]
    weights_bytes: int
    flags: dict[str, str | int] = field(default_factory=dict)


def choose_backend(name: str) -> Backend:
    """The backend that an option means.

    Raises:
        MissingExtraError: its library is not installed.
    """
    if name != "auto":
        BACKENDS[name].load()
        return BACKENDS[name]
    for backend in BACKENDS.values():
        try:
            backend.load()
        except MissingExtraError:
            continue
        return backend
    raise MissingExtraError("building an engine", "rtx")


def plan_engine(source: Path, options: EngineOptions) -> EnginePlan:
    """What `build_engine` would do: everything up to the build itself.

    Raises:
        As build_engine.
    """
    return _Builder(source, options).plan()


def build_engine(
    source: Path,
    output: Path,
    options: EngineOptions,
    on_progress: Progress = lambda phase, done, steps: None,
) -> tuple[EngineRecord, Comparison | None]:
    """Build `output` and its sidecar from an ONNX file of ours; both appear when the engine is proven, or not at all.

    Args:
        on_progress: called from the building thread.

    Returns:
        The sidecar, and the comparison with the ONNX file (None where there is no GPU to run the engine).

    Raises:
        ModelError, UsageError, MissingExtraError, PluginError: exit code 2.
        ParityError, PrecisionError: the engine is not what was asked for; exit code 3.
        VivimError: the library gave up; its own words are in the message.
        KeyboardInterrupt: the build was stopped; nothing is left.
    """
    if output.suffix != ".engine":
        raise UsageError(f"the output is {output}; expected a name ending in .engine")
    writable_file(output)
    return _Builder(source, options).build(output, on_progress)


def emit_graph(source: Path, output: Path, options: EngineOptions) -> None:
    """Write the very graph that a backend parses (TensorRT, where it is auto), for trtexec and Polygraphy.

    Needs neither the library nor a GPU.

    Raises:
        ModelError, UsageError: exit code 2.
    """
    backend = BACKENDS["tensorrt" if options.backend == "auto" else options.backend]
    graph = engine_graph(source, options.precision, backend)
    with atomic_path(output) as temporary:
        onnx.save(graph.parsed, temporary)


class _Builder:
    """One build: the graph, the library's objects, and what was found out about them."""

    def __init__(self, source: Path, options: EngineOptions) -> None:
        self.source, self.options = source, options
        self.backend = choose_backend(options.backend)
        options.check_backend(self.backend)
        self.trt = self.backend.load()
        self.machine = Machine.here(backends=(self.backend.name,))
        if self.backend.plugins:  # before anything of TensorRT is made, which without a GPU can end the process
            self._check_machine()
        self.graph: EngineGraph = engine_graph(source, options.precision, self.backend)
        self.profile = self._profile()
        self.plugin: Plugin | None = None
        if self.backend.plugins:
            self.plugin = Plugin.find(options.plugin)
            self.plugin.load(self.trt)
            self.plugin.expect(self.trt, self.graph.operators)
        self.logger = error_logger(self.trt)
        self._builder = start(self.trt, "Builder", self.logger)
        self.network = self._parsed()
        self.layers = layers_of_network(self.trt, self.network)
        check_layers(self.layers, options.precision)
        self.config, self.flags, self.capabilities = self._prepared()

    def _check_machine(self) -> None:
        """TensorRT builds on this machine's GPU, and not every TensorRT for others besides."""
        if self.machine.gpu is None:
            raise ModelError(
                f"TensorRT builds on the GPU that the engine is for, and here is {self.machine}; "
                "build there, or take --backend rtx, which builds for RTX GPUs anywhere"
            )
        asked = self.options.hardware_compatibility
        if asked == "none":
            return
        if self.machine.jetson is not None:
            raise UsageError(
                f"--hardware-compatibility is {asked}, and this is a Jetson (Jetson Linux {self.machine.jetson}), "
                "whose TensorRT builds for its own GPU alone; leave the option out, and build on each kind of Jetson"
            )
        levels = [name.lower() for name in self.trt.HardwareCompatibilityLevel.__members__]
        if asked not in levels:
            raise UsageError(
                f"--hardware-compatibility is {asked}, which TensorRT {self.trt.__version__} does not have; "
                f"expected {', '.join(sorted(levels))}"
            )

    def _profile(self) -> Profile:
        options, batch = self.options, self.graph.input_shape[0]
        asked = (options.min_batch, options.opt_batch, options.max_batch)
        if batch is not None:
            if any(value not in (None, batch) for value in asked):
                raise UsageError(
                    f"{self.source} takes {batch} clips a call; "
                    "for a range of batches export it with: vivim-export onnx --dynamic-batch"
                )
            return Profile(batch, batch, batch)
        least = options.min_batch or 1
        usual = options.opt_batch or least
        return Profile(least, usual, options.max_batch or usual)

    def _parsed(self) -> Any:
        kinds = self.trt.NetworkDefinitionCreationFlag
        # Where the flag is gone, there are no other networks.
        flags = 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0
        network = self._builder.create_network(flags)
        self._parser = self.trt.OnnxParser(network, self.logger)  # the network lives as long as its parser
        if not self._parser.parse(self.graph.parsed.SerializeToString()):
            reason = self._parser.get_error(0).desc() if self._parser.num_errors else self.logger.reason()
            raise VivimError(f"{self.backend.title} {self.trt.__version__} does not take {self.source}: {reason}")
        return network

    def _prepared(self) -> tuple[Any, dict[str, str | int], tuple[str, ...]]:
        """The builder's configuration, what it is in words, and the GPUs that the engine will run on."""
        trt, options = self.trt, self.options
        config = self._builder.create_builder_config()
        flags: dict[str, str | int] = {"strongly_typed": 1, "tf32": 0}
        # TF32 has float16's mantissa: what the graph keeps in float32 would be float32 in name only.
        config.clear_flag(trt.BuilderFlag.TF32)
        config.profiling_verbosity = getattr(trt.ProfilingVerbosity, options.verbosity.upper())
        flags["profiling_verbosity"] = options.verbosity
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace * 2**30))
            flags["workspace_mib"] = int(options.workspace * 1024)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        flags["builder_optimization_level"] = int(config.builder_optimization_level)
        if self.graph.input_shape[0] is None:
            profile, rest = self._builder.create_optimization_profile(), self.graph.input_shape[1:]
            sizes = (self.profile.min_batch, self.profile.opt_batch, self.profile.max_batch)
            profile.set_shape(self.graph.input_name, *((batch, *rest) for batch in sizes))
            config.add_optimization_profile(profile)
        if self.backend.plugins:
            return config, flags, self._prepare_for_this_gpu(config, flags)
        return config, flags, self._prepare_for_many_gpus(config)

    def _prepare_for_this_gpu(self, config: Any, flags: dict[str, str | int]) -> tuple[str, ...]:
        """TensorRT measures on the GPU that is here."""
        trt, options = self.trt, self.options
        if options.hardware_compatibility != "none":
            levels = trt.HardwareCompatibilityLevel
            config.hardware_compatibility_level = getattr(levels, options.hardware_compatibility.upper())
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.timing_cache is not None:
            try:
                if options.timing_cache.is_file() and options.timing_cache.stat().st_size > _MOST_TIMINGS:
                    raise UsageError(f"{options.timing_cache} is too large for a timing cache; name another file")
                content = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
            except OSError as error:
                raise UsageError(f"cannot read the timing cache {options.timing_cache}: {error.strerror}") from None
            cache = config.create_timing_cache(content)
            if cache is None or not config.set_timing_cache(cache, False):
                raise UsageError(
                    f"the timing cache {options.timing_cache} is not of this GPU and TensorRT {trt.__version__}; "
                    "remove it, or name another file"
                )
            flags["timing_cache_bytes"] = len(content)
        return (str(self.machine.compute_capability),)

    def _prepare_for_many_gpus(self, config: Any) -> tuple[str, ...]:
        """TensorRT for RTX compiles ahead of time for the GPUs that are named."""
        kinds = self.trt.ComputeCapability
        names = self.options.compute_capabilities or RTX_CAPABILITIES
        known = {f"{n[2:-1]}.{n[-1]}": getattr(kinds, n) for n in dir(kinds) if n.startswith("SM")}
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            if name not in known or not config.set_compute_capability(known[name], index):
                raise UsageError(
                    f"--compute-capability {name} is none that TensorRT for RTX {self.trt.__version__} builds for; "
                    f"expected some of {', '.join(sorted(known, key=float))}"
                )
        return names

    def plan(self) -> EnginePlan:
        kinds = Counter(layer.type for layer in self.layers)
        return EnginePlan(
            backend=self.backend.name,
            library_version=self.trt.__version__,
            gpu=str(self.machine),
            plugin=f"{self.plugin.path} ({self.plugin.version})" if self.plugin else "none needed",
            precision=self.options.precision,
            converted=self.graph.converted,
            layers=self.network.num_layers,
            precision_found=_count(self.layers),
            compute_layers=dict(kinds.most_common()),
            profile=self.profile,
            compute_capabilities=self.capabilities,
            weights_bytes=sum(len(t.raw_data) for t in self.graph.parsed.graph.initializer),
            flags=self.flags,
        )

    def build(self, output: Path, on_progress: Progress) -> tuple[EngineRecord, Comparison | None]:
        if self.graph.converted:
            self._check_conversion()
        begun = time.perf_counter()
        content = self._serialized(on_progress)
        self.flags["build_seconds"] = round(time.perf_counter() - begun)
        self.flags["layers"] = self.network.num_layers
        with atomic_path(output) as temporary:
            temporary.write_bytes(content)
            record = self._record(content)
            if self.machine.gpu is None or self.graph.is_foreign:
                record.write(output)
                return record, None
            record, comparison = self._proven(record, temporary, output)
            record.write(output)
        self._save_timings()
        return record, comparison

    def _check_conversion(self) -> None:
        """The converted graph against the file, in ONNX Runtime on the CPU."""
        with TemporaryDirectory() as folder:
            converted = Path(folder) / f"{self.source.stem}.{self.options.precision}.onnx"
            onnx.save(self.graph.typed, converted)
            with open_session(self.source, "cpu") as a, open_session(converted, "cpu") as b:
                comparison = compare(a, b, self.options.clips)
        if not comparison.passed:
            raise ParityError(
                f"{self.source} in {self.options.precision} does not stand for the file: "
                f"{'; '.join(comparison.failures)}; nothing was written",
                comparison,
            )

    def _serialized(self, on_progress: Progress) -> bytes:
        """The engine; built in a thread of its own, so that Ctrl-C is heard."""
        monitor = _monitor(self.trt, on_progress)
        self.config.progress_monitor = monitor
        result: list[Any] = []

        def work() -> None:
            result.append(self._builder.build_serialized_network(self.network, self.config))

        thread = threading.Thread(target=work, name="engine build", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.2)
        except KeyboardInterrupt:
            monitor.cancelled.set()
            thread.join()
            raise
        if not result or result[0] is None:
            raise VivimError(f"{self.backend.title} {self.trt.__version__} built no engine: {self.logger.reason()}")
        return bytes(result[0])

    def _record(self, content: bytes) -> EngineRecord:
        options, description = self.options, self.graph.description
        plugin = self.plugin
        one_gpu = self.backend.plugins
        return EngineRecord(
            backend=self.backend.name,
            engine_sha256=hashlib.sha256(content).hexdigest(),
            engine_bytes=len(content),
            onnx_sha256=sha256_file(self.source),
            weights_sha256=description["vivim.weights_sha256"],
            library_version=self.trt.__version__,
            gpu=self.machine.gpu if one_gpu else None,
            compute_capabilities=self.capabilities,
            hardware_compatibility=options.hardware_compatibility,
            version_compatible=options.version_compatible,
            plugin=PluginRecord(plugin.version, plugin.sha256, plugin.kernels_sha256) if plugin else None,
            precision=options.precision,
            precision_found=_count(self.layers),
            layers=tuple(self.layers),
            profile=self.profile,
            calibration_sha256=description.get("vivim.calibration_sha256"),
            build_flags={**self.flags, "precision_read_from": "network"},
            build_command=options.command or f"vivim-export trt {self.source}",
            parity=None,
            description=description,
            versions={
                "vivim-edge": importlib.metadata.version("vivim-edge"),
                "onnx": onnx.__version__,
                self.backend.module: self.trt.__version__,
            },
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )

    def _inspected(self, record: EngineRecord, text: str, output: Path) -> EngineRecord:
        """The record with the layers of the engine itself.

        All that the inspector says is kept beside the engine, also where the engine is refused for it: a build takes
        minutes.
        """
        kept = output.with_name(f"{output.name}.layers.json")
        write_text(kept, text)
        try:
            layers = layers_of_engine(json.loads(text))
        except ValueError:  # of the JSON; the network's types are binding all the same
            flags: dict[str, str | int] = {
                **record.build_flags,
                "precision_read_from": "network; the engine inspector gave no JSON",
            }
            return replace(record, build_flags=flags)
        if not layers:
            return record
        try:
            check_layers(layers, self.options.precision)
        except PrecisionError as error:
            raise PrecisionError(f"{error}; all that the engine says about its layers is in {kept}") from None
        flags = {**record.build_flags, "precision_read_from": "engine inspector"}
        return replace(record, layers=tuple(layers), precision_found=_count(layers), build_flags=flags)

    def _proven(self, record: EngineRecord, engine: Path, output: Path) -> tuple[EngineRecord, Comparison]:
        """The record with what the engine itself says about its layers, and with its parity; needs the GPU."""
        runtime = start_runtime(self.trt, self.logger, record.version_compatible)
        loaded = runtime.deserialize_cuda_engine(engine.read_bytes())
        if loaded is None:
            raise VivimError(f"the engine does not load again: {self.logger.reason()}")
        text = str(loaded.create_engine_inspector().get_engine_information(self.trt.LayerInformationFormat.JSON))
        record = self._inspected(record, text, output)
        del loaded, runtime
        try:
            record.write(engine)  # beside the temporary name, for the session
            with open_artefact(self.source, "cpu") as a, TensorRTSession(engine, plugin=self.plugin) as b:
                comparison = compare(a, b, self.options.clips)
        finally:
            sidecar_path(engine).unlink(missing_ok=True)
        if not comparison.passed:
            raise ParityError(
                f"the engine does not stand for {self.source}: {'; '.join(comparison.failures)}; nothing was written",
                comparison,
            )
        return replace(record, parity=comparison.record()), comparison

    def _save_timings(self) -> None:
        path = self.options.timing_cache
        cache = self.config.get_timing_cache() if path is not None else None
        if path is not None and cache is not None:
            with atomic_path(path) as temporary:
                temporary.write_bytes(bytes(cache.serialize()))


def _count(layers: list[LayerRecord]) -> dict[str, int]:
    return dict(Counter(layer.precision for layer in layers))


def _monitor(trt: Any, on_progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells of every phase's steps; stops the build when `cancelled` is set."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = threading.Event()
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = steps
            on_progress(name, 0, steps)

        def phase_finish(self, name: str) -> None:
            steps = self._steps.pop(name, 0)
            on_progress(name, steps, steps)

        def step_complete(self, name: str, step: int) -> bool:
            on_progress(name, step + 1, self._steps.get(name, 0))
            return not self.cancelled.is_set()

    return Monitor()
