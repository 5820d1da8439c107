"""What training reports of a network: the paper's figures (Table I) and the distance of outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from vivim.preprocessing import normalised
from vivim.training.batches import ClipSource, clip_source, judged_clip
from vivim.training.distributed import Group
from vivim_runtime.clips import Clip
from vivim_runtime.errors import DataError
from vivim_runtime.judging import metrics

__all__ = ["Scores", "evaluate"]


@dataclass(frozen=True)
class Scores:
    """Means over frames at threshold 0.5.

    Attributes:
        dice, iou, precision, recall: Table I of the paper; conventions for empty masks in judging.metrics.
        hd95: pixels, over the frames in which both masks mark something; None where there is none.
        frames: how many.
    """

    dice: float
    iou: float
    precision: float
    recall: float
    hd95: float | None
    frames: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    clips: ClipSource | Sequence[Clip],
    group: Group = Group(0, 1, torch.device("cpu")),  # noqa: B008
) -> Scores:
    """Scores of a network on clips, each given whole (T frames at once) and shared out over the processes.

    Logits are brought to the size of the true masks first, as when the network is used.

    Raises:
        DataError: no clips, or a network of several classes.
    """
    source = clip_source(clips)
    if not len(source):
        raise DataError("there are no clips to evaluate on; give at least one")
    model.eval()
    tables = []
    for index in range(group.rank, len(source), group.size):
        clip = judged_clip(source, index)
        logits = model(normalised(clip.pixels)[None].to(group.device)).logits[0].float().cpu().numpy()  # (T, K, H, W)
        if logits.shape[1] != 1:
            raise DataError(f"the network has {logits.shape[1]} classes; the clips know one, lesion")
        rows = [
            list(metrics.table_1(clip.framing.logits(plane, truth.shape)[0] > 0, truth).values())  # sigmoid > 0.5
            for plane, truth in zip(logits[clip.used], clip.truths, strict=True)
        ]
        tables.append(np.array(rows, np.float64).T)
    table = np.concatenate([table for tables in group.gathered(tables) for table in tables], axis=1)  # (5, frames)
    dice, iou, precision, recall = table[:4].mean(1).tolist()
    distances = table[4][~np.isnan(table[4])]
    return Scores(dice, iou, precision, recall, float(distances.mean()) if distances.size else None, table.shape[1])
