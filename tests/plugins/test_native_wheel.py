"""The second distribution: who asks for it, and what its wheel holds."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.plugins.native_library import BUILD, _toolchain

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "plugins" / "ort"
DESCRIPTION = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def released(text: str, version: str) -> str:
    sys.modules["build"] = BUILD  # wheels.py is run from its folder
    spec = importlib.util.spec_from_file_location("vivim_ort_wheels", NATIVE / "wheels.py")
    assert spec and spec.loader
    wheels = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(wheels)
    finally:
        del sys.modules["build"]
    return wheels.released(text, version)


def test_a_checkout_asks_for_no_package_that_is_on_no_index() -> None:
    assert not [line for line in DESCRIPTION.splitlines() if "vivim-edge-native" in line and line[0] != "#"]


def test_a_release_asks_for_its_own_version_where_there_are_wheels() -> None:
    text = released(DESCRIPTION, BUILD.version())
    (line,) = [line for line in text.splitlines() if line.startswith("cpu = ")]
    assert f"vivim-edge-native=={BUILD.version()}; sys_platform == 'linux'" in line
    assert text.replace(line, next(old for old in DESCRIPTION.splitlines() if old.startswith("cpu = "))) == DESCRIPTION
    with pytest.raises(ValueError, match="which a release extends"):
        released(text, "1")


def test_both_distributions_have_one_version() -> None:
    (version,) = [line for line in DESCRIPTION.splitlines() if line.startswith("version = ")]
    assert version == f'version = "{BUILD.version()}"'


@pytest.mark.slow
def test_a_wheel_serves_every_python_of_this_machine(tmp_path: Path) -> None:
    _toolchain()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, str(NATIVE), "-w", str(tmp_path)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"vivim_edge_native-{BUILD.version()}-py3-none-linux_")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import vivim_native, ctypes; library = ctypes.CDLL(vivim_native.library());"
        "library.vivim_ort_version.restype = ctypes.c_char_p; print(library.vivim_ort_version().decode())"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == BUILD.version()
