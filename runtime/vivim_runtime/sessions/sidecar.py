"""What is known of an engine without opening it: `MODEL.engine.json`, and whether this machine may load the engine.

An engine is code for one GPU, made by one version of a library, and nothing about it can be read without loading it. So
the builder writes this record beside it, and `check_engine` compares record, file and machine first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivim_runtime.errors import IncompatibleEngineError, ModelError, PluginError
from vivim_runtime.files import write_text
from vivim_runtime.sessions.backends import BACKENDS
from vivim_runtime.sessions.machine import Machine
from vivim_runtime.sessions.plugin import Plugin
from vivim_runtime.text import parse_json, printable

__all__ = [
    "HARDWARE_COMPATIBILITIES",
    "PRECISIONS",
    "EngineRecord",
    "LayerRecord",
    "PluginRecord",
    "Profile",
    "check_engine",
    "sidecar_path",
]

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
# Names of TensorRT's HardwareCompatibilityLevel, in lower case.
HARDWARE_COMPATIBILITIES = ("none", "ampere_plus", "same_compute_capability")

_MOST_BATCH = 4096  # as of models
_MOST_LETTERS = 2000  # of what a message quotes
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,39}")

# The newest record that this version reads.
_FORMAT = 1


@dataclass(frozen=True)
class LayerRecord:
    """A layer of the engine, as the engine inspector names it, and the precision that it computes in."""

    name: str
    type: str
    precision: str


@dataclass(frozen=True)
class PluginRecord:
    """The plugin that the engine was built with; see vivim_runtime.sessions.plugin.Plugin."""

    version: str
    sha256: str
    kernels_sha256: str


@dataclass(frozen=True)
class Profile:
    """Clips a call: fewest, the number that the engine is fastest at, most."""

    min_batch: int
    opt_batch: int
    max_batch: int


@dataclass(frozen=True)
class EngineRecord:
    """An engine's sidecar.

    Attributes:
        backend: "tensorrt" or "rtx" (vivim_runtime.sessions.backends).
        engine_sha256, engine_bytes: of the engine file.
        onnx_sha256: of the ONNX file that it was built from.
        weights_sha256: of the checkpoint, as the ONNX file says it.
        library_version: `__version__` of the backend's module that built it.
        gpu: name of the GPU that it was built on; None where it was built ahead of time, for many.
        compute_capabilities: that it runs on, such as ("8.9", "12.0"); with TensorRT that of the building GPU.
        hardware_compatibility: one of HARDWARE_COMPATIBILITIES.
        version_compatible: whether newer libraries of the same major version may load it.
        plugin: that its layers call; None where they call none.
        precision: that was asked for, one of PRECISIONS.
        precision_found: layers by precision, as read back from the engine.
        layers: the same, one by one.
        profile: batch sizes.
        calibration_sha256: of the file of ranges that int8 was made with.
        build_flags: options of the builder, for people and for reports.
        build_command: the command line that builds it again.
        parity: result of the comparison with PyTorch; None where it was not made (no GPU).
        description: metadata of the ONNX file ("vivim.*"), from which ModelInfo is made.
        versions: of the tools that took part.
        created: when, ISO 8601 in UTC.
    """

    backend: str
    engine_sha256: str
    engine_bytes: int
    onnx_sha256: str
    weights_sha256: str
    library_version: str
    gpu: str | None
    compute_capabilities: tuple[str, ...]
    hardware_compatibility: str
    version_compatible: bool
    plugin: PluginRecord | None
    precision: str
    precision_found: dict[str, int]
    layers: tuple[LayerRecord, ...]
    profile: Profile
    calibration_sha256: str | None
    build_flags: dict[str, str | int]
    build_command: str
    parity: dict[str, Any] | None
    description: dict[str, str]
    versions: dict[str, str]
    created: str

    def __post_init__(self) -> None:
        least, usual, most = dataclasses.astuple(self.profile)
        rules = {
            "backend": (self.backend in BACKENDS, " or ".join(BACKENDS)),
            "precision": (self.precision in PRECISIONS, ", ".join(PRECISIONS)),
            "hardware_compatibility": (
                self.hardware_compatibility in HARDWARE_COMPATIBILITIES,
                ", ".join(HARDWARE_COMPATIBILITIES),
            ),
            "engine_sha256": (re.fullmatch("[0-9a-f]{64}", self.engine_sha256), "64 hexadecimal digits"),
            "compute_capabilities": (
                self.compute_capabilities
                and all(re.fullmatch(r"[0-9]{1,3}\.[0-9]", c) for c in self.compute_capabilities),
                "some such as 8.9",
            ),
            "profile": (
                1 <= least <= usual <= most <= _MOST_BATCH,
                f"1 <= min_batch <= opt_batch <= max_batch <= {_MOST_BATCH}",
            ),
            "library_version": (_VERSION.fullmatch(self.library_version), "one such as 10.13.3.9"),
            "gpu": (_is_line(self.gpu or "none"), f"a name of 1 to {_MOST_LETTERS} letters"),
            "build_command": (_is_line(self.build_command), f"a command of 1 to {_MOST_LETTERS} letters"),
        }
        for name, (right, expected) in rules.items():
            if not right:
                raise ValueError(f"{name} is {printable(str(getattr(self, name)), 200)}; expected {expected}")

    def write(self, engine: Path) -> Path:
        """Write the record beside the engine, whole or not at all; its path."""
        path = sidecar_path(engine)
        write_text(path, json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n")
        return path

    @classmethod
    def read(cls, engine: Path) -> EngineRecord:
        """The record beside an engine.

        Raises:
            IncompatibleEngineError: it is missing, damaged, or of a newer format.
        """
        path = sidecar_path(engine)
        again = f"build the engine again: vivim-export trt MODEL.onnx -o {engine.name}"
        if os.path.lexists(path) and not path.is_file():  # a FIFO would be waited for
            raise IncompatibleEngineError(f"{path} is not a regular file; {again}")
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise IncompatibleEngineError(
                f"{engine} has no {path.name} beside it, which says what the engine is for; copy both files, or {again}"
            ) from None
        except (OSError, ValueError) as error:
            raise IncompatibleEngineError(f"{path} cannot be read ({error}); {again}") from None
        version = content.get("format") if isinstance(content, dict) else None
        if type(version) is not int or version < 1:
            raise IncompatibleEngineError(f"{path} was not written by vivim-export; {again}")
        if version > _FORMAT:
            raise IncompatibleEngineError(
                f"{path} has format {version}, this version reads up to {_FORMAT}; update vivim-edge, or {again}"
            )
        try:
            record: EngineRecord = _parsed(cls, content, "the record")
        except ValueError as error:
            raise IncompatibleEngineError(f"{path} is damaged ({error}); {again}") from None
        return record


def _is_line(text: str) -> bool:
    return 0 < len(text) <= _MOST_LETTERS and text.isprintable()


def sidecar_path(engine: Path) -> Path:
    """`MODEL.engine` -> `MODEL.engine.json`."""
    return engine.with_name(f"{engine.name}.json")


def check_engine(
    record: EngineRecord, engine: Path, machine: Machine, plugin: Plugin | PluginError | None = None
) -> bytes:
    """The content of an engine file, once it is sure that this machine may load it.

    Args:
        record: of the engine.
        engine: its file.
        machine: this one.
        plugin: that was found here, or why none was; of no account where the engine calls none.

    Raises:
        ModelError: there is no such file.
        MissingExtraError: the library that runs it is not installed.
        IncompatibleEngineError: file, library, GPU or plugin is not that of the record; both are named.
    """
    content = _checked_content(record, engine)
    _check_gpu_is_there(record, engine, machine)
    _check_library(record, engine, machine)
    _check_gpu(record, engine, machine)
    if record.plugin is not None:
        _check_plugin(record.plugin, record, engine, plugin)
    return content


def _refusal(record: EngineRecord, problem: str) -> IncompatibleEngineError:
    return IncompatibleEngineError(f"{problem}; build it again: {record.build_command}")


def _checked_content(record: EngineRecord, engine: Path) -> bytes:
    try:
        content = engine.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"there is no engine {engine}; build it with: {record.build_command}") from None
    except OSError as error:
        raise ModelError(f"{engine} cannot be read: {error.strerror}") from None
    if len(content) != record.engine_bytes:
        raise _refusal(
            record,
            f"{engine} has {len(content)} bytes, {record.engine_bytes} were built: it is cut off or replaced",
        )
    digest = hashlib.sha256(content).hexdigest()
    if digest != record.engine_sha256:
        raise _refusal(
            record,
            f"{engine} has SHA-256 {digest[:12]}..., {record.engine_sha256[:12]}... was built: it is altered",
        )
    return content


def _needed_gpu(record: EngineRecord) -> str:
    """The GPUs that an engine runs on, in words."""
    if record.hardware_compatibility == "ampere_plus":
        return "an NVIDIA GPU of compute capability 8.0 or higher (Ampere or newer)"
    *others, last = record.compute_capabilities
    capabilities = f"{', '.join(others)} or {last}" if others else last
    if record.hardware_compatibility == "none" and record.gpu is not None:
        return f"the GPU it was built on, {record.gpu} (compute capability {capabilities})"
    return f"an NVIDIA GPU of compute capability {capabilities}"


def _check_gpu_is_there(record: EngineRecord, engine: Path, machine: Machine) -> None:
    if machine.gpu is None:
        raise IncompatibleEngineError(
            f"{engine} needs {_needed_gpu(record)}, this machine has {machine}; "
            f"run the ONNX file here, or the engine where such a GPU is; it is built by: {record.build_command}"
        )


def _check_gpu(record: EngineRecord, engine: Path, machine: Machine) -> None:
    here = machine.compute_capability or "0.0"
    if record.hardware_compatibility == "ampere_plus":
        right = int(here.partition(".")[0]) >= 8
    else:
        one_gpu = record.hardware_compatibility == "none" and record.gpu is not None
        right = here in record.compute_capabilities and (not one_gpu or machine.gpu == record.gpu)
    if not right:
        raise _refusal(record, f"{engine} needs {_needed_gpu(record)}, this machine has {machine}")


def _check_library(record: EngineRecord, engine: Path, machine: Machine) -> None:
    backend = BACKENDS[record.backend]
    here = machine.versions.get(record.backend)
    if here is None:
        raise backend.missing()
    newer_minor = _numbers(here)[:1] == _numbers(record.library_version)[:1] and _numbers(here) >= _numbers(
        record.library_version
    )
    if here != record.library_version and not (record.version_compatible and newer_minor):
        raise _refusal(
            record, f"{engine} was built with {backend.title} {record.library_version}, this machine has {here}"
        )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"[0-9]{1,9}", version)]


def _check_plugin(
    needed: PluginRecord, record: EngineRecord, engine: Path, plugin: Plugin | PluginError | None
) -> None:
    if not isinstance(plugin, Plugin):
        raise IncompatibleEngineError(
            f"{engine} needs the plugin libvivim_trt.so {needed.version}, this machine has none: {plugin}; "
            f"or build the engine again: {record.build_command}"
        )
    for what, expected, found in (
        ("version", needed.version, plugin.version),
        ("SHA-256", needed.sha256, plugin.sha256),
        ("kernels' SHA-256", needed.kernels_sha256, plugin.kernels_sha256),
    ):
        if expected != found:
            raise _refusal(
                record,
                f"{engine} was built with the plugin's {what} {expected[:12]}, {plugin.path} has {found[:12]}",
            )


# --- JSON into dataclasses ------------------------------------------------------------------------------------------


def _parsed(kind: Any, value: Any, where: str) -> Any:
    """`value`, as json.loads gives it, as a `kind`; ValueError says what is wrong where."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        for choice in arguments:
            if choice is type(None) and value is None:
                return None
        rest = [choice for choice in arguments if choice is not type(None)]
        return _parsed(next((c for c in rest if type(value) is c), rest[0]), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_parsed(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _parsed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        assert isinstance(kind, type)
        missing = [f.name for f in dataclasses.fields(kind) if f.name not in value]
        if missing:
            raise ValueError(f"{where} has no {missing[0]}")
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: _parsed(hints[f.name], value[f.name], f.name) for f in dataclasses.fields(kind)})
    if type(value) is kind:  # exactly: a bool is no int
        return value
    raise ValueError(f"{where} is {printable(repr(value), 80)}; expected {getattr(origin or kind, '__name__', kind)}")
