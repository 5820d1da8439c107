"""The record of what a network was taught to see."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runtime.models import brightness_model
from vivim_runtime.contract import InputContract
from vivim_runtime.errors import ModelError
from vivim_runtime.regions import RegionRule
from vivim_runtime.sessions import open_session

SMALL = InputContract((96, 128), 3, 2, 2, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
FULL = replace(SMALL, region="10,20,300,200", shape="kept", colour="grey", levels=(16, 235), outside="black", fps=30.0)


def test_what_is_written_is_read() -> None:
    for contract in (SMALL, FULL):
        assert InputContract.from_json(contract.to_json(), "w") == contract


def test_fields_that_came_later_mean_what_files_of_before_them_meant() -> None:
    values = {name: value for name, value in json.loads(SMALL.to_json()).items() if name in ("size", "frames", "hop")}
    assert InputContract.from_json(json.dumps(values), "w") == InputContract((96, 128), 3, 2)


def test_fields_of_a_later_version_are_refused() -> None:
    """Pictures that were turned first cannot be given as they are without a word."""
    text = json.dumps({**json.loads(SMALL.to_json()), "turn": 90})
    with pytest.raises(ModelError, match=r"^w\.onnx: the input contract has turn, which .*; update vivim-edge"):
        InputContract.from_json(text, "w.onnx")


def test_what_older_versions_can_keep_is_written_as_they_know_it() -> None:
    assert set(json.loads(InputContract((64, 64), 5, 5).to_json())) == {
        "size", "frames", "hop", "stride", "mean", "std"
    }  # fmt: skip
    assert json.loads(FULL.to_json())["region"] == "10,20,300,200"


def test_contracts_that_meet_are_compared_field_by_field() -> None:
    assert SMALL.meets(SMALL, "a.onnx", "b.onnx") is None
    assert SMALL.meets(FULL, "a.onnx", "b.onnx") == (
        "a.onnx and b.onnx were taught to see other pictures: region whole and 10,20,300,200, "
        "shape stretched and kept, colour rgb and grey, levels 0,255 and 16,235, outside kept and black, "
        "fps unknown and 30.0"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", [0, 64]),
        ("size", [64]),
        ("size", "64"),
        ("frames", 0),
        ("frames", True),
        ("hop", 4),  # beyond the 3 frames of a clip: frames between would get no mask
        ("stride", 0),
        ("mean", [0.5, 0.5]),
        ("std", [0.2, 0.2, 0.0]),
        ("region", "somewhere"),
        ("region", "1,2,0,4"),
        ("region", [1, 2, 3, 4]),
        ("region", " Whole"),  # one spelling each, so that two contracts are equal where they mean the same
        ("shape", "cut"),
        ("colour", "bgr"),
        ("levels", [16, 256]),
        ("levels", [235, 16]),
        ("outside", "grey"),
        ("fps", 0),
        ("fps", True),
    ],
)
def test_impossible_values_are_refused_by_name(name: str, value: object) -> None:
    text = json.dumps({**json.loads(SMALL.to_json()), name: value})
    with pytest.raises(ModelError, match=rf"^w: the input contract has {name} .*; expected"):
        InputContract.from_json(text, "w")


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"size": [64, 64]}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"^w: the input contract"):
        InputContract.from_json(text, "w")


def test_uses_that_differ_are_named() -> None:
    assert list(SMALL.departures((96, 128), 3, "used", 2)) == []
    assert list(SMALL.departures((256, 320), 5, "exported")) == [
        "trained at 96x128, exported at 256x320",
        "trained on clips of 3 frames, exported on clips of 5",
        "trained on every frame in 2 of a video, exported on every frame in 1",
    ]
    found = list(SMALL.departures((96, 128), 3, "used", 2, RegionRule.parse("10,20,300,200")))
    assert found == ["trained on whole pictures, used on the region 10,20,300,200"]
    assert list(SMALL.departures((96, 128), 3, "used", 2, RegionRule())) == []


@pytest.mark.parametrize(
    ("rate", "timed", "expected"),
    [
        (15.0, True, ()),  # live clips take their moments from the contract: its stride is kept
        (60.0, True, ("trained on clips of 15 frames a second, used on clips of 60",)),
        (0.0, True, ("trained on every frame in 2 of a video, exported on every frame in 1",)),
        (14.5, False, ("trained on every frame in 2 of a video, exported on every frame in 1",)),
        (
            30.0,
            False,
            (
                "trained on every frame in 2 of a video, exported on every frame in 1",
                "trained on clips of 15 frames a second, used on clips of 30",
            ),
        ),
    ],
)
def test_runs_say_where_their_clips_have_another_stride_or_rate(
    tmp_path: Path, rate: float, timed: bool, expected: tuple[str, ...]
) -> None:
    contract = InputContract((32, 48), 3, 3, 2, fps=30.0)
    path = brightness_model(tmp_path / "m.onnx", frames=3, input_contract=contract.to_json())
    with open_session(path, "cpu") as session:
        assert session.info.departures_at(rate, timed) == expected


def test_model_files_say_what_their_weights_were_trained_at(tmp_path: Path) -> None:
    contract = InputContract((64, 64), 5, 2)
    path = brightness_model(tmp_path / "m.onnx", input_contract=contract.to_json())
    with open_session(path, "cpu") as session:
        assert session.info.contract == contract and session.info.hop == 2
        assert session.info.departures == ("trained at 64x64, exported at 32x48",)
    other = brightness_model(tmp_path / "n.onnx", frames=3, input_contract=contract.to_json())
    with open_session(other, "cpu") as session:
        assert session.info.hop == 3  # a hop of clips of 5 says nothing of clips of 3


def test_model_files_without_a_record_depart_from_nothing(tmp_path: Path) -> None:
    with open_session(brightness_model(tmp_path / "m.onnx"), "cpu") as session:
        assert session.info.contract is None and session.info.hop == 5 and session.info.departures == ()


def test_model_files_with_a_later_record_are_refused(tmp_path: Path) -> None:
    text = json.dumps({**json.loads(replace(SMALL, hop=1).to_json()), "turn": 90})
    with pytest.raises(ModelError, match="has turn, which this version cannot keep"):
        open_session(brightness_model(tmp_path / "m.onnx", input_contract=text), "cpu")
