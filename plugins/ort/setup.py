"""vivim-edge-native: compiles libvivim_ort.so into the package, for this machine or the one that VIVIM_TARGET names."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))
from build import GLIBC, LIBRARY, Toolchain, build

_TARGET = os.environ.get("VIVIM_TARGET")


class _Native(Distribution):
    """Not pure: the wheel is of one machine."""

    def has_ext_modules(self) -> bool:
        return True


class _BuildLibrary(build_py):
    def run(self) -> None:
        super().run()
        toolchain = Toolchain.zig(_TARGET) if _TARGET else Toolchain.of_this_machine()
        build(Path(self.build_lib) / "vivim_native" / LIBRARY, toolchain)


class _AnyPython(bdist_wheel):
    """The library needs no interpreter: one wheel serves every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        platform = f"manylinux_{GLIBC.replace('.', '_')}_{_TARGET}" if _TARGET else super().get_tag()[2]
        return "py3", "none", platform


setup(distclass=_Native, cmdclass={"build_py": _BuildLibrary, "bdist_wheel": _AnyPython})
