"""What is measured of one frame: a row of numbers, NaN where a frame does not count for one.

Masks are the logits above the threshold, as when the model is used; conventions for empty masks are those of
vivim_runtime.judging.metrics, and HD95 counts where both masks have pixels. The figures at 256 thresholds come in three
kinds:

    "dice_at"           masks as when the model is used, for choosing a threshold: two empty masks agree
    "averaged_*"        means over the thresholds, as the authors' training code prints them under the plain names
                        (train_pl_polyp.py): marked above the threshold, 0 where nothing is divided by nothing
    "toolbox_*", ...    vivim_runtime.judging.maps on the stretched map. A frame without a true positive has 0 in
                        all of them, specificity too. The first and the last frame of a video do not count.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vivim_runtime.judging import metrics
from vivim_runtime.judging.maps import (
    THRESHOLDS,
    adaptive_e_measure,
    counts_above,
    counts_at_least,
    e_measure,
    mean_absolute_error,
    probabilities,
    s_measure,
    stretched,
)
from vivim_runtime.judging.metrics import Figures, Masks

__all__ = ["CURVES", "SCALARS", "WIDTH", "FrameJudge", "columns"]

SCALARS = (
    *("dice", "iou", "precision", "recall", "hd95"),
    *("missed", "false_alarm"),  # of the frames with a lesion, those without a mask; of the others, those with one
    *(
        "changes",
        "area",
    ),  # pixels that are right and were wrong in the frame before, or the other way round; of the truth
    *("averaged_dice", "averaged_iou", "averaged_precision", "averaged_recall", "averaged_specificity"),
    *("s_measure", "e_adaptive", "mae"),
)
CURVES = ("dice_at", "toolbox_dice", "toolbox_iou", "toolbox_specificity", "toolbox_e")
WIDTH = len(SCALARS) + len(CURVES) * len(THRESHOLDS)


def columns(name: str) -> slice:
    """Where a figure stands in a row: one column, or 256."""
    if name in SCALARS:
        start = SCALARS.index(name)
        return slice(start, start + 1)
    start = len(SCALARS) + CURVES.index(name) * len(THRESHOLDS)
    return slice(start, start + len(THRESHOLDS))


class FrameJudge:
    """Measures the frames of one video, which must come in order."""

    def __init__(self, frames: int, level: float) -> None:
        """`frames`: of the video; `level`: the logit above which a pixel is marked."""
        # A video of two frames has nothing but ends, and keeps them.
        self._inner = range(1, frames - 1) if frames > 2 else range(frames)
        self._level = level
        self._index = 0
        self._last: tuple[Masks, Masks] | None = None

    def row(self, logits: npt.NDArray[np.float32], truth: Masks) -> Figures:
        """The figures (WIDTH,) of the next frame: logits and true mask (H, W)."""
        row = np.full(WIDTH, np.nan)
        mask = logits > self._level
        values = self._of_masks(mask, truth)
        probability = probabilities(logits)
        above = counts_above(probability, truth)
        for figure in ("dice", "iou", "precision", "recall", "specificity"):
            values[f"averaged_{figure}"] = getattr(above, figure)(nothing=0.0).mean()
        row[columns("dice_at")] = above.dice(nothing=1.0)
        if self._index in self._inner:
            map_ = stretched(probability)
            counts = counts_at_least(map_, truth)
            values["s_measure"] = s_measure(map_, truth)
            values["e_adaptive"] = adaptive_e_measure(map_, truth)
            values["mae"] = mean_absolute_error(map_, truth)
            for figure in ("dice", "iou", "specificity"):
                row[columns(f"toolbox_{figure}")] = np.where(counts.true > 0, getattr(counts, figure)(nothing=0.0), 0.0)
            row[columns("toolbox_e")] = e_measure(counts)
        for name, value in values.items():
            row[columns(name)] = value
        self._index += 1
        self._last = mask, truth
        return row

    def _of_masks(self, mask: Masks, truth: Masks) -> dict[str, float]:
        values = {name: float(figure) for name, figure in metrics.table_1(mask, truth).items()}
        values["area"] = float(np.count_nonzero(truth))
        if truth.any():
            values["missed"] = float(not mask.any())
        else:
            values["false_alarm"] = float(mask.any())
        if self._last is not None and self._last[0].shape == mask.shape:
            last_mask, last_truth = self._last
            values["changes"] = float(np.count_nonzero((mask ^ truth) != (last_mask ^ last_truth)))
        return values
