"""The segmentation loss (paper, section III-C 3): structure-weighted cross-entropy and structure-weighted IoU.

The form is F3Net's and PraNet's, which the authors train with: pixels near an outline weigh up to six times as much.
Their code passes `reduce='none'` to binary_cross_entropy_with_logits; PyTorch reads that string as true, averages
first, and the per-pixel weights cancel out of the cross-entropy term. Here they act, as intended.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["segmentation_loss", "structure_weight"]

# Side of the window that decides how near an outline a pixel is, pixels, and the most that nearness adds.
_WINDOW = 31
_EXTRA = 5.0


def structure_weight(truth: Tensor) -> Tensor:
    """1 + 5 |mean of the truth in a 31 x 31 window - truth|, for truth (N, K, H, W) in 0..1; 1 to 6."""
    mean = functional.avg_pool2d(truth, _WINDOW, stride=1, padding=_WINDOW // 2)
    return 1.0 + _EXTRA * (mean - truth).abs()


def segmentation_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Weighted BCE plus weighted IoU, averaged over frames and classes.

    Args:
        logits, truth: (B, T, K, H, W); truth in 0..1.

    Returns:
        A scalar. Per frame and class, with weights w, sums over pixels and p = sigmoid(logits):
        sum(w bce) / sum(w)  +  1 - (sum(w p t) + 1) / (sum(w (p + t)) - sum(w p t) + 1).
    """
    logits, truth = logits.flatten(0, 1), truth.flatten(0, 1)
    weight = structure_weight(truth)
    bce = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    weighted_bce = (weight * bce).sum((2, 3)) / weight.sum((2, 3))
    p = logits.sigmoid()
    both = (weight * p * truth).sum((2, 3))
    either = (weight * (p + truth)).sum((2, 3)) - both
    return (weighted_bce + 1.0 - (both + 1.0) / (either + 1.0)).mean()
