"""Typed precision: a network whose casts are written down, so that an engine has the precision that was asked for.

TensorRT 11 has no weak typing, and what a builder decides by itself cannot be promised. So the graph says it all:

    half      every linear layer, attention product and convolution but the first; the operators' data (x, z, dt_low,
              B, C, y); activations, the decoder's sums, in float16 residual sums too
    float32   pixels, their normalisation and the first convolution; LayerNorm; softmax; the parameters of the causal
              convolution and the scan (and, within the operators, the scan's time step, state and recurrence); the
              logits from the classifier on; in bfloat16 residual sums

`KEPT_IN_FLOAT` gives the reasons. Half is float16 or bfloat16.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from vivim.mamba import SpatioTemporalMamba
from vivim.model import Vivim
from vivim.segformer import PatchEmbedding
from vivim_export.folding import FoldedAttention, FoldedDecoder
from vivim_runtime.errors import UsageError

__all__ = ["DTYPES", "KEPT_IN_FLOAT", "typed_for_export"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# What stays float32 in a typed file, and why; tests/export/test_precision.py finds nothing else there.
KEPT_IN_FLOAT = {
    "pixels": "and the first convolution: where an image is nearly black, the norm behind it magnifies its rounding. "
    "On a cine loop, mask Dice of fp16 against float32 is 0.9962 with it in half and 0.9995 with it in float32",
    "LayerNorm": "the variance of a row squares its values: beyond 256 that leaves float16's range",
    "softmax": "its sum over hundreds of keys loses what a half mantissa drops, and exp overflows float16 at 11.1",
    "operator parameters": "A_log2e dt is an exponent that 20,480 steps multiply up; the kernels read them once",
    "residual sums": "of bf16 alone: dozens of branches added in 8 bits of mantissa. On 50 frames of 128 x 128 "
    "phantoms, mask Dice against float32 is 0.983 with bf16 sums and 0.995 with float32 ones; fp16 gains nothing",
    "logits": "the mask is their sign: upsampling in half would move contours; one channel costs nothing",
}

_FIRST_CONVOLUTION = "stages.0.patch_embed.proj"


def typed_for_export(model: Vivim, precision: str) -> Vivim:
    """A copy of a folded network with explicit casts; float32 pixels in, float32 logits out.

    Args:
        model: from vivim_export.folding.fold_for_export.
        precision: fp32 (a plain copy), fp16 or bf16.

    Raises:
        UsageError: unknown precision, or a weight that float16 cannot hold.
    """
    if precision not in DTYPES:
        raise UsageError(f"the precision is {precision}; expected {', '.join(DTYPES)}")
    dtype = DTYPES[precision]
    typed = copy.deepcopy(model)
    if dtype == torch.float32:
        return typed
    _replace_layers(typed, "", dtype)
    if dtype == torch.bfloat16:
        for module in typed.modules():
            if isinstance(module, PatchEmbedding) and isinstance(module.norm, _FloatNorm):
                module.norm.dtype = torch.float32  # a stage's residual stream has the type that it starts with
    for module in typed.modules():
        if isinstance(module, SpatioTemporalMamba):
            module.x_proj = nn.Parameter(_narrow(module.x_proj, dtype, "x_proj"))
        elif isinstance(module, FoldedAttention):
            module.__class__ = _TypedAttention
    if isinstance(typed.decoder, FoldedDecoder):
        typed.decoder.classifier = _FloatOutput(typed.decoder.classifier)  # type: ignore[assignment]
        typed.decoder.bias = nn.Parameter(_narrow(typed.decoder.bias, dtype, "decoder.bias"))
    return typed


def _narrow(value: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    value = value.detach()
    narrow = value.to(dtype)
    if not torch.isfinite(narrow).all():
        raise UsageError(
            f"the weight {name} reaches {float(value.abs().max()):.3g}, and float16 ends at "
            f"{torch.finfo(dtype).max:.3g}; export with --bf16, or in fp32"
        )
    return narrow


def _replace_layers(module: nn.Module, path: str, dtype: torch.dtype) -> None:
    for name, child in module.named_children():
        full = f"{path}.{name}" if path else name
        if full == _FIRST_CONVOLUTION:
            continue
        if isinstance(child, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            for key, value in child.named_parameters():
                setattr(child, key, nn.Parameter(_narrow(value, dtype, f"{full}.{key}")))
            setattr(module, name, _HalfLayer(child, dtype))
        elif isinstance(child, nn.LayerNorm):
            setattr(module, name, _FloatNorm(child, dtype))
        else:
            _replace_layers(child, full, dtype)


class _HalfLayer(nn.Module):
    """A linear layer or convolution in half: its input is cast where it is not half yet."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(self.dtype))


class _FloatNorm(nn.Module):
    """LayerNorm in float32 between casts."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm, self.dtype = norm, dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.float()).to(self.dtype)


class _FloatOutput(nn.Module):
    """The classifier: from here on, logits are float32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).float()


class _TypedAttention(FoldedAttention):
    """Products in half, softmax in float32."""

    def weights(self, scores: Tensor) -> Tensor:
        return super().weights(scores.float()).to(scores.dtype)
