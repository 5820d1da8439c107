"""Where the exception of a signal would do harm: what is registered here runs to its end first.

Python raises the exception of a signal's handler between any two lines. A handler that asks `may_interrupt` and looks
again a moment later (`vivim_runtime.commands.signals`) spares

- imports: onnx's extension crashes of an exception while it is loaded, and others make another error of it;
- what PyTorch's dispatcher calls back while it traces: an exception that unwinds its C++ frames may abort the process;
- functions that are `undisturbed`: a file that has no name yet is not left behind, and a frame that was given to one
  output is given to all.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

__all__ = ["may_interrupt", "undisturbed"]

_IMPORTING = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
_CALLED_BACK = "__torch_dispatch__"
_undisturbed: set[CodeType] = set()

_Function = TypeVar("_Function", bound=Callable[..., Any])


def undisturbed(function: _Function) -> _Function:
    """Let a function run to its end. Of a generator, its steps: what stands below `yield` is another step."""
    _undisturbed.add(function.__code__)
    return function


def may_interrupt(frame: FrameType | None) -> bool:
    """Whether an exception that is raised in this frame harms nothing."""
    while frame is not None:
        code = frame.f_code
        if code in _undisturbed or code.co_filename in _IMPORTING or code.co_name == _CALLED_BACK:
            return False
        frame = frame.f_back
    return True
