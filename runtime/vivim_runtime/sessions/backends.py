"""The two libraries that run engines, and all in which they differ here; their Python interfaces are the same."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from vivim_runtime.errors import MissingExtraError, VivimError
from vivim_runtime.installation import install_words

__all__ = ["BACKENDS", "Backend"]


@dataclass(frozen=True)
class Backend:
    """A library that builds and runs engines.

    Attributes:
        name: as commands and records call it.
        title: for people.
        module: what to import.
        extra: of vivim-edge, that installs it.
        plugins: whether its engines call libvivim_trt.so; where not, the operators are lowered to standard layers.
        compiles: whether it compiles kernels when an engine runs. Such a library keeps them in a runtime cache and
            captures CUDA graphs itself, since a kernel may be replaced by a better one between two calls.
    """

    name: str
    title: str
    module: str
    extra: str
    plugins: bool
    compiles: bool

    def missing(self) -> MissingExtraError:
        """What to say where it is not installed."""
        return MissingExtraError(f"running an engine of {self.title}", self.extra)

    def load(self) -> Any:
        """The imported module; MissingExtraError where it is not installed."""
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != self.module:
                raise
            raise self.missing() from None
        except (ImportError, OSError) as error:  # a shared library that is missing or of another CUDA
            raise VivimError(
                f"the module {self.module} does not load ({error}); install {self.title} again: "
                f"pip install --force-reinstall {install_words(self.extra)}"
            ) from None


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("tensorrt", "TensorRT", "tensorrt", "trt", plugins=True, compiles=False),
        Backend("rtx", "TensorRT for RTX", "tensorrt_rtx", "rtx", plugins=False, compiles=True),
    )
}
