"""What a network costs, counted without computing it: PyTorch's fake tensors have shapes and storages, but no data.

The counts hold for any machine and are exact for what they count, so growth can be tested by them, and a case that does
not fit into memory is known before it runs. They leave out what a kernel takes for itself while it runs (that of the
scan takes some (K*B, L, D) tensors), and what the allocator keeps: a measured peak is higher.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from vivim.config import VivimConfig
from vivim.model import Vivim

__all__ = ["Counts", "attention_written_out", "count"]

# A parameter and Adam's two moments. Gradients come when what the forward pass keeps is already going.
_COPIES_IN_TRAINING = 3

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Counts:
    """What one pass over a clip takes.

    Attributes:
        inference_bytes: weights, and the most that is alive at once in a forward pass.
        training_bytes: weights and Adam's moments, and the most that is alive in a forward pass that keeps what the
            backward pass will need.
        flops: of a forward pass, an addition, a multiplication and an exponential being one each; matrix products,
            convolutions, attention and scans.
    """

    inference_bytes: int
    training_bytes: int
    flops: int


def count(config: VivimConfig, frames: int, size: tuple[int, int], written_out: bool = False) -> Counts:
    """The costs of a network for one clip of `frames` frames of `size` (H, W), in float32.

    Args:
        written_out: attention keeps its scores (`attention_written_out`) instead of being one fused operation.

    Raises:
        InputError: when the clip is too small for the network.
    """
    with FakeTensorMode(), attention_written_out(written_out):
        model = Vivim(config)
        clip = torch.empty(1, frames, 3, *size)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        counter = FlopCounterMode(display=False, custom_mapping=_FLOPS)
        with torch.no_grad(), counter, _Alive() as inference:
            model.eval()(clip)
        with _Alive() as training:
            model.train()(clip)
    return Counts(
        inference_bytes=weights + inference.peak,
        training_bytes=_COPIES_IN_TRAINING * weights + training.peak,
        flops=counter.get_total_flops(),
    )


@contextmanager
def attention_written_out(written_out: bool = True) -> Iterator[None]:
    """Within it, attention is softmax(q k') v with all its scores in memory, as it was before there were fused kernels.

    `scaled_dot_product_attention` otherwise never has all scores at once: its memory is linear in the tokens, its time
    is as quadratic as ever.
    """
    with ExitStack() as stack:
        if written_out:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


class _Alive(TorchDispatchMode):
    """Adds up the storages that operations make, and takes them off when the last tensor on them is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf) not in given | self._known:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


# --- operations that FlopCounterMode does not know -------------------------------------------------------------------


def _fused_attention(query: Shape, key: Shape, value: Shape, *rest: Any, **more: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _convolution(x: Shape, weight: Shape, *rest: Any, out_shape: Shape, **more: Any) -> int:
    """(K, B, L, D) out: a product and a sum a tap, and SiLU."""
    return prod(out_shape) * (2 * weight[-1] + 3)


def _scan(
    xc: Shape, dbc: Shape, xz: Shape | None, A: Shape, w_dt: Shape, *rest: Any, out_shape: Shape, **more: Any
) -> int:
    """(B, L, D) out; a direction: dt_proj; a state: dt A, exp, times h, du B, sum, C h, sum; then dt u, D u, sum."""
    return A[0] * prod(out_shape) * (2 * w_dt[-1] + 7 * A[-1] + 3)


_FLOPS: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention,
    torch.ops.vivim.causal_conv1d: _convolution,
    torch.ops.vivim.selective_scan: _scan,
}
