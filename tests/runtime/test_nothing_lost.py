"""Nothing lost, nothing silent: what a bad day, a bad file or a bad neighbour does to a run.

Every row was a fault once: a source destroyed, a mask of NaN shown as "no lesion", a film cut off and called done.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.runtime.live.rig import Frames, NullSession, Run, steady
from tests.runtime.models import brightness_model
from tests.runtime.test_segmentation import CINE
from tests.runtime.test_sinks import decoded, item
from vivim_runtime.bench.worker import ModelRequest, _gpu
from vivim_runtime.commands.entry import run
from vivim_runtime.commands.run import _hop
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import ModelError, NotFiniteError, SinkError, UsageError
from vivim_runtime.files import GrowingFile, atomic_path, check_names
from vivim_runtime.live.status import Shown, State
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.onnx import _providers
from vivim_runtime.sessions.tensorrt import _gpu_index
from vivim_runtime.sinks.base import MaskedFrame
from vivim_runtime.sinks.masks import MaskFolder
from vivim_runtime.sinks.video import VideoWriter
from vivim_runtime.sources import Frame, parse_capture
from vivim_runtime.text import parse_json, parse_number, printable

_RUN = "import sys; from vivim_runtime.commands.entry import run; run()"


def start(folder: Path, *args: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, *args, "--model", "model.onnx"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def ran(folder: Path, *args: str, before: Callable[[], None] | None = None) -> tuple[int, str]:
    """Exit code and standard error of a run: in this process, or in one of its own that `before` prepares."""
    if before is not None:
        process = start(folder, *args, before=before)
        _, error = process.communicate(timeout=240)
        return process.returncode, error
    here, argv, handler, error = Path.cwd(), sys.argv, signal.getsignal(signal.SIGTERM), StringIO()
    os.chdir(folder)
    sys.argv = ["vivim-run", *args, *([] if "--model" in args else ["--model", "model.onnx"])]
    try:
        with redirect_stderr(error), pytest.raises(SystemExit) as ended:
            run()
    finally:
        os.chdir(here)
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    return int(ended.value.code or 0), error.getvalue()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    brightness_model(tmp_path / "model.onnx")
    return tmp_path


def film(path: Path, frames: int = 12) -> Path:
    """A film under any name."""
    made = path.with_name("made.mp4")
    with VideoWriter(made, (32, 48), 25.0) as sink:
        for index in range(frames):
            sink.write(item(index, picture=np.full((32, 48, 3), 9 * index, np.uint8)))
    return made.rename(path)


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


# --- 1: a run never destroys what it reads, nor what others write ---------------------------------------------------


@pytest.mark.parametrize(
    ("source", "outputs"),
    [
        pytest.param("film.part.mp4", ["film.mp4"], id="the part of a killed run is the source"),
        pytest.param("film.part.mp4", ["film.mp4", "film.jsonl"], id="and a ledger"),
        pytest.param(".film.part.mp4", [".film.mp4"], id="hidden"),
        pytest.param("film.part.dcm", ["film.mp4", "film.dcm"], id="a loop of DICOM"),
    ],
)
def test_a_source_with_the_name_of_a_part_stays(work: Path, source: str, outputs: list[str]) -> None:
    film(work / source) if source.endswith(".mp4") else shutil.copy(CINE, work / source)
    before = digests(work)
    code, error = ran(work, source, *outputs, "-q")
    assert code == 0, error
    assert {name: digests(work)[name] for name in before} == before
    assert len(decoded(work / outputs[0])[1]) >= 12


@pytest.mark.parametrize(
    ("outputs", "inputs", "message"),
    [
        pytest.param(["a.mp4", "a.mp4"], [], "named twice", id="one name twice"),
        pytest.param(["a.mp4", "./x/../a.mp4"], [], "named twice", id="two ways to one name"),
        pytest.param(["film.mp4"], ["film.mp4"], "both read and written", id="the source"),
        pytest.param(["link.mp4"], ["film.mp4"], "both read and written", id="a link to the source"),
        pytest.param(["film.mp4"], ["link.mp4"], "both read and written", id="the source by a link"),
        pytest.param(["data/0.dcm"], ["data"], "part of data", id="a file of the folder that is read"),
        pytest.param(["data/masks"], ["data"], "part of data", id="masks of the data set that is read"),
        pytest.param(["data"], ["data/000000.png"], "another folder for masks", id="a picture by name"),
        pytest.param(["data"], ["data/*.png"], "another folder for masks", id="pictures by pattern"),
    ],
)
def test_outputs_that_would_replace_what_is_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: list[str], inputs: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/masks").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    for name in ("film.mp4", "data/0.dcm", "data/000000.png", "data/masks/000000.png"):
        (tmp_path / name).write_text("precious")
    (tmp_path / "link.mp4").symlink_to("film.mp4")
    with pytest.raises(UsageError, match=message):
        check_names(outputs, inputs)


def test_reports_may_lie_in_the_folder_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    check_names([tmp_path / "report.json", tmp_path / "new.mp4"], [tmp_path])


def test_two_outputs_of_which_one_is_the_part_of_the_other_are_refused(work: Path) -> None:
    code, error = ran(work, "phantom:?frames=5&size=32x48", "a.mp4", "a.part.mp4", "-q")
    assert code == 2 and "a.part.mp4 has the name of an unfinished file" in error
    assert [p.name for p in work.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("name", ["o.part.mp4", "o.part-2.mp4"])
def test_a_link_planted_at_the_name_of_a_part_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "o.part.mp4").write_text("of a killed run")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to("precious")
    with VideoWriter(tmp_path / "o.mp4", (32, 48), 25.0) as sink:
        sink.write(item(0, picture=np.zeros((32, 48, 3), np.uint8)))
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / name).is_symlink() and not (tmp_path / "o.mp4").is_symlink()


def test_links_at_temporary_names_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "precious").write_text("precious")
    monkeypatch.setattr("vivim_runtime.files.secrets.token_hex", lambda size: "guessed")
    (tmp_path / ".o.guessed.part.json").symlink_to("precious")
    with pytest.raises(SinkError, match="File exists"), atomic_path(tmp_path / "o.json") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "precious").read_text() == "precious"


def test_what_killed_runs_left_is_never_overwritten(tmp_path: Path) -> None:
    for name in ("o.part.mp4", "o.part-7.mp4"):
        (tmp_path / name).write_text(name)
    file = GrowingFile(tmp_path / "o.mp4")
    assert file.path.name == "o.part-8.mp4"
    file.write(b"new")
    file.complete()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "o.part.mp4": "o.part.mp4",
        "o.part-7.mp4": "o.part-7.mp4",
        "o.mp4": "new",
    }


@pytest.mark.parametrize("target", ["fifo.json", "device.json"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "device.json").symlink_to("/dev/null")
    with pytest.raises(SinkError, match="not a regular file"), atomic_path(tmp_path / target):
        pytest.fail("the block ran")


def test_a_second_run_on_an_output_is_refused(work: Path) -> None:
    file, masks = GrowingFile(work / "o.mp4"), MaskFolder(work / "m")
    for outputs in (["o.mp4"], ["m", "--overwrite"]):
        code, error = ran(work, "phantom:?frames=5&size=32x48", *outputs, "-q")
        assert code == 2 and "another run writes" in error and error.count("\n") == 1
    assert sorted(p.name for p in work.iterdir()) == ["m", "model.onnx", "o.part.mp4"]
    file.discard()
    with masks:
        pass
    code, error = ran(work, "phantom:?frames=5&size=32x48", "o.mp4", "m", "-q")
    assert code == 0, error


def test_of_two_runs_that_begin_at_once_one_is_whole_and_one_refused(work: Path) -> None:
    runs = [start(work, f"phantom:?frames=60&size=64x96&seed={i}", "o.mp4", "o.jsonl", "-q") for i in range(2)]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    codes = [run.returncode for run in runs]
    # On a busy machine the second may begin when the first has ended, and replaces what is complete.
    assert sorted(codes) in ([0, 2], [0, 0])
    assert all("another run writes" in error for code, error in zip(codes, errors, strict=True) if code)
    assert len(decoded(work / "o.mp4")[1]) == 60
    assert [json.loads(line)["type"] for line in (work / "o.jsonl").read_text().splitlines()][-1] == "summary"
    assert sorted(p.name for p in work.iterdir()) == ["model.onnx", "o.jsonl", "o.mp4"]


# --- 2: NaN and infinity are not "no lesion" ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["NaN", "infinity", "minus infinity"])
@pytest.mark.parametrize("share", ["one", "all"])
def test_no_mask_is_made_of_what_is_not_finite(value: float, share: str) -> None:
    logits = np.zeros((1, 8, 8), np.float32)
    logits[0, 3, 4 if share == "one" else slice(None)] = value
    frame = Frame(7, 0.28, np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(NotFiniteError, match=r"not finite .* in frame 7 at 0\.280 s"):
        MaskedFrame.of(frame, logits, 0.5, clip=1, position=2, latency_ms=0.0)


def broken_model(path: Path, value: float) -> Path:
    """The brightness model, whose logits are one value in the second frame of a clip."""
    model = onnx.load(brightness_model(path))
    model.graph.node[-1].output[0] = "right"
    bias = np.zeros((1, 5, 1, 1, 1), np.float32)
    bias[0, 1] = value
    model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "bias"))
    model.graph.node.append(helper.make_node("Add", ["right", "bias"], ["logits"]))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_offline_run_ends_with_the_frame_that_is_not_finite(work: Path, value: float) -> None:
    broken_model(work / "model.onnx", value)
    code, error = ran(work, "phantom:?frames=10&size=32x48", "o.mp4", "o.jsonl", "m", "-q")
    assert code == 2 and error.count("\n") == 1 and "not finite" in error and "frame 1 at 0.040 s" in error
    assert not (work / "o.mp4").exists() and not (work / "o.jsonl").exists()


def test_a_live_run_says_not_finite_hides_the_mask_and_fails_at_the_end(work: Path) -> None:
    broken_model(work / "model.onnx", np.nan)
    code, error = ran(work, "phantom:?frames=60&size=32x48", "o.mp4", "o.jsonl", "--realtime")
    assert code == 2 and "not finite" in error and "Traceback" not in error
    lines = [json.loads(line) for line in (work / "o.jsonl").read_text().splitlines()]
    assert lines[-1]["clips_not_finite"] == lines[-1]["clips"] > 0
    shown = [line for line in lines if line.get("fate") == "shown"]
    assert all(line["mask_of"] is None for line in shown) and any(line.get("not_finite") for line in shown)


class Sick(NullSession):
    """Gives NaN for a clip while `sick`."""

    sick = False

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        logits = super().__call__(clips)
        return np.full_like(logits, np.nan) if self.sick else logits


def test_a_model_that_recovers_is_live_again() -> None:
    session = Sick()
    with Run(Frames([steady(60.0)]), session) as running:
        running.probe.wait_state(State.live)
        session.sick = True
        running.probe.wait_state(State.not_finite)
        assert running.probe.last.masks is None and "not finite" in running.probe.last.status.message
        session.sick = False
        running.probe.wait_state(State.live)
        running.end()
    assert any("not finite" in failure for failure in running.report.failures)


# --- 3: a truncated output is never called done ---------------------------------------------------------------------


def small_files(size: int) -> Callable[[], None]:
    """Every write beyond so many bytes of a file fails, as on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


# A film is the same bytes in every run; a ledger says how long each frame took, in more or fewer digits.
@pytest.mark.parametrize(
    ("output", "share"),
    [("o.mp4", 0.3), ("o.mp4", 0.9), ("o.mp4", 0.999), ("o.jsonl", 0.3), ("o.jsonl", 0.9), ("o.jsonl", 0.97)],
)
def test_a_film_or_ledger_that_does_not_fit_is_not_done(work: Path, output: str, share: float) -> None:
    args = ("phantom:?frames=60&size=64x96", output, "-q")
    code, error = ran(work, *args)
    assert code == 0, error
    whole = (work / output).stat().st_size
    (work / output).unlink()
    code, error = ran(work, *args, before=small_files(int(whole * share)))
    assert code == 2 and "File too large" in error and error.count("\n") == 1
    assert not (work / output).exists()


@pytest.mark.parametrize("lost", ["cut", "replaced"])
def test_a_file_that_changed_on_the_way_is_not_done(tmp_path: Path, lost: str) -> None:
    file = GrowingFile(tmp_path / "o.bin")
    file.write(b"0123456789")
    if lost == "cut":
        os.truncate(file.path, 5)
    else:
        file.path.unlink()
        file.path.write_bytes(b"9876543210")
    with pytest.raises(SinkError, match="5 of 10 bytes" if lost == "cut" else "something else has taken"):
        file.complete()
    assert not (tmp_path / "o.bin").exists()


def test_a_write_that_failed_is_told_at_the_end_whoever_kept_silent(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "o.bin")
    os.close(file._descriptor)
    file._descriptor = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left"):
        file.write(b"1")
    with pytest.raises(SinkError, match="No space left"):
        file.complete()
    assert not (tmp_path / "o.bin").exists()


def test_files_are_on_the_disk_before_they_have_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(any(p.suffix == ".bin" and ".part" not in p.name for p in tmp_path.iterdir()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"1")
    (tmp_path / "a.bin").unlink()
    file = GrowingFile(tmp_path / "b.bin")
    file.write(b"1")
    file.complete()
    assert synced == [False, False]


# --- 5, 6: what is optional fails alone -----------------------------------------------------------------------------


def test_a_recording_that_cannot_begin_ends_alone() -> None:
    def film() -> VideoWriter:
        raise SinkError("cannot write into the folder .: permission denied; choose another output")

    with Run(Frames([steady(60.0)]), film=film) as running:
        running.probe.wait_state(State.live)
        running.controls.recording.set()
        running.probe.wait(lambda shown: "recording could not begin" in shown.status.message)
        assert not running.controls.recording.is_set() and not running.controls.quit.is_set()
        running.end()
    assert any("permission denied" in failure for failure in running.report.failures)


def test_names_of_files_and_errors_are_text_of_some_length_in_the_status() -> None:
    """From there they go into the page, the metrics, the window and the terminal."""
    hostile = "a\x1b[2J\u202e\n<b>" + "x" * 5000

    def film() -> VideoWriter:
        raise SinkError(f"cannot write {hostile}: no space")

    def told(shown: Shown) -> bool:
        messages.append(shown.status.message)
        return "recording could not begin" in messages[-1]

    source, messages = Frames([steady(60.0)]), []
    source.name = hostile
    with Run(source, film=film) as running:
        running.controls.recording.set()
        running.probe.wait(told)
        running.end()
    source_name = running.probe.last.status.source
    assert source_name.isprintable() and source_name.startswith("a\ufffd") and len(source_name) == 200
    assert messages[-1].isprintable() and len(messages[-1]) == 400


def test_a_live_run_goes_on_when_nobody_reads_what_it_says(work: Path) -> None:
    process = start(work, "phantom:?frames=75&size=32x48", "o.mp4", "o.jsonl", "--realtime")
    process.stderr.close()
    process.wait(timeout=60)
    process.stdout.close()
    assert process.returncode == 0
    assert json.loads((work / "o.jsonl").read_text().splitlines()[-1])["captured"] == 75


def test_an_offline_run_whose_reader_goes_away_closes_its_files(work: Path) -> None:
    process = start(work, "phantom:?frames=20&size=32x48", "o.mp4", "o.jsonl")
    process.stderr.close()
    process.wait(timeout=60)
    process.stdout.close()
    assert process.returncode in (1, 141)
    left = {p.name for p in work.iterdir()} - {"model.onnx"}
    assert left in ({"o.mp4", "o.jsonl"}, set())  # complete, or not begun


@pytest.mark.parametrize(
    ("command", "args"), [("run", ["--help"]), ("doctor", []), ("doctor", ["--json"])], ids=["help", "doctor", "JSON"]
)
def test_help_and_doctor_end_quietly_when_nobody_reads(command: str, args: list[str]) -> None:
    code = f"import sys; from vivim_runtime.commands.entry import {command}; {command}()"
    process = subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    error = process.stderr.read().decode()
    process.wait(timeout=120)
    process.stderr.close()
    assert process.returncode in (0, 1, 141) and "Traceback" not in error and "Exception ignored" not in error


# --- 7, 8: models say the truth, or are refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"format": "²"}, "has format ²", id="a digit that is none"),
        pytest.param({"format": "1" * 5000}, "has format 1111", id="a long format"),
        pytest.param({"frames": "1000000000"}, "frames is '1000000000'", id="a thousand million frames"),
        pytest.param({"frames": "0"}, "frames is '0'", id="no frames"),
        pytest.param({"frames": "-5"}, "frames is '-5'", id="fewer than none"),
        pytest.param({"height": "1e3"}, "height is '1e3'", id="no whole number"),
        pytest.param({"width": "16385"}, "expected 1 to 16384", id="a wide one"),
        pytest.param({"frames": "4096", "height": "16384", "width": "16384"}, "pixels; expected", id="all at once"),
        pytest.param({"batch": "0"}, "batch is '0'", id="no clips"),
        pytest.param({"batch": "many"}, "batch is 'many'", id="a word for a batch"),
        pytest.param({"input": "int8"}, "input is 'int8'", id="another input"),
        pytest.param({"classes": "[]"}, "classes are", id="no classes"),
        pytest.param({"classes": '{"a": 1}'}, "classes are", id="no list"),
        pytest.param({"classes": '["a"]'}, "a class is 'a'", id="no object"),
        pytest.param({"classes": '[{"name": "a"}]'}, "'color' is missing", id="no colour"),
        pytest.param({"classes": '[{"name":"x","color":"abc"}]'}, "color of a class is 'abc'", id="a text as colour"),
        pytest.param({"classes": '[{"name":"x","color":[0,0,256]}]'}, "three levels", id="too bright"),
        pytest.param({"classes": '[{"name":"x","color":[true,0,0]}]'}, "three levels", id="truth as a level"),
        pytest.param({"classes": '[{"name":"\\u001b[31m","color":[0,0,0]}]'}, "without control", id="escapes"),
        pytest.param({"classes": '[{"name":"\\u202e","color":[0,0,0]}]'}, "without control", id="right to left"),
        pytest.param({"classes": '[{"name":7,"color":[0,0,0]}]'}, "name of a class is 7", id="a number as name"),
        pytest.param(
            {"classes": '[{"name":"a","color":[0,0,0]},{"name":"a","color":[0,0,0]}]'}, "one name", id="twice"
        ),
        pytest.param({"classes": "[" * 100_000}, "nested deeper", id="nested for ever"),
        pytest.param({"mean": "[NaN, 0, 0]"}, "three numbers", id="a mean that is none"),
        pytest.param({"std": "[0, 1, 1]"}, "three positive numbers", id="division by nothing"),
        pytest.param({"std": "[1, 1]"}, "three positive numbers", id="two channels"),
        pytest.param({"preset": "a\x07b"}, "without control", id="a bell"),
        pytest.param({"precision": "p" * 1000}, "1 to 128 letters", id="a long word"),
        pytest.param({"height": "64"}, "has its input as", id="another size than the graph"),
        pytest.param({"frames": "4"}, "has its input as", id="another T than the graph"),
        pytest.param({"batch": "dynamic"}, "has its input as", id="any batch where the graph has one"),
        pytest.param({"input": "float32"}, "expected tensor", id="another type than the graph"),
        pytest.param(
            {"classes": '[{"name":"a","color":[0,0,0]},{"name":"b","color":[0,0,0]}]'},
            "has logits as",
            id="two classes where the graph has one",
        ),
    ],
)
def test_a_model_that_lies_is_refused_in_one_line(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    model = onnx.load(brightness_model(tmp_path / "m.onnx"))
    said = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, said | {f"vivim.{key}": value for key, value in changes.items()})
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError) as caught:
        open_session(path, "cpu")
    assert message in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 1000


def changed(path: Path, change: Callable[[onnx.GraphProto], object]) -> Path:
    model = onnx.load(brightness_model(path))
    change(model.graph)
    onnx.save(model, path)
    return path


def _constant_logits(shape: list[int]) -> Callable[[onnx.GraphProto], None]:
    def change(graph: onnx.GraphProto) -> None:
        graph.node[-1].output[0] = "right"
        graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [len(shape)], shape))
        graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["logits"]))
        graph.output[0].type.tensor_type.ClearField("shape")

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda g: g.input.append(helper.make_tensor_value_info("more", TensorProto.UINT8, [1])),
            "has 2 inputs (frames, more)",
            id="two inputs",
        ),
        pytest.param(_constant_logits([1, 5, 1, 16, 16]), "has logits as (1, 5, 1, 16, 16)", id="small logits"),
        pytest.param(_constant_logits([1, 5, 2, 32, 48]), "has logits as (1, 5, 2, 32, 48)", id="more classes"),
        pytest.param(_constant_logits([5, 32, 48]), "has logits as (5, 32, 48)", id="fewer axes"),
    ],
)
def test_a_graph_that_is_not_as_described_is_refused_before_the_first_frame(
    tmp_path: Path, change: Callable[[onnx.GraphProto], object], message: str
) -> None:
    path = changed(tmp_path / "m.onnx", change)
    with pytest.raises(ModelError) as caught, open_session(path, "cpu") as session:
        session.warm_up()
    assert message in str(caught.value)


def test_a_model_that_raises_on_the_way_is_one_line(work: Path) -> None:
    def change(graph: onnx.GraphProto) -> None:  # looks up a place that bright pixels alone make too large
        graph.node[-1].output[0] = "right"
        for name, value in (("hundred", [1e9]), ("table", [0.0, 0.0])):
            graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [len(value)], value))
        graph.node.append(helper.make_node("ReduceMax", ["pixels"], ["top"], keepdims=0))
        graph.node.append(helper.make_node("Cast", ["top"], ["place"], to=TensorProto.INT64))
        graph.node.append(helper.make_node("Gather", ["table", "place"], ["picked"]))
        graph.node.append(helper.make_node("Add", ["right", "picked"], ["logits"]))

    changed(work / "model.onnx", change)
    code, error = ran(work, "phantom:?frames=5&size=32x48", "o.mp4", "-q")
    assert code == 2 and error.count("\n") == 1 and "failed when it ran" in error
    assert [p.name for p in work.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("text", ["[" * 1_000_000, '{"a":' * 1_000_000, '["[[["' + ",[" * 65])
def test_deep_json_is_refused_and_brackets_in_text_are_not(text: str) -> None:
    with pytest.raises(ValueError, match="nested deeper"):
        parse_json(text)
    assert parse_json(json.dumps(["[" * 100, '\\"[{' * 100])) == ["[" * 100, '\\"[{' * 100]


# --- 10, 11: terminals and small ends -------------------------------------------------------------------------------


def test_a_terminal_gets_text_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    terminal(width=200).print("film\x1b]0;pwn\x9b31m\u202e.mp4\nsecond [red]line[/red]")
    assert capsys.readouterr().out == "film\ufffd]0;pwn\ufffd31m\ufffd.mp4\nsecond [red]line[/red]\n"


@pytest.mark.parametrize("name", ["a\x1b[2Jb.mp4", "a\nerror: b.mp4", "a\x07.mp4"])
def test_errors_that_name_files_are_one_line_of_text(work: Path, name: str) -> None:
    code, error = ran(work, name, "o.mp4", "-q")
    assert code == 2 and error.count("\n") == 1 and error.strip().isprintable()


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ("²", None), ("", None), ("٣", None), ("9" * 5000, None), ("-1", None), (" 1", None)]
)
def test_numbers_are_ascii_digits(text: str, value: int | None) -> None:
    assert parse_number(text) == value


_NO_NUMBERS, _NUMBER_IDS = ["²", "٣", "9" * 5000], ["superscript", "Arabic", "5,000 digits"]


@pytest.mark.parametrize("number", _NO_NUMBERS, ids=_NUMBER_IDS)
@pytest.mark.parametrize(
    ("option", "parse", "message"),
    [
        ("--hop", lambda text: _hop(text, NullSession().info), "expected auto, or 1 to"),
        ("--device", lambda text: _providers(f"cuda:{text}", ["CUDAExecutionProvider"]), "cuda:<index>"),
        ("--device", lambda text: _gpu_index(f"cuda:{text}", Path("m.engine")), "cuda:<index>"),
        ("--resolution", lambda text: parse_capture(f"{text}x720", None, None), "like 1280x720"),
    ],
    ids=["hop", "device of ONNX Runtime", "device of an engine", "resolution"],
)
def test_options_that_take_numbers_refuse_what_is_none(
    option: str, parse: Callable[[str], object], message: str, number: str
) -> None:
    with pytest.raises(UsageError, match=f"^{option} is .*{message}"):
        parse(number)


@pytest.mark.parametrize("number", _NO_NUMBERS, ids=_NUMBER_IDS)
def test_benchmark_measures_no_gpu_of_a_number_that_is_none(number: str) -> None:
    assert _gpu(ModelRequest("m.engine", 1, f"cuda:{number}", 1, None, None)) is None


def test_long_text_is_bounded() -> None:
    assert printable("a" * 50, 10) == "a" * 9 + "…"


def test_the_folder_that_vanishes_on_the_way_is_one_line(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "out" / "o.jsonl")
    file.write(b"1")
    (tmp_path / "out").rename(tmp_path / "moved")
    with pytest.raises(SinkError, match=r"cannot complete .*o\.jsonl: No such file or directory"):
        file.complete()


@pytest.mark.parametrize("role", ["source", "output", "model"])
def test_a_name_that_is_a_link_to_itself_is_one_line(work: Path, role: str) -> None:
    (work / "loop.mp4").symlink_to("loop.mp4")
    made = "phantom:?frames=5&size=32x48"
    args = {
        "source": ["loop.mp4", "o.mp4"],
        "output": [made, "loop.mp4"],
        "model": [made, "o.mp4", "--model", "loop.mp4"],
    }
    code, error = ran(work, *args[role], "-q")
    assert code == 2 and error.count("\n") == 1 and "Traceback" not in error


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_offline_run_that_is_told_to_end_leaves_no_temporary_names(
    work: Path, number: signal.Signals, code: int
) -> None:
    process = start(work, "phantom:?frames=100000&size=32x48", "m", "-q")
    deadline = time.monotonic() + 60
    while not (work / "m/000003.png").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in error
    assert all(p.name[0].isdigit() for p in (work / "m").iterdir())


def test_a_film_says_how_many_pictures_its_encoder_gave(tmp_path: Path) -> None:
    with (
        pytest.raises(SinkError, match="gave 2 of 3 pictures"),
        VideoWriter(tmp_path / "o.mp4", (32, 48), 25.0) as sink,
    ):
        for index in range(2):
            sink.write(item(index, picture=np.zeros((32, 48, 3), np.uint8)))
        sink._taken += 1  # a picture that the encoder swallows
    assert not (tmp_path / "o.mp4").exists()
    with av.open(str(tmp_path / "o.part.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2


@pytest.mark.parametrize("what", ["masks", "video", "ledger"])
def test_an_output_folder_that_is_deleted_in_mid_run_is_one_line(work: Path, what: str) -> None:
    name = {"masks": "out/m", "video": "out/o.mp4", "ledger": "out/o.jsonl"}[what]
    # A file that is open is written to its end all the same: 3 s of a core from its beginning on (7 ms a frame).
    frames = 100_000 if what == "masks" else 400
    process = start(work, f"phantom:?frames={frames}&size=32x48", name, "-q")
    deadline = time.monotonic() + 60
    begun = "0*.png" if what == "masks" else "*.*"  # before the first mask the folder would only be made again
    while not any((work / "out").rglob(begun)) and time.monotonic() < deadline:
        time.sleep(0.02)
    (work / "out").rename(work / "gone")  # at once, whatever is written into it
    shutil.rmtree(work / "gone", ignore_errors=True)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2 and error.count("\n") == 1 and "No such file or directory" in error
    assert not (work / name).is_file()
