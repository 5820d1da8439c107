"""Probes of the machine: Python, GPU and driver, CUDA, cameras, display."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from vivim_runtime.doctor.asking import ask
from vivim_runtime.doctor.findings import ON_CPU, Finding, State
from vivim_runtime.doctor.installed import base_dependencies, older, version_of
from vivim_runtime.installation import install_words
from vivim_runtime.sessions.toolkit import jetson_release

__all__ = ["cameras", "cuda", "display", "gpu", "has_driver", "l4t_release", "python"]

# Where the files of the system are: tests have a folder of their own.
_ROOT = Path("/")
_NVIDIA = "0x10de"  # PCI vendor
# The oldest that plugins/CMakeLists.txt builds for, and TensorRT still supports.
_LEAST_CAPABILITY = (7, 5)
_RUNTIMES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime-cu11")


def python() -> Finding:
    """The interpreter that all commands run in."""
    version = version_of("vivim-edge")
    ours = f"vivim-edge {version}" if version else "vivim-edge, not installed"
    found = f"{ours}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    installed = {name: (version_of(name), least) for name, least in base_dependencies().items()}
    behind = {name: least for name, (there, least) in installed.items() if there and older(there, least)}
    if behind:
        stale = ", ".join(f"{name} {installed[name][0]} (vivim-edge needs {least})" for name, least in behind.items())
        fix = "pip install " + " ".join(f"'{name}>={least}'" for name, least in behind.items())
        return Finding("Python", State.broken, f"{found}; too old: {stale}", "all commands", fix)
    return Finding("Python", State.ok, found, "all commands")


def gpu() -> Finding:
    """The GPU and its driver, asked of the driver itself."""
    part, asked = "NVIDIA GPU", ask("gpu")
    if asked.value is None:
        return Finding(part, State.broken, asked.problem, "the driver cannot be asked: no engines", "nvidia-smi")
    name, cuda_version, reason = (asked.value[key] for key in ("gpu", "cuda", "no_gpu"))
    if name is None:
        return _no_gpu(part, reason, driver=cuda_version is not None)
    capability = asked.value["capability"]
    driver = _driver_version()
    found = f"{name}, compute capability {capability}, " + (f"driver {driver}" if driver else "driver of JetPack")
    if tuple(int(number) for number in capability.split(".")) < _LEAST_CAPABILITY:
        least = ".".join(map(str, _LEAST_CAPABILITY))
        return Finding(part, State.missing, found, f"too old for engines, which need {least} or later", ON_CPU)
    return Finding(part, State.ok, found, "engines, and ONNX Runtime with --device cuda")


def _no_gpu(part: str, reason: str, driver: bool) -> Finding:
    if "does not start" in reason:
        means = "no engines; a driver that was updated starts only after a reboot"
        return Finding(part, State.broken, reason, means, "sudo reboot")
    if not driver and has_driver():
        found = f"{reason}, although the kernel has the driver"
        return Finding(
            part, State.broken, found, "no engines; a container must be given the GPU", "docker run --gpus all IMAGE"
        )
    vendors = (path.read_text().strip() for path in (_ROOT / "sys/bus/pci/devices").glob("*/vendor"))
    if not driver and _NVIDIA in vendors:
        return Finding(part, State.broken, f"{reason}, but a PCI device of NVIDIA is", "no engines", _install_driver())
    return Finding(part, State.missing, reason, "models run on the CPU; engines need a GPU", ON_CPU)


def cuda() -> Finding:
    """The CUDA of the driver against that of the installed libraries."""
    part = "CUDA"
    asked = ask("gpu")
    newest = asked.value["cuda"] if asked.value else None
    runtime = _runtime()
    libraries = f"runtime {runtime}" if runtime else "no runtime"
    if newest is None:
        return Finding(part, State.missing, f"no driver, {libraries}", "nothing runs on a GPU", ON_CPU)
    found = f"the driver takes up to {newest}, {libraries}"
    if runtime is None:
        means = "ONNX Runtime with --device cuda wants it; engines do not"
        return Finding(part, State.missing, found, means, "pip install 'onnxruntime-gpu[cuda,cudnn]'")
    if int(runtime.split(".")[0]) > int(newest.split(".")[0]):
        return Finding(part, State.broken, found, "libraries for a later CUDA than the driver has", _install_driver())
    return Finding(part, State.ok, found, "ONNX Runtime with --device cuda")


def has_driver() -> bool:
    """Whether the kernel has NVIDIA's driver, or the machine is a Jetson."""
    return _driver_version() is not None or l4t_release() is not None


def l4t_release() -> str | None:
    """Jetson Linux, such as "36.4.0"; None elsewhere."""
    return jetson_release(_ROOT)


def cameras() -> Finding:
    """Cameras that the kernel lists. They are not opened: one that is in use stays so."""
    part, means = "Cameras", "SOURCE /dev/videoN"
    # A camera may have more nodes, for its metadata; the first carries the pictures.
    nodes = [
        path for path in (_ROOT / "sys/class/video4linux").glob("video*") if _read(path / "index").strip() in ("", "0")
    ]
    devices = {_ROOT / "dev" / path.name: _read(path / "name").strip() for path in sorted(nodes)}
    there = {path: name for path, name in devices.items() if path.exists()}
    if not there:
        means = "no live camera, connect one (a container: --device /dev/video0); files, streams and phantom: work"
        return Finding(part, State.missing, "no /dev/video*", means, "ls -l /dev/video*")
    closed = [str(path) for path in there if not os.access(path, os.R_OK | os.W_OK)]
    found = ", ".join(f"{path} ({name})" if name else str(path) for path, name in there.items())
    if closed:
        means = f"this user may not open {', '.join(closed)}; log in anew after the fix"
        return Finding(part, State.broken, found, means, 'sudo usermod -aG video "$USER"')
    return Finding(part, State.ok, found, means)


def display() -> Finding:
    """Whether a window can be opened."""
    part, means = "Display", "OUT display"
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")):
        found = "neither DISPLAY nor WAYLAND_DISPLAY is set"
        return Finding(part, State.missing, found, "no window; watch in a browser", _IN_BROWSER)
    asked = ask("display")
    if asked.absent:
        return Finding(
            part, State.missing, "no pygame-ce", f"needed for: {means}", f"pip install {install_words('display')}"
        )
    if asked.problem:
        return Finding(part, State.missing, asked.problem, "no window; watch in a browser", _IN_BROWSER)
    return Finding(part, State.ok, asked.value, means)


_IN_BROWSER = "vivim-run SOURCE http://127.0.0.1:8080 --model MODEL"


def _driver_version() -> str | None:
    """Of the kernel module; None without one."""
    return _read("sys/module/nvidia/version").strip() or None


def _runtime() -> str | None:
    """Version of the CUDA runtime: of pip, else of the toolkit (or JetPack)."""
    for name in _RUNTIMES:
        if version := version_of(name):
            return version
    match = re.search(r'"cuda"\s*:\s*{[^}]*"version"\s*:\s*"([\d.]+)"', _read("usr/local/cuda/version.json"))
    return match[1] if match else None


def _install_driver() -> str:
    match = re.search(r'^ID="?([\w-]+)', _read("etc/os-release"), re.M)
    return "sudo ubuntu-drivers install" if match and match[1] == "ubuntu" else "sudo apt install nvidia-driver"


def _read(path: str | Path) -> str:
    """Text of a file of the system; empty where there is none that can be read."""
    try:
        return (_ROOT / path).read_text(errors="replace")
    except OSError:
        return ""
