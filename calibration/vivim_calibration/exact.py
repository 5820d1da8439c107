"""A session that computes what an int8 file says, and nothing that a CPU's int8 kernels make of it.

ONNX Runtime fuses Q/DQ and a product into one int8 kernel, which adds in another order and, without the option that
vivim_runtime.sessions.base sets, overflows on x86 without VNNI (docs/int8.md). So layers are ranked, and files for
other devices are judged, without fusing.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from vivim_runtime.errors import ModelError
from vivim_runtime.sessions.base import Clips, Logits, ModelInfo, model_input
from vivim_runtime.sessions.onnx import onnx_runtime

__all__ = ["ExactSession"]


class ExactSession:
    """Rounding where the file has Q/DQ, float32 in between; on the CPU. A vivim_runtime.sessions.base.Session."""

    backend, device = "ONNX Runtime, not fused", "cpu"

    def __init__(self, path: Path, threads: int = 0) -> None:
        """ModelError where ONNX Runtime cannot load the file."""
        runtime = onnx_runtime("calibration")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.enable_cpu_mem_arena = False  # as for vivim_calibration.calibration: memory before speed
        # Quantised kernels come with the extended optimisations.
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            self._session: Any = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"{path} does not run in ONNX Runtime: {str(error).splitlines()[0]}") from None
        self.info = ModelInfo.from_metadata(path, dict(self._session.get_modelmeta().custom_metadata_map))
        self._input = self._session.get_inputs()[0].name

    def __call__(self, clips: Clips) -> Logits:
        """uint8 RGB (B, T, H, W, 3) at the model's size -> float32 logits (B, T, K, H, W)."""
        logits: Logits = self._session.run(["logits"], {self._input: model_input(self.info, clips)})[0]
        return logits

    def warm_up(self) -> None:
        """Nothing to do: this session is not timed."""

    def __enter__(self) -> ExactSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None
