"""Vivim in PyTorch: the network, its operators, checkpoints, training and evaluation (arXiv 2401.14168)."""

from vivim.checkpoint import from_segformer, from_upstream, load_checkpoint, save_checkpoint
from vivim.config import VivimConfig
from vivim.model import Vivim, VivimOutput
from vivim_runtime.errors import CheckpointError, ConfigError, DataError, InputError, VivimError

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "InputError",
    "Vivim",
    "VivimConfig",
    "VivimError",
    "VivimOutput",
    "from_segformer",
    "from_upstream",
    "load_checkpoint",
    "save_checkpoint",
]
