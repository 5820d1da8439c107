"""This machine, as far as an engine depends on it: GPU, driver, and the libraries that run engines.

Asked of the driver itself (libcuda, by ctypes): that works where nothing but the driver is installed, needs no package
for one CUDA version, and starts no CUDA context.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vivim_runtime.errors import MissingExtraError, UsageError, VivimError
from vivim_runtime.sessions.backends import BACKENDS
from vivim_runtime.sessions.toolkit import jetson_release

__all__ = ["Machine"]

# enum CUdevice_attribute of cuda.h
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@dataclass(frozen=True)
class Machine:
    """What an engine is compared with.

    Attributes:
        gpu: name of the GPU; None where there is none that CUDA can use.
        compute_capability: of the GPU, such as "8.9".
        cuda: newest CUDA version that the driver supports, such as "13.0"; None without a driver.
        versions: backend name (vivim_runtime.sessions.backends) to the version that is installed; others are absent.
        no_gpu: why there is no GPU; empty where there is one.
        jetson: release of Jetson Linux, such as "36.4.0"; None where this is no Jetson.
    """

    gpu: str | None = None
    compute_capability: str | None = None
    cuda: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    no_gpu: str = ""
    jetson: str | None = None

    @classmethod
    def here(cls, device: int = 0, backends: Iterable[str] = tuple(BACKENDS)) -> Machine:
        """This machine with its GPU number `device`; only the libraries of `backends` are looked for (imported).

        Raises:
            UsageError: there are GPUs, but not that many.
        """
        versions = {name: version for name in backends if (version := _version(name)) is not None}
        driver = _driver()
        if driver is None:
            return cls(versions=versions, no_gpu="no NVIDIA driver: libcuda is not there")
        status = driver.cuInit(0)
        number = ctypes.c_int()  # 13010 is 13.1
        known = driver.cuDriverGetVersion(ctypes.byref(number)) == 0
        cuda = f"{number.value // 1000}.{number.value % 1000 // 10}" if known else None
        count = ctypes.c_int()
        if status == 0:
            status = driver.cuDeviceGetCount(ctypes.byref(count))
        if status not in (0, _NO_DEVICE):
            return cls(cuda=cuda, versions=versions, no_gpu=f"the NVIDIA driver does not start: CUDA error {status}")
        if count.value == 0:
            return cls(cuda=cuda, versions=versions, no_gpu="the NVIDIA driver finds no GPU")
        if device >= count.value:
            raise UsageError(f"--device is cuda:{device}, but there are {count.value} GPUs; expected less")
        name, capability = _describe(driver, device)
        return cls(name, capability, cuda, versions, jetson=jetson_release())

    def __str__(self) -> str:
        return f"{self.gpu} (compute capability {self.compute_capability})" if self.gpu else f"no GPU ({self.no_gpu})"


def _driver() -> ctypes.CDLL | None:
    """The driver's library; None where there is none."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _describe(driver: ctypes.CDLL, device: int) -> tuple[str, str]:
    """Name and compute capability of a GPU that is there."""
    handle, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    numbers = [ctypes.c_int(), ctypes.c_int()]
    statuses = [
        driver.cuDeviceGet(ctypes.byref(handle), device),
        driver.cuDeviceGetName(name, len(name), handle),
        driver.cuDeviceGetAttribute(ctypes.byref(numbers[0]), _COMPUTE_CAPABILITY_MAJOR, handle),
        driver.cuDeviceGetAttribute(ctypes.byref(numbers[1]), _COMPUTE_CAPABILITY_MINOR, handle),
    ]
    if any(statuses):
        raise VivimError(f"the NVIDIA driver does not describe GPU {device}: CUDA errors {statuses}")
    return name.value.decode(), f"{numbers[0].value}.{numbers[1].value}"


def _version(backend: str) -> str | None:
    """What is installed of a backend; None where it is not installed."""
    try:
        return str(BACKENDS[backend].load().__version__)
    except MissingExtraError:
        return None
