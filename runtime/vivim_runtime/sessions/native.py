"""The compiled operators, libvivim_ort.so: where they are, and which. ONNX Runtime and PyTorch on a CPU take them."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from vivim_runtime.errors import PluginError

__all__ = ["BODIES", "NATIVE_VARIABLE", "NativeLibrary", "native_library"]

NATIVE_VARIABLE = "VIVIM_ORT"
# What $VIVIM_ORT says where none is to be used, and what runs then in ONNX Runtime: the bodies in the file.
BODIES = "bodies"

_LIBRARY = "libvivim_ort.so"
# The distribution vivim-edge-native (plugins/ort).
_PACKAGE = "vivim_native"
# Of `make native` in a checkout, which an editable install runs from.
_BUILD_FOLDER = Path(__file__).parents[3] / "plugins" / "build" / "native"


@dataclass(frozen=True)
class NativeLibrary:
    """A library of compiled operators that is there and loads.

    Attributes:
        path: of libvivim_ort.so.
        version: of vivim-edge-native.
        instruction_set: of the kernels that run on this CPU: avx512, avx2, or baseline (SSE2, NEON).
        cuda_kernels: the file of the kernels that sessions with the CUDA provider call; empty where there is none.
    """

    path: Path
    version: str
    instruction_set: str
    cuda_kernels: str

    def load(self) -> ctypes.CDLL:
        """The library itself, for calls of plugins/ort/vivim_ort.h."""
        return ctypes.CDLL(str(self.path))


def native_library() -> NativeLibrary | None:
    """The library that $VIVIM_ORT names, else the one that `make native` built, else that of vivim-edge-native.

    None where there is none, and where $VIVIM_ORT is "bodies".

    Raises:
        PluginError: it does not load. What was named is not replaced by what was found.
    """
    named = os.environ.get(NATIVE_VARIABLE)
    if named == BODIES:
        return None
    path = Path(named) if named else _found()
    return None if path is None else _opened(path)


def _found() -> Path | None:
    package = importlib.util.find_spec(_PACKAGE)
    folders = [_BUILD_FOLDER, *(Path(folder) for folder in (package and package.submodule_search_locations) or ())]
    return next((folder / _LIBRARY for folder in folders if (folder / _LIBRARY).is_file()), None)


@functools.cache
def _opened(path: Path) -> NativeLibrary:
    try:
        library = ctypes.CDLL(str(path))
        calls = [library.vivim_ort_version, library.vivim_ort_instruction_set, library.vivim_ort_cuda_kernels]
    except (OSError, AttributeError) as error:
        raise PluginError(
            f"{path} is no library of our operators: {error}; build it again with: make native, "
            f"or run without it: {NATIVE_VARIABLE}={BODIES}"
        ) from None
    for call in calls:
        call.restype = ctypes.c_char_p
    version, instruction_set, cuda_kernels = ((call() or b"").decode() for call in calls)
    return NativeLibrary(path, version, instruction_set, cuda_kernels)
