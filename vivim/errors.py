"""What can go wrong in the network, its checkpoints and its training.

VivimError               1  a defect of ours
├── ConfigError          2  a configuration that describes no network
├── InputError           2  a clip that the network cannot take
├── CheckpointError      2  weights that are missing, damaged or of another network
├── DataError            2  training or evaluation data that cannot be used
└── KernelError          2  compiled kernels that are missing, or that cannot take a tensor

Messages say what was received, what was expected and how to fix it. `exit_code` is what a command returns.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = ["CheckpointError", "ConfigError", "DataError", "InputError", "KernelError", "VivimError"]


class VivimError(Exception):
    """Base of this package's errors."""

    exit_code: ClassVar[int] = 1


class ConfigError(VivimError):
    """A configuration that describes no network."""

    exit_code = 2


class InputError(VivimError):
    """A clip that the network cannot take."""

    exit_code = 2


class CheckpointError(VivimError):
    """Weights that are missing, damaged or of another network."""

    exit_code = 2


class DataError(VivimError):
    """Training or evaluation data that cannot be used."""

    exit_code = 2


class KernelError(VivimError):
    """Compiled kernels that are missing, or that cannot take a tensor."""

    exit_code = 2
