"""Builds libvivim_trt.so and runs its nodes, for the tests of this folder; skips where it cannot be built.

The folders are those of the CMake presets, which git ignores: only the first run compiles everything.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.plugins.kernel_library import PLUGINS, load_tool
from tests.sharing import alone

__all__ = ["TRT_TYPES", "Node", "build"]

PROGRAMS = ["vivim_trt_host_test", "vivim_trt_registry_test", "vivim_trt_drive"]
TARGETS = ["vivim_trt", "vivim_trt_register", *PROGRAMS]
# nvinfer1::DataType
TRT_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 7}


def build(preset: str, major: int | None = None) -> Path:
    """The folder of libvivim_trt.so, libvivim_trt_register.so, libvivim_kernels.so and the programs of the tests.

    Args:
        preset: `emulated`, which computes on the CPU, or `gpu`.
        major: 10 or 11: for that TensorRT, by the project's own declarations of its interfaces. None: by the headers
            that the environment names or the system has; where it has none, as for 11.
    """
    reason = _build(preset, major)
    if reason:
        pytest.skip(reason)
    return _folder(preset, major)


def _folder(preset: str, major: int | None) -> Path:
    return PLUGINS / "build" / (preset if major is None else f"{preset}-{major}")


@functools.cache
def _build(preset: str, major: int | None) -> str:
    """Empty, or why it cannot be built here."""
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not found: install CMake and a C++17 compiler to test the TensorRT plugin"
    folder = _folder(preset, major)
    configure = ["cmake", "--preset", preset, "-B", str(folder)]
    # Given even where empty: what an earlier run was given must not stay in CMake's cache.
    given = {name: os.environ.get(name, "") for name in ("VIVIM_TENSORRT_INCLUDE", "TENSORRT_ROOT")}
    if major is not None:
        given = dict.fromkeys(given, "")
        configure.append("-DVIVIM_ARCHITECTURES=87")  # it is loaded, and runs on no GPU
    given["VIVIM_TENSORRT_MAJOR"] = str(major or "")
    given["CMAKE_CXX_FLAGS_RELWITHDEBINFO"] = "-O1 -g1"  # of `emulated`: half the time to compile, and the same numbers
    if preset == "gpu" and (nvcc := load_tool("cuda_tools").find_tool("nvcc")):
        configure.append(f"-DVIVIM_NVCC={nvcc}")
    with alone(folder):
        if "vivim_trt: not built" in _run([*configure, *(f"-D{name}={value}" for name, value in given.items())]):
            _run([*configure, "-DVIVIM_TENSORRT_MAJOR=11"])
        _run(["cmake", "--build", str(folder), "--target", *TARGETS, "--parallel", "2"])
    return ""


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=PLUGINS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout


class Node:
    """A plugin that has been through an engine, on tensors of the host or the GPU (trt/drive.cpp)."""

    def __init__(
        self, folder: Path, name: str, rows: int = 0, directions: Sequence[int] = (), mean: int = -1, softplus: int = -1
    ) -> None:
        """`rows` of 0 stands for a node that has none of the first two attributes, -1 for one without the others."""
        given = {"rows": [rows], "directions": list(directions)} if rows else {}
        given |= {k: [v] for k, v in {"mean": mean, "softplus": softplus}.items() if v >= 0}
        values = [value for each in given.values() for value in each]
        self.drive = ctypes.CDLL(str(folder / "libvivim_trt_drive.so"))
        self.drive.drive_make.restype = ctypes.c_void_p
        self.drive.drive_error.restype = ctypes.c_char_p
        library = str(folder / "libvivim_trt.so").encode()
        self.handle = ctypes.c_void_p(
            self.drive.drive_make(
                library,
                name.encode(),
                len(given),
                (ctypes.c_char_p * len(given))(*(key.encode() for key in given)),
                (ctypes.c_int32 * len(given))(*map(len, given.values())),
                (ctypes.c_int64 * len(values))(*values),
            )
        )
        if not self.handle:
            raise RuntimeError(self.drive.drive_error().decode())

    @property
    def tactics(self) -> int:
        return int(self.drive.drive_tactics(self.handle))

    def run(self, inputs: list[Tensor], output: Tensor, tactic: int = 0, state: Tensor | None = None) -> Tensor:
        """Fill `output`, and `state` where there is a second one; RuntimeError with the plugin's message where it
        refuses."""
        outputs = [output] if state is None else [output, state]
        given = [tensor.contiguous() for tensor in inputs]
        tensors = [*given, *outputs]
        sizes = [size for tensor in tensors for size in tensor.shape]
        described = (
            len(tensors),
            (ctypes.c_int32 * len(tensors))(*(TRT_TYPES[tensor.dtype] for tensor in tensors)),
            (ctypes.c_int32 * len(tensors))(*(tensor.dim() for tensor in tensors)),
            (ctypes.c_int64 * len(sizes))(*sizes),
        )
        needed = ctypes.c_size_t()
        self._check(self.drive.drive_workspace(self.handle, *described, ctypes.byref(needed)))
        # A guard behind it: the plugin must not use more than it asked for.
        guard = 4096
        workspace = torch.full((needed.value + guard,), 171, dtype=torch.uint8, device=output.device)
        stream = torch.cuda.current_stream(output.device).cuda_stream if output.is_cuda else None
        pointers = (ctypes.c_void_p * len(inputs))(*(tensor.data_ptr() for tensor in given))
        filled = (ctypes.c_void_p * len(outputs))(*(tensor.data_ptr() for tensor in outputs))
        status = self.drive.drive_enqueue(
            self.handle,
            tactic,
            *described,
            pointers,
            filled,
            ctypes.c_void_p(workspace.data_ptr()),
            ctypes.c_void_p(stream),
        )
        self._check(status)
        assert (workspace[needed.value :] == 171).all()
        return output

    def close(self) -> None:
        self.drive.drive_free(self.handle)

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(self.drive.drive_error().decode())
