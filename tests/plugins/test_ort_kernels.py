"""The kernels for the CPU against double precision: plugins/ort/tests/kernels_test.cpp says what it covers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.native_library import BUILD, KERNELS_TEST, program

ON_X86 = platform.machine() in ("x86_64", "AMD64")


def run(*command: str | Path, isa: str = "") -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**os.environ, "VIVIM_CPU_ISA": isa}
    )
    wrong = [line for line in done.stdout.splitlines() if not line.startswith(("ok", "instruction set"))]
    assert done.returncode == 0 and not wrong, "\n".join([*wrong, done.stderr])
    return done.stdout.splitlines()[0].removeprefix("instruction set: ")


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"] if ON_X86 else ["baseline"])
def test_kernels_equal_loops_in_double_precision(isa: str) -> None:
    if isa not in Path("/proc/cpuinfo").read_text() and isa == "avx2":
        pytest.skip("this CPU has no AVX2")
    if isa == "avx512" and "avx512bw" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no AVX-512")
    assert run(program(KERNELS_TEST), "quick", isa=isa) == isa


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"] if ON_X86 else ["baseline"])
def test_kernels_equal_loops_in_double_precision_at_the_sizes_of_b3(isa: str) -> None:
    run(program(KERNELS_TEST), isa=isa)


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(sanitizer: str) -> None:
    run(program(KERNELS_TEST, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-g", "-O1"), "quick")


@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "isa"), [("qemu64", "baseline"), ("max", "avx2")])
def test_another_x86_processor_gets_the_kernels_that_it_can_run(cpu: str, isa: str) -> None:
    """qemu64 has no AVX: an instruction of it would end the program. QEMU has no AVX-512."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None or not ON_X86:
        pytest.skip("qemu-x86_64 not found: install qemu-user to test other x86 processors")
    assert run(emulator, "-cpu", cpu, program(KERNELS_TEST), "quick") == isa


@pytest.mark.slow
def test_neon_kernels_equal_loops_in_double_precision(tmp_path: Path) -> None:
    emulator = shutil.which("qemu-aarch64")
    zig = subprocess.run([sys.executable, "-m", "ziglang", "version"], capture_output=True).returncode == 0
    if emulator is None or not zig:
        pytest.skip("qemu-aarch64 or zig not found: install qemu-user, and pip install ziglang, to test NEON")
    command = (sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-musl", "-static")
    toolchain = BUILD.Toolchain(command, "aarch64", ())
    built = BUILD.build(tmp_path / "kernels_test", toolchain, ("-static",), (KERNELS_TEST,))
    assert run(emulator, built, "quick") == "baseline"
