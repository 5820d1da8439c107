"""Which weights move at which rate, and which decay."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from vivim.training.recipe import FitConfig

__all__ = ["optimizer_of", "set_rate"]

# What Mamba and Transformers are trained without decay of: a decay of A_log would pull all states to one time constant,
# of D and norms to nothing passing through. Biases of the directions are stacked, so their shape does not tell them.
_KEPT = re.compile(r"(^|[._])(A_log|D|bias)$|norm\d?\.weight$|_norm\.weight$")
_ENCODER = re.compile(r"^stages\.\d+\.(patch_embed|blocks)\.")


def optimizer_of(model: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over the weights to be trained, in groups by decay and by share of the rate (`scale`)."""
    decay = 0.0 if config.optimizer == "adam" else config.weight_decay
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = config.encoder_rate if _ENCODER.search(name) else 1.0
        groups.setdefault((0.0 if _KEPT.search(name) else decay, scale), []).append(parameter)
    options: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay, "scale": scale} for (decay, scale), parameters in groups.items()
    ]
    adam = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return adam(options, lr=config.lr)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the groups move at their shares of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
