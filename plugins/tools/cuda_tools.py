"""Where the programs of CUDA are: nvcc, nvdisasm, compute-sanitizer."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

__all__ = ["find_tool"]


def find_tool(name: str) -> str | None:
    """A program of a toolkit on PATH or in its usual folder, or of the wheels of extra cuda-build."""
    wheels = sorted((Path(p) / "nvidia" / "cu13" / "bin" / name for p in sys.path), key=str)
    candidates = [shutil.which(name), f"/usr/local/cuda/bin/{name}", *map(str, wheels)]
    return next((c for c in candidates if c and os.access(c, os.X_OK)), None)
