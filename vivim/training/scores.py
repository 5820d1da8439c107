"""What training reports of a network: the paper's figures (Table I), the distance of outlines, and its edge head's.

Of several classes, every figure is a mean of those of the classes, and each class has its own beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vivim.model import Vivim
from vivim.preprocessing import normalised
from vivim.training.batches import ClipSource, clip_source, judged_clip
from vivim.training.distributed import Group
from vivim_runtime.clips import Clip
from vivim_runtime.errors import DataError
from vivim_runtime.framing import planes_of
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
        classes: of several classes each by its name, without an edge head's: it marks the outlines of all.
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
    classes: dict[str, Scores] = field(default_factory=dict)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    clips: ClipSource | Sequence[Clip],
    group: Group = Group(0, 1, torch.device("cpu")),  # noqa: B008
) -> Scores:
    """Scores of a network on clips, each given whole (T frames at once) and shared out over the processes.

    Logits are brought to the size of the true masks first, as when the network is used.

    Raises:
        DataError: no clips, or clips of more or fewer classes than the network has.
    """
    source = clip_source(clips)
    if not len(source):
        raise DataError("there are no clips to evaluate on; give at least one")
    model.eval()
    rows: list[npt.NDArray[np.float64]] = []
    edges = EdgeTally()
    for index in range(group.rank, len(source), group.size):
        clip = judged_clip(source, index)
        output = model(normalised(clip.pixels)[None].to(group.device))
        logits = output.logits[0].float().cpu().numpy()  # (T, K, H, W)
        for planes, truth in zip(logits[clip.used], clip.truths, strict=True):
            true = planes_of(truth)
            if len(planes) != len(true):
                raise DataError(f"the network has {len(planes)} classes, and the clips have {len(true)}")
            size = (true.shape[1], true.shape[2])
            figures = metrics.table_1(clip.framing.logits(planes, size) > 0, true)  # sigmoid > 0.5
            rows.append(np.stack([*figures.values(), true.any(axis=(1, 2))]).astype(np.float64))  # (6, K)
        if output.edge is not None:
            outlines = output.edge[0].float().cpu().numpy()  # (T, 1, H, W)
            for plane, truth in zip(outlines[clip.used], clip.truths, strict=True):
                edges.add(clip.framing.logits(plane, (truth.shape[-2], truth.shape[-1]))[0], truth)
    gathered = group.gathered((rows, edges.counts))
    table = np.stack([row for rows, _ in gathered for row in rows])  # (frames, 6, K)
    each = [_of_class(np.ascontiguousarray(table[..., k]).T) for k in range(table.shape[2])]
    outlined = EdgeTally(np.sum([counts for _, counts in gathered], axis=0)).scores()
    whole = each[0] if len(each) == 1 else _mean(each, cast(Vivim, model).config.classes)
    return replace(whole, edge_ap=outlined.ap if outlined else None, edge_dice=outlined.dice if outlined else None)


def _of_class(table: npt.NDArray[np.float64]) -> Scores:
    """Of rows Dice, IoU, precision, recall, distance and whether there is a lesion (6, frames)."""
    dice, iou, precision, recall = table[:4].mean(1).tolist()
    distances = table[4][~np.isnan(table[4])]
    lesions = table[0][table[5] > 0]
    return Scores(
        dice,
        iou,
        precision,
        recall,
        float(distances.mean()) if distances.size else None,
        table.shape[1],
        float(lesions.mean()) if lesions.size else None,
    )


def _mean(each: Sequence[Scores], names: Sequence[str]) -> Scores:
    """The mean of classes, of those that have a figure."""

    def of(name: str) -> float | None:
        known = [value for scores in each if (value := getattr(scores, name)) is not None]
        return float(np.mean(known)) if known else None

    figures = {name: of(name) for name in ("dice", "iou", "precision", "recall", "hd95", "lesion_dice")}
    return Scores(**figures, frames=each[0].frames, classes=dict(zip(names, each, strict=True)))  # type: ignore[arg-type]
