"""Which precision the layers have that will run, and whether it is the one that was asked for.

A build can go wrong silently: a graph whose casts were lost gives an engine that is right, and slow. So layers are read
back, from the parsed network (whose types are binding, as it is strongly typed) and, with a GPU, from the engine.
"""

from __future__ import annotations

import re
from typing import Any

from vivim_runtime.errors import PrecisionError
from vivim_runtime.sessions.sidecar import LayerRecord

__all__ = ["PRODUCTS", "check_layers", "layers_of_engine", "layers_of_network"]

# Layers that compute on data, of those a network has; the others move or name things.
_COMPUTING = {
    "ACTIVATION",
    "CONVOLUTION",
    "DEQUANTIZE",
    "ELEMENTWISE",
    "MATRIX_MULTIPLY",
    "NORMALIZATION",
    "PLUGIN_V3",
    "QUANTIZE",
    "REDUCE",
    "RESIZE",
    "SOFTMAX",
    "UNARY",
}
_PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8"}
# Names of the inspector for the same types.
_FORMATS = {
    "float": "fp32",
    "fp32": "fp32",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "int8": "int8",
}
# Where the time goes and where a precision pays.
PRODUCTS = ("CONVOLUTION", "MATRIX_MULTIPLY")
# Parts of the names of what a lowered scan is made of.
_SCANS = ("SelectiveScan_", "StreamingScan_")


def layers_of_network(trt: Any, network: Any) -> list[LayerRecord]:
    """The computing layers of a parsed network, each with the type of its first input that is a number."""
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = layer.type.name
        precision = _PRECISIONS.get(layer.get_input(0).dtype.name) if kind in _COMPUTING and layer.num_inputs else None
        if precision:
            layers.append(LayerRecord(layer.name, kind, precision))
    return layers


def layers_of_engine(information: Any) -> list[LayerRecord]:
    """The layers of an engine, from the inspector's JSON; empty where the engine was built to say nothing.

    A layer computes in the type of its first input, and that is its precision: TensorRT fuses a cast of the result into
    the layer before it, whose output then has another type. Of constants, which have no inputs, it is the output's.
    """
    layers = []
    for layer in information.get("Layers", []) if isinstance(information, dict) else []:
        if not isinstance(layer, dict):  # names only
            continue
        precision = _format_of(layer.get("Inputs")) or _format_of(layer.get("Outputs"))
        if precision:
            kind = layer.get("ParameterType") or layer.get("LayerType", "")
            layers.append(LayerRecord(str(layer.get("Name", "")), _kind(str(kind)), precision))
    return layers


def _format_of(tensors: Any) -> str | None:
    """The precision of the first tensor of an engine's layer; None where it is not a number of ours."""
    for tensor in tensors or []:
        text = str(tensor.get("Format/Datatype", "")) if isinstance(tensor, dict) else ""
        words = re.findall(r"[a-z]+\d*", text.lower())
        for word in words:
            if word in _FORMATS:
                return _FORMATS[word]
    return None


def _kind(name: str) -> str:
    """The network's word for an engine's layer."""
    if name == "Convolution":
        return "CONVOLUTION"
    if name in ("MatrixMultiply", "gemm", "MatMul"):
        return "MATRIX_MULTIPLY"
    return name


def check_layers(layers: list[LayerRecord], asked: str) -> None:
    """Every convolution and product in the precision asked, but for those that the typed graph keeps in float32.

    Those are the first convolution and the time steps of a lowered scan (vivim_export.precision, .lowering). An int8
    graph has quantising layers, and products that are not quantised are fp16.

    Raises:
        PrecisionError: names layers that have another one.
    """
    if asked == "int8" and not any(layer.type == "QUANTIZE" or layer.precision == "int8" for layer in layers):
        raise PrecisionError("no layer is int8, although --int8 was asked for")
    right = {"int8", "fp16"} if asked == "int8" else {asked}
    products = [layer for layer in layers if layer.type in PRODUCTS]
    first = next((layer for layer in products if layer.type == "CONVOLUTION"), None)
    kept = [layer for layer in products if layer is first or any(scan in layer.name for scan in _SCANS)]
    wrong = [
        layer
        for layer in products
        if layer.precision not in right and not (layer in kept and layer.precision == "fp32")
    ]
    if wrong:
        names = ", ".join(f"{layer.name} ({layer.precision})" for layer in wrong[:3])
        raise PrecisionError(
            f"{len(wrong)} of {len(products)} convolutions and products are not {asked}: {names}"
            f"{', ...' if len(wrong) > 3 else ''}; export the model again in {asked}"
        )
