"""The plugin in the registry of classic TensorRT: its lean runtime, of both major versions, without a GPU or a driver.

Each process loads one version of TensorRT, so the questions are asked in processes of their own; what would crash one
must end in a sentence.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.kernel_library import PLUGINS
from tests.plugins.trt_library import build
from tests.wheels import LEAN, lean_environment, wheel

pytestmark = pytest.mark.slow  # a wheel of 45 MB is fetched, and the library built twice

ATTRIBUTES = {
    "CausalConv1d": {"rows": [5], "directions": [0, 1, 2]},
    "SelectiveScan": {"rows": [5], "directions": [0, 1, 2], "mean": [1]},
}
# Changed attributes of a node, None where one is left out, and what is said about them.
WRONG = [
    ({"rows": [0]}, "attribute rows holds 0; expected 1 to 2147483647"),
    ({"directions": [1, 7]}, "attribute directions holds 7; expected 0 to 3"),
    ({"directions": [0, 1, 2, 3, 0]}, "attribute directions has 5 values; expected 1 to 4"),
    ({"directions": None}, "attribute directions is missing"),
    ({"extra": [1]}, "attribute extra is not one of this version's"),
]

REGISTRY = """
import json, sys
import numpy as np
import tensorrt_lean_bindings as trt

def make(creator, attributes):
    kept = {name: np.asarray(values, np.int32) for name, values in attributes.items()}  # the binding keeps pointers
    fields = [trt.PluginField(name, array, trt.PluginFieldType.INT32) for name, array in kept.items()]
    plugin = creator.create_plugin("node", trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD)
    return plugin, kept, fields

library, cases = sys.argv[1], json.loads(sys.argv[2])
registry = trt.get_plugin_registry()
handle = registry.load_library(library)
print(json.dumps({"version": trt.__version__, "loaded": handle is not None}), flush=True)
for name, attributes in cases:
    creator = registry.get_creator(name, "1", "vivim")
    plugin, *_ = make(creator, attributes)
    said = {"fields": [field.name for field in creator.field_names], "made": plugin is not None}
    print(json.dumps(said), flush=True)
registry.deregister_library(handle)
gone = registry.get_creator("SelectiveScan", "1", "vivim") is None
print(json.dumps({"gone": gone, "again": registry.load_library(library) is not None}), flush=True)
"""


def ask(library: Path, major: int, cases: list[Any]) -> tuple[list[dict[str, Any]], str]:
    """What the registry of that TensorRT says, line by line, and what went to stderr."""
    command = [sys.executable, "-c", REGISTRY, str(library), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=lean_environment(major))
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stderr + done.stdout


def changed(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**ATTRIBUTES[name], **changes}.items() if value is not None}


@pytest.mark.parametrize("major", LEAN)
@pytest.mark.parametrize("preset", ["emulated", "gpu"])
def test_registry_loads_makes_clones_and_restores_both_plugins(preset: str, major: int) -> None:
    folder = build(preset, major)
    (libnvinfer,) = wheel("tensorrt-lean-cu13-libs", LEAN[major]).glob("*/libnvinfer_lean.so.*")
    command = [folder / "vivim_trt_registry_test", libnvinfer, folder / "libvivim_trt.so"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert f"all checks passed with headers of TensorRT {major}." in done.stdout


@pytest.mark.parametrize("major", LEAN)
def test_registry_refuses_wrong_attributes_by_name(major: int) -> None:
    good = list(ATTRIBUTES.items())
    wrong = [(name, changed(name, changes)) for name in ATTRIBUTES for changes, _ in WRONG]
    (begun, *said, ended), log = ask(build("emulated", major) / "libvivim_trt.so", major, [*good, *wrong])
    assert begun == {"version": LEAN[major], "loaded": True}
    for (name, _), found in zip([*good, *wrong], said, strict=True):
        assert found["fields"] == list(ATTRIBUTES[name])
    assert [found["made"] for found in said] == [True, True] + [False] * len(wrong)
    for name in ATTRIBUTES:
        for _, message in WRONG:
            assert f"vivim::{name}: {message}" in log  # on stderr: TensorRT has a logger from its first runtime on
    assert ended == {"gone": True, "again": True}


@pytest.mark.parametrize(("major", "other"), [(10, 11), (11, 10)])
def test_plugin_of_the_other_major_version_says_so_and_does_not_crash(major: int, other: int) -> None:
    wrong = [("CausalConv1d", changed("CausalConv1d", {"rows": [0]}))]
    (_, found, _), log = ask(build("emulated", other) / "libvivim_trt.so", major, wrong)
    assert not found["made"]
    assert f"libvivim_trt.so: built for TensorRT {other}, loaded by " in log and f"libnvinfer_lean.so.{major}" in log
    assert "\nvivim::CausalConv1d: attribute rows holds 0" in log


OPEN = """
import ctypes, sys
import tensorrt_lean_bindings as trt
ctypes.CDLL(sys.argv[1])
registry = trt.get_plugin_registry()
print([registry.get_creator(name, "1", "vivim") is not None for name in ("CausalConv1d", "SelectiveScan")])
"""


@pytest.mark.parametrize("major", LEAN)
@pytest.mark.parametrize("built_for", LEAN)
def test_opening_the_registering_library_registers_or_says_why_not(major: int, built_for: int) -> None:
    command = [sys.executable, "-c", OPEN, str(build("emulated", built_for) / "libvivim_trt_register.so")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=lean_environment(major))
    assert done.returncode == 0, done.stderr
    if major == built_for:
        assert (done.stdout, done.stderr) == ("[True, True]\n", "")
    else:
        assert done.stdout == "[False, False]\n"
        assert f"built for TensorRT {built_for}, and this process has " in done.stderr
        assert f"of version {major}." in done.stderr and "nothing was registered" in done.stderr


START = """
import sys
import tensorrt_lean_bindings as trt
from vivim_runtime.errors import CudaError
from vivim_runtime.sessions.engine import error_logger, start_runtime
try:
    start_runtime(trt, error_logger(trt), False)
except CudaError as error:
    print(error)
"""


@pytest.mark.parametrize("major", LEAN)
def test_runtime_that_cannot_start_is_told_and_never_touched(major: int) -> None:
    """Without a driver it is an object that ends the process with SIGSEGV when it is deleted."""
    environment = lean_environment(major)
    environment["PYTHONPATH"] += f":{PLUGINS.parent / 'runtime'}"
    command = [sys.executable, "-c", START]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    if not done.stdout:
        pytest.skip("this machine has a GPU, on which it starts")
    assert f"the Runtime of tensorrt_lean_bindings {LEAN[major]} does not start on this machine: " in done.stdout
    assert "CUDA initialization failure" in done.stdout and done.stdout.count("\n") == 1
