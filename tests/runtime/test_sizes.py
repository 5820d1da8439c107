"""One grammar for sizes, and one for phantoms, wherever a command takes them."""

from __future__ import annotations

import pytest

from vivim_runtime.datasets.phantom import phantom_videos
from vivim_runtime.errors import UsageError
from vivim_runtime.sizes import parse_size
from vivim_runtime.sources.phantom import spec_from_uri


@pytest.mark.parametrize(
    ("text", "size"), [("256", (256, 256)), ("256x320", (256, 320)), ("64X96", (64, 96)), ("0128", (128, 128))]
)
def test_a_size_is_one_number_or_height_x_width(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "0", "64x", "x64", "64x0", "64,96", "64x96x3", "-64", "６４", "²", "6.4", "1" * 9]
)
def test_anything_else_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(UsageError, match=r"--imgsz is .*; expected one number, or height x width: 256 or 256x320"):
        parse_size(text)


def test_a_phantom_is_named_alike_as_a_source_and_as_a_data_set() -> None:
    spec = spec_from_uri("phantom:seed=3,frames=7,size=64x96,fps=10")
    assert (spec.seed, spec.frames, spec.size, spec.fps) == (3, 7, (64, 96), 10.0)
    assert spec == spec_from_uri("phantom:?seed=3&frames=7&size=64x96&fps=10"), (
        "the form of a web address says the same"
    )
    video = phantom_videos("phantom:clips=1,frames=7,size=64x96,fps=10", "test")[0]
    assert (video.spec.frames, video.spec.size, video.spec.fps) == (7, (64, 96), 10.0)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param("phantom:seed", "unknown seed", id="no value"),
        pytest.param("phantom:seed=1,seed=2", "seed is there twice", id="twice"),
        pytest.param("phantom:frames=1.5", r"no number \(frames=1.5\)", id="not whole"),
        pytest.param("phantom:size=64*96", "is 64\\*96; expected one number, or height x width", id="no size"),
    ],
)
def test_a_phantom_that_is_named_wrongly_is_refused_with_an_example(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        spec_from_uri(name)
