"""A streaming network in ONNX: one frame and what is remembered in, logits and what is to be remembered out.

The states are inputs and outputs with names, float32 whatever the precision of the file; the description says which
output feeds which input (vivim_runtime.sessions.base.StateInfo). Before a film, and after a reset, they are zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnxscript
import onnxscript.values
import torch
from torch import Tensor, nn

import vivim.scan.streaming  # noqa: F401  (registers torch.ops.vivim)
from vivim.config import VivimConfig
from vivim.model import Vivim, stage_sizes
from vivim.streaming import LayerState, flat_states, packed_states, zero_states
from vivim_export.functions import DOMAIN, DOMAIN_VERSION, causal_conv1d_function, selective_scan_function
from vivim_runtime.contract import InputContract
from vivim_runtime.sessions.base import StateInfo

__all__ = ["Deployed", "state_infos", "streaming_functions", "streaming_translations", "trace_step"]


def state_infos(config: VivimConfig, size: tuple[int, int], batch: int = 1) -> list[StateInfo]:
    """The states of a file whose frames have `size` (H, W), in the order of `vivim.streaming.flat_states`."""
    states = zero_states(config, stage_sizes(config, *size), batch)
    infos = []
    for index, state in enumerate(states):
        stage, layer = divmod(index, config.mamba_layers)
        for part, tensor in zip(LayerState._fields, state, strict=True):
            if tensor is not None:
                name = f"state_{stage + 1}_{layer + 1}_{part}"
                infos.append(StateInfo(name, f"next_{name}", tuple(tensor.shape)))
    return infos


class Deployed(nn.Module):
    """The network as it is deployed: `normalised` makes its input of pixels."""

    mean: Tensor
    scale: Tensor

    def __init__(self, model: Vivim, raw_input: bool, contract: InputContract) -> None:
        super().__init__()
        self.model, self.raw_input = model, raw_input
        self.register_buffer("mean", 255.0 * torch.tensor(contract.mean))
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(contract.std)))

    def normalised(self, x: Tensor) -> Tensor:
        """uint8 (B, T, H, W, 3), or float32 (B, T, 3, H, W) when raw -> the network's input (B, T, 3, H, W)."""
        if not self.raw_input:
            # Behind the transposition the numbers are one a plane; ONNX Runtime takes 15 times as long the other way.
            x = (x.to(torch.float32).permute(0, 1, 4, 2, 3) - self.mean[:, None, None]) * self.scale[:, None, None]
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, T, K, H, W) of a clip."""
        logits: Tensor = self.model(self.normalised(x)).logits
        return logits


class _Step(nn.Module):
    """A deployed network (vivim_export.onnx_export), one frame at a time."""

    def __init__(self, deployed: Deployed) -> None:
        super().__init__()
        self.deployed = deployed

    def forward(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
        """What the deployed network takes, of T = 1, and flat states -> logits (B, 1, K, H, W) and the next states."""
        model = self.deployed.model
        output, after = model.run(self.deployed.normalised(x), packed_states(states, model.config.carries))
        # An output of its own each: what goes out in two places would be an alias, which the exporter refuses.
        return output.logits, *(tensor.clone() for tensor in flat_states(after))


def trace_step(
    deployed: Deployed, example: Tensor, opset: int, translations: Mapping[Any, Any]
) -> tuple[onnx.ModelProto, list[StateInfo]]:
    """The graph of one step, and its states.

    Args:
        example: an input, of T = 1.
    """
    model = deployed.model
    raw = example.dtype == torch.float32
    height, width = example.shape[3:5] if raw else example.shape[2:4]
    infos = state_infos(model.config, (int(height), int(width)), example.shape[0])
    zeros = [torch.zeros(info.shape) for info in infos]
    program = torch.onnx.export(
        _Step(deployed).eval(),
        (example, zeros),
        dynamo=True,
        opset_version=opset,
        input_names=["clip" if raw else "frames", *(info.input for info in infos)],
        output_names=["logits", *(info.output for info in infos)],
        custom_translation_table=dict(translations),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    return program.model_proto, infos


def streaming_functions(config: VivimConfig, opset: int) -> list[onnx.FunctionProto]:
    """The bodies of the two operators with a state, for the directions of a network."""
    codes = config.direction_codes
    return [
        causal_conv1d_function(codes, config.conv, opset, streaming=True),
        selective_scan_function(codes, True, opset, streaming=True),
    ]


def _operator(name: str, inputs: dict[str, str], outputs: dict[str, str], attributes: dict[str, Any]) -> Any:
    """A bare node; inputs and outputs with their types, T the data's."""
    data = [("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "data")]
    parameter, attribute = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.Attribute
    schema = onnx.defs.OpSchema(
        name,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[parameter(key, kind) for key, kind in inputs.items()],
        outputs=[parameter(key, kind) for key, kind in outputs.items()],
        type_constraints=data,
        attributes=[attribute(key, kind) for key, kind in attributes.items()],
    )
    return onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, DOMAIN_VERSION), name, schema)


def streaming_translations() -> dict[Any, Any]:
    """torch.ops.vivim -> bare ONNX nodes."""
    kinds = onnx.defs.OpSchema.AttrType
    number = "tensor(float)"
    attributes = {"rows": kinds.INT, "directions": kinds.INTS}
    conv = _operator(
        "StreamingConv1d", {"xz": "T", "tail": "T", "weight": number, "bias": number}, {"y": "T"}, attributes
    )
    parameters = dict.fromkeys(("A_log2e", "dt_weight", "dt_bias", "d_skip", "initial"), number)
    scan = _operator(
        "StreamingScan",
        {"xc": "T", "dbc": "T", "xz": "T", **parameters},
        {"y": "T", "final": number},
        {**attributes, "mean": kinds.INT},
    )

    def streaming_conv1d(x, tail, weight, bias, rows, directions):  # type: ignore[no-untyped-def]
        return conv(x, tail, weight, bias, rows=rows, directions=directions)

    def streaming_scan(  # type: ignore[no-untyped-def]
        xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, initial, rows, directions, mean
    ):
        tensors = (xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, initial)
        return scan(*tensors, rows=rows, directions=directions, mean=int(mean))

    return {
        torch.ops.vivim.streaming_conv1d.default: streaming_conv1d,
        torch.ops.vivim.streaming_scan.default: streaming_scan,
    }
