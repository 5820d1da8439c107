"""What can go wrong in export and comparison, and the exit code of each.

ExportError               1  a defect of ours
├── UsageError            2  options that contradict each other or are out of range
├── ModelInputError       2  a model or checkpoint that cannot be exported or compared
├── ParityError           3  a comparison over its budget
└── PrecisionError        3  an engine whose layers have not the precision asked for

A message says what was received, what was expected, and how to fix it, in one line.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = ["ExportError", "ModelInputError", "ParityError", "PrecisionError", "UsageError"]


class ExportError(Exception):
    """Base of this package's errors. `exit_code` is what a command that fails with it returns."""

    exit_code: ClassVar[int] = 1


class UsageError(ExportError):
    """Options that contradict each other or are out of range."""

    exit_code = 2


class ModelInputError(ExportError):
    """A model or checkpoint that cannot be exported or compared."""

    exit_code = 2


class ParityError(ExportError):
    """A comparison over its budget: the artefact is not the network that it was made from.

    Attributes:
        comparison: the vivim_export.parity.Comparison, for reports.
    """

    exit_code = 3

    def __init__(self, message: str, comparison: Any = None) -> None:
        super().__init__(message)
        self.comparison = comparison


class PrecisionError(ExportError):
    """An engine whose layers have not the precision that was asked for."""

    exit_code = 3
