"""Wheels that tests need in several versions side by side; pip puts each into a folder of its own.

The folders are kept under build/ (ignored by git).
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

__all__ = ["LEAN", "lean_environment", "wheel"]

ROOT = Path(__file__).parents[1]
# The newest of each major version. The lean runtime is libnvinfer without its builder: the plugin registry of classic
# TensorRT in 45 MB, which loads on a machine without a driver.
LEAN = {10: "10.16.1.11", 11: "11.4.0.106"}


@functools.cache
def wheel(package: str, version: str) -> Path:
    """The folder to put on PYTHONPATH for one version of a package, without what it depends on."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        installed = importlib.metadata.distribution(package)  # by the extra dev
        if installed.version == version:
            return Path(str(installed.locate_file("")))
    folder = ROOT / "build" / "wheels" / f"{package}-{version}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-compile", "--only-binary", ":all:", "--target", f"{made}/site", f"{package}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"pip cannot install {package} {version} here: {done.stderr.strip().splitlines()[-1:]}")
        try:
            (Path(made) / "site").rename(folder)  # whole, or not at all
        except OSError:
            if not folder.is_dir():  # else another worker was faster
                raise
    return folder


def lean_environment(major: int) -> dict[str, str]:
    """The environment of a process that imports tensorrt_lean_bindings of that major version."""
    packages = ("tensorrt-lean-cu13-libs", "tensorrt-lean-cu13-bindings")
    path = os.pathsep.join(str(wheel(package, LEAN[major])) for package in packages)
    return {**os.environ, "PYTHONPATH": path}
