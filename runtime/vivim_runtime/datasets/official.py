"""How large the public data sets are: what a folder that claims to be one of them should hold."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OFFICIAL", "Counts"]


@dataclass(frozen=True)
class Counts:
    """Numbers as published; None for what was not.

    Attributes:
        videos: of all patients.
        frames: all of them with a mask.
        size: (H, W) of the frames that the paper's figures were measured on, where they were cropped.
    """

    videos: int | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None


# By the data set's name and its split, "" for all of it.
OFFICIAL = {
    # Vivim, IV.A.
    ("VTUS", ""): Counts(100, 9342),
    ("VTUS", "train"): Counts(70),
    ("VTUS", "test"): Counts(30),
    # Vivim, IV.A; the crops are 300 wide and 200 high.
    ("BUV2022", ""): Counts(63, 4619, (200, 300)),
    ("BUV2022", "train"): Counts(size=(200, 300)),
    ("BUV2022", "test"): Counts(size=(200, 300)),
    # Vivim, IV.C: six videos, and five each.
    ("polyp", "CVC-300-TV"): Counts(6),
    ("polyp", "CVC-612-V"): Counts(5),
    ("polyp", "CVC-612-T"): Counts(5),
    ("polyp", "test"): Counts(16),
    # PNS-Net's download, as a public loader of it counts: 10 of ASU-Mayo, 6 of CVC-300, 18 of CVC-612; Kvasir is one.
    ("polyp", "train"): Counts(35),
}
