"""How two masks compare. Masks are bool (..., H, W); a figure comes back for every leading index.

Conventions for empty masks: two empty masks agree perfectly (Dice, IoU, precision and recall 1, HD95 0); an empty and a
non-empty one do not agree at all (Dice and IoU 0, HD95 infinite). Precision of an empty prediction and recall of an
empty truth are 1, since nothing was marked wrongly and nothing was missed.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["FlickerMeter", "dice", "flicker", "hd95", "iou", "precision", "recall", "table_1"]

Masks = npt.NDArray[np.bool_]
Figures = npt.NDArray[np.float64]


def _areas(a: Masks, b: Masks) -> tuple[Figures, Figures, Figures]:
    """Pixels in both, in a, in b."""
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape}; expected two (..., H, W) of one shape")
    axes = (-2, -1)
    return (
        np.count_nonzero(a & b, axis=axes).astype(np.float64),
        np.asarray(np.count_nonzero(a, axis=axes), np.float64),
        np.asarray(np.count_nonzero(b, axis=axes), np.float64),
    )


def _ratio(part: Figures, whole: Figures) -> Figures:
    return np.where(whole > 0, part / np.maximum(whole, 1), 1.0)


def dice(a: Masks, b: Masks) -> Figures:
    """2 |a and b| / (|a| + |b|); also called F1."""
    both, in_a, in_b = _areas(a, b)
    return _ratio(2 * both, in_a + in_b)


def iou(a: Masks, b: Masks) -> Figures:
    """|a and b| / |a or b|; the paper's Jaccard."""
    both, in_a, in_b = _areas(a, b)
    return _ratio(both, in_a + in_b - both)


def precision(predicted: Masks, truth: Masks) -> Figures:
    """Share of the predicted pixels that are true."""
    both, in_predicted, _ = _areas(predicted, truth)
    return _ratio(both, in_predicted)


def recall(predicted: Masks, truth: Masks) -> Figures:
    """Share of the true pixels that were predicted."""
    both, _, in_truth = _areas(predicted, truth)
    return _ratio(both, in_truth)


def _boundary(mask: Masks) -> Masks:
    """Pixels of the mask with a neighbour (of four) outside it; the frame's border counts as outside."""
    eroded = cv2.erode(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), borderValue=0)
    return mask & (eroded == 0)


def hd95(a: Masks, b: Masks) -> Figures:
    """95 % Hausdorff distance in pixels: of all boundary pixels of both, the distance to the other boundary."""
    _areas(a, b)
    result = np.empty(a.shape[:-2])
    for index in np.ndindex(*a.shape[:-2]):
        result[index] = _hd95(a[index], b[index])
    return result


def _hd95(a: Masks, b: Masks) -> float:
    if not a.any() or not b.any():
        return 0.0 if a.any() == b.any() else np.inf
    edge_a, edge_b = _boundary(a), _boundary(b)
    to_a, to_b = (
        cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for edge in (edge_a, edge_b)
    )
    distances = np.concatenate((to_b[edge_a], to_a[edge_b])).astype(np.float64)
    # OpenCV's square roots are off by a unit in the last place of float32, or not, by where in memory the picture lies.
    # A square is a whole number, and found again by rounding up to 2^21 (1,448 pixels): 2^21 * 2^-22 is a half.
    return float(np.percentile(np.sqrt(np.rint(distances**2)), 95))


def table_1(predicted: Masks, truth: Masks) -> dict[str, Figures]:
    """The figures of the paper's Table I; HD95 is NaN, and does not count, where either mask has no pixel."""
    both = predicted.any(axis=(-2, -1)) & truth.any(axis=(-2, -1))
    return {
        "dice": dice(predicted, truth),
        "iou": iou(predicted, truth),
        "precision": precision(predicted, truth),
        "recall": recall(predicted, truth),
        "hd95": np.where(both, hd95(predicted, truth), np.nan),
    }


class FlickerMeter:
    """Adds up how masks of any one shape change from frame to frame."""

    def __init__(self) -> None:
        self.frames = self.changes = self.area = 0
        self._last: Masks | None = None

    def add(self, mask: Masks) -> None:
        """The next frame's mask."""
        if self._last is not None:
            self.changes += int(np.count_nonzero(mask != self._last))
        self.frames += 1
        self.area += int(np.count_nonzero(mask))
        self._last = mask.copy()

    def value(self, area: float | None = None) -> float:
        """See `flicker`; `area` instead of the masks' own mean, in pixels."""
        if self.frames < 2:
            return 0.0
        return self.changes / (self.frames - 1) / max(self.area / self.frames if area is None else area, 1.0)


def flicker(masks: Masks, reference: Masks | None = None) -> float:
    """How restless masks (T, H, W) are: mean over consecutive frames of the pixels that change, over the mean area.

    With a reference (truth, or another model's masks), pixels count whose error, mask xor reference, changes, over the
    reference's area: masks that follow its motion are still. (The changes of the reference could not just be taken off:
    a frozen mask full of speckle would come out as perfect where the lesion moves as much as the speckle.) 0 for fewer
    than two frames.
    """
    meter = FlickerMeter()
    for mask in masks if reference is None else masks ^ reference:
        meter.add(mask)
    return meter.value(None if reference is None or not len(reference) else float(reference.sum((1, 2)).mean()))
