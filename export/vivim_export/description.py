"""What a model file says about itself: all that a runtime needs (vivim_runtime.sessions.base.ModelInfo reads it)."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform

import onnx
import onnxscript
import torch

from vivim.config import MEAN, STD
from vivim.model import Vivim

__all__ = ["PARITY_KEY", "describe", "weights_digest"]

_FORMAT = "1"
# Where the result of the parity check stands, once it is known.
PARITY_KEY = "vivim.parity"
# Distinct and visible on grey-scale images; repeated when there are more classes.
_COLORS = ((0, 230, 118), (255, 193, 7), (3, 169, 244), (233, 30, 99), (156, 39, 176), (255, 87, 34))


def describe(
    model: Vivim,
    size: tuple[int, int],
    weights_sha256: str,
    *,
    batch: int | None = None,
    raw_input: bool = False,
    precision: str = "fp32",
) -> dict[str, str]:
    """The description of a network that takes frames of `size` (H, W); `batch` None is any number of clips."""
    config = model.config
    classes = [{"name": n, "color": _COLORS[i % len(_COLORS)]} for i, n in enumerate(config.classes)]
    versions = {
        "vivim-edge": importlib.metadata.version("vivim-edge"),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxscript": onnxscript.__version__,
        "python": platform.python_version(),
    }
    return {
        "vivim.format": _FORMAT,
        "vivim.config": config.to_json(),
        "vivim.preset": config.preset_name,
        "vivim.frames": str(config.frames),
        "vivim.height": str(size[0]),
        "vivim.width": str(size[1]),
        "vivim.batch": "dynamic" if batch is None else str(batch),
        "vivim.input": "float32" if raw_input else "uint8",
        "vivim.mean": json.dumps(MEAN),
        "vivim.std": json.dumps(STD),
        "vivim.classes": json.dumps(classes),
        "vivim.precision": precision,
        "vivim.weights_sha256": weights_sha256,
        "vivim.versions": json.dumps(versions, sort_keys=True),
    }


def weights_digest(model: Vivim) -> str:
    """SHA-256 over names and bytes of the weights, for a network that came from no file."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
