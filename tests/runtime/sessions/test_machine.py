"""What this machine has: asked of a driver that is made up here, and of the one that may be there."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType
from typing import Any

import pytest

from vivim_runtime.errors import UsageError, VivimError
from vivim_runtime.sessions import machine
from vivim_runtime.sessions.machine import Machine


class Driver:
    """libcuda with some GPUs, (name, major, minor) each."""

    def __init__(self, gpus: list[tuple[str, int, int]], init: int = 0, describe: int = 0) -> None:
        self._gpus, self._init, self._describe = gpus, init, describe

    @staticmethod
    def _set(reference: Any, value: int) -> None:
        reference._obj.value = value

    def cuInit(self, flags: int) -> int:
        return self._init

    def cuDriverGetVersion(self, version: Any) -> int:
        self._set(version, 13010)
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        self._set(count, len(self._gpus))
        return 0

    def cuDeviceGet(self, handle: Any, index: int) -> int:
        self._set(handle, index + 40)  # a handle is not the number
        return self._describe

    def cuDeviceGetName(self, name: Any, size: int, handle: ctypes.c_int) -> int:
        name.value = self._gpus[handle.value - 40][0].encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: ctypes.c_int) -> int:
        self._set(value, self._gpus[handle.value - 40][{75: 1, 76: 2}[attribute]])
        return 0


GPUS = [("NVIDIA GeForce RTX 4090", 8, 9), ("NVIDIA RTX PRO 6000", 12, 0)]


def use(monkeypatch: pytest.MonkeyPatch, driver: Driver | None) -> None:
    monkeypatch.setattr(machine, "_driver", lambda: driver)


def test_gpu_and_driver_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Driver(GPUS))
    assert Machine.here(backends=()) == Machine("NVIDIA GeForce RTX 4090", "8.9", "13.1", {})
    second = Machine.here(1, ())
    assert (second.gpu, second.compute_capability) == ("NVIDIA RTX PRO 6000", "12.0")
    assert str(second) == "NVIDIA RTX PRO 6000 (compute capability 12.0)"


def test_gpu_that_is_not_there_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Driver(GPUS))
    with pytest.raises(UsageError, match="--device is cuda:2, but there are 2 GPUs"):
        Machine.here(2, ())


@pytest.mark.parametrize(
    ("driver", "reason", "cuda"),
    [
        pytest.param(None, "no NVIDIA driver: libcuda is not there", None, id="no driver"),
        pytest.param(Driver([]), "the NVIDIA driver finds no GPU", "13.1", id="none"),
        pytest.param(Driver([], init=100), "the NVIDIA driver finds no GPU", "13.1", id="none, says the driver"),
        pytest.param(
            Driver(GPUS, init=803), "the NVIDIA driver does not start: CUDA error 803", "13.1", id="broken driver"
        ),
    ],
)
def test_machine_without_a_gpu_says_why(
    driver: Driver | None, reason: str, cuda: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, driver)
    here = Machine.here(5, ())  # which GPU is of no account then
    assert here == Machine(cuda=cuda, no_gpu=reason)
    assert str(here) == f"no GPU ({reason})"


def test_gpu_that_is_not_described_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Driver(GPUS, describe=101))
    with pytest.raises(VivimError, match="does not describe GPU 0: CUDA errors \\[101"):
        Machine.here(0, ())


def test_versions_are_those_of_the_libraries_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, None)
    module = ModuleType("tensorrt")
    module.__version__ = "10.3.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert Machine.here().versions == {"tensorrt": "10.3.0"}
    assert Machine.here(backends=["rtx"]).versions == {}  # what is not asked for is not imported


def test_library_that_is_broken_is_not_taken_for_missing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, None)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(VivimError, match=r"tensorrt does not load \(libnvinfer.so.10.*vivim-edge\[trt\]"):
        Machine.here(backends=["tensorrt"])


def test_library_that_misses_a_module_of_its_own_keeps_its_error(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, None)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "tensorrt.py").write_text("import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        Machine.here(backends=["tensorrt"])


def test_this_machine_can_be_asked() -> None:
    here = Machine.here(backends=())
    assert (here.gpu is None) == bool(here.no_gpu) == (here.compute_capability is None)
