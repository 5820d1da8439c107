"""Exports that several tests look at: made once, since tracing takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.sharing import Shared
from vivim import Vivim, VivimConfig, save_checkpoint
from vivim_export.onnx_export import OnnxOptions, export_onnx, onnx_from_model, save_onnx


def lively(config: VivimConfig) -> Vivim:
    """A network that marks about half of a phantom: its output is centred, so that masks compare something."""
    torch.manual_seed(0)
    model = Vivim(config).eval()
    clip = torch.randn(1, config.frames, 3, 64, 64)
    with torch.no_grad():
        logits = model(clip).logits
        model.decoder.classifier.weight /= logits.std()
        model.decoder.classifier.bias -= logits.mean() / logits.std()
    return model


@pytest.fixture(scope="session")
def checkpoint(shared: Shared) -> Path:
    """Tiny network, T = 3."""
    network = VivimConfig.preset("tiny", frames=3)
    return shared("checkpoint", lambda f: save_checkpoint(f / "net.safetensors", lively(network))) / "net.safetensors"


@pytest.fixture(scope="session")
def exported(checkpoint: Path, shared: Shared) -> Path:
    """Its ONNX file for frames of 64 x 96."""
    options = OnnxOptions(size=(64, 96))
    return shared("exported", lambda f: export_onnx(checkpoint, f / "net.onnx", options)) / "net.onnx"


@pytest.fixture(scope="session")
def open_batch(checkpoint: Path, shared: Shared) -> Path:
    """Its ONNX file for any number of clips of 64 x 64, which takes ten seconds to trace."""
    options = OnnxOptions(size=(64, 64), batch=None)
    return shared("open-batch", lambda f: export_onnx(checkpoint, f / "net.onnx", options)) / "net.onnx"


# The size and the numbers of frames of `odd_files`: no length of a sequence divides.
ODD, COUNTS = (67, 45), (1, 5, 8)


@pytest.fixture(scope="session")
def odd_files(shared: Shared) -> Callable[[int], tuple[Vivim, Path]]:
    """A network of so many frames, and its ONNX file for an odd size."""

    def made(frames: int) -> tuple[Vivim, Path]:
        model = lively(VivimConfig.preset("tiny", frames=frames))

        def make(folder: Path) -> None:
            save_onnx(onnx_from_model(model, OnnxOptions(size=ODD)), folder / "net.onnx")

        return model, shared(f"odd-{frames}", make) / "net.onnx"

    return made
