"""What a model file says of its classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import vivim
from vivim.checkpoint import Training
from vivim.session import describe
from vivim_runtime.contract import InputContract
from vivim_runtime.errors import UsageError
from vivim_runtime.sessions.base import ClassInfo, ModelInfo

TRAINING = Training(InputContract.assumed(5))
CATEGORY, KIND = ["49755003", "SCT", "Morphologically Abnormal Structure"], ["27925004", "SCT", "Nodule"]


def tiny() -> vivim.Vivim:
    return vivim.Vivim(vivim.VivimConfig.preset("tiny"))


def test_codes_of_classes_are_carried_in_the_description() -> None:
    given = describe(tiny(), (64, 64), "0" * 64, TRAINING, codes={"lesion": {"category": CATEGORY, "type": KIND}})
    (info,) = ModelInfo.from_metadata(Path("m.onnx"), given).classes
    assert (info.category, info.kind) == (tuple(CATEGORY), tuple(KIND))
    (plain,) = ModelInfo.from_metadata(Path("m.onnx"), describe(tiny(), (64, 64), "0" * 64, TRAINING)).classes
    assert plain == ClassInfo("lesion", plain.color)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ({"tumour": {"type": KIND}}, "codes of tumour; the classes are lesion"),
        ({"lesion": {"type": KIND[:2]}}, "codes that are none"),
        ({"lesion": {"type": ["1", "SCT", "a\nb"]}}, "codes that are none"),
        ({"lesion": {"kind": KIND}}, "codes have kind"),
    ],
)
def test_codes_that_are_none_are_refused(codes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        describe(tiny(), (64, 64), "0" * 64, TRAINING, codes=codes)
