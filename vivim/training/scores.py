"""What training reports of a network: the paper's figures (Table I), the distance of outlines, and its edge head's."""

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
from vivim_runtime.judging.outlines import EdgeTally

__all__ = ["Scores", "evaluate"]


@dataclass(frozen=True)
class Scores:
    """Means over frames at threshold 0.5.

    Attributes:
        dice, iou, precision, recall: Table I of the paper; conventions for empty masks in judging.metrics.
        hd95: pixels, over the frames in which both masks mark something; None where there is none.
        frames: how many.
        lesion_dice: mean Dice over the frames that have a lesion; None where there is none.
        edge_ap, edge_dice: of the edge head (vivim_runtime.judging.outlines); None without one, or without outlines.
    """

    dice: float
    iou: float
    precision: float
    recall: float
    hd95: float | None
    frames: int
    lesion_dice: float | None = None
    edge_ap: float | None = None
    edge_dice: float | None = None


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
    rows: list[list[float]] = []
    edges = EdgeTally()
    for index in range(group.rank, len(source), group.size):
        clip = judged_clip(source, index)
        output = model(normalised(clip.pixels)[None].to(group.device))
        logits = output.logits[0].float().cpu().numpy()  # (T, K, H, W)
        if logits.shape[1] != 1:
            raise DataError(f"the network has {logits.shape[1]} classes; the clips know one, lesion")
        for plane, truth in zip(logits[clip.used], clip.truths, strict=True):
            figures = metrics.table_1(clip.framing.logits(plane, truth.shape)[0] > 0, truth)  # sigmoid > 0.5
            rows.append([*map(float, figures.values()), float(truth.any())])
        if output.edge is not None:
            outlines = output.edge[0].float().cpu().numpy()  # (T, 1, H, W)
            for plane, truth in zip(outlines[clip.used], clip.truths, strict=True):
                edges.add(clip.framing.logits(plane, truth.shape)[0], truth)
    gathered = group.gathered((np.array(rows, np.float64).reshape(-1, 6), edges.counts))
    table = np.concatenate([rows for rows, _ in gathered]).T  # (6, frames)
    dice, iou, precision, recall = table[:4].mean(1).tolist()
    distances = table[4][~np.isnan(table[4])]
    lesions = table[0][table[5] > 0]
    outlined = EdgeTally(np.sum([counts for _, counts in gathered], axis=0)).scores()
    return Scores(
        dice,
        iou,
        precision,
        recall,
        float(distances.mean()) if distances.size else None,
        table.shape[1],
        float(lesions.mean()) if lesions.size else None,
        outlined.ap if outlined else None,
        outlined.dice if outlined else None,
    )
