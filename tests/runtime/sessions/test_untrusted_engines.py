"""Engines whose record lies: one line before anything of the engine is loaded; and engines that fail in mid-run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.engines import RECORD, engine_file
from tests.runtime.fake_gpu import FakeTensorRT
from tests.runtime.test_nothing_lost import ran
from vivim_runtime.errors import IncompatibleEngineError, ModelError
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.sidecar import sidecar_path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    engine_file(folder / "tiny.engine", RECORD, plugin=None)
    return folder


def lie(engine: Path, key: str, value: Any) -> None:
    """Replace an entry of the record; with `vivim.` of the description in it, with a dot of a part."""
    content = json.loads(sidecar_path(engine).read_text())
    place, name = (content["description"], key) if key.startswith("vivim.") else (content, key)
    if "." in name and place is content:
        part, _, name = name.partition(".")
        place = content[part]
    place[name] = value
    sidecar_path(engine).write_text(json.dumps(content))


# What ModelInfo is made of, as in ONNX files (tests/runtime/test_nothing_lost.py): exit code 2.
MODELS = [
    ("vivim.format", "²", "has format ²"),
    ("vivim.frames", "1000000000", "frames is '1000000000'"),
    ("vivim.frames", "-1", "frames is '-1'"),
    ("vivim.height", "1" * 5000, "expected 1 to 16384"),
    ("vivim.width", "4.5", "width is '4.5'"),
    ("vivim.batch", "many", "batch is 'many'"),
    ("vivim.input", "int8", "input is 'int8'"),
    ("vivim.classes", "[" * 100_000, "nested deeper"),
    ("vivim.classes", '[{"name":"\x1b[2J","color":[0,0,0]}]', "describes itself wrongly"),
    ("vivim.classes", '[{"name":"x","color":[0,0,256]}]', "three levels"),
    ("vivim.mean", "[NaN, 0, 0]", "three numbers"),
    ("vivim.std", "[0, 1, 1]", "three positive numbers"),
    ("vivim.preset", "a\x07b", "without control"),
    ("vivim.input_contract", '{"size": [0, 0]}', "input contract"),
    ("vivim.input_contract", "[" * 100_000, "input contract"),
    # Found out once the engine is open, by its tensors, before the first clip.
    ("vivim.frames", "3", "frames as uint8 (4, 2, 4, 6, 3), its description says"),
    ("vivim.height", "8", "its description says"),
]
# What says which machine it is for: exit code 4, as of engines and machines that do not match.
RECORDS = [
    ("library_version", "9" * 5000, "library_version is 9999"),
    ("library_version", "10.13\x1b[2J", "library_version is"),
    ("library_version", "", "library_version is"),
    ("gpu", "a\nb", "gpu is"),
    ("gpu", "g" * 5000, "gpu is"),
    ("build_command", "rm\x1b[2K\rvivim-export", "build_command is"),
    ("compute_capabilities", ["٨.٩"], "such as 8.9"),
    ("compute_capabilities", ["9" * 5000 + ".0"], "such as 8.9"),
    ("profile.max_batch", 10**12, "max_batch <= 4096"),
    ("profile.max_batch", 2**80, "max_batch <= 4096"),
    ("engine_bytes", -1, "-1 were built"),
    ("layers", [{"name": "x" * 10_000}], "has no"),
    ("backend", "x" * 100_000, "expected tensorrt or rtx"),
    ("precision_found", {"fp16": "x" * 100_000}, "expected int"),
]


@pytest.mark.parametrize(
    ("key", "value", "message", "code"), [(*row, 2) for row in MODELS] + [(*row, 4) for row in RECORDS]
)
def test_every_lie_of_a_record_is_one_line_before_the_first_frame(
    work: Path, tensorrt: FakeTensorRT, key: str, value: Any, message: str, code: int
) -> None:
    lie(work / "tiny.engine", key, value)
    before = sorted(path.name for path in work.iterdir())
    found, error = ran(work, "phantom:?frames=4&size=32x48", "o.jsonl", "--model", "tiny.engine", "-q")
    assert found == code and error.count("\n") == 1 and message in error
    assert error.startswith("error: ") and error.strip().isprintable() and len(error) <= 1001
    assert sorted(path.name for path in work.iterdir()) == before
    assert tensorrt.cuda.live == {} and tensorrt.alive == 0


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "itself", "cut off", "no text", "1 MB of brackets"])
def test_what_is_no_record_is_not_waited_for(work: Path, tensorrt: FakeTensorRT, kind: str) -> None:
    path = sidecar_path(work / "tiny.engine")
    content = path.read_bytes()
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("device", "itself"):
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    else:
        path.write_bytes({"cut off": content[:-50], "no text": b"\xff\xfe"}.get(kind, b"[" * 1_000_000))
    with pytest.raises(IncompatibleEngineError) as caught:
        open_session(work / "tiny.engine")
    assert str(caught.value).isprintable() and "vivim-export trt" in str(caught.value)


@pytest.mark.parametrize("suffix", [".engine", ".onnx"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_a_model_that_is_no_regular_file_is_not_waited_for(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"m{suffix}"
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        (os.mkfifo if kind == "fifo" else os.mkdir)(path)
    with pytest.raises(ModelError, match="there is no model"):
        open_session(path)


@pytest.mark.parametrize("fails", ["cudaGraphLaunch", "cudaStreamSynchronize"])
def test_an_engine_that_fails_in_mid_run_is_one_line(
    work: Path, tensorrt: FakeTensorRT, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vivim_runtime.sessions.tensorrt import TensorRTSession

    calls = 0
    call = TensorRTSession.__call__

    def counted(self: TensorRTSession, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            tensorrt.cuda.fail = fails
        return call(self, *args, **kwargs)

    monkeypatch.setattr(TensorRTSession, "__call__", counted)
    args = ("phantom:?frames=12&size=32x48", "o.jsonl", "m", "--model", "tiny.engine", "-q")
    before = {path.name for path in work.iterdir()}
    code, error = ran(work, *args)
    assert calls == 3 and code in (1, 2) and error.count("\n") == 1 and error.startswith("error: ")
    assert not (work / "o.jsonl").exists()
    assert {path.name for path in work.iterdir()} - before <= {"o.part.jsonl", "m"}


def test_a_record_that_tells_the_truth_runs(work: Path, tensorrt: FakeTensorRT) -> None:
    code, error = ran(work, "phantom:?frames=4&size=32x48", "o.jsonl", "--model", "tiny.engine", "-q")
    assert code == 0, error
