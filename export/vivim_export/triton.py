"""A model repository for the Triton inference server: the model, config.pbtxt made of what the file says, libraries.

repository/
└── NAME/
    ├── config.pbtxt
    ├── 1/model.onnx (or model.plan, an engine of TensorRT)
    └── libvivim_ort.so       where compiled operators are asked for (--operators)

A file whose batch is open lets Triton gather requests (max_batch_size); any other is called as it is. A streaming file
keeps its states in the server: its requests belong to sequences, whose states begin as zeros (Triton: "implicit state
management").
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx

from vivim_runtime.errors import ModelError, PluginError, SinkError, UsageError
from vivim_runtime.files import atomic_path, sha256_file, write_text
from vivim_runtime.sessions.base import ModelInfo
from vivim_runtime.sessions.native import native_library
from vivim_runtime.sessions.onnx_file import check_onnx_file
from vivim_runtime.sessions.sidecar import EngineRecord

__all__ = ["TritonOptions", "write_repository"]

_TYPES: dict[int, str] = {
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
}
_OPEN_BATCH = 8  # clips that Triton gathers at most, where nothing else is said
_IDLE_US = 30_000_000  # a film that has sent no frame for so long is forgotten
_LIBRARY = "libvivim_ort.so"


@dataclass(frozen=True)
class TritonOptions:
    """How to serve.

    Attributes:
        name: of the model; "" takes the file's.
        device: "auto", "cpu" or "gpu": where its instances run.
        instances: copies of it on each device.
        max_batch: clips that Triton gathers at most, of a file whose batch is open; None is a default.
        operators: place the compiled operators of this machine, and let Triton load them.
        mount: where the server sees the repository (`tritonserver --model-repository`): of libraries it wants the path.
    """

    name: str = ""
    device: str = "auto"
    instances: int = 1
    max_batch: int | None = None
    operators: bool = False
    mount: str = "/models"

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "gpu"):
            raise UsageError(f"--placement is {self.device}; expected auto, cpu or gpu")
        if self.instances < 1 or (self.max_batch is not None and self.max_batch < 1):
            raise UsageError("--instances and --max-batch count; expected at least 1")


@dataclass(frozen=True)
class _Tensor:
    """An input or output, as Triton names its type; -1 in `dims` is open, and the batch is the first."""

    name: str
    type: str
    dims: tuple[int, ...]


def write_repository(model: Path, repository: Path, options: TritonOptions | None = None) -> Path:
    """Write a model's folder into a repository; returns its config.pbtxt.

    Raises:
        ModelError: the file is none of ours.
        SinkError: the folder is there already.
        PluginError: compiled operators are asked for, and there are none.
        UsageError: an engine that Triton does not load, or options that the file does not have.
    """
    options = options or TritonOptions()
    name = options.name or model.stem
    folder = repository / name
    if folder.exists():
        raise SinkError(f"{folder} is there already; remove it, or give another --name")
    engine = model.suffix == ".engine"
    info, inputs, outputs, most = _engine_tensors(model) if engine else _onnx_tensors(model)
    open_batch = inputs[0].dims[0] == -1
    if options.max_batch is not None and not open_batch:
        raise UsageError(f"{model} takes {inputs[0].dims[0]} clips a call; --max-batch wants --dynamic-batch at export")
    if options.operators and engine:
        raise UsageError("--operators are for ONNX files; an engine calls the TensorRT plugin")
    batch = min(options.max_batch or most, most) if open_batch else 0
    library = _operator_library() if options.operators else None
    folder.mkdir(parents=True)
    try:
        (folder / "1").mkdir()
        with atomic_path(folder / "1" / ("model.plan" if engine else "model.onnx")) as temporary:
            shutil.copyfile(model, temporary)
        placed = ""
        if library:
            shutil.copyfile(library, folder / _LIBRARY)
            placed = str(PurePosixPath(options.mount) / name / _LIBRARY)
        text = _config(name, info, (inputs, outputs), batch, engine, placed, options)
        write_text(folder / "config.pbtxt", text)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return folder / "config.pbtxt"


def _onnx_tensors(path: Path) -> tuple[ModelInfo, list[_Tensor], list[_Tensor], int]:
    """What a file says of itself, its inputs and outputs, and the most clips a call."""
    check_onnx_file(path)
    graph = onnx.load(path)
    info = ModelInfo.from_metadata(path, {entry.key: entry.value for entry in graph.metadata_props})
    return info, _tensors(path, graph.graph.input), _tensors(path, graph.graph.output), _OPEN_BATCH


def _tensors(path: Path, values: Iterable[onnx.ValueInfoProto]) -> list[_Tensor]:
    found = []
    for value in values:
        kind = value.type.tensor_type
        if kind.elem_type not in _TYPES:
            raise ModelError(f"{path} has {value.name} as {onnx.TensorProto.DataType.Name(kind.elem_type)}")
        dims = tuple(-1 if dim.dim_param else dim.dim_value for dim in kind.shape.dim)
        found.append(_Tensor(value.name, _TYPES[kind.elem_type], dims))
    return found


def _engine_tensors(path: Path) -> tuple[ModelInfo, list[_Tensor], list[_Tensor], int]:
    """As `_onnx_tensors`, of what an engine's record says."""
    record = EngineRecord.read(path)
    if record.backend != "tensorrt":
        raise UsageError(f"{path} is for TensorRT for RTX, which Triton has no backend for; build --backend tensorrt")
    info = ModelInfo.from_metadata(path, record.description)
    low, high = record.profile.min_batch, record.profile.max_batch
    batch = low if low == high else -1
    height, width = info.size
    if info.input == "uint8":
        taken = _Tensor("frames", "TYPE_UINT8", (batch, info.frames, height, width, 3))
    else:
        taken = _Tensor("clip", "TYPE_FP32", (batch, info.frames, 3, height, width))
    return info, [taken], [_Tensor("logits", "TYPE_FP32", (batch, info.frames, len(info.classes), height, width))], high


def _operator_library() -> Path:
    found = native_library()
    if found is None:
        raise PluginError("there are no compiled operators here; build them (make native), or leave --operators away")
    return found.path


def _config(
    name: str,
    info: ModelInfo,
    tensors: tuple[Sequence[_Tensor], Sequence[_Tensor]],
    batch: int,
    engine: bool,
    library: str,
    options: TritonOptions,
) -> str:
    """The text of config.pbtxt."""
    states = {state.input: state for state in info.states}
    remembered = {state.output for state in info.states}
    lines = [
        f"# {info.preset}, {info.precision}: {info.frames} frames of {info.size[1]}x{info.size[0]}; by vivim-export",
        f"name: {_quoted(name)}",
        f"backend: {_quoted('tensorrt' if engine else 'onnxruntime')}",
        f"max_batch_size: {batch}",
    ]
    for kind, found, left_out in (("input", tensors[0], set(states)), ("output", tensors[1], remembered)):
        for tensor in found:
            if tensor.name not in left_out:
                lines.append(f"{kind} {{ {_described(tensor, batch)} }}")
    kinds = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}
    kind = "KIND_GPU" if engine else kinds[options.device]
    lines.append(f"instance_group {{ kind: {kind} count: {options.instances} }}")
    if states:
        lines += _sequences(info, batch)
    elif batch > 1:
        lines.append("dynamic_batching { }")
    if library:
        lines.append(f"model_operations {{ op_library_filename: {_quoted(library)} }}")
    parameters = {
        "vivim_classes": ",".join(entry.name for entry in info.classes),
        "vivim_hop": str(info.hop),
        "vivim_input": "RGB, uint8" if info.input == "uint8" else "RGB, normalised float32",
        "vivim_model_sha256": sha256_file(info.path),
        "vivim_weights_sha256": info.weights_sha256,
    }
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}")
    return "\n".join(lines) + "\n"


def _described(tensor: _Tensor, batch: int) -> str:
    dims = tensor.dims[1:] if batch else tensor.dims
    return f"name: {_quoted(tensor.name)} data_type: {tensor.type} dims: [ {', '.join(map(str, dims))} ]"


def _sequences(info: ModelInfo, batch: int) -> list[str]:
    """A film is a sequence: its states stay in the server, and begin as zeros."""
    lines = ["sequence_batching {", f"  max_sequence_idle_microseconds: {_IDLE_US}", "  direct { }"]
    for state in info.states:
        dims = ", ".join(map(str, state.shape[1:] if batch else state.shape))
        lines += [
            "  state {",
            f"    input_name: {_quoted(state.input)} output_name: {_quoted(state.output)}",
            f"    data_type: TYPE_FP32 dims: [ {dims} ]",
            f'    initial_state {{ name: "zeros" data_type: TYPE_FP32 dims: [ {dims} ] zero_data: true }}',
            "  }",
        ]
    return [*lines, "}"]


def _quoted(text: str) -> str:
    """A string of protobuf's text format."""
    escaped = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else _escaped(c) for c in text)
    return f'"{escaped}"'


def _escaped(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode())
