"""Exports that several tests look at: made once, since tracing takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vivim import Vivim, VivimConfig, save_checkpoint
from vivim_export.onnx_export import OnnxOptions, export_onnx


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
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny network, T = 3."""
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_checkpoint(path, lively(VivimConfig.preset("tiny", frames=3)))
    return path


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its ONNX file for frames of 64 x 96."""
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(checkpoint, path, OnnxOptions(size=(64, 96)))
    return path
