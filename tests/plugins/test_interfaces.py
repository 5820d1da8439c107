"""plugins/trt/interfaces against TensorRT's own headers: a plugin compiled with either is laid out alike.

layout-10.txt and layout-11.txt are what tests/plugins/trt/layout.cpp prints with the headers of TensorRT 10.3, 10.8,
10.13 and 10.16, and of 11.0 and 11.1. VIVIM_TENSORRT_HEADERS names more to compare with: folders of NvInfer.h, with `:`
between.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.plugins.kernel_library import PLUGINS

HERE = Path(__file__).parent / "trt"
INTERFACES = PLUGINS / "trt" / "interfaces"


def layout(tmp_path: Path, *options: str) -> str:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("c++ not found: install a C++17 compiler to test the TensorRT plugin")
    if platform.machine() != "x86_64":
        pytest.skip("the recorded layouts are those of x86-64")
    program = tmp_path / "layout"
    folders = [PLUGINS / "trt" / "opaque_cuda", PLUGINS / "include", PLUGINS / "trt"]
    command = [compiler, "-std=c++17", "-w", *options, *(f"-I{folder}" for folder in folders), str(HERE / "layout.cpp")]
    done = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout


def given_headers() -> list[Path]:
    names = [*os.environ.get("VIVIM_TENSORRT_HEADERS", "").split(":"), os.environ.get("VIVIM_TENSORRT_INCLUDE", "")]
    if root := os.environ.get("TENSORRT_ROOT"):
        names.append(f"{root}/include")
    return [Path(name) for name in names if name]


@pytest.mark.parametrize("major", [10, 11])
def test_own_declarations_are_laid_out_as_tensorrt_has_them(major: int, tmp_path: Path) -> None:
    found = layout(tmp_path, f"-DVIVIM_TENSORRT_MAJOR={major}", f"-I{INTERFACES}")
    assert found == (HERE / f"layout-{major}.txt").read_text()


def test_headers_that_are_at_hand_are_laid_out_as_recorded(tmp_path: Path) -> None:
    headers = given_headers()
    if not headers:
        pytest.skip("no headers of TensorRT are named: set VIVIM_TENSORRT_HEADERS to compare them with those recorded")
    for folder in headers:
        found = layout(tmp_path, f"-I{folder}")
        assert found == (HERE / f"layout-{found.split()[1]}.txt").read_text(), folder
