"""The graph that a TensorRT library parses: typed as asked, and with our operators in the form that it can build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from vivim_export.cpu_graph import standard_nodes
from vivim_export.functions import DOMAIN
from vivim_export.lowering import lower_operators
from vivim_export.precision import half_from_float
from vivim_export.s6 import LowerS6Scan
from vivim_runtime.errors import ModelError, UsageError
from vivim_runtime.sessions.backends import Backend
from vivim_runtime.sessions.base import ModelInfo
from vivim_runtime.sessions.onnx_file import check_onnx_file

__all__ = ["EngineGraph", "bind_plugins", "default_precision", "engine_graph"]

PLUGIN_VERSION = "1"
_QUANTIZING = {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True, eq=False)
class EngineGraph:
    """What is parsed, and what is known about it.

    Attributes:
        typed: the model with our operators and their bodies, in the precision asked: ONNX Runtime runs it.
        parsed: the same as the library parses it.
        converted: whether `typed` was made from a file of another precision.
        description: the file's metadata.
        input_name, input_shape: of the only input that is no state; None is an open batch.
    """

    typed: onnx.ModelProto
    parsed: onnx.ModelProto
    converted: bool
    description: dict[str, str]
    input_name: str
    input_shape: tuple[int | None, ...]

    @property
    def operators(self) -> frozenset[str]:
        """Those of ours that the library finds as plugins."""
        return frozenset(node.op_type for node in self.parsed.graph.node if node.domain == DOMAIN)

    @property
    def is_foreign(self) -> bool:
        """Whether it takes what somebody else's network takes: no session runs it, to prove the engine."""
        return _is_foreign(self.description)


def default_precision(path: Path) -> str:
    """What a file is built in where nothing is asked for: int8 where it is quantised, as it is where its network is
    somebody else's, else fp16.

    Raises:
        ModelError: no ONNX model.
    """
    model = _load(path)
    description = _description(model)
    if _is_foreign(description):
        return description.get("vivim.precision", "fp32")
    return "int8" if _is_quantized(model) else "fp16"


def engine_graph(path: Path, precision: str, backend: Backend) -> EngineGraph:
    """The graph of a file for a backend.

    Args:
        path: a .onnx file of vivim-export.
        precision: fp32, fp16, bf16, or int8: a file with Q/DQ nodes, in fp16 where it has none.

    Raises:
        ModelError: no file of ours.
        UsageError: its precision cannot become the one asked for.
    """
    model = _load(path)
    description = _description(model)
    if not _is_foreign(description):
        if "vivim.format" not in description:
            raise ModelError(
                f"{path} was not written by vivim-export; make one with: vivim-export onnx --weights W -o M"
            )
        _check_input(model, ModelInfo.from_metadata(path, description))
    typed, converted = _typed(model, path, description.get("vivim.precision", ""), precision)
    parsed = lower_operators(typed, others=[LowerS6Scan()], keep=_has_plugin if backend.plugins else None)
    parsed = bind_plugins(parsed) if backend.plugins else parsed
    entry = parsed.graph.input[0]  # of a streaming file the frames; its states have a batch that is fixed
    shape = tuple(d.dim_value or None for d in entry.type.tensor_type.shape.dim)
    description = {item.key: item.value for item in typed.metadata_props}
    return EngineGraph(typed, parsed, converted, description, entry.name, shape)


def _description(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _is_foreign(description: dict[str, str]) -> bool:
    """Whether a file is of `vivim-export onnx --model` and takes what its network takes, no clips of pixels."""
    return "vivim.network" in description and "vivim.format" not in description


def _has_plugin(node: onnx.NodeProto) -> bool:
    """The plugin's fused scan has a gate always; one without is lowered to standard layers."""
    if node.op_type in ("SelectiveScan", "StreamingScan"):
        return bool(node.input[2])
    return node.op_type in ("CausalConv1d", "StreamingConv1d", "S6Scan")


def _check_input(model: onnx.ModelProto, info: ModelInfo) -> None:
    """ModelError where the graph takes other pictures than its description says, or has other states."""
    states = {state.input: state.shape for state in info.states} | {state.output: state.shape for state in info.states}
    inputs = [value for value in model.graph.input if value.name not in states]
    if len(inputs) != 1 or inputs[0].name != model.graph.input[0].name:
        raise ModelError(f"{info.path} has {len(inputs)} inputs; expected one, the frames; export it again")
    info.check_input([d.dim_value or d.dim_param for d in inputs[0].type.tensor_type.shape.dim])
    found = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in (*model.graph.input, *model.graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    for name, shape in states.items():
        if found.get(name) != shape:
            raise ModelError(f"{info.path} has no {name} of float32 {shape}, as its description says; export it again")


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelError(f"there is no model {path}; make one with: vivim-export onnx --weights tiny -o {path.name}")
    check_onnx_file(path)
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
        model = standard_nodes(model)
    except Exception as error:  # protobuf's and onnx's exceptions share no base class
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} is no ONNX model: {first}; export it again") from None
    return model


def _typed(model: onnx.ModelProto, path: Path, have: str, wanted: str) -> tuple[onnx.ModelProto, bool]:
    """The model in the precision wanted, and whether it had to be converted."""
    quantized = _is_quantized(model)
    if wanted == "int8":
        if not quantized:
            raise UsageError(f"{path} holds no quantised layers; quantise it first: vivim-calibrate {path}")
        # Beside int8 layers, float32 ones would cost more than int8 wins.
        return half_from_float(model), True
    if quantized:
        raise UsageError(f"{path} is quantised; build it with --int8, or take the {wanted} file")
    if have == wanted:
        return model, False
    if _is_foreign(_description(model)):
        raise UsageError(
            f"{path} is {have} and --{wanted} was asked for; export it so, which proves it: "
            f"vivim-export onnx --model M{' --fp16' if wanted == 'fp16' else ''}"
        )
    if (have, wanted) == ("fp32", "fp16"):
        return half_from_float(model), True
    raise UsageError(
        f"{path} is {have} and --{wanted} was asked for; export it so: vivim-export onnx --weights W --{wanted}"
    )


def _is_quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type in _QUANTIZING for node in model.graph.node)


def bind_plugins(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose operators are bare nodes that say which plugin they are.

    TensorRT's parser looks for its own importer, then for a function of the file, then for a plugin: the bodies go.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.functions[:]
    for node in result.graph.node:
        if node.domain == DOMAIN:
            node.attribute.append(helper.make_attribute("plugin_namespace", DOMAIN))
            node.attribute.append(helper.make_attribute("plugin_version", PLUGIN_VERSION))
    return result
