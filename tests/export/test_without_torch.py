"""`vivim-export trt` on a machine that has no torch, as a Jetson: whole processes in which it cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vivim_runtime.sessions.sidecar import EngineRecord

TRAINING = ("torch", "vivim", "safetensors", "onnxscript")


def export_without(missing: tuple[str, ...], *args: object) -> subprocess.CompletedProcess[str]:
    """`vivim-export` in a process where importing any of `missing` fails, as where it is not installed."""
    code = f"""
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from vivim_runtime.commands.entry import export
export()
"""
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, timeout=600)


def test_an_engine_is_planned_without_torch(exported: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'vivim-edge[rtx]'")
    done = export_without(TRAINING, "trt", exported, "--backend", "rtx", "--fp16", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the file is fp32 and would be converted" in done.stdout and "8.6, 8.9, 12.0" in done.stdout


@pytest.mark.slow
def test_an_engine_is_built_and_its_conversion_compared_without_torch(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'vivim-edge[rtx]'")
    output = tmp_path / "m.engine"
    one_gpu = ("--compute-capability", "8.9")
    done = export_without(TRAINING, "trt", exported, "--backend", "rtx", "--fp16", *one_gpu, "-o", output)
    assert done.returncode == 0, done.stderr
    record = EngineRecord.read(output)
    assert record.engine_bytes == output.stat().st_size and record.precision == "fp16"
    # An engine that is not the network would have been refused before the build, by sessions of the runtime alone.
    assert "built in" in done.stdout


def test_the_graph_for_trtexec_is_written_without_torch(exported: Path, tmp_path: Path) -> None:
    done = export_without(TRAINING, "trt", exported, "--emit-onnx", tmp_path / "m.trt.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "m.trt.onnx").stat().st_size > 1e5


@pytest.mark.parametrize(
    ("missing", "args", "extra"),
    [
        pytest.param((*TRAINING, "onnx"), ["trt", "m.onnx"], "engine", id="an engine needs onnx alone"),
        pytest.param(TRAINING, ["onnx", "--weights", "tiny"], "export", id="an export needs torch"),
    ],
)
def test_what_is_missing_is_asked_for_by_the_extra_of_the_command(
    missing: tuple[str, ...], args: list[str], extra: str
) -> None:
    done = export_without(missing, *args)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and f"needs the extra '{extra}': pip install" in done.stderr


def test_help_needs_no_extra() -> None:
    done = export_without((*TRAINING, "onnx", "onnxruntime"), "trt", "--help")
    assert done.returncode == 0 and "--backend" in done.stdout
