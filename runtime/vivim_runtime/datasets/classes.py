"""What the values of masks stand for, where they mark several classes: names by label, and masks by class.

A label is a value of a mask (an index, where it has a palette), the number of a segment of a DICOM Segmentation, or a
colour. Names are said on the command line (`--classes`), or by a table `classes.json` in the folder of the data set:

    lesion,vessel                                    the values 1 and 2
    1=lesion,3=vessel,2=background                   other values; what is background belongs to no class
    #ff0000=lesion,#00ff00=vessel                    colours
    {"1": "lesion", "2": "vessel"}                   the same as a table

A name may stand for several labels. One name alone, without a label, is a mask that is white on black. Classes may
overlap where the data say so (segments of DICOM): each has a mask of its own, as each has a sigmoid of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import DataError
from vivim_runtime.text import parse_json, printable

__all__ = ["BACKGROUND", "TABLE", "Classes", "Labels", "packed_colours", "union"]

BACKGROUND = "background"
TABLE = "classes.json"

# The label of every pixel, (H, W): a value, or a colour as 0xRRGGBB.
Labels = npt.NDArray[np.integer[Any]]
Masks = npt.NDArray[np.bool_]

_EXAMPLE = "lesion,vessel (the values 1 and 2), 1=lesion,2=vessel or #ff0000=lesion,#00ff00=vessel"
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_MOST, _LONGEST, _HIGHEST, _SHOWN = 255, 64, 65535, 5  # classes, characters, value, labels in a message


@dataclass(frozen=True)
class Classes:
    """The classes of masks.

    Attributes:
        names: in the order of a network's outputs.
        labels: name by label, background left out; () for one class that is white on black.
        background: labels that belong to no class, 0 (black) among them.
        is_coloured: whether labels are colours, 0xRRGGBB.
        origin: who says so, for messages.
    """

    names: tuple[str, ...]
    labels: tuple[tuple[int, str], ...] = ()
    background: tuple[int, ...] = (0,)
    is_coloured: bool = False
    origin: str = "--classes"

    @classmethod
    def parse(cls, text: str) -> Classes:
        """What --classes was given; DataError where it is none."""
        parts = [part.strip() for part in text.split(",")]
        if any("=" in part for part in parts):
            cut = [part.partition("=") for part in parts]
            return cls._of([(label.strip(), name.strip()) for label, _, name in cut], "--classes", text)
        if len(set(parts)) < len(parts) or BACKGROUND in parts:
            wrong = f"are of the values from 1 on, without {BACKGROUND}" if BACKGROUND in parts else "stand once each"
            raise DataError(f"--classes is {printable(text)!r}; names alone {wrong}: expected {_EXAMPLE}")
        found = cls._of([(str(value), name) for value, name in enumerate(parts, 1)], "--classes", text)
        return found if found.several else replace(found, labels=())

    @classmethod
    def of_folder(cls, root: Path) -> Classes | None:
        """What the table of a data set says; None where it has none, DataError where that cannot be read."""
        path = root / TABLE
        if not path.is_file():
            return None
        expected = 'expected {"1": "lesion", "2": "vessel"}'
        try:
            table = parse_json(path.read_text(encoding="utf-8"), pairs=list)
        except (OSError, ValueError) as error:
            raise DataError(f"the table {path} cannot be read ({error}); {expected}") from None
        if not isinstance(table, list) or not all(isinstance(p, tuple) and isinstance(p[1], str) for p in table):
            raise DataError(f"the table {path} is of another form; {expected}")
        return cls._of([(str(label), name) for label, name in table], TABLE, str(path))

    @classmethod
    def _of(cls, pairs: Sequence[tuple[str, str]], origin: str, text: str) -> Classes:
        coloured = {label.startswith("#") for label, _ in pairs}
        labels: dict[int, str] = {}
        for label, name in pairs:
            value = _value(label)
            if value is None or len(coloured) > 1 or value in labels:
                wrong = "is there twice" if value in labels else "is no value or colour, or not of the kind of others"
                raise DataError(
                    f"{origin} is {printable(text)!r}, where {label or name!r} {wrong}; expected {_EXAMPLE}"
                )
            if not name or len(name) > _LONGEST or not name.isprintable():
                raise DataError(f"{origin} is {printable(text)!r}, where {label!r} has no name; expected {_EXAMPLE}")
            labels[value] = name
        if labels.get(0, BACKGROUND) != BACKGROUND:
            raise DataError(f"{origin} calls 0 {labels[0]}; expected {BACKGROUND}, which it is in every mask")
        kept = tuple((value, name) for value, name in labels.items() if name != BACKGROUND)
        names = tuple(dict.fromkeys(name for _, name in kept))
        if not names or len(names) > _MOST:
            raise DataError(f"{origin} is {printable(text)!r}: {len(names)} classes; expected 1 to {_MOST}")
        background = tuple({0} | {value for value, name in labels.items() if name == BACKGROUND})
        return cls(names, kept, background, True in coloured, origin)

    @property
    def several(self) -> bool:
        """Whether true masks are (K, H, W) rather than (H, W)."""
        return len(self.names) > 1

    def describe(self) -> str:
        """`1 lesion, 2 vessel`."""
        return ", ".join(f"{self.shown(label)} {name}" for label, name in self.labels) or f"white {self.names[0]}"

    def shown(self, label: int) -> str:
        """A label as people write it."""
        return f"#{label:06x}" if self.is_coloured else str(label)

    def arranged(self, names: Sequence[str], what: str = "the model") -> Classes:
        """The classes that a model marks, in its order; what it does not mark is background.

        Raises:
            DataError: a name that the data do not know.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise DataError(
                f"{what} marks {', '.join(names)}, and the data know {', '.join(self.names)} ({self.origin}); name the "
                f"label of {', '.join(missing)} there, or by --classes"
            )
        kept = tuple((label, name) for label, name in self.labels if name in names)
        dropped = (label for label, name in self.labels if name not in names)
        return replace(self, names=tuple(names), labels=kept, background=(*self.background, *dropped))

    def planes(self, labels: Labels) -> Masks:
        """The masks (K, H, W) of labels (H, W).

        Raises:
            DataError: labels that are neither a class nor background, in words that go on from "the mask of ...".
        """
        masks = np.zeros((len(self.names), *labels.shape), np.bool_)
        known = 0
        for label, name in self.labels:
            found = labels == label
            known += int(np.count_nonzero(found))
            masks[self.names.index(name)] |= found
        known += sum(int(np.count_nonzero(labels == label)) for label in self.background)
        if known < labels.size:
            others = np.setdiff1d(labels, [*self.background, *(label for label, _ in self.labels)])
            self.refuse([int(label) for label in others])
        return masks

    def refuse(self, labels: Sequence[int]) -> None:
        """DataError about labels that have no class, if there are any."""
        if labels:
            shown = ", ".join(self.shown(label) for label in labels[:_SHOWN])
            more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
            what = ("colour" if self.is_coloured else "value") + ("s" if len(labels) > 1 else "")
            raise DataError(
                f"has the {what} {shown}{more}, which no class has ({self.describe()}; {self.origin}): name it, "
                f"or call it {BACKGROUND}"
            )


def _value(label: str) -> int | None:
    """A label of a text as a number; None where it is none."""
    if _COLOUR.fullmatch(label):
        return int(label[1:], 16)
    return int(label) if re.fullmatch(r"\d{1,5}", label, re.ASCII) and int(label) <= _HIGHEST else None


def packed_colours(colours: npt.NDArray[np.uint8]) -> Labels:
    """RGB (H, W, 3) as labels 0xRRGGBB (H, W)."""
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def union(mask: Masks) -> Masks:
    """Of true masks (H, W) or (K, H, W), the pixels (H, W) that belong to any class."""
    return mask if mask.ndim == 2 else np.asarray(mask.any(axis=0))
