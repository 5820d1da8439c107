"""A network in PyTorch behind the interface of the runtime's sessions, and what a model file says about itself.

`vivim_runtime.sessions.runner_of` finds `open_runner` by the entry points `vivim.runners`, so that every command of the
runtime takes a checkpoint where PyTorch is installed. Nothing here needs onnx.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import torch

from vivim.checkpoint import Training, load_checkpoint, read_training, resolve_weights
from vivim.model import Vivim, VivimOutput, stage_sizes
from vivim.preprocessing import normalised
from vivim_runtime.errors import UsageError
from vivim_runtime.files import sha256_file
from vivim_runtime.sessions.base import (
    ClassInfo,
    Clips,
    Logits,
    ModelInfo,
    Session,
    StateInfo,
    Stream,
    no_stream,
    states_to_json,
)

__all__ = ["TorchSession", "describe", "open_runner", "weights_digest"]

_OUTLINE = ClassInfo("outline", (255, 255, 255))
_FORMAT = "1"
_STREAMING_FORMAT = "2"  # which versions before cannot run, and say so
# Distinct and visible on grey-scale images; repeated when there are more classes.
_COLORS = ((0, 230, 118), (255, 193, 7), (3, 169, 244), (233, 30, 99), (156, 39, 176), (255, 87, 34))
_NO_TOOLS: Mapping[str, str] = MappingProxyType({})
_NO_CODES: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType({})


def describe(
    model: Vivim,
    size: tuple[int, int],
    weights_sha256: str,
    training: Training,
    *,
    batch: int | None = None,
    raw_input: bool = False,
    precision: str = "fp32",
    tools: Mapping[str, str] = _NO_TOOLS,
    codes: Mapping[str, Mapping[str, Sequence[str]]] = _NO_CODES,
    states: Sequence[StateInfo] = (),
) -> dict[str, str]:
    """What a network that takes frames of `size` (H, W) says about itself; ModelInfo.from_metadata reads it.

    Args:
        training: what the weights say of their training; it goes with them, whatever size they are now for.
        batch: clips a call; None is any number.
        raw_input: float32, normalised outside, instead of pixels.
        tools: versions of what made the file, besides PyTorch.
        codes: of classes by name, `category` and `type` in DICOM's words (vivim_runtime.sessions.base.ClassInfo).
        states: of a streaming network's file, which output feeds which input.

    Raises:
        UsageError: codes of a class that there is not, or that are none.
    """
    config = model.config
    classes: list[dict[str, Any]] = [
        {"name": name, "color": _COLORS[index % len(_COLORS)], **codes.get(name, {})}
        for index, name in enumerate(config.classes)
    ]
    _check_codes(codes, config.classes, classes)
    versions = {
        "vivim-edge": importlib.metadata.version("vivim-edge"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        **tools,
    }
    streaming = {"vivim.streaming": "1", "vivim.states": states_to_json(states)} if config.streaming else {}
    return {
        "vivim.format": _STREAMING_FORMAT if config.streaming else _FORMAT,
        "vivim.config": config.to_json(),
        "vivim.preset": config.preset_name,
        "vivim.frames": str(config.frames),
        "vivim.height": str(size[0]),
        "vivim.width": str(size[1]),
        "vivim.batch": "dynamic" if batch is None else str(batch),
        "vivim.input": "float32" if raw_input else "uint8",
        "vivim.mean": json.dumps(training.contract.mean),
        "vivim.std": json.dumps(training.contract.std),
        "vivim.classes": json.dumps(classes),
        "vivim.precision": precision,
        "vivim.weights_sha256": weights_sha256,
        "vivim.versions": json.dumps(versions, sort_keys=True),
        **training.metadata("vivim."),
        **streaming,
    }


def _check_codes(
    codes: Mapping[str, Mapping[str, Sequence[str]]], names: Sequence[str], classes: Sequence[Mapping[str, Any]]
) -> None:
    expected = '{"CLASS": {"category": [value, scheme, meaning], "type": [value, scheme, meaning]}}'
    unknown = sorted(set(codes) - set(names))
    if unknown:
        raise UsageError(f"codes of {', '.join(unknown)}; the classes are {', '.join(names)}")
    wrong = sorted({key for given in codes.values() for key in given} - {"category", "type"})
    try:
        for entry in classes:
            ClassInfo.from_json(entry)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"codes that are none ({error}); expected {expected}") from None
    if wrong:
        raise UsageError(f"codes have {', '.join(wrong)}; expected {expected}")


def weights_digest(model: Vivim) -> str:
    """SHA-256 over names and bytes of the weights, for a network that came from no file."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def open_runner(
    name: str,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    device: str = "auto",
    threads: int = 0,
) -> Session:
    """A checkpoint as a session; it runs in PyTorch on the CPU, in float32.

    Args:
        name: a checkpoint file, or shipped weights such as `tiny`.
        size, frames: (H, W) and T; None for those of its training.
        device: of model files; PyTorch is the reference, and stays on the CPU.
        threads: CPU threads; 0 leaves the number to PyTorch.

    Raises:
        CheckpointError, ConfigError, InputError, UsageError: exit code 2.
    """
    if threads < 0:
        raise UsageError(f"--threads is {threads}; expected 0 (automatic) or more")
    path = resolve_weights(name)
    if threads:
        torch.set_num_threads(threads)
    training = read_training(path)
    model = load_checkpoint(path, frames)
    return TorchSession(model, size or training.contract.size, path, sha256_file(path), training)


class TorchSession:
    """A network in PyTorch on the CPU, in float32: the truth that artefacts are measured against."""

    backend, device = "PyTorch", "cpu"

    def __init__(
        self, model: Vivim, size: tuple[int, int], path: Path, weights_sha256: str, training: Training
    ) -> None:
        stage_sizes(model.config, *size)  # raises for a size that the network cannot take
        self._model, self._outlines = model.eval(), False
        batch = 1 if model.config.streaming else None
        self.info = ModelInfo.from_metadata(path, describe(model, size, weights_sha256, training, batch=batch))

    def with_outlines(self) -> TorchSession | None:
        """The same with what the edge head says as a last class, "outline"; None where the network has no edge head."""
        if self._model.edge_head is None:
            return None
        session = copy.copy(self)
        session._outlines = True
        session.info = dataclasses.replace(self.info, classes=(*self.info.classes, _OUTLINE))
        return session

    def __call__(self, clips: Clips) -> Logits:
        """uint8 RGB (B, T, H, W, 3) -> float32 logits (B, T, K, H, W)."""
        if self.info.streaming:
            return Stream(self)(clips)
        with torch.inference_mode():
            return self._said(self._model(normalised(clips, self.info.mean, self.info.std)))

    def step(self, frames: Clips, states: Any) -> tuple[Logits, Any]:
        """One more frame of a streaming network; see vivim_runtime.sessions.base.Session."""
        if not self.info.streaming:
            raise no_stream(self.info)
        with torch.inference_mode():
            output, after = self._model.run(normalised(frames, self.info.mean, self.info.std), states)
            return self._said(output), after

    def _said(self, output: VivimOutput) -> Logits:
        logits = output.logits
        if self._outlines:
            assert output.edge is not None
            logits = torch.cat((logits, output.edge), dim=2)
        said: Logits = logits.numpy()
        return said

    def warm_up(self) -> None:
        """Run once on black pixels."""
        self(np.zeros((1, self.info.frames, *self.info.size, 3), np.uint8))

    def __enter__(self) -> TorchSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
