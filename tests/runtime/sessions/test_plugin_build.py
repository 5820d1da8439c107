"""`vivim-plugins build`: what it needs, what it says is missing, and a build from an installed wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from vivim_runtime.errors import PluginError, UsageError
from vivim_runtime.sessions import plugin, plugin_build
from vivim_runtime.sessions.plugin import Plugin
from vivim_runtime.sessions.plugin_build import BuildOptions, build_plugin, plugin_sources

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, no plugin named, none in the checkout."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VIVIM_PLUGIN", raising=False)
    monkeypatch.setattr(plugin, "_BUILD_FOLDER", tmp_path / "nothing" / "build" / "gpu")
    return tmp_path / "cache" / "vivim-edge" / "plugin"


TOOL = """#!/bin/sh
[ "$1" = --build ] || exec mkdir -p "$4"
for name in kernels trt trt_register; do echo "$2" > "$2/libvivim_$name.so"; done
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Programs that are found; `cmake` makes three files and nothing of them."""
    program = tmp_path / "cmake"
    program.write_text(TOOL)
    program.chmod(0o755)
    found: dict[str, str | None] = {"cmake": str(program), "c++": "/bin/c++", "nvcc": "/cuda/nvcc"}
    monkeypatch.setattr(plugin_build, "find_tool", found.get)
    monkeypatch.setattr(plugin, "_revision", lambda kernels: "revision")
    return found


def test_all_that_is_missing_is_named_with_what_installs_it(
    tools: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.update(cmake=None, nvcc=None)
    options = BuildOptions("87", major=10)
    with pytest.raises(PluginError, match=r"needs cmake \(pip install cmake\), nvcc \(pip install 'vivim-edge\[cuda"):
        build_plugin(options, lambda line: None)
    monkeypatch.setattr(plugin_build, "is_jetson", lambda: True)
    with pytest.raises(PluginError, match=r"nvcc \(sudo apt install cuda-toolkit\)"):
        build_plugin(options, lambda line: None)


def test_what_is_built_is_found_afterwards_and_replaces_what_was_there(
    tools: dict[str, str | None], cache: Path
) -> None:
    first = build_plugin(BuildOptions("87", major=10), lambda line: None)
    assert first.path == cache / "libvivim_trt.so" == Plugin.find().path
    second = build_plugin(BuildOptions("87", major=10), lambda line: None)
    assert second.sha256 != first.sha256 == first.kernels_sha256
    assert [path.name for path in cache.parent.iterdir()] == ["plugin"]  # nothing else stays


def test_failed_build_leaves_the_earlier_plugin(tools: dict[str, str | None], cache: Path) -> None:
    before = build_plugin(BuildOptions("87", major=10), lambda line: None)
    Path(str(tools["cmake"])).write_text("#!/bin/sh\necho 'nvcc fatal error: no such thing'; exit 1\n")
    with pytest.raises(PluginError, match="cmake failed: nvcc fatal error: no such thing"):
        build_plugin(BuildOptions("87", major=10), lambda line: None)
    Path(str(tools["cmake"])).write_text("#!/bin/sh\n")
    with pytest.raises(PluginError, match=r"made no libvivim_kernels\.so and no libvivim_trt\.so"):
        build_plugin(BuildOptions("87", major=10), lambda line: None)
    assert Plugin.find() == before


def test_machine_without_gpu_or_tensorrt_asks_for_what_it_cannot_find_out(
    tools: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_build, "compute_capability", lambda: None)
    with pytest.raises(UsageError, match="no GPU here.*--arch 87"):
        build_plugin(BuildOptions(major=10), lambda line: None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    if not any(Path("/usr/include").glob("**/NvInferVersion.h")):
        with pytest.raises(UsageError, match="TensorRT is not installed here.*--tensorrt 10 or --tensorrt 11"):
            build_plugin(BuildOptions("87"), lambda line: None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"architecture": "8.7"}, "--arch is 8.7; expected a number such as 87"),
        ({"major": 9}, "--tensorrt is 9; expected 10 or 11"),
        ({"include": Path("/nowhere")}, "--tensorrt-include is /nowhere, which holds no NvInferVersion.h"),
    ],
)
def test_options_that_cannot_be_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BuildOptions(**given)  # type: ignore[arg-type]


def test_checkout_builds_its_own_sources() -> None:
    assert plugin_sources() == ROOT / "plugins"


def copy_of_checkout(folder: Path) -> set[str]:
    """Copy the checkout without its tests, since building in place would leave folders in it; what the plugin needs."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    compiled = ("CMakeLists.txt", "kernels.cu", ".cpp", ".cuh", ".h", "exports.map")
    return {f for f in files if f.startswith("plugins/") and f.endswith(compiled) and not f.startswith("plugins/ort/")}


def test_sdist_holds_the_sources_of_the_plugin_and_the_command_finds_them_there(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="setuptools is not installed, which builds the sdist")
    needed = copy_of_checkout(tmp_path / "sources")
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "sources", check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        # Debian 12 has Python 3.11.2, whose tarfile knows no filters yet.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(tmp_path)
    assert needed and needed <= names
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    ask = "from vivim_runtime.sessions.plugin_build import plugin_sources; print(plugin_sources())"
    environment = {**os.environ, "PYTHONPATH": str(unpacked / "runtime")}
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.strip() == str(unpacked / "plugins"), done.stderr


@pytest.mark.slow
def test_installed_wheel_builds_its_plugin(tmp_path: Path, cache: Path) -> None:
    """As a user of pip: the sources are in the wheel, the command builds them, and a session would find the library."""
    if plugin_build.find_tool("nvcc") is None:
        pytest.skip("nvcc not found: install the extra cuda-build or a CUDA toolkit")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    copy = tmp_path / "sources"
    needed = copy_of_checkout(copy)
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(copy)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name.partition("/share/vivim-edge/")[2] for name in names if "/share/vivim-edge/" in name}
    assert needed <= shipped
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    (site,) = environment.glob("lib/python3*/site-packages")
    (site / "outer.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", wheel], check=True, capture_output=True)
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [environment / "bin" / "vivim-plugins", "build", "--arch", "87", "--tensorrt", "10"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=kept)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].startswith("building for compute capability 8.7")
    assert str(cache / "libvivim_trt.so") in done.stdout.splitlines()[-1]
    assert Plugin.find().path == cache / "libvivim_trt.so"
