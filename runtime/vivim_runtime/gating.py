"""When to be silent: pictures of which a mask would mean nothing.

Each gate looks at the pictures of a clip as the model sees them, region and size, and costs some milliseconds. A gate
hides the mask and says why; `frozen` and `edge` only say so. What each gate misses, and how often it is wrong, is
measured by `benchmarks/gates.py` (docs/confidence.md).

- `black`: there is no picture.
- `frozen`: the picture stands still, and so does its mask.
- `contact`: the probe touches nothing: some bright lines below its face, and nothing deeper.
- `domain`: another kind of picture than those of the training (vivim_runtime.confidence.Domain).
- `edge`: a mask that touches the region's border: the lesion may go on beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.confidence import Domain
from vivim_runtime.errors import UsageError

__all__ = ["GATES", "HIDING", "MEANING", "Gatekeeper", "parse_gates", "touches_edge"]

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

MEANING = {
    "black": "no picture",
    "frozen": "the picture stands still",
    "contact": "the probe has no contact",
    "domain": "not this kind of picture",
    "edge": "the mask reaches the edge of the region",
}
GATES = tuple(MEANING)
HIDING = frozenset({"black", "contact", "domain"})

# A picture whose brightest hundredth is not above this is black: speckle, even at low gain, has some bright grains.
_BLACK = 12.0
# Without contact: what lies below this share of the depth is dark, and what is above it is not.
_NEAR, _FAR = 0.25, 0.4
_DARK, _BRIGHT = 10.0, 25.0
# A picture stands still when so few pixels change by more than compression changes them.
_STILL_SHARE, _STILL_LEVEL = 0.001, 2


def parse_gates(text: str, domain: Domain | None = None) -> tuple[str, ...]:
    """`black,contact` -> its gates; `none` -> no gate; UsageError for an unknown one.

    `auto` are all of them, `domain` only where the model says which pictures it knows.
    """
    if text.strip() == "none":
        return ()
    if text.strip() == "auto":
        return tuple(gate for gate in GATES if gate != "domain" or domain is not None)
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names or any(name not in GATES for name in names):
        raise UsageError(f"--gates is {text!r}; expected auto, none, or some of {', '.join(GATES)}, joined by commas")
    return names


class Gatekeeper:
    """Judges clips, one after the other.

    Args:
        gates: some of `GATES`.
        domain: what the model knows; UsageError where that gate is asked for and the model does not say.
    """

    def __init__(self, gates: Sequence[str], domain: Domain | None = None) -> None:
        if "domain" in gates and domain is None:
            raise UsageError(
                "--gates domain: the model does not say which pictures it knows; "
                "run vivim-train calibrate-confidence on its weights and export them again"
            )
        self.gates, self._domain = tuple(gates), domain

    def judge(self, pictures: Sequence[Image]) -> str:
        """The gate that closes for the pictures (H, W, 3) of a clip, the first of `GATES`; "" where none does."""
        if "black" in self.gates and is_black(pictures):
            return "black"
        if "contact" in self.gates and has_no_contact(pictures):
            return "contact"
        if "domain" in self.gates and self._domain is not None and not self._domain.knows(pictures[-1]):
            return "domain"
        if "frozen" in self.gates and is_frozen(pictures):
            return "frozen"
        return ""

    def judge_views(self, views: Sequence[Sequence[Image]]) -> str:
        """The same of several views of a clip: what closes for all of them closes for the clip."""
        found = [self.judge(pictures) for pictures in views]
        return "" if "" in found else found[0]


def is_black(pictures: Sequence[Image]) -> bool:
    """Whether the newest picture has nothing in it."""
    return float(np.percentile(_grey(pictures[-1]), 99)) <= _BLACK


def is_frozen(pictures: Sequence[Image]) -> bool:
    """Whether nothing changes from picture to picture; of a single one it cannot be told."""
    if len(pictures) < 2:
        return False
    for one, other in pairwise(pictures):
        if float((cv2.absdiff(one, other).max(axis=2) > _STILL_LEVEL).mean()) > _STILL_SHARE:
            return False
    return True


def has_no_contact(pictures: Sequence[Image]) -> bool:
    """Whether echoes come from close to the probe's face alone: the reverberation of air."""
    rows = np.mean([_grey(picture) for picture in pictures], axis=0)
    height = len(rows)
    near, far = rows[: int(_NEAR * height)], rows[int(_FAR * height) :]
    return float(np.percentile(near, 95)) >= _BRIGHT and float(np.percentile(far, 95)) <= _DARK


def touches_edge(masks: Mask, inside: Mask | None) -> bool:
    """Whether a mask (K, H, W) has pixels beside one that is not inside (H, W), or at the border of the frame."""
    if not masks.any():
        return False
    seen = np.ones(masks.shape[1:], np.uint8) if inside is None else inside.view(np.uint8)
    inner = cv2.erode(seen, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return bool((masks & (inner == 0)).any())


def _grey(picture: Image) -> npt.NDArray[np.float32]:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
