"""What training minimises (paper, Eq. 9): L = L_seg + 0.3 L_affine + 0.3 L_bce.

L_seg is the structure-weighted cross-entropy and IoU of F3Net and PraNet, which the authors train with: pixels near an
outline weigh up to six times as much. Their code passes `reduce='none'` to binary_cross_entropy_with_logits; PyTorch
reads that string as true, averages first, and the per-pixel weights cancel out of the cross-entropy term. Here they
act, as intended; `weighting="authors"` is what their code computes. Of several classes, each has a sigmoid, weights and
an IoU of its own, and the loss is their mean: a rare class counts as much as a large one, and classes may overlap.

L_bce is a cross-entropy between the boundary head and the outlines of the truth, as the paper's text has it. Outlines
are a hundredth of the pixels; `balanced=True` makes the two kinds count alike (`bce2d` of the authors' code), which
pays for lines that are too thick.
L_affine is in vivim.training.affine.

`flicker_loss` is ours: what `vivim-eval` counts as flicker (vivim_runtime.judging.metrics.flicker), of probabilities.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Weighting", "boundary_loss", "flicker_loss", "segmentation_loss", "sobel_edges", "structure_weight"]

Weighting = Literal["intended", "authors"]

# Side of the window that decides how near an outline a pixel is, pixels, and the most that nearness adds.
_WINDOW = 31
_EXTRA = 5.0
# Least area that flicker is a share of, as a share of the picture: clips without a lesion have none.
_LEAST_AREA = 0.01


def structure_weight(truth: Tensor) -> Tensor:
    """1 + 5 |mean of the truth in a 31 x 31 window - truth|, for truth (N, K, H, W) in 0..1; 1 to 6."""
    # The mean over a square is the mean over its rows of means over columns, for 1/15 of the additions.
    rows = functional.avg_pool2d(truth, (_WINDOW, 1), stride=1, padding=(_WINDOW // 2, 0))
    mean = functional.avg_pool2d(rows, (1, _WINDOW), stride=1, padding=(0, _WINDOW // 2))
    return 1.0 + _EXTRA * (mean - truth).abs()


def segmentation_loss(logits: Tensor, truth: Tensor, weighting: Weighting = "intended") -> Tensor:
    """L_seg: weighted BCE plus weighted IoU, averaged over frames and classes.

    Args:
        logits, truth: (B, T, K, H, W); truth in 0..1.
        weighting: whether the weights act on the cross-entropy ("intended"), or cancel ("authors").

    Returns:
        A scalar. Per frame and class, with weights w, sums over pixels and p = sigmoid(logits):
        sum(w bce) / sum(w)  +  1 - (sum(w p t) + 1) / (sum(w (p + t)) - sum(w p t) + 1).
        With "authors", the first term is the mean of bce over all pixels, frames and classes.
    """
    logits, truth = logits.flatten(0, 1), truth.flatten(0, 1)
    weight = structure_weight(truth)
    if weighting == "authors":
        cross_entropy = functional.binary_cross_entropy_with_logits(logits, truth)
    else:
        bce = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        cross_entropy = (weight * bce).sum((2, 3)) / weight.sum((2, 3))
    p = logits.sigmoid()
    both = (weight * p * truth).sum((2, 3))
    either = (weight * (p + truth)).sum((2, 3)) - both
    return (cross_entropy + 1.0 - (both + 1.0) / (either + 1.0)).mean()


def sobel_edges(masks: Tensor) -> Tensor:
    """Outlines of masks (N, 1, H, W): 1 where Sobel's operator sees a change of `mask > 0.5`, else 0; two pixels wide.

    The frame's border is no outline: masks are continued beyond it.
    """
    binary = functional.pad((masks > 0.5).float(), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=masks.device)
    kernels = torch.stack((across, across.T))[:, None]  # (2, 1, 3, 3)
    return (functional.conv2d(binary, kernels).abs().sum(1, keepdim=True) > 0).float()


def boundary_loss(logits: Tensor, edges: Tensor, balanced: bool = False) -> Tensor:
    """L_bce: cross-entropy of the boundary head, averaged over all pixels.

    Args:
        logits, edges: any one shape; edges 0 or 1.
        balanced: a pixel on an edge weighs the share of those that are not on one, and the other way round.
    """
    if not balanced:
        return functional.binary_cross_entropy_with_logits(logits, edges)
    share = edges.mean()
    weight = torch.where(edges > 0.5, 1.0 - share, share)
    return functional.binary_cross_entropy_with_logits(logits, edges, weight)


def flicker_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """How restless a clip's masks are against the truth, averaged over clips and classes.

    Args:
        logits, truth: (B, T, K, H, W), T of at least 2; truth in 0..1.

    Returns:
        A scalar. Per clip and class, with the error e = |sigmoid(logits) - truth|: the mean over consecutive frames of
        sum |e_t - e_{t-1}| over pixels, over the truth's mean area (at least a hundredth of the picture). Of masks that
        are sharp it is their flicker.
    """
    error = (logits.sigmoid() - truth).abs()
    changes = (error[:, 1:] - error[:, :-1]).abs().mean((1, 3, 4))  # (B, K), shares of the picture
    return (changes / truth.mean((1, 3, 4)).clamp(min=_LEAST_AREA)).mean()
