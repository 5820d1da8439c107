"""nvcc's own PTX of every kernel, run on the CPU: what the GPU's driver gets, against the float64 loop.

test_kernels.py runs the sources as g++ compiles them; here nvcc's front end has had its say, with the inline assembly,
the asynchronous copies and the shuffles of the GPU's branch. tests/plugins/ptx translates. Not shown: what ptxas makes
of it (test_cubins.py looks at that), and timing.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.plugins.kernel_library import LIBRARY_SOURCES, PLUGINS, compile_emulated, load_script, load_tool
from tests.plugins.test_kernels import TOLERANCES, Case, distance, scan_arguments, scan_reference
from vivim.scan.kernels import KernelLibrary
from vivim.scan.reference import causal_conv1d_reference

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "ptx"
# Turing has no asynchronous copies; 80 and 87 differ in their name alone; 90 converts bf16 by itself; 120 comes from
# another front end of nvcc.
ARCHITECTURES = (75, 80, 87, 90, 120)
ODD = Case(gate_width=49)


def ptx_of(architecture: int, folder: Path) -> str:
    nvcc = load_tool("cuda_tools").find_tool("nvcc")
    if nvcc is None:
        pytest.skip("nvcc not found: install the extra cuda-build or a CUDA toolkit")
    virtual = f"compute_{architecture}"
    command = [
        nvcc,
        "-std=c++17",
        "-O3",
        f"-arch={virtual}",
        f"-code={virtual}",
        "-ptx",
        "-I",
        str(PLUGINS / "include"),
    ]
    output = folder / f"{architecture}.ptx"
    subprocess.run([*command, "-o", str(output), str(PLUGINS / "kernels.cu")], check=True, capture_output=True)
    # Without its name, so that what is equal is compiled once.
    return re.sub(r"^(\.target .*|//.*)$", "", output.read_text(), flags=re.MULTILINE)


def library(ptx: str, folder: Path) -> Path:
    """The kernels of a PTX in the place of those that g++ compiles: theirs are weak symbols, these are not."""
    source = folder / "ptx.cpp"
    run = hashlib.sha256((HERE / "ptx_run.h").read_bytes()).hexdigest()
    source.write_text(f"{load_script(HERE / 'translate.py').translate(ptx)}\n// ptx_run.h {run}\n")
    # Without optimisation: it takes longer than what it saves.
    options = ["-O0", "-g0", "-w", "-fPIC", "-shared", "-I", str(HERE)]
    return compile_emulated("libvivim_ptx.so", [*LIBRARY_SOURCES, source], options)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ptx_of_every_kernel_and_tactic_is_right(architecture: int, tmp_path: Path) -> None:
    ptx = ptx_of(architecture, tmp_path)
    path = library(ptx, tmp_path)
    kernels = KernelLibrary(path)
    assert load_tool("small_shapes").check(kernels, "cpu") == []
    # 160 frames: the column order's steps cross tiles and chunks everywhere. And a gate whose rows are not aligned.
    for case in (
        Case(rows=160, columns=7, width=16, dtype=torch.float16),
        *(replace(ODD, dtype=t) for t in TOLERANCES),
    ):
        for tactic, name in enumerate(kernels.tactics if case.rows == 160 else kernels.tactics[:1]):
            value = kernels.selective_scan(*scan_arguments(case), case.rows, case.directions, case.mean, tactic)
            assert distance(value, scan_reference(case)) <= TOLERANCES[case.dtype], name
    for dtype, tolerance in TOLERANCES.items():
        g = torch.Generator().manual_seed(3)
        x, weight, bias = (torch.randn(*shape, generator=g) for shape in ((1, 35, 17), (3, 8, 4), (3, 8)))
        value = kernels.causal_conv1d(x.to(dtype), weight, bias, 5, [0, 1, 2])
        assert distance(value, causal_conv1d_reference(x.to(dtype), weight, bias, 5, [0, 1, 2])) <= tolerance
    # All of it was the translated PTX, and all of that ran.
    asked = ctypes.CDLL(str(path)).vivim_ptx_ran
    asked.restype = ctypes.c_char_p
    assert set(asked().decode().split()) == set(re.findall(r"\.visible \.entry (\w+)", ptx))


def test_shuffle_with_a_wrong_segment_is_noticed(tmp_path: Path) -> None:
    """The proof that these tests can fail: lanes of another channel take part in a scan of 8 lanes."""
    ptx = ptx_of(80, tmp_path)
    segment = (32 - 8) << 8
    assert f", {segment}, -1;" in ptx
    path = library(ptx.replace(f", {segment}, -1;", ", 0, -1;"), tmp_path)
    wrong = load_tool("small_shapes").check(KernelLibrary(path), "cpu")
    assert wrong and all(line.startswith("time-split s8") for line in wrong)


def test_instruction_that_is_not_known_ends_the_translation() -> None:
    ptx = """
.extern .shared .align 16 .b8 shared[];
.visible .entry kernel(
	.param .align 8 .b8 kernel_param_0[8]
)
{
	.reg .f32 %f<3>;
	sin.approx.f32 	%f1, %f2;
	ret;
}
"""
    with pytest.raises(ValueError, match=r"kernel: the instruction sin\.approx\.f32"):
        load_script(HERE / "translate.py").translate(ptx)
