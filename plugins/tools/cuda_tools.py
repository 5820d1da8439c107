"""What a machine has for CUDA: its programs (nvcc, nvdisasm, compute-sanitizer), its GPU, and whether it is a Jetson.

Standard library alone: the tools of this folder run where nothing of this project is installed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

__all__ = ["compute_capability", "find_tool", "is_jetson"]


def find_tool(name: str) -> str | None:
    """A program of a toolkit on PATH or in its usual folder, or of the wheels of extra cuda-build."""
    wheels = sorted((Path(p) / "nvidia" / "cu13" / "bin" / name for p in sys.path), key=str)
    candidates = [shutil.which(name), f"/usr/local/cuda/bin/{name}", *map(str, wheels)]
    return next((c for c in candidates if c and os.access(c, os.X_OK)), None)


def compute_capability(device: int = 0) -> tuple[int, int] | None:
    """Of a GPU, asked of the driver itself: a Jetson's nvidia-smi does not know it. None where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(handle), device)
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
    for number, attribute in ((major, 75), (minor, 76)):
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, handle)
    return None if failed else (major.value, minor.value)


def is_jetson() -> bool:
    return Path("/etc/nv_tegra_release").is_file()
