"""A checkpoint's ONNX file, made once and kept: for commands that run a model and were given weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import vivim
import vivim_export
from vivim.checkpoint import resolve_weights
from vivim_export.onnx_export import OnnxOptions, export_onnx
from vivim_runtime.errors import UsageError
from vivim_runtime.files import cache_folder, sha256_file
from vivim_runtime.installation import installed_version

__all__ = ["cached_onnx"]


def cached_onnx(weights: str, say: Callable[[str], None] = lambda text: None) -> Path:
    """The float32 file of a checkpoint, as `vivim-export onnx` writes and proves it; from the cache where it is there.

    Args:
        weights: anything that `vivim.load_checkpoint` takes.
        say: told what is done.

    Raises:
        CheckpointError: there are no such weights.
        ParityError: the file would not be the network.
        UsageError: this user has no place for a cache.
    """
    folder = cache_folder()
    if folder is None:
        raise UsageError(f"{weights} is a checkpoint, and there is no home folder for its ONNX file; export it first")
    path = resolve_weights(weights)
    # Of what the file depends on: the weights, and the code that makes it.
    digest = hashlib.sha256(f"{sha256_file(path)} {installed_version()} {_sources()}".encode()).hexdigest()
    file = folder / "models" / f"{path.stem}-{digest[:12]}.onnx"
    if not file.is_file():
        export_onnx(path, file, OnnxOptions(), on_stage=say)
    return file


def _sources() -> str:
    """A digest of the code that exports; a checkout changes without a new version."""
    digest = hashlib.sha256()
    for package in (vivim, vivim_export):
        for module in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            digest.update(module.read_bytes())
    return digest.hexdigest()
