"""Environments of their own, for tests that install other versions of what we depend on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def interpreter(version: str) -> Path:
    """The Python of that version (such as 3.10): this one, of pyenv, or on the path. Skips where there is none."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(sys.executable)
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for path in sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True):
        return path
    found = shutil.which(f"python{version}")
    # A shim of pyenv is there for versions that are not.
    if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
        return Path(found)
    pytest.skip(f"no Python {version} on this machine")


def create_environment(path: Path, python: Path, *requirements: str) -> Path:
    """A virtual environment at `path` with these requirements, wheels only; returns its Python."""
    subprocess.run([str(python), "-m", "venv", str(path)], check=True)
    created = path / "bin" / "python"
    command = [str(created), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return created


def run_clean(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without the variables by which it would find this environment's packages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env={**kept, **environment})
