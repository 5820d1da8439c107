"""What can go wrong, in all packages, and the exit code of each: one tree with one root.

VivimError                      1  a defect of ours, or of the machine
├── CudaError                   1  a call of CUDA or TensorRT that failed while an engine ran
├── UsageError                  2  options that contradict each other or are out of range
├── SourceError                 2  a video, folder or DICOM file that cannot be read
├── DataError                   2  a data set, or a frame or mask of it, that cannot be used
├── SinkError                   2  an output that cannot be written
├── ModelError                  2  a model that is missing, damaged, not ours, or not fit for what is asked
│   └── NotFiniteError          2  logits that are NaN or infinite, of which no mask can be made
├── MissingExtraError           2  an optional dependency that is not installed
├── PluginError                 2  a TensorRT plugin that is missing or does not load
├── ConfigError                 2  a configuration that describes no network or no training
├── InputError                  2  a clip that the network cannot take
├── CheckpointError             2  weights that are missing, damaged or of another network
├── KernelError                 2  compiled kernels that are missing, or that cannot take a tensor
├── EvidenceError               3  files that are not those that were signed
├── AccuracyError               3  a model whose masks are worse than was asked for
├── ParityError                 3  a comparison over its budget
├── PrecisionError              3  an engine whose layers have not the precision that was asked for
├── VerdictError                3  an int8 model that is over its accuracy budget, or that wins nothing
└── IncompatibleEngineError     4  an engine and a machine, library or plugin that do not match

A message says what was received, what was expected, and how to fix it, in one line.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AccuracyError",
    "CheckpointError",
    "ConfigError",
    "CudaError",
    "DataError",
    "EvidenceError",
    "IncompatibleEngineError",
    "InputError",
    "KernelError",
    "MissingExtraError",
    "ModelError",
    "NotFiniteError",
    "ParityError",
    "PluginError",
    "PrecisionError",
    "SinkError",
    "SourceError",
    "UsageError",
    "VerdictError",
    "VivimError",
    "VivimRuntimeError",
]


class VivimError(Exception):
    """Root of all errors of ours. `exit_code` is what a command that fails with it returns."""

    exit_code: ClassVar[int] = 1


class CudaError(VivimError):
    """A call of CUDA or TensorRT that failed while an engine ran."""


class UsageError(VivimError):
    """Options that contradict each other or are out of range."""

    exit_code = 2


class SourceError(VivimError):
    """A video, image folder, DICOM file or other source that cannot be read."""

    exit_code = 2


class NoPictureError(SourceError):
    """A DICOM object that holds no pictures: a segmentation, a report, a document."""


class DataError(VivimError):
    """Data to train, calibrate or evaluate on, or a frame or mask of them, that cannot be used."""

    exit_code = 2


class SinkError(VivimError):
    """An output that cannot be written."""

    exit_code = 2


class ModelError(VivimError):
    """A model that is missing, damaged or not written by vivim-export, or not fit for what is asked."""

    exit_code = 2


class NotFiniteError(ModelError):
    """Logits that are NaN or infinite: neither a lesion nor none, so no mask can be made of them."""


# Extras that bring PyTorch, of which pip takes the CUDA build, several GB, where none is installed yet.
_WITH_TORCH = ("export", "train")


class MissingExtraError(VivimError):
    """An optional dependency that is not installed."""

    exit_code = 2

    def __init__(self, what: str, extra: str) -> None:
        from vivim_runtime.installation import install_words  # late: it loads half of email, and every command waits

        first = " (install PyTorch first; its CPU build is the small one)" if extra in _WITH_TORCH else ""
        super().__init__(f"{what} needs the extra '{extra}': pip install {install_words(extra)}{first}")


class PluginError(VivimError):
    """A TensorRT plugin that is missing or does not load."""

    exit_code = 2


class ConfigError(VivimError):
    """A configuration that describes no network or no training."""

    exit_code = 2


class InputError(VivimError):
    """A clip that the network cannot take."""

    exit_code = 2


class CheckpointError(VivimError):
    """Weights that are missing, damaged or of another network."""

    exit_code = 2


class KernelError(VivimError):
    """Compiled kernels that are missing, or that cannot take a tensor."""

    exit_code = 2


class EvidenceError(VivimError):
    """Files that are not those that were signed, or a list or key that proves nothing."""

    exit_code = 3


class AccuracyError(VivimError):
    """A model whose masks are worse than was asked for."""

    exit_code = 3


class ParityError(VivimError):
    """A comparison over its budget: the artefact is not the network that it was made from.

    Attributes:
        comparison: the outcome (vivim_runtime.judging.parity.Comparison), for reports.
    """

    exit_code = 3

    def __init__(self, message: str, comparison: Any = None) -> None:
        super().__init__(message)
        self.comparison = comparison


class PrecisionError(VivimError):
    """An engine whose layers have not the precision that was asked for."""

    exit_code = 3


class VerdictError(VivimError):
    """An int8 model that does not earn its place.

    Attributes:
        outcome: the vivim_calibration.procedure.Outcome, for reports.
    """

    exit_code = 3

    def __init__(self, message: str, outcome: Any = None) -> None:
        super().__init__(message)
        self.outcome = outcome


class IncompatibleEngineError(VivimError):
    """An engine that this machine must not load: built for another GPU, library or plugin, or not the file recorded."""

    exit_code = 4


# The root of the runtime before the four trees became one, for callers that catch it.
VivimRuntimeError = VivimError
