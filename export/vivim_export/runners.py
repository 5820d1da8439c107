"""The sides of a comparison: whatever computes logits from clips, behind the interface of the runtime's sessions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np
import onnx
import torch

from vivim.checkpoint import load_checkpoint, resolve_weights
from vivim.model import Vivim, stage_sizes
from vivim.training.batches import normalised
from vivim_export.description import describe
from vivim_export.emulation import without_bfloat16
from vivim_runtime.files import sha256_file
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.base import Clips, Logits, ModelInfo, Session
from vivim_runtime.sessions.onnx import OnnxSession

__all__ = ["EmulatedSession", "TorchSession", "is_checkpoint", "open_artefact", "open_runner"]

_CHECKPOINTS = {".safetensors", ".pth", ".pt", ".ckpt", ".bin", ""}


def is_checkpoint(name: str) -> bool:
    """Whether a name stands for weights (a checkpoint file, or shipped weights such as `tiny`)."""
    return Path(name).suffix.lower() in _CHECKPOINTS


def open_runner(
    name: str, size: tuple[int, int], frames: int | None = None, device: str = "auto", threads: int = 0
) -> Session:
    """A side of a comparison.

    Args:
        name: a model file that the runtime can open, or a checkpoint, which then runs in PyTorch on the CPU.
        size: (H, W) at which a checkpoint runs; a model file has its own.
        frames: T at which a checkpoint runs; default what it says.
        device, threads: as for vivim_runtime.open_session.

    Raises:
        ModelError, CheckpointError, UsageError: exit code 2.
    """
    if not is_checkpoint(name):
        return open_artefact(Path(name), device, threads)
    path = resolve_weights(name)
    if threads:
        torch.set_num_threads(threads)
    return TorchSession(load_checkpoint(path, frames), size, path, sha256_file(path))


def open_artefact(path: Path, device: str = "auto", threads: int = 0, bodies: bool = False) -> Session:
    """A session for a model file, as vivim_runtime.open_session gives it; a bf16 ONNX file is emulated.

    `bodies`: an ONNX file computes the scan itself, as in a runtime that has not our operators.
    """
    if path.suffix == ".onnx" and path.is_file() and _is_bfloat16(path):
        return EmulatedSession(path, device, threads, bodies)
    return OnnxSession(path, device, threads, bodies=True) if bodies else open_session(path, device, threads)


def _is_bfloat16(path: Path) -> bool:
    try:
        model = onnx.load(path)
    except Exception:  # protobuf's own; whoever opens the file says what is wrong with it
        return False
    return any(entry.key == "vivim.precision" and entry.value == "bf16" for entry in model.metadata_props)


class EmulatedSession(OnnxSession):
    """A bf16 file in ONNX Runtime, which has no bf16 convolutions: float32 rounded to bf16 after every operation."""

    def __init__(self, path: Path, device: str = "auto", threads: int = 0, bodies: bool = False) -> None:
        with TemporaryDirectory() as folder:
            emulated = Path(folder) / path.name
            onnx.save(without_bfloat16(onnx.load(path)), emulated)
            super().__init__(emulated, device, threads, bodies=bodies)
        self.backend = "ONNX Runtime, bf16 emulated"
        self.info = replace(self.info, path=path)


class TorchSession:
    """A network in PyTorch on the CPU, in float32: the truth that artefacts are measured against."""

    backend, device = "PyTorch", "cpu"

    def __init__(self, model: Vivim, size: tuple[int, int], path: Path, weights_sha256: str) -> None:
        stage_sizes(model.config, *size)  # raises for a size that the network cannot take
        self._model = model.eval()
        self.info = ModelInfo.from_metadata(path, describe(model, size, weights_sha256))

    def __call__(self, clips: Clips) -> Logits:
        """uint8 RGB (B, T, H, W, 3) -> float32 logits (B, T, K, H, W)."""
        with torch.inference_mode():
            logits: Logits = self._model(normalised(clips)).logits.numpy()
        return logits

    def warm_up(self) -> None:
        """Run once on black pixels."""
        self(np.zeros((1, self.info.frames, *self.info.size, 3), np.uint8))

    def __enter__(self) -> TorchSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
