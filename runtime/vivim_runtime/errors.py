"""What can go wrong at run time, and the exit code of each.

VivimRuntimeError               1  a defect of ours, or of the machine
├── CudaError                   1  a call of CUDA or TensorRT that failed while an engine ran
├── UsageError                  2  options that contradict each other or are out of range
├── SourceError                 2  a video, folder or DICOM file that cannot be read
├── DataError                   2  a data set, or a frame or mask of it, that cannot be used
├── SinkError                   2  an output that cannot be written
├── ModelError                  2  a model file that is missing, damaged or not ours
├── MissingExtraError           2  an optional dependency that is not installed
├── PluginError                 2  a TensorRT plugin that is missing or does not load
└── IncompatibleEngineError     4  an engine and a machine, library or plugin that do not match

A message says what was received, what was expected, and how to fix it, in one line.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CudaError",
    "DataError",
    "IncompatibleEngineError",
    "MissingExtraError",
    "ModelError",
    "PluginError",
    "SinkError",
    "SourceError",
    "UsageError",
    "VivimRuntimeError",
]


class VivimRuntimeError(Exception):
    """Base of this package's errors. `exit_code` is what a command that fails with it returns."""

    exit_code: ClassVar[int] = 1


class CudaError(VivimRuntimeError):
    """A call of CUDA or TensorRT that failed while an engine ran."""


class UsageError(VivimRuntimeError):
    """Options that contradict each other or are out of range."""

    exit_code = 2


class SourceError(VivimRuntimeError):
    """A video, image folder, DICOM file or other source that cannot be read."""

    exit_code = 2


class DataError(VivimRuntimeError):
    """A data set to train or evaluate on, or a frame or mask of it, that cannot be used."""

    exit_code = 2


class SinkError(VivimRuntimeError):
    """An output that cannot be written."""

    exit_code = 2


class ModelError(VivimRuntimeError):
    """A model file that is missing, damaged or not written by vivim-export."""

    exit_code = 2


class MissingExtraError(VivimRuntimeError):
    """An optional dependency that is not installed."""

    exit_code = 2

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'vivim-edge[{extra}]'")


class PluginError(VivimRuntimeError):
    """A TensorRT plugin that is missing or does not load."""

    exit_code = 2


class IncompatibleEngineError(VivimRuntimeError):
    """An engine that this machine must not load: built for another GPU, library or plugin, or not the file recorded."""

    exit_code = 4
