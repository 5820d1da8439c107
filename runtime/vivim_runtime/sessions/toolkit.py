"""What a machine has for CUDA: its programs (nvcc, nvdisasm, compute-sanitizer), its GPU, and whether it is a Jetson.

Standard library alone, and nothing of this package: plugins/tools loads this file by its path, where the package is not
installed.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
from pathlib import Path

__all__ = ["compute_capability", "find_tool", "is_jetson", "jetson_release"]


def find_tool(name: str) -> str | None:
    """A program on PATH, of a toolkit in its usual folder, beside this Python, or of the wheels of extra cuda-build."""
    wheels = sorted((Path(p) / "nvidia" / "cu13" / "bin" / name for p in sys.path), key=str)
    beside = Path(sys.executable).parent / name
    candidates = [shutil.which(name), f"/usr/local/cuda/bin/{name}", str(beside), *map(str, wheels)]
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
    return jetson_release() is not None


def jetson_release(root: Path = Path("/")) -> str | None:
    """Jetson Linux of a machine, such as "36.4.0" for JetPack 6.1; None elsewhere."""
    try:
        text = (root / "etc/nv_tegra_release").read_text(errors="replace")
    except OSError:
        return None
    match = re.search(r"R(\d+).*REVISION: *([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else None
