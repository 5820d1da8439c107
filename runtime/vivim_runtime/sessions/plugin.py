"""The TensorRT plugin as a file: where it is, which one it is, and how TensorRT gets to know it (docs/plugin.md)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivim_runtime.errors import PluginError
from vivim_runtime.files import cache_folder, sha256_file

__all__ = ["CREATORS", "PLUGIN_VARIABLE", "Plugin", "build_hint", "plugin_cache"]

# What every version of the library registers: (name, version, namespace).
CREATORS = (("CausalConv1d", "1", "vivim"), ("SelectiveScan", "1", "vivim"))
PLUGIN_VARIABLE = "VIVIM_PLUGIN"

_LIBRARY, _KERNELS = "libvivim_trt.so", "libvivim_kernels.so"
# Of `make plugins` in a checkout, which an editable install runs from.
_BUILD_FOLDER = Path(__file__).parents[3] / "plugins" / "build" / "gpu"


def plugin_cache() -> Path | None:
    """Where `vivim-plugins build` puts the libraries; None for a user without a home."""
    folder = cache_folder()
    return folder / "plugin" if folder else None


def build_hint() -> str:
    """The command that builds the plugin here: in a checkout, or where the package is installed."""
    return "make plugins" if _BUILD_FOLDER.parents[1].is_dir() else "vivim-plugins build"


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
        """The library at `path`, else at $VIVIM_PLUGIN, else what `make plugins` or `vivim-plugins build` built.

        Raises:
            PluginError: it is not there, or it does not load. What was named is not replaced by what was found.
        """
        named = path or (Path(value) if (value := os.environ.get(PLUGIN_VARIABLE)) else None)
        built = [folder / _LIBRARY for folder in (_BUILD_FOLDER, plugin_cache()) if folder]
        library = named or next((path for path in built if path.is_file()), built[0])
        if not library.is_file():
            places = [
                f"--plugin {path}" if path else "--plugin was not given",
                f"${PLUGIN_VARIABLE} is {os.environ.get(PLUGIN_VARIABLE) or 'not set'}",
                *map(str, built),
            ]
            raise PluginError(
                f"the plugin {_LIBRARY} was not found (looked in: {'; '.join(places)}); "
                f"build it with: {build_hint()}, which docs/plugin.md explains"
            )
        kernels = library.resolve().with_name(_KERNELS)
        if not kernels.is_file():
            raise PluginError(f"{library} has no {_KERNELS} beside it, which it needs; copy both, or: {build_hint()}")
        return cls(library, _revision(kernels), sha256_file(library), sha256_file(kernels))

    def load(self, module: Any) -> None:
        """Give the operators to a TensorRT module's registry; nothing happens where it has them already.

        Raises:
            PluginError: the library does not load, is another one, or is for another major version of TensorRT.
        """
        registry = module.get_plugin_registry()
        if all(registry.get_creator(*creator) is not None for creator in CREATORS):
            return
        try:
            # TensorRT's message does not say which symbol or library is missing; the loader's does.
            library = ctypes.CDLL(str(self.path), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise PluginError(
                f"the plugin {self.path} does not load: {error}; build it again: {build_hint()}"
            ) from None
        self._check_headers(library, module.__version__)
        registry.load_library(str(self.path))
        absent = [creator[0] for creator in CREATORS if registry.get_creator(*creator) is None]
        if absent:
            raise PluginError(
                f"TensorRT {module.__version__} took no {' and no '.join(absent)} from {self.path}; "
                "build it with the headers of this TensorRT (docs/plugin.md)"
            )

    def expect(self, module: Any, operators: Collection[str]) -> None:
        """PluginError where a TensorRT module that has loaded the library lacks one of a graph's operators."""
        _, version, namespace = CREATORS[0]
        registry = module.get_plugin_registry()
        absent = [name for name in sorted(operators) if registry.get_creator(name, version, namespace) is None]
        if absent:
            raise PluginError(
                f"the plugin {self.path} has no {' and no '.join(absent)}: it is of an earlier version; "
                f"build it again: {build_hint()}"
            )

    def _check_headers(self, library: ctypes.CDLL, version: str) -> None:
        """TensorRT of another major version has functions elsewhere: a message of the plugin would end the process."""
        try:
            headers = int(library.vivim_trt_headers_version())  # 100300 for TensorRT 10.3
        except AttributeError:
            raise PluginError(
                f"the plugin {self.path} does not say for which TensorRT it was built: it is of an earlier version; "
                f"build it again: {build_hint()}"
            ) from None
        major = version.partition(".")[0]
        if str(headers // 10000) != major:
            raise PluginError(
                f"the plugin {self.path} was built for TensorRT {headers // 10000}, this is {version}; "
                f"build it again: VIVIM_TENSORRT_MAJOR={major} {build_hint()}"
            )


def _revision(kernels: Path) -> str:
    """What the kernels call themselves."""
    try:
        revision = ctypes.CDLL(str(kernels)).vivim_kernels_revision
    except (OSError, AttributeError) as error:
        raise PluginError(f"{kernels} is no library of our kernels: {error}; build it again: {build_hint()}") from None
    revision.restype = ctypes.c_char_p
    return str(revision().decode())
