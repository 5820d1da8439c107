"""What TensorBoard shows of a run: curves, and frames with the outlines of the truth and of the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from tensorboardX import SummaryWriter

from vivim.model import Vivim
from vivim.preprocessing import normalised
from vivim.training.batches import ClipSource, clip_source
from vivim.training.fit import EpochReport
from vivim_runtime.clips import Clip
from vivim_runtime.framing import planes_of
from vivim_runtime.overlay import drawn
from vivim_runtime.sessions.base import ClassInfo

__all__ = ["Monitor", "compared"]

# Frames that are shown, evenly over the validation clips.
_PICTURES = 6
_TRUTH = ClassInfo("truth", (255, 255, 255))
_COLOURS = ((255, 60, 60), (60, 160, 255), (90, 220, 90), (255, 190, 40))  # by class, in turns


class Monitor:
    """Writes event files into a folder; a context manager that completes them."""

    def __init__(self, folder: Path, clips: ClipSource | Sequence[Clip]) -> None:
        """`clips`: those of the validation."""
        self._writer = SummaryWriter(str(folder), flush_secs=10)
        self._clips = clip_source(clips)

    def add(self, report: EpochReport, model: Vivim) -> None:
        """Curves of an epoch, and what its network (in eval mode, on the CPU) makes of some frames."""
        figures = {f"loss/{name}": value for name, value in report.terms.items()} | {"learning_rate": report.lr}
        for name in ("dice", "lesion_dice", "iou", "precision", "recall", "hd95", "edge_ap", "edge_dice"):
            value = getattr(report.scores, name)
            if value is not None:
                figures[f"validation/{name}"] = value
        for name, scores in report.scores.classes.items():
            figures[f"validation/dice/{name}"] = scores.dice
        for name, value in figures.items():
            self._writer.add_scalar(name, value, report.epoch)
        numbers = np.linspace(0, len(self._clips) - 1, min(_PICTURES, len(self._clips))).round().astype(int)
        for place, number in enumerate(numbers):
            clip = self._clips.clip(int(number), 0)
            self._writer.add_image(f"validation/{place}", compared(model, clip), report.epoch, dataformats="HWC")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


@torch.no_grad()
def compared(model: Vivim, clip: Clip) -> npt.NDArray[np.uint8]:
    """The last frame of a clip (H, W, 3): truth outlined in white, predictions in the colours of their classes."""
    found = (model(normalised(clip.pixels)[None]).logits[0, -1] > 0).numpy()  # (K, H, W)
    masks = np.concatenate((planes_of(clip.masks[-1]), found))
    marks = [_TRUTH] * len(found) + [ClassInfo("prediction", _COLOURS[k % len(_COLOURS)]) for k in range(len(found))]
    return drawn(clip.pixels[-1], masks, marks, ("contour",), 1.0)
