"""Builds libvivim_kernels.so for the CPU emulator, for the tests of this folder; skips where there is no C++ compiler.

Builds are kept under build/ (ignored by git) by the hash of their sources, so that only a change compiles anything.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tests.sharing import alone

__all__ = ["LIBRARY_SOURCES", "PLUGINS", "build", "build_mutants", "compile_emulated", "load_script", "load_tool"]

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
LIBRARY_SOURCES = [PLUGINS / "kernels.cu", PLUGINS / "emulation" / "control.cpp"]


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


def build_mutants(folder: Path, mutants: Iterable[tuple[str, str, str]]) -> Path:
    """All mutants in one library, in which the variable `vivim_mutant` says which it is; 0: none.

    Args:
        folder: an empty one for the changed sources.
        mutants: of each the file of plugins/kernels, an expression that stands there once, and what it becomes.
    """
    for part in ("kernels", "emulation", "include"):
        shutil.copytree(PLUGINS / part, folder / part)
    shutil.copy(PLUGINS / "kernels.cu", folder)
    places: dict[tuple[str, str], str] = {}
    for number, (file, right, wrong) in enumerate(mutants, 1):
        places[file, right] = places.get((file, right), "") + f"vivim_mutant == {number} ? {wrong} : "
    for (file, right), choice in places.items():
        path = folder / "kernels" / file
        text = path.read_text()
        assert text.count(right) == 1, right
        path.write_text(text.replace(right, f"({choice}{right})"))
    first = folder / "kernels" / "common.cuh"
    first.write_text('extern "C" __attribute__((visibility("default"))) int vivim_mutant;\n' + first.read_text())
    # With what was changed: the build is kept by the text of its sources, to which headers of elsewhere do not count.
    changed = hashlib.sha256(repr(places).encode()).hexdigest()
    (folder / "mutant.cpp").write_text(
        f'// {changed}\nextern "C" __attribute__((visibility("default"))) int vivim_mutant;\nint vivim_mutant = 0;\n'
    )
    sources = [folder / "kernels.cu", folder / "emulation" / "control.cpp", folder / "mutant.cpp"]
    return compile_emulated("libmutants.so", sources, ["-O1", "-fPIC", "-shared"])


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
