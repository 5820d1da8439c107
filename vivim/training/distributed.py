"""Several processes, one on each GPU, that share every step; started by torchrun."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from vivim_runtime.errors import ConfigError

__all__ = ["Group", "default_workers", "process_group"]


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes:
        rank, size: number of this process, from 0, and how many there are.
        device: where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The network with gradients that are averaged over the processes; itself where there is one process."""
        if self.size == 1:
            return model
        # It sends round the buffers of the first process, too; `average_buffers` has made them equal by then.
        return DistributedDataParallel(model)

    def average_buffers(self, model: nn.Module) -> None:
        """Average the running statistics of all processes."""
        if self.size > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    distributed.all_reduce(buffer)
                    buffer /= self.size

    def gathered(self, value: Any) -> list[Any]:
        """What every process gave, in the order of their numbers."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values


@contextmanager
def process_group(device: str = "auto") -> Iterator[Group]:
    """The group that torchrun set up (RANK, WORLD_SIZE, LOCAL_RANK), or this process alone.

    Raises:
        ConfigError: a device that is not there.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    found = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if size == 1:
        yield Group(0, 1, found)
        return
    if found.type == "cuda":
        torch.cuda.set_device(found)
    distributed.init_process_group("nccl" if found.type == "cuda" else "gloo")
    try:
        yield Group(rank, size, found)
    finally:
        # DistributedDataParallel is part of a cycle, and keeps threads of the group alive: where they outlast the
        # interpreter, the process aborts at its very end, once in a dozen times.
        gc.collect()
        distributed.destroy_process_group()


def default_workers(group: Group) -> int:
    """Processes that make clips ahead: where a GPU does the rest, a core each but for one, at most eight a process."""
    if group.device.type != "cuda":
        return 0  # the network itself takes the cores, and a clip costs a few per cent of its step
    return min(8, max(1, (os.cpu_count() or 1) // group.size - 1))


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device is {name}; expected auto, cpu, cuda or cuda:<index>") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device is {name}; this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device is {name}; expected auto, cpu, cuda or cuda:<index>")
    return device
