"""Builds libvivim_trt.so and runs its nodes, for the tests of this folder; skips where it cannot be built.

The folders are those of the CMake presets, which git ignores: only the first run compiles everything.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

__all__ = ["TRT_TYPES", "Node", "build"]

PLUGINS = Path(__file__).parents[2] / "plugins"
TARGETS = ["vivim_trt", "vivim_trt_register", "vivim_trt_host_test", "vivim_trt_drive"]
# nvinfer1::DataType
TRT_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 7}


def build(preset: str) -> Path:
    """The folder of libvivim_trt.so, libvivim_kernels.so, libvivim_trt_drive.so and vivim_trt_host_test.

    Args:
        preset: `emulated`, which computes on the CPU, or `gpu`.
    """
    reason = _build(preset)
    if reason:
        pytest.skip(reason)
    return PLUGINS / "build" / preset


@functools.cache
def _build(preset: str) -> str:
    """Empty, or why it cannot be built here."""
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not found: install CMake and a C++17 compiler to test the TensorRT plugin"
    # Given even where empty: a folder named in an earlier run must not stay in CMake's cache.
    headers = [f"-D{name}={os.environ.get(name, '')}" for name in ("VIVIM_TENSORRT_INCLUDE", "TENSORRT_ROOT")]
    if "vivim_trt: not built" in _run(["cmake", "--preset", preset, *headers]):
        return (
            "TensorRT's headers were not found: set VIVIM_TENSORRT_INCLUDE to the folder of NvInfer.h or TENSORRT_ROOT "
            "to an unpacked TensorRT (docs/plugin.md says where to get them)"
        )
    _run(["cmake", "--build", "--preset", preset, "--target", *TARGETS, "--parallel", "2"])
    return ""


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=PLUGINS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout


class Node:
    """A plugin that has been through an engine, on tensors of the host or the GPU (trt/drive.cpp)."""

    def __init__(self, folder: Path, name: str, rows: int, directions: list[int], mean: int = -1) -> None:
        self.drive = ctypes.CDLL(str(folder / "libvivim_trt_drive.so"))
        self.drive.drive_make.restype = ctypes.c_void_p
        self.drive.drive_error.restype = ctypes.c_char_p
        codes = (ctypes.c_int64 * len(directions))(*directions)
        library = str(folder / "libvivim_trt.so").encode()
        self.handle = ctypes.c_void_p(
            self.drive.drive_make(
                library, name.encode(), ctypes.c_int64(rows), len(directions), codes, ctypes.c_int64(mean)
            )
        )
        if not self.handle:
            raise RuntimeError(self.drive.drive_error().decode())

    @property
    def tactics(self) -> int:
        return int(self.drive.drive_tactics(self.handle))

    def run(self, inputs: list[Tensor], output: Tensor, tactic: int = 0) -> Tensor:
        """Fill `output`; RuntimeError with the plugin's message where it refuses."""
        tensors = [*(tensor.contiguous() for tensor in inputs), output]
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
        pointers = (ctypes.c_void_p * len(inputs))(*(tensor.data_ptr() for tensor in tensors[:-1]))
        status = self.drive.drive_enqueue(
            self.handle,
            tactic,
            *described,
            pointers,
            ctypes.c_void_p(output.data_ptr()),
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
