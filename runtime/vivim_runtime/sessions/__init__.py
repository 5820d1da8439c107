"""What runs a model, chosen by its name: ONNX Runtime, OpenVINO, an engine of TensorRT, or what others register."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import cast

from vivim_runtime.errors import MissingExtraError, ModelError
from vivim_runtime.sessions.base import ClassInfo, Clips, Logits, ModelInfo, Session
from vivim_runtime.sessions.onnx import OnnxSession
from vivim_runtime.sessions.openvino import DEVICE as OPENVINO
from vivim_runtime.sessions.openvino import OpenVinoSession
from vivim_runtime.sessions.tensorrt import TensorRTSession

__all__ = [
    "ClassInfo",
    "Clips",
    "Logits",
    "ModelInfo",
    "Session",
    "is_model_file",
    "model_file",
    "open_session",
    "runner_of",
]

# Distributions register what opens a checkpoint, by its suffix ("safetensors"; "name" for no suffix), as
# function(name, size, frames, device, threads) -> Session. Ours does so for PyTorch; this package imports none of it.
_RUNNERS = "vivim.runners"
# They register, too, what makes an ONNX file of a checkpoint: function(name, say) -> Path.
_EXPORTERS = "vivim.exporters"


def open_session(path: str | Path, device: str = "auto", threads: int = 0) -> Session:
    """A session for a model file.

    Args:
        path: a .onnx or .engine file of vivim-export.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:<index>", or, for ONNX files of
            `--form lowered`, "openvino" (float32) or "openvino:bf16". An engine runs on a GPU only.
        threads: CPU threads; 0 leaves the number to the library.

    Raises:
        ModelError: the file is missing, damaged, or not ours.
        UsageError: the device is unknown or not there.
        IncompatibleEngineError: the engine is not for this machine.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"there is no model {path}; make one with: vivim-export onnx tiny -o {path.name}")
    if path.suffix == ".engine":
        return TensorRTSession(path, device)
    if path.suffix != ".onnx":
        raise ModelError(f"{path} is no model that can be run; expected a .onnx or .engine file of vivim-export")
    if device.partition(":")[0] == OPENVINO:
        return OpenVinoSession(path, device, threads)
    return OnnxSession(path, device, threads)


def is_model_file(name: str) -> bool:
    """Whether a name stands for a model file, which has a size and T of its own, and not for a checkpoint."""
    return Path(name).suffix in (".onnx", ".engine")


def model_file(name: str, say: Callable[[str], None] = lambda text: None) -> Path:
    """The file of a model that can be run: itself, or what a checkpoint was exported to (once, into the cache).

    Args:
        say: told what is done while an export runs.

    Raises:
        MissingExtraError: it is a checkpoint, and what exports it is not installed.
        CheckpointError: there are no such weights.
    """
    suffix = Path(name).suffix.lower().removeprefix(".")
    if Path(name).is_file() and not suffix:
        return Path(name)
    exporters = {}
    for distribution in distributions():
        if any(distribution.entry_points.select(group=_RUNNERS, name=suffix or "name")):
            exporters.update({each.name: each for each in distribution.entry_points.select(group=_EXPORTERS)})
    if "onnx" not in exporters:
        return Path(name)
    try:
        export = cast("Callable[[str, Callable[[str], None]], Path]", exporters["onnx"].load())
        return export(name, say)
    except ModuleNotFoundError:
        raise MissingExtraError(
            f"running the checkpoint {name} (a .onnx file made from it needs no PyTorch)", "export"
        ) from None


def runner_of(name: str) -> Callable[..., Session]:
    """What opens a model: function(name, size, frames, device, threads) -> Session.

    Raises:
        MissingExtraError: it is a checkpoint, and PyTorch is not installed.
    """
    suffix = Path(name).suffix.lower().removeprefix(".") or "name"
    # Not entry_points(): it sees only the first of two copies of a distribution's metadata, and in a checkout that is
    # what an earlier build left behind.
    for distribution in distributions():
        for registered in distribution.entry_points.select(group=_RUNNERS, name=suffix):
            try:
                return cast("Callable[..., Session]", registered.load())
            except ModuleNotFoundError:
                raise MissingExtraError(f"running the checkpoint {name}", "train") from None
    return lambda name, size, frames, device, threads: open_session(name, device, threads)
