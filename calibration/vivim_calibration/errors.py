"""What can go wrong in calibration, and the exit code of each.

CalibrationError          1  a defect of ours
├── UsageError            2  options that contradict each other or are out of range
├── ModelInputError       2  a model that cannot be quantised
├── DataError             2  clips from which nothing can be learnt, or a cache made from others
└── VerdictError          3  an int8 model that is over its accuracy budget, or that wins nothing

A message says what was received, what was expected, and how to fix it, in one line.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = ["CalibrationError", "DataError", "ModelInputError", "UsageError", "VerdictError"]


class CalibrationError(Exception):
    """Base of this package's errors. `exit_code` is what a command that fails with it returns."""

    exit_code: ClassVar[int] = 1


class UsageError(CalibrationError):
    """Options that contradict each other or are out of range."""

    exit_code = 2


class ModelInputError(CalibrationError):
    """A model that cannot be quantised: no float32 file of vivim-export."""

    exit_code = 2


class DataError(CalibrationError):
    """Clips from which nothing can be learnt, or a cache of ranges made from others."""

    exit_code = 2


class VerdictError(CalibrationError):
    """An int8 model that does not earn its place.

    Attributes:
        outcome: the vivim_calibration.command.Outcome, for reports.
    """

    exit_code = 3

    def __init__(self, message: str, outcome: Any = None) -> None:
        super().__init__(message)
        self.outcome = outcome
