"""`vivim-export` as a user calls it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import vivim
from vivim_export.precision import half_from_float
from vivim_runtime.commands.check import _spread
from vivim_runtime.commands.entry import main


def call(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vivim-export", *map(str, args)])
    with pytest.raises(SystemExit) as caught:
        main("vivim-export", "vivim_export.commands")
    return int(caught.value.code or 0)


def foreign_onnx(path: Path) -> Path:
    """A sound ONNX file that somebody else wrote."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_export_writes_the_model_and_its_reports(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = ("--json", tmp_path / "p.json", "--html", tmp_path / "p.html")
    assert (
        call(monkeypatch, "onnx", "--weights", checkpoint, "-o", tmp_path / "m.onnx", "--imgsz", 64, 96, *reports) == 0
    )
    assert "within budget" in capsys.readouterr().out
    assert json.loads((tmp_path / "p.json").read_text())["clip"] == {"frames": 3, "height": 64, "width": 96}
    assert "within budget" in (tmp_path / "p.html").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "p.html", "p.json"]

    source = "phantom:?seed=3&frames=6&size=64x96"
    check = ("check", checkpoint, tmp_path / "m.onnx", "--clips", source, "phantom:?frames=3&size=64x96")
    assert call(monkeypatch, *check, "--json", tmp_path / "c.json") == 0
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["frames_of_source"] == {source: 6, "phantom:?frames=3&size=64x96": 3}


def test_check_of_another_network_exits_with_3_and_still_reports(
    tmp_path: Path,
    checkpoint: Path,
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(9)
    vivim.save_checkpoint(tmp_path / "other.safetensors", vivim.Vivim(vivim.load_checkpoint(checkpoint).config))
    args = (
        "check",
        tmp_path / "other.safetensors",
        exported,
        "--clips",
        "phantom:?frames=3",
        "--html",
        tmp_path / "r.html",
    )
    assert call(monkeypatch, *args) == 3
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 1 and "relative L2" in captured.err
    assert "REFUSED" in captured.out and "other weights" in captured.out
    assert "REFUSED" in (tmp_path / "r.html").read_text()


def test_check_fails_where_sixty_matrices_were_scaled_and_neither_side_marks_anything(
    tmp_path: Path,
    checkpoint: Path,
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = vivim.load_checkpoint(checkpoint)
    with torch.no_grad():
        model.decoder.classifier.bias -= 100.0  # so that nothing is marked; the spread of the logits stays
    vivim.save_checkpoint(tmp_path / "a.safetensors", model)
    proto = onnx.load(exported)
    weights = [tensor for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    (bias,) = [tensor for tensor in weights if "classifier" in tensor.name and "bias" in tensor.name]
    matrices = [tensor for tensor in weights if len(tensor.dims) >= 2][:60]
    assert len(matrices) == 60
    for tensor, factor, shift in ((bias, 1.0, -100.0), *((matrix, 0.6, 0.0) for matrix in matrices)):
        value = numpy_helper.to_array(tensor) * np.float32(factor) + np.float32(shift)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    # fp16, in whose budget logits had no place: this comparison passed.
    onnx.save(half_from_float(proto), tmp_path / "b.onnx")
    b = tmp_path / "b.onnx"
    for a in (tmp_path / "a.safetensors", b):
        assert call(monkeypatch, "check", a, b, "--clips", "phantom:frames=3,size=64") == 3
        error = capsys.readouterr().err
        assert "neither side marks anything in any of 3 frames, so the masks prove nothing" in error
        # Of the sabotaged file with itself the logits agree, and that is all that is said for it.
        assert ("relative L2 of the logits" in error) is (a != b)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(["--weights", "nothing.pth"], "there is no checkpoint nothing.pth", id="missing weights"),
        pytest.param(["--weights", "foreign.pth"], "are not a Vivim checkpoint", id="foreign keys"),
        pytest.param(["--weights", "text.pth"], "text.pth", id="text named pth"),
        pytest.param(["--weights", "CHECKPOINT", "--imgsz", "16"], "too small for this network", id="size too small"),
        pytest.param(["--weights", "CHECKPOINT", "--imgsz", "0"], "expected one number", id="size zero"),
        pytest.param(["--weights", "CHECKPOINT", "--imgsz", "64x"], "expected one number", id="size unreadable"),
        pytest.param(["--weights", "CHECKPOINT", "--frames", "0"], "expected at least 1", id="no frames"),
        pytest.param(["--weights", "CHECKPOINT", "--opset", "17"], "expected 20 to 23", id="opset too old"),
        pytest.param(["--weights", "CHECKPOINT", "--batch", "0"], "expected at least 1", id="no clips"),
        pytest.param(["--weights", "CHECKPOINT", "--batch", "2", "--dynamic-batch"], "contradict", id="two batches"),
        pytest.param(["--weights", "CHECKPOINT", "--fp16", "--bf16"], "contradict", id="two precisions"),
        pytest.param(["--weights", "CHECKPOINT", "-o", "m.trt"], "ending in .onnx", id="another suffix"),
        pytest.param(["--weights", "CHECKPOINT", "-o", "text.pth/m.onnx"], "cannot create the folder", id="unwritable"),
        pytest.param(["--weights", "CHECKPOINT", "--html", "text.pth/r.html"], "cannot create", id="unwritable report"),
        pytest.param([], "there are no weights", id="no weights"),
    ],
)
def test_bad_input_to_onnx_gets_one_line_and_exit_code_2(
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.pth").write_text("hello")
    torch.save({"backbone.weight": torch.zeros(3), "head.bias": torch.zeros(1)}, "foreign.pth")
    before = sorted(p.name for p in tmp_path.iterdir())
    given = [str(checkpoint) if a == "CHECKPOINT" else a for a in args]
    assert call(monkeypatch, "onnx", *given) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("error: ") and "\n" not in error
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(["CHECKPOINT", "foreign.onnx"], "was not written by vivim-export", id="somebody else's"),
        pytest.param(["CHECKPOINT", "nothing.onnx"], "there is no model nothing.onnx", id="missing model"),
        pytest.param(["CHECKPOINT", "EXPORTED", "--clips", "no.mp4"], "there is no file or folder", id="missing clip"),
        pytest.param(
            ["CHECKPOINT", "EXPORTED", "--clips", "phantom:?frames=2"], "fewer than 3 frames", id="short clip"
        ),
        pytest.param(["CHECKPOINT", "EXPORTED", "--device", "tpu"], "expected auto, cpu", id="unknown device"),
        pytest.param(["CHECKPOINT"], "Missing argument 'B'", id="one side"),
    ],
)
def test_bad_input_to_check_gets_one_line_and_exit_code_2(
    tmp_path: Path,
    checkpoint: Path,
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    foreign_onnx(tmp_path / "foreign.onnx")
    names = {"CHECKPOINT": str(checkpoint), "EXPORTED": str(exported)}
    assert call(monkeypatch, "check", *(names.get(a, a) for a in args)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("error: ") and "\n" not in error


@pytest.mark.slow
def test_trt_plans_and_builds_without_a_gpu_and_run_says_which_one_it_needs(
    tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'vivim-edge[rtx]'")
    monkeypatch.setenv("COLUMNS", "200")
    args = ("trt", exported, "--backend", "rtx", "--fp16", "--compute-capability", "8.9")
    assert call(monkeypatch, *args, "--dry-run") == 0
    plan = capsys.readouterr().out
    assert "the file is fp32 and would be converted" in plan and "compute capability 8.9" in plan
    assert call(monkeypatch, *args, "-o", tmp_path / "m.engine") == 0
    said = capsys.readouterr().out
    assert "convolutions and products, read from the network: " in said and "fp16 " in said
    command = json.loads((tmp_path / "m.engine.json").read_text())["build_command"]
    assert (
        command == f"vivim-export trt {exported} --backend rtx --fp16 --compute-capability 8.9 -o {tmp_path}/m.engine"
    )
    if "no GPU" not in plan:
        return
    monkeypatch.setattr(sys, "argv", ["vivim-run", "phantom:?frames=3", "--model", str(tmp_path / "m.engine")])
    with pytest.raises(SystemExit) as caught:
        main("vivim-run", "vivim_runtime.commands.run")
    assert caught.value.code == 4
    error = capsys.readouterr().err.strip()
    assert "compute capability 8.9" in error and "no GPU" in error and "\n" not in error


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(["nothing.onnx"], "there is no model nothing.onnx", id="missing"),
        pytest.param(["foreign.onnx"], "was not written by vivim-export", id="somebody else's"),
        pytest.param(["text.onnx"], "is no ONNX model", id="text"),
        pytest.param(["EXPORTED", "--fp16", "--int8"], "contradict each other", id="two precisions"),
        pytest.param(["EXPORTED", "--bf16"], "vivim-export onnx --weights W --bf16", id="another precision"),
        pytest.param(["EXPORTED", "--int8"], "quantise it first", id="not quantised"),
        pytest.param(["EXPORTED", "-o", "m.plan"], "ending in .engine", id="another suffix"),
        pytest.param(["EXPORTED", "--opt-batch", "4"], "--dynamic-batch", id="batch of a fixed file"),
        pytest.param(["EXPORTED", "--backend", "openvino"], "expected auto, tensorrt, rtx", id="backend"),
        pytest.param(["EXPORTED", "--compute-capability", "1.0"], "none that TensorRT for RTX", id="old GPU"),
        pytest.param(["EXPORTED", "-o", "text.onnx/m.engine"], "cannot create the folder", id="unwritable"),
        pytest.param(["EXPORTED", "--timing-cache-file", "EXPORTED"], "both read and written", id="cache is the model"),
        pytest.param(["EXPORTED", "-o", "m.engine", "--timing-cache-file", "m.engine"], "named twice", id="the engine"),
        pytest.param(["EXPORTED", "-o", "m.engine", "--json", "m.engine.json"], "named twice", id="the record"),
        pytest.param(["EXPORTED", "--timing-cache-file", "fifo"], "not a regular file", id="cache is a FIFO"),
        pytest.param([], "there is no model model.onnx", id="no model"),
    ],
)
def test_bad_input_to_trt_gets_one_line_and_exit_code_2(
    tmp_path: Path,
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    message: str,
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'vivim-edge[rtx]'")
    monkeypatch.chdir(tmp_path)
    foreign_onnx(tmp_path / "foreign.onnx")
    Path("text.onnx").write_text("hello")
    os.mkfifo("fifo")
    before = sorted(p.name for p in tmp_path.iterdir())
    given = [str(exported) if a == "EXPORTED" else a for a in args]
    backend = [] if "--backend" in args else ["--backend", "rtx"]
    assert call(monkeypatch, "trt", *given, *backend) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("error: ") and "\n" not in error
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        (1, "--imgsz 64 96 -o m.onnx", "--imgsz 64x96 -o m.onnx"),
        (1, "--imgsz 64 -o m.onnx", "--imgsz 64 -o m.onnx"),
        (2, "a b --clips x y --json j", "a b --clips x --clips y --json j"),
        (2, "a b --clips x --clips y", "a b --clips x --clips y"),
        (2, "--clips x a b", "--clips x a b"),  # names behind one clip are the two sides
        (2, "a b --imgsz 64 96 --clips x", "a b --imgsz 64x96 --clips x"),
    ],
)
def test_options_with_several_values(words: int, given: str, expected: str) -> None:
    assert _spread(given.split(), words) == expected.split()
