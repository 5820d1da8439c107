"""`vivim-eval`: from names to files and exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.runtime.engines import engine_file
from tests.runtime.judging.sets import moving
from tests.runtime.models import brightness_model
from vivim_runtime.commands import evaluate
from vivim_runtime.commands.entry import main
from vivim_runtime.sessions.flipped import FlippedSession
from vivim_runtime.sessions.machine import Machine

QUICK = ("--bootstrap", "50", "--no-speed", "--threads", "1")


def call(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vivim-eval", *args])
    with pytest.raises(SystemExit) as caught:
        main("vivim-eval", "vivim_runtime.commands.evaluate")
    return int(caught.value.code or 0)


def write_set(root: Path, videos: int = 2, frames: int = 7) -> Path:
    """A data set like VTUS, whose frames are bright in the true mask."""
    for video in range(videos):
        for index in range(frames):
            mask = moving(index + video, (32, 48)).astype(np.uint8)
            for folder, pixels in (("Train", mask * 200 + 20), ("Train_GT", mask * 255)):
                path = root / folder / f"case{video}" / f"{index:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), pixels)
    return root


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model and a data set."""
    monkeypatch.chdir(tmp_path)
    brightness_model(tmp_path / "m.onnx")
    write_set(tmp_path / "set")
    return tmp_path


def test_everything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    brightness_model(folder / "other.onnx", frames=3)
    outputs = ("--json", "r.json", "--markdown", "r.md", "--latex", "r.tex", "--csv", "r.csv", "--html", "sub/r.html")
    assert call(monkeypatch, "m.onnx", "other.onnx", "--data", "set", *QUICK, *outputs, "--plots", "plots") == 0
    out = capsys.readouterr().out
    assert "Table I: means over all 14 frames" in out and "1.0000 [1.0000, 1.0000]" in out
    assert "few videos: intervals from 2" in " ".join(out.split())
    record = json.loads((folder / "r.json").read_text())
    assert [m["overall"]["all"]["dice"]["value"] for m in record["models"]] == [1.0, 1.0]
    assert [m["hop"] for m in record["models"]] == [5, 3] and "speed" not in record["models"][0]
    assert (folder / "r.md").read_text().startswith("# VTUS")
    assert "\\toprule" in (folder / "r.tex").read_text() and "case1" in (folder / "r.csv").read_text()
    assert "<svg" in (folder / "sub" / "r.html").read_text()
    plots = ["dice-at-threshold.svg", "dice-by-video.svg", "reliability.svg"]
    assert sorted(p.name for p in (folder / "plots").iterdir()) == plots


def test_worst_frames_are_written_as_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "m.onnx", "--data", "set", *QUICK, "--threshold", "0.9999", "--plots", "plots") == 0
    pictures = sorted(p.name for p in (folder / "plots").glob("*.png"))
    assert len(pictures) == 2 and pictures[0].startswith("worst-1-1-case")
    assert cv2.imread(str(folder / "plots" / pictures[0])).shape == (32, 3 * 48 + 12, 3)


def test_phantoms_are_the_default_data_and_speed_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivim_runtime.commands.evaluate._SECONDS", 0.0)
    arguments = ["--data", "phantom:clips=2,size=48", "--bootstrap", "0", "--threads", "1", "--json", "r.json"]
    assert call(monkeypatch, "m.onnx", *arguments) == 0
    record = json.loads((folder / "r.json").read_text())
    assert (record["data"]["name"], record["data"]["split"], record["data"]["videos"]) == ("phantom", "test", 2)
    (model,) = record["models"]
    assert [video["name"] for video in model["videos"]] == ["test-0000", "test-0001"]
    assert model["speed"]["fps"] == pytest.approx(5 * model["speed"]["clips_per_second"])
    assert model["speed"]["calls"] >= 5 and model["speed"]["host_bytes"] > 0
    assert model["overall"]["all"]["dice"]["low"] is None


def test_frames_a_second_count_what_a_clip_serves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivim_runtime.commands.evaluate._SECONDS", 0.0)
    arguments = [
        "--data",
        "set",
        "--bootstrap",
        "0",
        "--threads",
        "1",
        "--json",
        "r.json",
        "--hop",
        "2",
        "--show",
        "centre",
    ]
    assert call(monkeypatch, "m.onnx", *arguments) == 0
    (model,) = json.loads((folder / "r.json").read_text())["models"]
    assert model["hop"] == 2 and model["speed"]["fps"] == pytest.approx(2 * model["speed"]["clips_per_second"])


def test_a_checkpoint_takes_the_clips_of_its_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brightness_model(folder / "square.onnx", frames=2, size=(32, 32))
    assert call(monkeypatch, "tiny", "square.onnx", "--data", "set", *QUICK, "--json", "r.json") == 0
    first, second = json.loads((folder / "r.json").read_text())["models"]
    assert (first["name"], first["model"]["backend"], first["model"]["name"]) == ("tiny", "PyTorch", "tiny.safetensors")
    assert [(m["model"]["size"], m["model"]["frames"]) for m in (first, second)] == [([256, 256], 5), ([32, 32], 2)]
    assert (
        call(monkeypatch, "tiny", "--data", "set", *QUICK, "--imgsz", "32x64", "--frames", "3", "--json", "r.json") == 0
    )
    (only,) = json.loads((folder / "r.json").read_text())["models"]
    assert (only["model"]["size"], only["model"]["frames"]) == ([32, 64], 3)


def test_a_split_file_says_which_videos(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "split.json").write_text(json.dumps({"held": ["case1[2:6]"]}))
    arguments = (
        "--data",
        "set",
        "--split",
        "held",
        "--split-file",
        "split.json",
        "--layout",
        "vtus",
        "--json",
        "r.json",
    )
    assert call(monkeypatch, "m.onnx", *QUICK, *arguments) == 0
    record = json.loads((folder / "r.json").read_text())
    assert [video["name"] for video in record["models"][0]["videos"]] == ["case1[2:6]"]
    assert record["data"]["split"] == "held" and record["data"]["frames"] == 4


@pytest.mark.parametrize(("least", "code"), [("1.0", 0), ("0.5", 0)])
def test_a_gate_lets_good_models_pass(folder: Path, monkeypatch: pytest.MonkeyPatch, least: str, code: int) -> None:
    assert call(monkeypatch, "m.onnx", "--data", "set", *QUICK, "--min-dice", least) == code


def test_a_gate_stops_bad_models_after_writing_what_was_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--data", "set", "--threshold", "0.9999", "--min-dice", "0.2", "--json", "r.json")
    assert call(monkeypatch, "m.onnx", *QUICK, *arguments) == 3
    assert capsys.readouterr().err == "error: m.onnx has Dice 0.0000; expected at least 0.2 (--min-dice)\n"
    assert json.loads((folder / "r.json").read_text())["models"][0]["overall"]["all"]["dice"]["value"] == 0.0


def test_a_model_of_several_classes_has_a_row_for_each_and_one_for_their_mean(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    brightness_model(folder / "two.onnx", classes=("a", "b"))  # both mark what is bright
    outputs = ("--json", "r.json", "--csv", "r.csv", "--html", "r.html", "--plots", "plots")
    arguments = ("two.onnx", "--data", "set", "--classes", "7=a,255=b", *QUICK, *outputs)
    assert call(monkeypatch, *arguments, "--min-dice", "0.4") == 0
    models = json.loads((folder / "r.json").read_text())["models"]
    dice = {model["class"]: model["overall"]["all"]["dice"]["value"] for model in models}
    assert dice == {"mean over classes": 0.5, "a": 0.0, "b": 1.0}
    assert "two.onnx, a" in capsys.readouterr().out and '"two.onnx, b",' in (folder / "r.csv").read_text()
    assert (folder / "r.html").read_text().count("<h3>two.onnx, ") == 2  # worst frames of each class, none of the mean
    assert call(monkeypatch, *arguments, "--min-dice", "0.6") == 3  # of the mean
    assert "two.onnx, mean over classes has Dice 0.5000" in capsys.readouterr().err


def test_an_engine_of_another_machine_has_exit_code_4(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine_file(folder / "tiny.engine")
    monkeypatch.setattr(Machine, "here", lambda device, backends: Machine(no_gpu="there is none"))
    assert call(monkeypatch, "tiny.engine", "--data", "set", *QUICK) == 4
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("m.onnx --data nowhere", "there is no folder nowhere"),
        ("m.onnx --data set --split none", "no split 'none'"),
        ("m.onnx --data set --layout none", "--layout is none"),
        ("m.onnx --data broken", "case0"),
        ("m.onnx --data empty", "empty"),
        ("missing.onnx --data set", "there is no model missing.onnx"),
        (
            "two.onnx --data set",
            "the model marks a, b, and nothing says which values these have in the masks of set; say",
        ),
        ("two.onnx --data set --classes 255=a", "the model marks a, b, and the data know a (--classes)"),
        ("two.onnx --data phantom --classes a,b", "phantoms have one class"),
        (
            "m.onnx two.onnx --data broken",
            "two.onnx marks a, b: models that are judged side by side",
        ),  # before the first model has looked at the data
        ("m.onnx three.onnx --data set --hop 5", "expected 1 to 3, the frames of a clip of three.onnx"),
        ("m.onnx --data set --threshold 1.5", "--threshold is 1.5"),
        ("m.onnx --data set --imgsz big", "--imgsz is big"),
        ("m.onnx --data set --min-dice 2", "--min-dice is 2"),
        ("m.onnx --data set --bootstrap -1", "--bootstrap is -1"),
        ("m.onnx --data set --json m.onnx", "m.onnx is both read and written"),
        ("m.onnx --data set --json r --csv r", "an output is named twice"),
        ("m.onnx --data set --plots m.onnx", "m.onnx"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    brightness_model(folder / "two.onnx", classes=("a", "b"))
    brightness_model(folder / "three.onnx", frames=3)
    (write_set(folder / "broken", 1) / "Train" / "case0" / "003.png").write_bytes(b"no picture")
    (folder / "empty").mkdir()
    assert call(monkeypatch, *arguments.split(), *(QUICK[2:] if "--bootstrap" in arguments else QUICK)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and message in captured.err
    assert captured.out == ""
    assert not list(folder.glob("r*"))


def test_flips_are_rows_of_their_own_that_see_the_mirror_image_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--data", "set", "--bootstrap", "50", "--threads", "1", "--flips", "--json", "r.json")
    monkeypatch.setattr(evaluate, "_SECONDS", 0.1)
    assert call(monkeypatch, "m.onnx", *arguments) == 0
    record = json.loads((folder / "r.json").read_text())
    plain, flipped = record["models"]
    assert (plain["name"], flipped["name"]) == ("m.onnx", "m.onnx with flips")
    # The model looks at single pixels, so its mirror image says the same.
    assert flipped["overall"] == plain["overall"] and "higher_than_first" in flipped
    assert sum(note.startswith("with flips: logits are the mean") for note in record["notes"]) == 1
    assert flipped["speed"]["fps"] > 0


class LeftSession:
    """Marks the left half of every frame by 2, and remembers how many frames it has seen."""

    backend, device, info = "known", "cpu", None

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        logits = np.zeros((*clips.shape[:2], 1, *clips.shape[2:4]), np.float32)
        logits[..., : clips.shape[3] // 2] = 2.0
        return logits + clips[..., 0][:, :, None]

    def step(self, frames: np.ndarray, states: int | None) -> tuple[np.ndarray, int]:
        return self(frames), (states or 0) + 1


def test_flipped_logits_are_turned_back_and_states_are_of_two_films() -> None:
    clips = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 6, 3), np.uint8)
    flipped = FlippedSession(LeftSession())  # type: ignore[arg-type]
    expected = clips[..., 0][:, :, None] + 1.0  # of the half that is marked, one in each
    np.testing.assert_array_equal(flipped(clips), expected)
    logits, states = flipped.step(clips[:, :1], None)
    np.testing.assert_array_equal(logits, expected[:, :1])
    assert states == (1, 1) and flipped.step(clips[:, 1:2], states)[1] == (2, 2)
    assert flipped.with_outlines() is None
