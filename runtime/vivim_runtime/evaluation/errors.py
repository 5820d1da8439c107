"""What an evaluation adds to the errors of vivim_runtime.errors.

VivimRuntimeError               1
└── AccuracyError               3  a model whose masks are worse than was asked for
"""

from __future__ import annotations

from vivim_runtime.errors import VivimRuntimeError

__all__ = ["AccuracyError"]


class AccuracyError(VivimRuntimeError):
    """A model whose masks are worse than was asked for."""

    exit_code = 3
