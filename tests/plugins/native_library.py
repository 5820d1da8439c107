"""Builds libvivim_ort.so and its test program, for tests; skips where there is no C++ compiler.

Builds are kept under build/ (ignored by git); they are made anew where a source is newer, of objects that they share.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.plugins.kernel_library import alone

__all__ = ["BUILD", "KERNELS_TEST", "STAND_IN_TEST", "library", "program"]

ROOT = Path(__file__).parents[2]
_FOLDER = ROOT / "build" / "test-native"
KERNELS_TEST = ROOT / "plugins" / "ort" / "tests" / "kernels_test.cpp"
STAND_IN_TEST = ROOT / "plugins" / "ort" / "tests" / "stand_in_test.cpp"


def _load() -> ModuleType:
    """plugins/ort/build.py, which is no package."""
    spec = importlib.util.spec_from_file_location("vivim_ort_build", ROOT / "plugins" / "ort" / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


BUILD = _load()


def _toolchain() -> object:
    try:
        return BUILD.Toolchain.of_this_machine()
    except BUILD.BuildError as error:
        pytest.skip(f"the operators cannot be built here: {error}")


@functools.cache
def library() -> Path:
    """libvivim_ort.so for this machine."""
    with alone(_FOLDER):
        return BUILD.build(_FOLDER / BUILD.LIBRARY, _toolchain(), objects=_FOLDER / "objects")


@functools.cache
def program(source: Path, *options: str) -> Path:
    """A test program with the library's sources in it."""
    name = "-".join([source.stem, *(option.strip("-").replace("=", "-").replace(",", "-") for option in options)])
    with alone(_FOLDER):
        return BUILD.build(_FOLDER / name, _toolchain(), options, (source,), _FOLDER / "objects")
