"""The runtime where it is used: on every Python that is allowed, and as wheels for a Jetson (JetPack 6).

A Python is one of pyenv or of the PATH; each gets a virtual environment under build/ with the base install, pytest and
what the tests make their models with. There is no torch in it, as on a Jetson.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import interpreter

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Fast ones of what differs from machine to machine: engines and their records, CUDA, files, sources, sinks.
TESTS = [
    "tests/runtime/sessions/test_tensorrt.py",
    "tests/runtime/sessions/test_sidecar.py",
    "tests/runtime/sessions/test_machine.py",
    "tests/runtime/sessions/test_plugin.py",
    "tests/runtime/sessions/test_cuda.py",
    "tests/runtime/test_files.py",
    "tests/runtime/test_overlay.py",
    "tests/runtime/test_sinks.py",
]
TOOLS = ["pytest>=8,<10", "onnx>=1.17,<2"]


def environment(version: str) -> Path:
    """The Python of a virtual environment with the base install; kept as long as its requirements are these."""
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"], *TOOLS]
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:12]
    folder = ROOT / "build" / "pythons" / f"{version}-{digest}"
    binary = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([interpreter(version), "-m", "venv", "--clear", folder], check=True)
        install = [binary, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        done = subprocess.run(install, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (folder / "installed").touch()
    return binary


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_fast_tests_of_the_runtime_pass_without_torch_on(version: str) -> None:
    binary = environment(version)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIVIM_", "VIRTUAL_ENV"))}
    command = [binary, "-m", "pytest", "-q", "-m", "not slow and not gpu", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=kept, timeout=400)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_every_base_dependency_has_wheels_for_a_jetson(tmp_path: Path) -> None:
    """JetPack 6: Python 3.10 on aarch64, glibc 2.35. Nothing is built there, and nothing is downloaded here."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run"]
    command += ["--ignore-installed", "--target", str(tmp_path / "site"), "--report", str(report)]
    command += ["--only-binary", ":all:", "--python-version", "3.10", "--implementation", "cp"]
    for glibc in ("2_17", "2_27", "2_28", "2_31", "2_34", "2_35"):
        command += ["--platform", f"manylinux_{glibc}_aarch64"]
    command += ["--platform", "manylinux2014_aarch64"]
    done = subprocess.run([*command, *PROJECT["dependencies"]], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = {
        item["metadata"]["name"].lower(): item["download_info"]["url"]
        for item in json.loads(report.read_text())["install"]
    }
    for name in ("numpy", "opencv-python-headless", "av"):
        assert found[name].endswith("aarch64.whl"), found[name]
