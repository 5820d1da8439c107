"""The sides of a comparison that this package adds to those of the runtime: bf16 ONNX files, which are emulated."""

from __future__ import annotations

from pathlib import Path

from vivim_runtime.sessions import runner_of
from vivim_runtime.sessions.base import Session

__all__ = ["open_runner"]


def open_runner(
    name: str,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    device: str = "auto",
    threads: int = 0,
) -> Session:
    """A checkpoint as vivim.session.open_runner opens it, or a model file as `open_artefact` does."""
    if Path(name).suffix.lower() == ".onnx":
        from vivim_export.emulation import open_artefact  # needs onnx, which `vivim-export --help` does without

        return open_artefact(Path(name), device, threads)
    runner = runner_of(name)
    if runner is open_runner:  # in installations of before, whose metadata name this function for checkpoints
        from vivim.session import open_runner as open_checkpoint

        return open_checkpoint(name, size, frames, device, threads)
    return runner(name, size, frames, device, threads)
