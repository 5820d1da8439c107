"""From pixels to what the network takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vivim.config import MEAN, STD

__all__ = ["normalised"]


def normalised(frames: npt.NDArray[np.uint8], mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """uint8 (..., H, W, 3) RGB -> float32 (..., 3, H, W) as the network takes it."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).float() / 255.0
    return ((x - torch.tensor(mean)) / torch.tensor(std)).movedim(-1, -3)
