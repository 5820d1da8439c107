"""ONNX Runtime is never left to report what it is used for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vivim_runtime.errors import MissingExtraError
from vivim_runtime.sessions.onnx import onnx_runtime

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

# Telemetry of Linux builds keeps a session number in the folder for temporary files, as soon as it is imported.
_TRACE = ".ses"


def left_behind(code: str, folder: Path) -> list[str]:
    """Names of what a fresh interpreter leaves in its folder for temporary files."""
    clean = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    subprocess.run([sys.executable, "-c", code], env={**clean, "TMPDIR": str(folder)}, check=True)
    return [path.name for path in folder.iterdir()]


def test_no_telemetry_starts(tmp_path: Path) -> None:
    code = "from vivim_runtime.sessions.onnx import onnx_runtime; onnx_runtime('a test').SessionOptions()"
    assert left_behind(code, tmp_path) == []
    if left_behind("import onnxruntime; onnxruntime.SessionOptions()", tmp_path) != [_TRACE]:
        pytest.skip("this build of ONNX Runtime has no telemetry that leaves a trace")


def test_programs_that_imported_it_before_are_silenced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    called = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: called.append(True))
    assert onnx_runtime("a test") is onnxruntime and called == [True]
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_its_absence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"a test needs the extra 'cpu'"):
        onnx_runtime("a test")
