"""Builds libvivim_kernels.so for the CPU emulator, for the tests of this folder; skips where there is no C++ compiler.

Builds are kept under build/ (ignored by git) by the hash of their sources, so that only a change compiles anything.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

__all__ = ["LIBRARY_SOURCES", "PLUGINS", "alone", "build", "compile_emulated", "load_script", "load_tool"]

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
LIBRARY_SOURCES = [PLUGINS / "kernels.cu", PLUGINS / "emulation" / "control.cpp"]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Build in a folder while nobody else does: another worker of pytest waits, and finds it built."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build() -> Path:
    """libvivim_kernels.so, emulated."""
    return compile_emulated("libvivim_kernels.so", LIBRARY_SOURCES, ["-O2", "-fPIC", "-shared"])


@functools.cache
def _compiler() -> str:
    found = shutil.which("g++") or shutil.which("c++")
    if found is None:
        pytest.skip("g++ not found: install a C++17 compiler to test the kernels on the CPU")
    return found


def compile_emulated(name: str, sources: Sequence[Path], options: Sequence[str]) -> Path:
    """Compile sources for the emulator into build/test-kernels/<hash>/<name>."""
    files = sorted(f for f in PLUGINS.glob("*/*") if f.parent.name in ("kernels", "emulation", "include"))
    digest = hashlib.sha256(repr((_compiler(), name, options)).encode())
    for file in [*files, *sources]:
        digest.update(file.read_bytes())
    output = ROOT / "build" / "test-kernels" / digest.hexdigest()[:16] / name
    with alone(output.parent):
        if not output.exists():
            _compile(output, sources, options)
    return output


def _compile(output: Path, sources: Sequence[Path], options: Sequence[str]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    made = output.with_suffix(f".{os.getpid()}")  # moved into place whole: an end in between leaves no half of it
    command = [_compiler(), "-std=c++17", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command += [*options, "-fvisibility=hidden", "-pthread", "-DVIVIM_EMULATE", "-I", str(PLUGINS / "include")]
    command += ["-I", str(PLUGINS), "-x", "c++", *map(str, sources), "-o", str(made)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    made.rename(output)


def load_tool(name: str) -> ModuleType:
    """A program of plugins/tools as a module."""
    return load_script(PLUGINS / "tools" / f"{name}.py")


def load_script(path: Path) -> ModuleType:
    """A program as a module; it finds its neighbours as where it is run."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
