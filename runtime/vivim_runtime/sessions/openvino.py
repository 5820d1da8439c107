"""Models in OpenVINO on a CPU, where it is asked for: `--device openvino`.

OpenVINO runs neither our operators nor their bodies: it takes the file in which they are lowered to standard ones
(`vivim-export onnx --form lowered`). Its CPU plugin computes in bfloat16 by itself where a processor has it, and is
then as far off as bfloat16 is; here it computes in float32 unless `openvino:bf16` asks for the other, and vivim-check
says whether masks survive that.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vivim_runtime.errors import MissingExtraError, ModelError, UsageError
from vivim_runtime.sessions.base import Clips, Logits, ModelInfo, model_input, no_stream
from vivim_runtime.sessions.onnx_file import check_onnx_file
from vivim_runtime.text import printable

__all__ = ["DEVICE", "OpenVinoSession"]

DEVICE = "openvino"
_PRECISIONS = {"": "f32", "f32": "f32", "bf16": "bf16"}


class OpenVinoSession:
    """A model in OpenVINO. Calls may come from one thread at a time."""

    def __init__(self, path: Path, device: str = DEVICE, threads: int = 0) -> None:
        """Open a file; see vivim_runtime.open_session for what is raised.

        Args:
            device: "openvino", which is float32, or "openvino:bf16".
            threads: 0 leaves the number to OpenVINO.
        """
        precision = _PRECISIONS.get(device.partition(":")[2])
        if device.partition(":")[0] != DEVICE or precision is None:
            raise UsageError(f"--device is {device}; expected openvino, which computes in float32, or openvino:bf16")
        if threads < 0:
            raise UsageError(f"--threads is {threads}; expected 0 (automatic) or more")
        try:
            module: Any = importlib.import_module("openvino")
        except ModuleNotFoundError as error:
            if error.name != "openvino":
                raise
            raise MissingExtraError("--device openvino", "openvino") from None
        check_onnx_file(path)
        core = module.Core()
        try:
            model = core.read_model(str(path))
        except Exception as error:  # OpenVINO's exceptions are RuntimeError with several lines
            raise ModelError(_refusal(path, str(error))) from None
        self.info = ModelInfo.from_metadata(path, _metadata(model))
        if self.info.streaming:
            raise ModelError(f"{path} streams, and sessions of OpenVINO keep no states yet; give --device cpu")
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise ModelError(
                f"{path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; expected frames and logits"
            )
        self.info.check_input([_axis(axis) for axis in model.inputs[0].partial_shape])
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": "1"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            self._compiled: Any = core.compile_model(model, "CPU", settings)
        except Exception as error:
            raise ModelError(f"{path} cannot be compiled by OpenVINO: {_last_line(str(error))}") from None
        self.device = "cpu"
        version = str(module.__version__).partition("-")[0]
        self.backend = f"OpenVINO {version}" + (", bf16" if precision == "bf16" else "")

    def __call__(self, clips: Clips) -> Logits:
        """uint8 RGB (B, T, H, W, 3) at the model's size -> float32 logits (B, T, K, H, W)."""
        try:
            found = self._compiled([model_input(self.info, clips)])[0]
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"{self.info.path} failed when it ran: {_last_line(str(error))}") from None
        logits: Logits = np.array(found, np.float32)  # OpenVINO writes the next result into the same memory
        self.info.check_logits(logits.shape, len(clips))
        return logits

    def step(self, frames: Clips, states: object) -> tuple[Logits, object]:
        """Of streaming files, which are not opened here."""
        raise no_stream(self.info)

    def warm_up(self) -> None:
        """Run once on black pixels, so that the first real clip is not the slow one."""
        self(np.zeros((self.info.batch or 1, self.info.frames, *self.info.size, 3), np.uint8))

    def __enter__(self) -> OpenVinoSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._compiled = None


def _metadata(model: Any) -> dict[str, str]:
    """The file's metadata_props, which OpenVINO keeps as what it knows of the framework."""
    try:
        known = model.get_rt_info(["framework"]).value
    except RuntimeError:  # a file without any
        return {}
    return {str(key): str(value) for key, value in known.items()}


def _axis(axis: Any) -> int | None:
    return axis.get_length() if axis.is_static else None


def _refusal(path: Path, text: str) -> str:
    if "vivim." in text or "Scan" in text:
        return (
            f"{path} has operators that OpenVINO has not; export a file without them: "
            "vivim-export onnx --form lowered --weights W -o M.onnx"
        )
    return f"{path} is no ONNX model that OpenVINO can load: {_last_line(text)}"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return printable(lines[-1], 400) if lines else "for a reason that it does not give"
