"""Building the TensorRT plugin on the user's machine, from the sources that the package brings.

What it needs is found or named: a C++ compiler, CMake, nvcc, the GPU's architecture, and which TensorRT will load the
plugin. It needs no headers of TensorRT, whose wheels bring none (plugins/trt/interfaces).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from vivim_runtime.errors import MissingExtraError, PluginError, UsageError
from vivim_runtime.installation import install_words
from vivim_runtime.sessions.backends import BACKENDS
from vivim_runtime.sessions.plugin import Plugin, plugin_cache
from vivim_runtime.sessions.toolkit import compute_capability, find_tool, is_jetson

__all__ = ["BuildOptions", "build_plugin", "plugin_sources"]

_LIBRARIES = ("libvivim_kernels.so", "libvivim_trt.so", "libvivim_trt_register.so")
# Where pip puts them, below the environment's root (pyproject.toml, data-files).
_SHARED = "share/vivim-edge/plugins/CMakeLists.txt"


@dataclass(frozen=True)
class BuildOptions:
    """What to build for; what is None is found out.

    Attributes:
        architecture: of the GPU, such as "87" for compute capability 8.7.
        include: folder of TensorRT's own headers.
        major: of the TensorRT that will load the plugin, 10 or 11.
    """

    architecture: str | None = None
    include: Path | None = None
    major: int | None = None

    def __post_init__(self) -> None:
        if self.architecture is not None and not re.fullmatch(r"\d{2,3}", self.architecture):
            raise UsageError(f"--arch is {self.architecture}; expected a number such as 87, for compute capability 8.7")
        if self.major not in (None, 10, 11):
            raise UsageError(f"--tensorrt is {self.major}; expected 10 or 11")
        if self.include is not None and not (self.include / "NvInferVersion.h").is_file():
            raise UsageError(f"--tensorrt-include is {self.include}, which holds no NvInferVersion.h")


def plugin_sources() -> Path:
    """The folder of the plugin's sources: of the checkout, or those that were installed.

    Raises:
        PluginError: there are none.
    """
    checkout = Path(__file__).parents[3] / "plugins"
    if (checkout / "CMakeLists.txt").is_file():
        return checkout
    try:
        files = importlib.metadata.files("vivim-edge") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith(_SHARED) and Path(str(file.locate())).is_file():
            return Path(str(file.locate())).resolve().parent
    raise PluginError(
        "the plugin's sources are not there; install the package again: pip install --force-reinstall vivim-edge"
    )


def build_plugin(options: BuildOptions, say: Callable[[str], None]) -> Plugin:
    """Build the libraries into the user's cache folder, where Plugin.find looks; those that were there are replaced.

    Args:
        options: what to build for.
        say: told what is done, and what the compiler says.

    Raises:
        PluginError: something is missing (all of it is named), or the build failed.
        UsageError: the architecture or the TensorRT cannot be found out.
    """
    target = plugin_cache()
    if target is None:
        raise PluginError("there is no cache folder for a user without a home; set XDG_CACHE_HOME to a folder")
    sources, tools = plugin_sources(), _tools()
    architecture = options.architecture or _architecture()
    settings = [f"-DVIVIM_NVCC={tools['nvcc']}", f"-DVIVIM_ARCHITECTURES={architecture}", *_interfaces(options)]
    say(f"building for compute capability {architecture[:-1]}.{architecture[-1]} with {tools['nvcc']}: a minute or two")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as folder:
        build, made = Path(folder) / "build", Path(folder) / "plugin"
        _run([tools["cmake"], "-S", str(sources), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release", *settings], say)
        _run([tools["cmake"], "--build", str(build), "--parallel", str(os.cpu_count() or 1)], say)
        absent = [name for name in _LIBRARIES if not (build / name).is_file()]
        if absent:
            raise PluginError(f"the build made no {' and no '.join(absent)}; what CMake said is above")
        made.mkdir()
        for name in _LIBRARIES:
            shutil.copy2(build / name, made / name)
        if target.exists():
            target.rename(Path(folder) / "old")
        made.rename(target)
    return Plugin.find(target / "libvivim_trt.so")


def _tools() -> dict[str, str]:
    jetson = is_jetson()
    hints = {
        "cmake": "cmake (pip install cmake)",
        "c++": "a C++17 compiler (sudo apt install g++)",
        "nvcc": "nvcc "
        + (
            "(sudo apt install cuda-toolkit)"
            if jetson
            else f"(pip install {install_words('cuda-build')}, or a CUDA toolkit)"
        ),
    }
    found = {name: find_tool(name) for name in hints}
    if missing := [hints[name] for name, path in found.items() if path is None]:
        raise PluginError(f"building the plugin needs {', '.join(missing)}; install what is missing and try again")
    return {name: path for name, path in found.items() if path is not None}


def _architecture() -> str:
    capability = compute_capability()
    if capability is None:
        raise UsageError(
            "there is no GPU here whose architecture could be asked for; name it: --arch 87 (Jetson Orin), 89"
        )
    return f"{capability[0]}{capability[1]}"


def _interfaces(options: BuildOptions) -> list[str]:
    """Of CMake: headers that are named, those of the system, or the declarations for the TensorRT that is installed."""
    if options.include is not None:
        return [f"-DVIVIM_TENSORRT_INCLUDE={options.include.resolve()}"]
    system = [Path("/usr/include"), Path(f"/usr/include/{platform.machine()}-linux-gnu")]
    major = options.major
    if major is None:
        headers = next((folder for folder in system if (folder / "NvInferVersion.h").is_file()), None)
        if headers is not None:
            return [f"-DVIVIM_TENSORRT_INCLUDE={headers}"]
        try:
            major = int(str(BACKENDS["tensorrt"].load().__version__).partition(".")[0])
        except MissingExtraError:
            raise UsageError(
                "TensorRT is not installed here, so that its version cannot be asked for; name the one that will load "
                "the plugin: --tensorrt 10 or --tensorrt 11"
            ) from None
    return [f"-DVIVIM_TENSORRT_MAJOR={major}"]


def _run(command: list[str], say: Callable[[str], None]) -> None:
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            say(line.rstrip())
    if process.returncode:
        causes = [line for line in lines if "error" in line.lower()] or lines[-1:]
        raise PluginError(f"{Path(command[0]).name} failed: {' '.join(causes[:1]) or 'it does not say why'}")
