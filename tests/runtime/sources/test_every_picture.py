"""Every form in which pictures are stored, through the source reader: each pixel and time against the truth.

A few of each form in the fast tests; `-m slow` takes up to 60 of each, about 2,000.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.sources.forms import FORMS, Case, Form, cases, write
from vivim_runtime.sources import open_source
from vivim_runtime.sources.base import lost_frames

_FEW, _MANY = 2, 60  # of each form


def tolerance(case: Case) -> float:
    """Levels of 255 by which a pixel may differ from what was meant.

    Half a level of what is stored, as it shows in RGB, and half of the result; each further step rounds once.
    """
    shared = case.steps != (1, 1)
    step = 255 / (2 ** (8 if shared else case.bits) - 1)  # of colours that are shared FFmpeg takes 8 bits
    spread = 1.0 if case.is_full else 255 / 219
    if case.is_yuv:
        # Blue of BT.2020 takes the most of a colour: 2 (1 - Kb).
        most = 0.5 * step * (spread + 1.882 * (1.0 if case.is_full else 255 / 224)) + 0.5
        if case.is_full and case.bits > 8:
            most += 0.75  # FFmpeg takes 1020 of 10 bits for white, not 1023
    elif case.bits <= 8 and case.is_full:
        most = 0.0
    else:
        most = (
            0.5 * step * spread + 0.5 + 0.01
        )  # 32-bit floats, and grey that is widened to 16 bits without its last bits
        most += 0.25 if case.is_grey else 0.0
    across, down = case.steps
    if shared:
        # The colours slope against grey by up to 0.9 levels a pixel across, 0.5 down: as far as it is to the middle of
        # those that share one, and half a pixel for formats that have it elsewhere. FFmpeg's fast conversion of such
        # formats cuts instead of rounding, in each of three terms; the exact one takes 36 ms instead of 0.6 ms
        # for 1920x1080, which live pictures do not have.
        most += 0.9 * across / 2 + 0.5 * down / 2 + 3.0
    if case.aspect != (1, 1):
        most += 1.0  # what is between pixels is rounded once more
    return most + case.form.loss


def compared(case: Case, folder: Path) -> str:
    """Write and read a case; "" where all is as meant, else what is not."""
    folder.mkdir()
    path, truth = write(case, folder)
    with open_source(str(path)) as source:
        frames = list(source)
        lost = lost_frames(source)
    if lost or [frame.index for frame in frames] != list(range(case.frames)):
        return f"frames {[frame.index for frame in frames]} and {lost} lost"
    if source.size != truth.pictures[0].shape[:2]:
        return f"a size of {source.size}; expected {truth.pictures[0].shape[:2]}"
    if np.abs(np.subtract([frame.time for frame in frames], truth.times)).max() > 2e-3:
        return f"times {[frame.time for frame in frames]}; expected {truth.times}"
    worst = max(float(np.abs(f.image - seen).max()) for f, seen in zip(frames, truth.pictures, strict=True))
    return "" if worst <= tolerance(case) else f"pixels differ by {worst:.2f}; expected at most {tolerance(case):.2f}"


@pytest.mark.parametrize("most", [_FEW, pytest.param(_MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_pixel_is_what_its_maker_meant(tmp_path: Path, form: Form, most: int) -> None:
    found = list(cases(form))
    chosen = random.Random(form.name).sample(found, min(most, len(found)))
    wrong = {str(case): told for number, case in enumerate(chosen) if (told := compared(case, tmp_path / str(number)))}
    assert not wrong
