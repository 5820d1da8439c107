"""OpenVINO where it is asked for: float32 passes parity with PyTorch, and parity catches its bfloat16."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.environments import create_environment, run_clean
from tests.runtime.models import brightness_model
from vivim_runtime.errors import MissingExtraError, UsageError
from vivim_runtime.sessions import open_session

# The command in this environment, and OpenVINO out of another one.
CHECK = """
import sys
sys.path.append(sys.argv[1])
from vivim_runtime.commands.entry import check
sys.argv = ["vivim-check", *sys.argv[2:]]
check()
"""


@pytest.mark.parametrize("device", ["openvino:fp16", "openvino:bf16:f32"])
def test_other_precisions_are_refused(device: str, tmp_path: Path) -> None:
    path = brightness_model(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="expected openvino, which computes in float32, or openvino:bf16"):
        open_session(path, device)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is not None, reason="OpenVINO is installed here")
def test_a_missing_openvino_is_an_extra_to_install(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"--device openvino needs the extra 'openvino'"):
        open_session(brightness_model(tmp_path / "m.onnx"), "openvino")


@pytest.mark.slow
def test_float32_stands_for_pytorch_and_bfloat16_is_caught(tmp_path: Path) -> None:
    create_environment(tmp_path / "environment", Path(sys.executable), "openvino")
    packages = next((tmp_path / "environment").glob("lib/python*/site-packages"))
    lowered, bodies = tmp_path / "lowered.onnx", tmp_path / "bodies.onnx"
    for path, form in ((lowered, "lowered"), (bodies, "bodies")):
        command = ["from vivim_runtime.commands.entry import export; export()", "onnx", "--weights", "tiny"]
        options = ["--imgsz", "64", "--frames", "2", "--form", form, "-o", path]
        done = run_clean(sys.executable, "-c", *command, *options)
        assert done.returncode == 0, done.stderr
    expected = {(lowered, "openvino"): 0, (lowered, "openvino:bf16"): 3, (bodies, "openvino"): 2}
    for (path, device), code in expected.items():
        clip = "phantom:?seed=21&frames=2&size=64x64"
        done = run_clean(sys.executable, "-c", CHECK, packages, "tiny", path, "--device", device, "--clips", clip)
        assert done.returncode == code, done.stdout + done.stderr
        if code == 3:
            assert "relative L2 of the logits" in done.stderr
        if code == 2:
            assert "--form lowered" in done.stderr and "Traceback" not in done.stderr
