"""The record beside an engine, and every reason not to load one."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.engines import ADA, COMMAND, CONTENT, PLUGIN, RECORD, RTX, engine_file
from vivim_runtime.errors import IncompatibleEngineError, MissingExtraError, ModelError, PluginError
from vivim_runtime.sessions.machine import Machine
from vivim_runtime.sessions.plugin import Plugin
from vivim_runtime.sessions.sidecar import EngineRecord, Profile, check_engine, sidecar_path

FOUND = Plugin(Path("libvivim_trt.so"), PLUGIN.version, PLUGIN.sha256, PLUGIN.kernels_sha256)
NO_GPU = Machine(versions=ADA.versions, no_gpu="no NVIDIA driver: libcuda is not there")


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("record", [RECORD, RTX], ids=["tensorrt", "rtx"])
def test_record_is_read_as_it_was_written(tmp_path: Path, record: EngineRecord) -> None:
    engine = tmp_path / "tiny.engine"
    assert record.write(engine) == tmp_path / "tiny.engine.json" == sidecar_path(engine)
    assert EngineRecord.read(engine) == record
    assert json.loads(sidecar_path(engine).read_text())["format"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"backend": "tflite"}, "expected tensorrt or rtx", id="backend"),
        pytest.param({"precision": "half"}, "expected fp32, fp16, bf16, int8", id="precision"),
        pytest.param({"hardware_compatibility": "AMPERE_PLUS"}, "ampere_plus", id="compatibility"),
        pytest.param({"engine_sha256": "12"}, "64 hexadecimal digits", id="hash"),
        pytest.param({"compute_capabilities": ("89",)}, "such as 8.9", id="capability"),
        pytest.param({"compute_capabilities": ()}, "such as 8.9", id="no capability"),
        pytest.param({"profile": Profile(2, 1, 4)}, "min_batch <= opt_batch", id="profile"),
        pytest.param({"profile": Profile(0, 1, 4)}, "1 <= min_batch", id="empty batch"),
    ],
)
def test_records_that_make_no_sense_cannot_be_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECORD, **changes)


def damaged(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The JSON with the entry at a dotted path replaced, or removed where the value is Ellipsis."""
    *parents, name = path.split(".")
    place: Any = record
    for parent in parents:
        place = place[int(parent) if parent.isdigit() else parent]
    if value is ...:
        del place[name]
    else:
        place[name] = value
    return record


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param("format", 2, "reads up to 1; update vivim-edge", id="newer format"),
        pytest.param("format", "1", "was not written by vivim-export", id="format of another"),
        pytest.param("format", ..., "was not written by vivim-export", id="no format"),
        pytest.param("profile", ..., "has no profile", id="part missing"),
        pytest.param("profile.max_batch", ..., "profile has no max_batch", id="part of a part missing"),
        pytest.param("profile.max_batch", "4", "max_batch is '4'; expected int", id="text for a number"),
        pytest.param("engine_bytes", True, "engine_bytes is True; expected int", id="truth for a number"),
        pytest.param("gpu", 4090, "gpu is 4090; expected str", id="number for a text"),
        pytest.param("layers.0.name", None, "name is None; expected str", id="nothing for a text"),
        pytest.param("compute_capabilities", "8.9", "is '8.9'; expected tuple", id="text for a list"),
        pytest.param("description.vivim.format", 1, None, id="number in the description"),
        pytest.param("backend", "tflite", "expected tensorrt or rtx", id="unknown backend"),
    ],
)
def test_damaged_records_are_refused(tmp_path: Path, path: str, value: Any, message: str | None) -> None:
    engine = engine_file(tmp_path / "tiny.engine")
    content = json.loads(sidecar_path(engine).read_text())
    if path == "description.vivim.format":  # a dot within the key
        content["description"]["vivim.format"] = value
        message = "description.vivim.format is 1; expected str"
    else:
        damaged(content, path, value)
    sidecar_path(engine).write_text(json.dumps(content))
    assert message is not None
    with pytest.raises(IncompatibleEngineError, match=re.escape(message)) as caught:
        EngineRecord.read(engine)
    assert caught.value.exit_code == 4 and "vivim-export trt" in one_line(caught)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "tiny.engine has no tiny.engine.json beside it", id="missing"),
        pytest.param(b"{", "cannot be read", id="cut off"),
        pytest.param(b"\xff\xfe", "cannot be read", id="no text"),
        pytest.param(b"[1]", "was not written by vivim-export", id="a list"),
    ],
)
def test_files_that_are_no_record_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tiny.engine.json").write_bytes(content)
    with pytest.raises(IncompatibleEngineError, match=message) as caught:
        EngineRecord.read(tmp_path / "tiny.engine")
    assert "vivim-export trt" in one_line(caught)


# What may be loaded: record, machine.
ACCEPTED = {
    "the GPU it was built on": (RECORD, ADA),
    "another GPU of the same capability, where that was built for": (
        dataclasses.replace(RECORD, hardware_compatibility="same_compute_capability"),
        dataclasses.replace(ADA, gpu="NVIDIA L4"),
    ),
    "a newer GPU, where ampere_plus was built for": (
        dataclasses.replace(RECORD, hardware_compatibility="ampere_plus"),
        dataclasses.replace(ADA, gpu="NVIDIA B200", compute_capability="10.0"),
    ),
    "a newer library, where that was built for": (
        dataclasses.replace(RECORD, version_compatible=True),
        dataclasses.replace(ADA, versions={"tensorrt": "10.14.0"}),
    ),
    "any GPU of the list, ahead of time": (RTX, dataclasses.replace(ADA, gpu="Other", compute_capability="12.0")),
    "a machine that lacks the other library": (RTX, dataclasses.replace(ADA, versions={"rtx": "1.7.1.116"})),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_engine_that_fits_is_read(tmp_path: Path, case: str) -> None:
    record, machine = ACCEPTED[case]
    engine = engine_file(tmp_path / "tiny.engine", record)
    assert check_engine(record, engine, machine, FOUND if record.plugin else None) == CONTENT


# What may not: changes of the record, of the machine, of the plugin, and what both sides are called in the message.
REFUSED: dict[str, tuple[EngineRecord, Machine, Plugin | PluginError | None, tuple[str, ...]]] = {
    "no GPU": (RECORD, NO_GPU, FOUND, ("NVIDIA GeForce RTX 4090", "8.9", "no GPU (no NVIDIA driver")),
    "no GPU, ahead of time": (RTX, NO_GPU, None, ("compute capability 8.6, 8.9 or 12.0", "no GPU (no NVIDIA driver")),
    "another GPU": (
        RECORD,
        dataclasses.replace(ADA, gpu="NVIDIA L4"),
        FOUND,
        ("NVIDIA GeForce RTX 4090", "this machine has NVIDIA L4"),
    ),
    "another capability": (
        dataclasses.replace(RECORD, hardware_compatibility="same_compute_capability"),
        dataclasses.replace(ADA, gpu="NVIDIA A10", compute_capability="8.6"),
        FOUND,
        ("compute capability 8.9", "NVIDIA A10 (compute capability 8.6)"),
    ),
    "a GPU before Ampere": (
        dataclasses.replace(RECORD, hardware_compatibility="ampere_plus"),
        dataclasses.replace(ADA, gpu="NVIDIA T4", compute_capability="7.5"),
        FOUND,
        ("8.0 or higher", "NVIDIA T4 (compute capability 7.5)"),
    ),
    "a capability that is not in the list": (
        RTX,
        dataclasses.replace(ADA, gpu="NVIDIA T4", compute_capability="7.5"),
        None,
        ("8.6, 8.9 or 12.0", "NVIDIA T4 (compute capability 7.5)"),
    ),
    "another TensorRT": (
        RECORD,
        dataclasses.replace(ADA, versions={"tensorrt": "10.14.0"}),
        FOUND,
        ("TensorRT 10.13.3.9", "this machine has 10.14.0"),
    ),
    "another patch of TensorRT": (
        RECORD,
        dataclasses.replace(ADA, versions={"tensorrt": "10.13.3.10"}),
        FOUND,
        ("TensorRT 10.13.3.9", "this machine has 10.13.3.10"),
    ),
    "an older TensorRT, although newer ones may": (
        dataclasses.replace(RECORD, version_compatible=True),
        dataclasses.replace(ADA, versions={"tensorrt": "10.9.0"}),  # 9 is less than 13, "9" is more than "13"
        FOUND,
        ("TensorRT 10.13.3.9", "this machine has 10.9.0"),
    ),
    "another major version, although newer ones may": (
        dataclasses.replace(RECORD, version_compatible=True),
        dataclasses.replace(ADA, versions={"tensorrt": "11.0.0"}),
        FOUND,
        ("TensorRT 10.13.3.9", "this machine has 11.0.0"),
    ),
    "another TensorRT for RTX": (
        RTX,
        dataclasses.replace(ADA, versions={"rtx": "1.8.0"}),
        None,
        ("TensorRT for RTX 1.7.1.116", "this machine has 1.8.0"),
    ),
    "no plugin": (
        RECORD,
        ADA,
        PluginError("it was not found"),
        ("libvivim_trt.so revision-3", "this machine has none: it was not found"),
    ),
    "a plugin of another version": (
        RECORD,
        ADA,
        dataclasses.replace(FOUND, version="revision-4"),
        ("revision-3", "revision-4"),
    ),
    "a plugin that is another file": (RECORD, ADA, dataclasses.replace(FOUND, sha256="d" * 64), ("a" * 12, "d" * 12)),
    "kernels that are another file": (
        RECORD,
        ADA,
        dataclasses.replace(FOUND, kernels_sha256="e" * 64),
        ("b" * 12, "e" * 12),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_engine_that_does_not_fit_is_refused_with_both_sides_and_the_command(tmp_path: Path, case: str) -> None:
    record, machine, plugin, sides = REFUSED[case]
    engine = engine_file(tmp_path / "tiny.engine", record)
    with pytest.raises(IncompatibleEngineError) as caught:
        check_engine(record, engine, machine, plugin)
    message = one_line(caught)
    assert caught.value.exit_code == 4
    assert [side for side in (*sides, str(engine), COMMAND) if side not in message] == []


@pytest.mark.parametrize(
    ("content", "sides"),
    [
        pytest.param(CONTENT[:-1], ("has 899 bytes", "900 were built"), id="cut off"),
        pytest.param(b"", ("has 0 bytes", "900 were built"), id="empty"),
        pytest.param(CONTENT[:-1] + b"E", ("SHA-256", RECORD.engine_sha256[:12], "altered"), id="one byte altered"),
    ],
)
def test_file_that_is_not_the_one_that_was_built_is_refused_wherever_it_is(
    tmp_path: Path, content: bytes, sides: tuple[str, ...]
) -> None:
    engine = engine_file(tmp_path / "tiny.engine")
    engine.write_bytes(content)
    for machine in (ADA, NO_GPU):
        with pytest.raises(IncompatibleEngineError) as caught:
            check_engine(RECORD, engine, machine, FOUND)
        message = one_line(caught)
        assert [side for side in (*sides, str(engine), COMMAND) if side not in message] == []


def test_machine_without_a_gpu_is_told_so_before_it_is_told_to_install_anything(tmp_path: Path) -> None:
    engine = engine_file(tmp_path / "tiny.engine", RTX)
    with pytest.raises(IncompatibleEngineError, match="run the ONNX file here, or the engine where such a GPU is"):
        check_engine(RTX, engine, dataclasses.replace(NO_GPU, versions={}))


def test_missing_engine_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no engine") as caught:
        check_engine(RECORD, tmp_path / "tiny.engine", ADA, FOUND)
    assert caught.value.exit_code == 2 and COMMAND in one_line(caught)


@pytest.mark.parametrize(("record", "extra"), [(RECORD, "trt"), (RTX, "rtx")], ids=["tensorrt", "rtx"])
def test_missing_library_names_its_extra(tmp_path: Path, record: EngineRecord, extra: str) -> None:
    engine = engine_file(tmp_path / "tiny.engine", record)
    with pytest.raises(MissingExtraError, match=rf"vivim-edge\[{extra}\]"):
        check_engine(record, engine, dataclasses.replace(ADA, versions={}), FOUND)
