"""The two libraries of engines on a GPU of host memory (tests/runtime/fake_gpu.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.runtime.engines import ADA
from tests.runtime.fake_gpu import FakeCuda, FakeTensorRT
from vivim_runtime.sessions.machine import Machine


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
    """A machine like ADA; the cache folder is empty."""
    fake = FakeCuda()
    fake.install(monkeypatch)
    monkeypatch.setattr(Machine, "here", lambda device, backends: ADA)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake


@pytest.fixture
def tensorrt(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    module = FakeTensorRT(cuda, "10.13.3.9")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture
def rtx(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    module = FakeTensorRT(cuda, "1.7.1.116", compiles=True)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    return module
