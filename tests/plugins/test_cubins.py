"""The kernels as nvcc compiles them: no spills, and registers within a budget. No GPU is needed."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.plugins.kernel_library import PLUGINS

# Registers a thread, from the threads that an SM (65536 registers) should hold: 1024 of the kernels that memory bounds;
# 512 of the state-split scan, 384 where a thread keeps all 16 states; 384 of time-split, which keeps 16 decays and
# inputs a thread and is limited by shared memory to 2 or 3 blocks of 128.
BUDGET = {"causalConv1d": 64, "combine": 64, "stateSplit": 128, "stateSplitEnds": 128, "timeSplit": 168}
ALL_STATES_BUDGET = 168  # stateSplit with one lane a channel
# Instructions per (channel, step, state) of the inner loops: the aims of issue 3 for sm_87.
INSTRUCTIONS = {("stateSplit", 1): 7.7, ("stateSplit", 2): 7.7, ("stateSplit", 4): 7.7, ("timeSplit", 8): 9.2}


def kernel_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_table", PLUGINS / "tools" / "kernel_table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


TABLE = kernel_table()
FAST = (87, 110)  # AGX Orin; and the architecture on which an early version spilled


@pytest.mark.parametrize(
    "architecture", [pytest.param(a, marks=[] if a in FAST else pytest.mark.slow) for a in TABLE.ARCHITECTURES]
)
def test_kernels_compile_without_spills_and_within_their_registers(architecture: int, tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc not found: put a CUDA toolkit on PATH or install the extra cuda-build")
    kernels = TABLE.compile_cubin(architecture, tmp_path / "kernels.cubin")
    assert {k.name for k in kernels} == set(BUDGET)
    assert {k.dtype for k in kernels} == {"fp32", "fp16", "bf16"}
    assert not [k.title for k in kernels if k.spilled]
    budget = {
        k.title: ALL_STATES_BUDGET if k.name.startswith("stateSplit") and k.parameters[0] == 1 else BUDGET[k.name]
        for k in kernels
    }
    assert not [(k.title, k.registers) for k in kernels if k.registers > budget[k.title]]


def test_inner_loops_stay_within_their_instructions(tmp_path: Path) -> None:
    if shutil.which("nvcc") is None or shutil.which("nvdisasm") is None:
        pytest.skip("nvcc and nvdisasm not found: put a CUDA toolkit on PATH")
    cubin = tmp_path / "kernels.cubin"
    kernels = TABLE.compile_cubin(87, cubin)
    TABLE.count_instructions(cubin, kernels)
    counts = {
        (k.name, k.parameters[0]): k.loop / k.triples for k in kernels if k.dtype == "fp16" and k.loop and k.triples
    }
    assert not {key: counts.get(key) for key, limit in INSTRUCTIONS.items() if not counts.get(key, 99) <= limit}
