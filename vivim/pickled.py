"""Checkpoints that other programs wrote with torch.save: which of their entries are a Vivim network.

Read with weights_only=True. Beside tensors, the options and figures that training scripts store are let through:
`argparse.Namespace`, NumPy scalars, arrays and dtypes, paths. None of them runs code when it is read; whatever else a
file asks for is refused.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivim_runtime.errors import CheckpointError

__all__ = ["ForeignState", "is_torch_file", "network_entries", "read_foreign"]

_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".pt.tar", ".ckpt.tar")
# An entry that every Vivim network has; what stands before it is what wrappers have put before all names.
_ANCHOR = "encoder.downsample_layers.patch_embeddings.0.proj.weight"
_ROOTS = ("encoder.", "decoder.", "out.", "edgeocr_cls_head.")
# Words for weights that were averaged over training (exponential moving averages).
_AVERAGED = ("ema", "averaged", "shadow", "swa", "teacher")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_DEPTH = 4
_MOST_PACKED = 1 << 30  # bytes; of a checkpoint that somebody packed again, which is a few hundred MB
_MOST_ENTRIES = 100_000
# What thop and torch.optim.swa_utils leave among a network's entries.
_COUNTERS = ("total_ops", "total_params", "n_averaged")
# Networks and constants of losses, where they stand beside a network without prefix.
_LOSSES = ("criterion.", "loss.", "loss_fn.", "losses.", "perceptual", "lpips.", "vgg.", "metrics.", "metric.")


class _AttributeDict(dict[str, Any]):
    """Stands for Lightning's class of the same name, which is a dictionary."""


def _harmless() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What may be made of a file besides tensors, under all names that it was pickled by."""
    from numpy._core import multiarray  # type: ignore[attr-defined, unused-ignore]

    scalar, rebuilt = multiarray.scalar, multiarray._reconstruct
    found: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        argparse.Namespace,
        collections.OrderedDict,
        np.dtype,
        np.ndarray,
        *[getattr(np.dtypes, name) for name in np.dtypes.__all__ if name != "ObjectDType"],
        pathlib.PosixPath,
        pathlib.PurePosixPath,
        (pathlib.PureWindowsPath, "pathlib.WindowsPath"),
        pathlib.PureWindowsPath,
    ]
    for package in ("numpy._core.multiarray", "numpy.core.multiarray"):
        found += [(scalar, f"{package}.scalar"), (rebuilt, f"{package}._reconstruct")]
    for module in ("lightning.fabric.utilities.data", "lightning_fabric.utilities.data"):
        found.append((_AttributeDict, f"{module}.AttributeDict"))
    found.append((_AttributeDict, "pytorch_lightning.utilities.parsing.AttributeDict"))
    return found


@dataclass(frozen=True)
class ForeignState:
    """A state dict, and what to know about which entries were taken."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def is_torch_file(path: Path) -> bool:
    """Whether a file is named like one that torch.save wrote: .pth, .pt, .ckpt, .bin, .pth.tar, in any case."""
    return path.name.lower().endswith(_SUFFIXES)


def read_foreign(path: Path, ema: bool = False) -> ForeignState:
    """The state dict in a torch file, out of whatever it is wrapped in.

    Args:
        ema: take the averaged weights where a file has both.

    Raises:
        CheckpointError: the file is missing, damaged, holds objects that would run code, or no state dict.
    """
    if not is_torch_file(path):
        raise CheckpointError(f"{path}: expected a file ending in .safetensors, {', '.join(_SUFFIXES)}")
    content = _unpickled(path)
    candidates = list(_state_dicts(content, "", _DEPTH))
    networks = [(name, state) for name, state in candidates if _prefixes(state)]
    if networks:
        return _chosen(networks, path, ema)
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a state dict")
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; expected a state dict")
    return ForeignState(tensors)


def _check_unpacked(path: Path) -> None:
    """Refuse an archive that unpacks to more than it holds: torch.save does not pack, and reading sets all aside."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError):
        return  # the reader says what it is
    plain = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED)
    packed = sum(entry.file_size for entry in entries) - plain
    if packed > _MOST_PACKED or plain > path.stat().st_size or len(entries) > _MOST_ENTRIES:
        raise CheckpointError(
            f"{path} unpacks to {(packed + plain) >> 20} MiB in {len(entries)} entries; expected what torch.save writes"
        )


def _unpickled(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_harmless()):
            _check_unpacked(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors, options and numbers (or is no checkpoint), and running them "
            "is unsafe; save its state dict alone: torch.save(model.state_dict(), 'weights.pth')"
        ) from None
    except Exception as error:  # on bytes that are no pickle torch's reader raises anything, KeyError among them
        raise CheckpointError(f"{path} is no readable checkpoint ({error!r}); is it complete?") from None


def _state_dicts(content: Any, name: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The dictionaries of tensors within a file, each with where it was: `state_dict`, `ema.module`."""
    if not isinstance(content, Mapping) or depth < 0:
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield name, tensors
    for key, value in content.items():
        if isinstance(key, str):
            yield from _state_dicts(value, f"{name}.{key}" if name else key, depth - 1)


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """What stands before the names of a Vivim network: once for each network among the entries."""
    return [key.removesuffix(_ANCHOR) for key in state if key.endswith(_ANCHOR) and _is_prefix(key)]


def _is_prefix(key: str) -> bool:
    before = key.removesuffix(_ANCHOR)
    return not before or before.endswith(".")


def _is_averaged(name: str) -> bool:
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    return any(word in words for word in _AVERAGED)


def _chosen(networks: list[tuple[str, dict[str, Tensor]]], path: Path, ema: bool) -> ForeignState:
    """One network of those that a file holds: as trained, or averaged; and what to say about it."""
    found = [
        (name, state, prefix, _is_averaged(name) or _is_averaged(prefix))
        for name, state in networks
        for prefix in _prefixes(state)
    ]
    wanted = [entry for entry in found if entry[3] == ema] or found
    name, state, prefix, averaged = wanted[0]
    notes = []
    where = ".".join(part for part in (name, prefix.rstrip(".")) if part) or "its entries"
    if any(entry[3] != averaged for entry in found):
        taken, others = (
            ("averaged", "without --ema, those as trained")
            if averaged
            else ("trained", "vivim-train convert --ema takes the averaged ones")
        )
        notes.append(
            f"{path.name} holds weights as trained and averaged ones (EMA); "
            f"the {taken} ones of {where} are taken; {others}"
        )
    elif averaged:
        notes.append(f"{path.name} holds averaged weights (EMA) alone: {where} is taken")
    elif ema:
        notes.append(f"{path.name} holds no averaged weights (EMA); {where} is taken")
    entries = network_entries(state, prefix)
    return ForeignState(entries.tensors, (*notes, *(f"{path.name}: {note}" for note in entries.notes)))


def network_entries(state: Mapping[str, Tensor], prefix: str | None = None) -> ForeignState:
    """The entries of a Vivim network among others, without the prefix that most of them have.

    Entries of other networks beside it (of a loss) are left out, and counters of profilers.

    Args:
        prefix: of the network's entries; None finds it out.
    """
    if prefix is None:
        prefix = next(iter(_prefixes(state)), "")
    kept: dict[str, Tensor] = {}
    left: list[str] = []
    for key, value in state.items():
        if prefix and key.startswith(prefix):
            name, ours = key[len(prefix) :], True
        else:
            name = key
            ours = key.startswith(_ROOTS) if prefix else not key.startswith(_LOSSES)
        if name.rsplit(".", 1)[-1] in _COUNTERS:
            continue
        if ours:
            kept.setdefault(name, value)
        else:
            left.append(key)
    # Written by nobody before PyTorch 0.4.1, and read by no forward pass.
    kept.setdefault("decoder.batch_norm.num_batches_tracked", torch.zeros((), dtype=torch.int64))
    note = f"{len(left)} entries beside the network are left out ({', '.join(sorted(left)[:2])}, ...)"
    return ForeignState(kept, (note,) if left else ())
