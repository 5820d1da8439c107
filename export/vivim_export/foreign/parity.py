"""A file of somebody else's network against the network itself, with a budget that the network calibrates.

The truth is the network in float64. How far float32 PyTorch is from it says what float32 can mean for this network: an
InstanceNorm over nearly equal numbers magnifies rounding, and a fixed budget would be too wide for one network and too
narrow for the next. The file may be `_FACTOR` times as far, and not less than `_FLOOR` is asked of anybody.

float64 is the network's own code too: inside `doubled()` whatever says float32 means float64.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vivim_export.foreign.stand_ins import plain_loops

__all__ = ["Agreement", "Truth", "agreement", "doubled", "flat_outputs", "half_weights", "relative", "truth_of"]

_FACTOR = 4.0
# Of float32: a few ulp (6e-8) of every operation between input and output, whatever the network.
_FLOOR = 2e-6
# Where a network has no float64: ten times what float32 costs the worst of the networks of docs/any-mamba.md.
_WITHOUT_TRUTH = 1e-4


@dataclass(frozen=True)
class Truth:
    """What a network gives for one input.

    Attributes:
        x: the input.
        single: its outputs in float32, by its own reference path (a step at a time).
        double: in float64; None where its code has no float64.
        seconds: of the float32 run.
        reason: why there is no float64.
    """

    x: Tensor
    single: tuple[np.ndarray, ...]
    double: tuple[np.ndarray, ...] | None
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Agreement:
    """Relative L2, the worst of all inputs and outputs.

    Attributes:
        against_single, against_double: of the file, against PyTorch in float32 and in float64 (NaN without one).
        single_against_double: of float32 PyTorch: what the budget is made of.
        budget: of `against_double`; of `against_single` it is one `single_against_double` more.
        inputs: how many were compared.
        failures: what is over; empty where all is well.
    """

    against_single: float
    against_double: float
    single_against_double: float
    budget: float
    inputs: int
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures

    def record(self) -> dict[str, Any]:
        """For JSON: no NaN."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


class _Doubled(TorchFunctionMode):
    """float32 in a network's code, as a word or as what a tensor says of itself, is float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        result = func(*(_double(a) for a in args), **{k: _double(v) for k, v in (kwargs or {}).items()})
        if result is torch.float64 and getattr(func, "__self__", None) is torch.Tensor.dtype:
            return torch.float32
        return result


def _double(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


@contextmanager
def doubled(network: nn.Module) -> Iterator[None]:
    """The network in float64, inside."""
    kinds = {tensor.dtype for tensor in network.state_dict().values() if tensor.is_floating_point()}
    if kinds - {torch.float32}:
        raise ValueError(f"weights in {', '.join(sorted(map(str, kinds)))}; expected float32 alone")
    usual = torch.get_default_dtype()
    network.double()
    torch.set_default_dtype(torch.float64)
    try:
        with _Doubled():
            yield
    finally:
        torch.set_default_dtype(usual)
        network.float()


@contextmanager
def half_weights(network: nn.Module) -> Iterator[None]:
    """The network with weights that float16 can hold, inside: the least that half precision costs it."""
    exact = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())
    try:
        yield
    finally:
        network.load_state_dict(exact)


def flat_outputs(result: Any) -> tuple[Tensor, ...]:
    """The tensors of a result, in the order in which torch.export has them."""
    leaves = torch.utils._pytree.tree_leaves(result)
    return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))


def truth_of(network: nn.Module, x: Tensor, loops: bool) -> Truth:
    """Run a network in float32 and in float64.

    Args:
        loops: take the scans a step at a time in float32, as the code of mamba_ssm does without CUDA.
    """

    def run(x: Tensor) -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            return tuple(out.detach().numpy().copy() for out in flat_outputs(network(x)))

    start = time.perf_counter()
    if loops:
        with plain_loops():
            single = run(x)
    else:
        single = run(x)
    seconds = time.perf_counter() - start
    double, reason = None, ""
    try:
        with doubled(network):
            double = run(x.double() if x.is_floating_point() else x)
        if any(out.dtype == np.float32 for out in double):
            double, reason = None, "some of its outputs are float32 whatever its weights are"
    except Exception as error:  # of code that was not written for it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return Truth(x, single, double, seconds, reason)


def agreement(
    truths: Sequence[Truth], run: Callable[[np.ndarray], Sequence[np.ndarray]], rounding: float = 0.0
) -> Agreement:
    """Compare what a file gives with the truth.

    Args:
        run: the file, an input to outputs.
        rounding: relative L2 that the file's precision costs at least (half precision); 0 for float32.
    """
    failures: list[str] = []
    single_error = double_error = own_error = 0.0
    firsts: list[np.ndarray] = []
    for truth in truths:
        values = run(truth.x.numpy())
        if len(values) != len(truth.single):
            return Agreement(
                math.nan,
                math.nan,
                math.nan,
                0.0,
                0,
                (f"the file has {len(values)} outputs, the network {len(truth.single)}",),
            )
        firsts.append(truth.single[0])
        for index, (value, single) in enumerate(zip(values, truth.single, strict=True)):
            if value.shape != single.shape:
                failures.append(f"output {index} is {value.shape}, the network's {single.shape}")
                continue
            single_error = max(single_error, relative(value, single))
            if truth.double is not None:
                double_error = max(double_error, relative(value, truth.double[index]))
                own_error = max(own_error, relative(single, truth.double[index]))
    known = all(truth.double is not None for truth in truths)
    budget = max(_FLOOR, _FACTOR * own_error, _FACTOR * rounding) if known else max(_WITHOUT_TRUTH, _FACTOR * rounding)
    if known and not double_error <= budget:
        failures.append(f"{double_error:.1e} from float64, budget {budget:.1e}")
    if not single_error <= budget + own_error:
        failures.append(f"{single_error:.1e} from float32 PyTorch, budget {budget + own_error:.1e}")
    if len(firsts) > 1 and firsts[0].shape == firsts[1].shape and np.array_equal(firsts[0], firsts[1]):
        failures.append("the network gives the same for two inputs: nothing is compared by it")
    nan = math.nan
    return Agreement(
        single_error, double_error if known else nan, own_error if known else nan, budget, len(truths), tuple(failures)
    )


def relative(value: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2; infinite where a number is none."""
    a, b = value.astype(np.float64), expected.astype(np.float64)
    norm = float(np.linalg.norm(b))
    error = float(np.linalg.norm(a - b))
    if not math.isfinite(error) or not math.isfinite(norm):
        return math.inf
    return error / norm if norm else error
