"""The calls of CUDA with the real bindings of the CUDA 12 that JetPack 6 and older drivers have, without a driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wheels import wheel

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
ASK = """
from vivim_runtime.errors import CudaError
from vivim_runtime.sessions import cuda
runtime, driver = cuda._bindings("trt")
print(runtime.__name__)
session = cuda.Cuda.__new__(cuda.Cuda)
session._runtime, session._driver, session._device, session._context = runtime, driver, 0, 7
for call in (
    lambda: cuda.Cuda(), session.current().__enter__, session.memory, session.create_stream,
    lambda: session.allocate(16), lambda: session.free(4096),
    lambda: session.allocate_host(16), lambda: session.free_host(4096),
    lambda: session.destroy_stream(1), lambda: session.synchronize(1), lambda: session.wait_for(7, 1),
    lambda: session.owner(4096), lambda: session.upload(4096, 8192, 16, 1),
    lambda: session.copy(4096, 8192, 7, 16, 1), lambda: session.copy(4096, 8192, 8, 16, 1),
    lambda: session.begin_capture(1), lambda: session.end_capture(1), lambda: session.launch(1, 1),
    lambda: session.destroy_graph(1), lambda: session._call("cudaGraphInstantiate", 1, 0),
    lambda: session._call("cuStreamSynchronize", 1), lambda: session._call("cuCtxSynchronize"),
    lambda: session._call("cuCtxPopCurrent"), lambda: session._call("cuDeviceGet", 0),
    lambda: session._call("cuDevicePrimaryCtxRetain", 0),
):
    try:
        call()
    except CudaError as error:
        assert "failed on GPU 0: " in str(error), error
        print("told")
"""


@pytest.mark.parametrize(
    ("package", "version", "module"),
    [
        ("cuda-python", "12.6.0", "cuda.cudart"),
        ("cuda-python", "12.6.2", "cuda.bindings.runtime"),
        ("cuda-bindings", "12.8.0", "cuda.bindings.runtime"),
    ],
)
def test_every_call_is_told_in_one_line_by_the_bindings_of(package: str, version: str, module: str) -> None:
    path = os.pathsep.join([str(wheel(package, version)), str(ROOT / "runtime")])
    command = [sys.executable, "-W", "ignore", "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=120)
    assert done.returncode == 0, done.stderr
    first, *told = done.stdout.split()
    if len(told) < 25:
        pytest.skip("this machine has a driver, which takes some of these calls")
    assert (first, len(told)) == (module, 25)
