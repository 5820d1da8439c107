"""The TensorRT plugin as a file: where it is, which one it is, and how TensorRT gets to know it (docs/plugin.md)."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivim_runtime.errors import PluginError
from vivim_runtime.files import sha256_file

__all__ = ["CREATORS", "PLUGIN_VARIABLE", "Plugin"]

# What the library registers: (name, version, namespace).
CREATORS = (("CausalConv1d", "1", "vivim"), ("SelectiveScan", "1", "vivim"))
PLUGIN_VARIABLE = "VIVIM_PLUGIN"

_LIBRARY, _KERNELS = "libvivim_trt.so", "libvivim_kernels.so"
# Of `make plugins` in a checkout, which an editable install runs from.
_BUILD_FOLDER = Path(__file__).parents[3] / "plugins" / "build" / "gpu"


@dataclass(frozen=True)
class Plugin:
    """A plugin library that is there.

    Attributes:
        path: of libvivim_trt.so; libvivim_kernels.so lies beside it.
        version: the kernels' revision, which changes whenever their results or timings may.
        sha256, kernels_sha256: of the two libraries.
    """

    path: Path
    version: str
    sha256: str
    kernels_sha256: str

    @classmethod
    def find(cls, path: Path | None = None) -> Plugin:
        """The library at `path`, else at $VIVIM_PLUGIN, else the one that `make plugins` built.

        Raises:
            PluginError: it is not there, or it does not load. What was named is not replaced by what was found.
        """
        named = path or (Path(value) if (value := os.environ.get(PLUGIN_VARIABLE)) else None)
        library = named or _BUILD_FOLDER / _LIBRARY
        if not library.is_file():
            places = [
                f"--plugin {path}" if path else "--plugin was not given",
                f"${PLUGIN_VARIABLE} is {os.environ.get(PLUGIN_VARIABLE) or 'not set'}",
                str(_BUILD_FOLDER / _LIBRARY),
            ]
            raise PluginError(
                f"the plugin {_LIBRARY} was not found (looked in: {'; '.join(places)}); "
                "build it with: make plugins, which docs/plugin.md explains"
            )
        kernels = library.resolve().with_name(_KERNELS)
        if not kernels.is_file():
            raise PluginError(f"{library} has no {_KERNELS} beside it, which it needs; copy both, or: make plugins")
        return cls(library, _revision(kernels), sha256_file(library), sha256_file(kernels))

    def load(self, module: Any) -> None:
        """Give the operators to a TensorRT module's registry; nothing happens where it has them already.

        Raises:
            PluginError: the library does not load, or is another one.
        """
        registry = module.get_plugin_registry()
        if all(registry.get_creator(*creator) is not None for creator in CREATORS):
            return
        try:
            # TensorRT's message does not say which symbol or library is missing; the loader's does.
            ctypes.CDLL(str(self.path), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise PluginError(f"the plugin {self.path} does not load: {error}; build it again: make plugins") from None
        registry.load_library(str(self.path))
        absent = [creator[0] for creator in CREATORS if registry.get_creator(*creator) is None]
        if absent:
            raise PluginError(
                f"TensorRT {module.__version__} took no {' and no '.join(absent)} from {self.path}; "
                "build it with the headers of this TensorRT (docs/plugin.md)"
            )


def _revision(kernels: Path) -> str:
    """What the kernels call themselves."""
    try:
        revision = ctypes.CDLL(str(kernels)).vivim_kernels_revision
    except (OSError, AttributeError) as error:
        raise PluginError(f"{kernels} is no library of our kernels: {error}; build it again: make plugins") from None
    revision.restype = ctypes.c_char_p
    return str(revision().decode())
