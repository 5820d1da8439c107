"""The spatio-temporal half of a stage: Temporal Mamba layers over all tokens of the clip (paper, section III-C, III-D).

Tokens are (B, L, C) with L = T*H*W in (t, h, w) order. Upstream: `Mamba` with `bimamba_type="v3"` and `MambaLayer`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vivim.config import VivimConfig
from vivim.rivals import RIVALS, Identity
from vivim.scan.operators import causal_conv1d, selective_scan

__all__ = ["DetailSpecificFeedForward", "SpatioTemporalMamba", "TemporalMambaLayer"]


class SpatioTemporalMamba(nn.Module):
    """ST-Mamba: one projection in, K directional convolutions and scans, their gated mean, one projection out.

    The parameters of the K directions are stacked along their first axis.
    """

    def __init__(self, config: VivimConfig, stage: int) -> None:
        super().__init__()
        width = config.widths[stage]
        inner, rank, states = width * config.expand, config.dt_rank(stage), config.state
        self.directions = list(config.direction_codes)
        count = len(self.directions)
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(count, inner, config.conv))
        self.conv_bias = nn.Parameter(torch.empty(count, inner))
        self.x_proj = nn.Parameter(torch.empty(count, rank + 2 * states, inner))
        self.dt_weight = nn.Parameter(torch.empty(count, inner, rank))
        self.dt_bias = nn.Parameter(torch.empty(count, inner))
        self.A_log = nn.Parameter(torch.empty(count, inner, states))
        self.D = nn.Parameter(torch.empty(count, inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Mamba's initialisation: A = -(1..N), D = 1, softplus(dt_bias) log-uniform in 1e-3 .. 1e-1.

        The authors' layer zeroes dt_bias afterwards (dt then starts near 0.69); we keep Mamba's intent.
        """
        taps = self.conv_weight.shape[-1]
        rank, states = self.dt_weight.shape[-1], self.A_log.shape[-1]
        with torch.no_grad():
            bound = 1.0 / math.sqrt(taps)
            self.conv_weight.uniform_(-bound, bound)
            self.conv_bias.uniform_(-bound, bound)
            self.x_proj.normal_(std=0.02)
            bound = rank**-0.5
            self.dt_weight.uniform_(-bound, bound)
            dt = torch.exp(torch.empty_like(self.dt_bias).uniform_(math.log(1e-3), math.log(1e-1)))
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
            self.A_log.copy_(torch.log(torch.arange(1.0, states + 1)).expand_as(self.A_log))
            self.D.fill_(1.0)

    def decay_rates(self) -> Tensor:
        """(K, D, N): A log2(e), with A = -exp(A_log), so that exp(dt A) is a power of two."""
        return -torch.exp(self.A_log) * math.log2(math.e)

    def forward(self, x: Tensor, frames: int, height: int = 0, width: int = 0) -> Tensor:
        """(B, L, C) -> (B, L, C); the scans need to know `frames` alone, the rest is for rivals of this module."""
        count = len(self.directions)
        xz = self.in_proj(x)  # (B, L, 2D)
        xc = causal_conv1d(xz, self.conv_weight, self.conv_bias, frames, self.directions)  # (K, B, L, D)
        dbc = torch.matmul(xc.flatten(1, 2), self.x_proj.transpose(1, 2))  # (K, B*L, R+2N)
        y = selective_scan(
            xc,
            dbc.view(count, x.shape[0], x.shape[1], -1),
            xz,
            self.decay_rates(),
            self.dt_weight,
            self.dt_bias,
            self.D,
            frames,
            self.directions,
            True,
        )
        return self.out_proj(y)


class DetailSpecificFeedForward(nn.Module):
    """DSF: linear, depthwise 3x3x3 convolution over (t, h, w), GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = nn.Conv3d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, frames: int, height: int, width: int) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        grid = self.fc1(x).unflatten(1, (frames, height, width)).permute(0, 4, 1, 2, 3)  # (B, C', T, H, W)
        if grid.dtype == torch.bfloat16 and grid.device.type == "cpu" and frames == 2:
            # oneDNN's gradient of the weights reads memory that nobody has written where bfloat16 frames lie
            # channels-last and there are two of them (torch 2.13): garbage, or NaN.
            grid = grid.contiguous()
        hidden = self.dwconv(grid).permute(0, 2, 3, 4, 1).flatten(1, 3)
        return self.fc2(functional.gelu(hidden))


class TemporalMambaLayer(nn.Module):
    """Pre-norm ST-Mamba (or a rival of it) and DSF, each with a residual (Eq. 5); `index` counts a stage's layers."""

    def __init__(self, config: VivimConfig, stage: int, index: int) -> None:
        super().__init__()
        width = config.widths[stage]
        self.norm1 = nn.LayerNorm(width)
        others = {**RIVALS, "identity": Identity}
        self.mixer: nn.Module = (
            SpatioTemporalMamba(config, stage)
            if config.st_module == "st_mamba"
            else others[config.st_module](width, config.heads[stage], index)
        )
        self.norm2 = nn.LayerNorm(width)
        self.mlp = DetailSpecificFeedForward(width, width * config.mlp_ratio)

    def forward(self, x: Tensor, frames: int, height: int, width: int) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        x = x + self.mixer(self.norm1(x), frames, height, width)
        return x + self.mlp(self.norm2(x), frames, height, width)

    @torch.no_grad()
    def initialise_as_authors(self) -> None:
        """N(0, 0.02), cut off at two, for all projections, and biases of 0, dt's too, as `MambaLayer` of their code."""
        mixer, mlp = self.mixer, self.mlp
        weights = [mlp.fc1.weight, mlp.fc2.weight]
        biases = [mlp.fc1.bias, mlp.fc2.bias]
        if isinstance(mixer, SpatioTemporalMamba):
            weights += [mixer.in_proj.weight, mixer.x_proj, mixer.dt_weight, mixer.out_proj.weight]
            biases += [mixer.dt_bias]
        for weight in weights:
            nn.init.trunc_normal_(weight, std=0.02)
        for bias in biases:
            bias.zero_()
