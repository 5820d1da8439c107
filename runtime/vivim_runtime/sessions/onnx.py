"""ONNX Runtime, silenced: official Linux builds from 1.29 on report sessions, file names among them, to their maker."""

from __future__ import annotations

import importlib
import os
from typing import Any

from vivim_runtime.errors import MissingExtraError

__all__ = ["onnx_runtime"]


def onnx_runtime(what: str) -> Any:
    """The module, without telemetry: nothing about models or patients' machines leaves them.

    Args:
        what: what needs it, for the message.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # is read when it is imported, so it comes before that
    try:
        runtime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError:
        raise MissingExtraError(what, "cpu") from None
    runtime.disable_telemetry_events()  # of a program that had imported it before us
    return runtime
