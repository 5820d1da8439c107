"""The operators for the CUDA provider, on the emulated kernels and in a stand-in of ONNX Runtime.

plugins/ort/tests/stand_in_test.cpp says what is compared. That the CUDA provider itself takes them only a GPU can tell.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.plugins import kernel_library
from tests.plugins.native_library import STAND_IN_TEST, program


def run(kernels: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VIVIM_KERNELS": kernels}
    return subprocess.run([program(STAND_IN_TEST, *options)], capture_output=True, text=True, env=environment)


def test_cuda_operators_equal_those_of_the_cpu() -> None:
    done = run(str(kernel_library.build()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused: input dbc" in done.stdout


@pytest.mark.parametrize("kernels", ["none.so", "not a library.so"])
def test_without_kernels_only_the_cpu_has_operators(kernels: str, tmp_path: Path) -> None:
    (tmp_path / "not a library.so").write_bytes(b"x")
    done = run(str(tmp_path / kernels))
    lines = done.stdout.splitlines()
    assert "ok    five operators for three types on the CPU, and four for float32" in lines
    assert "WRONG as many for CUDA, whose kernels are missing" in lines


@pytest.mark.slow
def test_sanitizers_find_nothing_in_the_operators() -> None:
    options = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
    done = run(str(kernel_library.build()), *options)
    assert done.returncode == 0, done.stdout + done.stderr
