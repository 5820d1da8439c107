"""The sides of a comparison that the runtime alone cannot open: bf16 ONNX files, which are emulated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from vivim_export.emulation import without_bfloat16
from vivim_runtime.sessions import open_session, runner_of
from vivim_runtime.sessions.base import Session
from vivim_runtime.sessions.onnx import OnnxSession

__all__ = ["EmulatedSession", "open_artefact", "open_runner"]


def open_runner(
    name: str,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    device: str = "auto",
    threads: int = 0,
) -> Session:
    """A checkpoint as vivim.session.open_runner opens it, or a model file as `open_artefact` does."""
    if Path(name).suffix.lower() == ".onnx":
        return open_artefact(Path(name), device, threads)
    return runner_of(name)(name, size, frames, device, threads)


def open_artefact(path: Path, device: str = "auto", threads: int = 0) -> Session:
    """A session for a model file, as vivim_runtime.open_session gives it; a bf16 ONNX file is emulated."""
    if path.suffix == ".onnx" and path.is_file() and _is_bfloat16(path):
        return EmulatedSession(path, device, threads)
    return open_session(path, device, threads)


def _is_bfloat16(path: Path) -> bool:
    try:
        model = onnx.load(path)
    except Exception:  # protobuf's own; whoever opens the file says what is wrong with it
        return False
    return any(entry.key == "vivim.precision" and entry.value == "bf16" for entry in model.metadata_props)


class EmulatedSession(OnnxSession):
    """A bf16 file in ONNX Runtime, which has no bf16 convolutions: float32 rounded to bf16 after every operation."""

    backend = "ONNX Runtime, bf16 emulated"

    def __init__(self, path: Path, device: str = "auto", threads: int = 0) -> None:
        with TemporaryDirectory() as folder:
            emulated = Path(folder) / path.name
            onnx.save(without_bfloat16(onnx.load(path)), emulated)
            super().__init__(emulated, device, threads)
        self.info = replace(self.info, path=path)
