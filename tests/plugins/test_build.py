"""How `make plugins` and CMake build the libraries: from what is there now, whatever an earlier build was given."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.plugins.kernel_library import PLUGINS

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("c++") is None, reason="CMake or a C++17 compiler is not installed"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile and the plugins' sources, without what was built from them."""
    shutil.copytree(PLUGINS, tmp_path / "plugins", ignore=shutil.ignore_patterns("build"))
    shutil.copy(PLUGINS.parent / "Makefile", tmp_path)
    return tmp_path


def run(command: list[str], folder: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("TENSORRT_ROOT", "VIVIM_TENSORRT_INCLUDE", "MAKEFLAGS")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**kept, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_revision_of_the_kernels_is_that_of_their_sources(checkout: Path) -> None:
    build = checkout / "build"
    run(["cmake", "-S", "plugins", "-B", str(build), "-DVIVIM_EMULATE=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O0"], checkout)

    def revision() -> str:
        run(["cmake", "--build", str(build), "--target", "vivim_kernels"], checkout)
        # A copy, or the loader would give the library that it has.
        library = shutil.copy(build / "libvivim_kernels.so", build / f"{len(list(build.glob('*.copy.so')))}.copy.so")
        asked = ctypes.CDLL(str(library)).vivim_kernels_revision
        asked.restype = ctypes.c_char_p
        return str(asked().decode())

    source = checkout / "plugins" / "kernels" / "combine.cuh"
    text = source.read_text()
    first = revision()
    assert len(first) == 12 and int(first, 16)
    source.write_text(text.replace("kTokens = 8;", "kTokens = 16;"))
    assert revision() != first
    source.write_text(text)
    assert revision() == first


def tensorrt(folder: Path, minor: int) -> Path:
    """The folder of an unpacked TensorRT of version 10.<minor>, as far as CMake looks at it."""
    (folder / "include").mkdir(parents=True)
    version = f"#define NV_TENSORRT_MAJOR 10\n#define NV_TENSORRT_MINOR {minor}\n"
    (folder / "include" / "NvInferVersion.h").write_text(version)
    return folder


def test_another_tensorrt_root_takes_effect_in_the_next_make_plugins(checkout: Path) -> None:
    # CMake, but it configures the emulated build, which needs no nvcc, and builds nothing.
    cmake = checkout / "configure"
    cmake.write_text('#!/bin/bash\n[ "$1" = --build ] || exec cmake "${@/#gpu/emulated}"\n')
    cmake.chmod(0o755)
    make = ["make", "plugins", f"CMAKE={cmake}", "NVCC="]
    old, new = tensorrt(checkout / "old", 3), tensorrt(checkout / "new", 9)
    assert f"TensorRT 10.3 headers in {old}/include" in run(make, checkout, TENSORRT_ROOT=str(old))
    assert f"TensorRT 10.9 headers in {new}/include" in run(make, checkout, TENSORRT_ROOT=str(new))
    assert f"TensorRT 10.3 headers in {old}/include" in run([*make, f"TENSORRT_ROOT={old}"], checkout)
    # The environment of CMake itself, without make; and a folder that it was given before.
    configure = ["cmake", "-S", "plugins", "--preset", "emulated"]
    assert "TensorRT 10.9 headers" in run([*configure, "-UTENSORRT_ROOT"], checkout, TENSORRT_ROOT=str(new))
    assert "TensorRT 10.3 headers" in run(configure, checkout, VIVIM_TENSORRT_INCLUDE=str(old / "include"))
    assert "TensorRT 10.9 headers" in run([*configure, f"-DTENSORRT_ROOT={new}"], checkout)
    assert "TensorRT 10.9 headers" in run(configure, checkout, TENSORRT_ROOT=str(old))
