"""The losses of a run, added up as its recipe says (paper, Eq. 9, and flicker)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vivim.model import VivimOutput
from vivim.training.affine import affine_loss, load_regressor
from vivim.training.losses import boundary_loss, flicker_loss, segmentation_loss, sobel_edges
from vivim.training.recipe import FitConfig
from vivim_runtime.errors import ConfigError

__all__ = ["Objective"]


class Objective:
    """What a network's output costs."""

    def __init__(self, config: FitConfig, device: torch.device) -> None:
        """Raises CheckpointError where the affine regressor cannot be read."""
        self._config = config
        path = Path(config.regressor) if config.regressor else None
        self._regressor = load_regressor(path).to(device) if config.affine else None

    def __call__(self, output: VivimOutput, truth: Tensor) -> dict[str, Tensor]:
        """The terms, unweighted, and their weighted sum as `total`.

        Args:
            truth: (B, T, K, H, W) in 0..1.

        Raises:
            ConfigError: outlines are asked for, and the network has no edge head.
        """
        config = self._config
        logits, edge = output.logits.float(), output.edge
        first = truth[:, :1]
        flicker = flicker_loss(logits, truth) if config.flicker else None
        if config.target == "centre":
            middle = slice(truth.shape[1] // 2, truth.shape[1] // 2 + 1)
            logits, truth = logits[:, middle], truth[:, middle]
            edge = None if edge is None else edge[:, middle]
        terms = {"segmentation": segmentation_loss(logits, truth, config.weighting)}
        total = terms["segmentation"]
        if flicker is not None:  # of all frames, whichever are learnt from
            terms["flicker"] = flicker
            total = total + config.flicker * flicker
        if config.has_edges:
            if edge is None:
                raise ConfigError("the network has no edge head; train one with it, or set boundary and affine to 0")
            edge, outlines = edge.float(), _outlines(truth)
            if config.boundary:
                terms["boundary"] = boundary_loss(edge, outlines, config.balanced)
                total = total + config.boundary * terms["boundary"]
            if self._regressor is not None:
                terms["affine"] = affine_loss(
                    self._regressor, edge.sigmoid(), outlines, _outlines(first), config.delta_1, config.delta_2
                )
                total = total + config.affine * terms["affine"]
        return {**terms, "total": total}


def _outlines(truth: Tensor) -> Tensor:
    """(B, T, K, H, W) -> (B, T, 1, H, W): the outlines of every class, also where one touches another."""
    edges = sobel_edges(truth.flatten(0, 2)[:, None]).unflatten(0, truth.shape[:3])  # (B, T, K, 1, H, W)
    return edges.amax(2)
