"""A small exported network and clips, made once: tracing takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sharing import Shared
from vivim.checkpoint import load_checkpoint, resolve_weights
from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx

SIZE = (128, 128)
FRAMES = 3


def clips_of(seed: int, clips: int = 1) -> str:
    """The name of a phantom with some whole clips of the model."""
    return f"phantom:?seed={seed}&frames={FRAMES * clips}&size={SIZE[0]}x{SIZE[1]}"


@pytest.fixture(scope="session")
def exported(shared: Shared) -> Path:
    """The demo weights with T = 3 for frames of 128 x 128: trained ones, whose masks mean something."""

    def make(folder: Path) -> None:
        model = load_checkpoint(resolve_weights("tiny"), FRAMES)
        save_onnx(onnx_from_model(model, OnnxOptions(size=SIZE)), folder / "net.onnx")

    return shared("calibrated", make) / "net.onnx"
