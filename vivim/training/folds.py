"""Cross-validation by patient: every video tests once, and never beside one that trained and shows the same patient."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vivim_runtime.errors import DataError, UsageError

__all__ = ["folds", "patients_by_pattern", "patients_by_table"]

# Share of the patients that do not test who validate.
_VALIDATION = 0.1


def patients_by_pattern(videos: Sequence[str], pattern: str) -> dict[str, str]:
    """The patient of every video: what a regular expression finds in its name, its first group where it has one.

    Raises:
        UsageError: no regular expression.
        DataError: names in which it finds nothing.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--patient {pattern} is no regular expression ({error}); expected such as '^[^_]+'") from None
    found = {video: expression.search(video) for video in videos}
    lost = [video for video, match in found.items() if match is None]
    if lost:
        raise DataError(f"--patient {pattern} finds no patient in {_some(lost)}; expected one in every name")
    return {video: match[1] if expression.groups else match[0] for video, match in found.items() if match is not None}


def patients_by_table(videos: Sequence[str], path: Path) -> dict[str, str]:
    """The patient of every video, from a table (CSV) of `video,patient`; DataError says what is wrong with it."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the table {path}: {getattr(error, 'strerror', None) or error}") from None
    if not rows or not {"video", "patient"} <= rows[0].keys():
        raise DataError(f"{path} has not the columns video and patient; expected a first line `video,patient`")
    table = {row["video"]: row["patient"] for row in rows}
    lost = [video for video in videos if not table.get(video)]
    if lost:
        raise DataError(f"{path} names no patient for {_some(lost)}; expected one for every video")
    return {video: table[video] for video in videos}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def folds(patients: Mapping[str, str], frames: Mapping[str, int], count: int, seed: int) -> list[dict[str, list[str]]]:
    """Splits of videos, as split files have them; fold k tests on its own patients.

    Patients are dealt to the folds so that these have about as many frames: the one with the most frames to the fold
    with the fewest so far, in an order drawn by the seed among equals. A tenth of the others validates.

    Args:
        patients, frames: of every video.

    Raises:
        UsageError: fewer patients than a fold each, and one more to validate and to train, asks for.
    """
    of_each: dict[str, list[str]] = {}
    for video, patient in patients.items():
        of_each.setdefault(patient, []).append(video)
    if count < 2 or len(of_each) < max(count, 3):
        raise UsageError(f"--folds is {count}; expected 2 to {len(of_each)}, the patients of these videos (3 at least)")
    rng = np.random.default_rng(seed)
    names = [sorted(of_each)[i] for i in rng.permutation(len(of_each))]
    names.sort(key=lambda patient: -sum(frames[video] for video in of_each[patient]))  # stable: equals stay as drawn
    dealt: list[list[str]] = [[] for _ in range(count)]
    sizes = [0] * count
    for patient in names:
        smallest = sizes.index(min(sizes))
        dealt[smallest].append(patient)
        sizes[smallest] += sum(frames[video] for video in of_each[patient])
    result = []
    for tested in dealt:
        others = sorted(set(names) - set(tested))
        chosen = rng.permutation(len(others))[: max(1, round(_VALIDATION * len(others)))]
        validating = {others[i] for i in chosen}
        split = {"train": set(others) - validating, "validation": validating, "test": set(tested)}
        result.append({name: [v for v in patients if patients[v] in members] for name, members in split.items()})
    return result
