"""The operators of films in pieces: against the float64 loop, over uneven pieces, and their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.vivim.scan.test_operators import GRIDS, scan_arguments
from vivim.scan.operators import causal_conv1d, selective_scan
from vivim.scan.reference import causal_conv1d_reference, streaming_scan_reference
from vivim.scan.streaming import streaming_conv1d, streaming_scan, tail_after

# The direction that carries alone; those of a streaming network; the same twice, of which the first one carries.
STREAMED = [[0], [0, 1], [0, 1, 2], [0, 0]]


def state(batch: int, width: int, states: int = 16) -> Tensor:
    return torch.randn(batch, states, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("directions", STREAMED)
@pytest.mark.parametrize(("length", "rows"), GRIDS)
def test_scan_with_a_state_equals_the_sequential_loop(directions: list[int], length: int, rows: int) -> None:
    arguments = [*scan_arguments(len(directions), 2, length, 8), state(2, 8)]
    expected = streaming_scan_reference(*arguments, rows, directions, True)
    # Bounds as of the scan without a state (test_operators.py).
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 5e-7)):
        found = streaming_scan(*(a.to(dtype) for a in arguments), rows, directions, True)
        for value, right in zip(found, expected, strict=True):
            assert value.dtype == dtype
            assert (value - right).norm() <= tolerance * right.norm()


def test_only_the_first_direction_carries() -> None:
    arguments = scan_arguments(2, 1, 12, 8)
    initial = state(1, 8)
    sides = [streaming_scan(*arguments, start, 3, [0, 1], False)[0] for start in (initial, 0 * initial)]
    alone = [a[:1] if i != 2 else a for i, a in enumerate(arguments)]
    only = [streaming_scan(*alone, start, 3, [0], False)[0] for start in (initial, 0 * initial)]
    assert (sides[0] - sides[1] - only[0] + only[1]).abs().max() <= 1e-13 * only[0].abs().max()


@pytest.mark.parametrize("pieces", [(1,) * 7, (2, 1, 4), (7,)], ids=str)
def test_pieces_of_a_film_equal_one_call(pieces: tuple[int, ...]) -> None:
    """15 tokens a frame, 7 frames: convolution and scan of the direction that carries."""
    tokens, width = 15, 8
    arguments = scan_arguments(1, 2, tokens * 7, width)
    weight = torch.randn(1, width, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bias = torch.zeros(1, width, dtype=torch.float64)
    whole = causal_conv1d(arguments[2], weight, bias, 1, [0])
    expected = selective_scan(whole, *arguments[1:], 1, [0], True)
    h, tail = torch.zeros(2, 16, width, dtype=torch.float64), torch.zeros(2, 3, width, dtype=torch.float64)
    found, begin = [], 0
    for count in pieces:
        part = slice(begin * tokens, (begin + count) * tokens)
        begin += count
        xz = arguments[2][:, part]
        u = streaming_conv1d(xz, tail, weight, bias, 1, [0])
        tail = tail_after(tail, xz)
        y, h = streaming_scan(u, arguments[1][:, :, part], xz, *arguments[3:], h, 1, [0], True)
        found.append(y)
    assert (torch.cat(found, 1) - expected).norm() <= 1e-13 * expected.norm()


@pytest.mark.parametrize(("length", "rows"), [(1, 1), (2, 1), (3, 3), (35, 5)])
def test_convolution_with_a_tail_equals_the_sequential_loop(length: int, rows: int) -> None:
    g = torch.Generator().manual_seed(3)
    x, tail, weight, bias = (
        torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, length, 16), (2, 3, 8), (3, 8, 4), (3, 8))
    )
    expected = causal_conv1d_reference(x, weight, bias, rows, [0, 1, 2], tail)
    assert (streaming_conv1d(x, tail, weight, bias, rows, [0, 1, 2]) - expected).abs().max() <= 1e-14


def test_tail_of_pieces_shorter_than_the_taps() -> None:
    film = torch.arange(10.0).view(1, 5, 2)
    tail = torch.zeros(1, 3, 1)
    for token in range(5):
        tail = tail_after(tail, film[:, token : token + 1])
    assert tail.flatten().tolist() == [4.0, 6.0, 8.0]  # the first channel of the last three


@pytest.mark.parametrize("smallest_step", [pytest.param(0, id="one chunk"), pytest.param(1 << 20, id="chunks")])
def test_gradients_stop_at_the_state(smallest_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivim.scan.operators._SMALLEST_STEP", smallest_step)
    arguments = scan_arguments(2, 2, 10, 5, states=2, rank=2)  # three chunks of 4 steps, of which the last has 2
    arguments[3] = arguments[3] / 10
    initial = state(2, 5, 2)
    inputs = [a.requires_grad_(True) for a in arguments]
    assert torch.autograd.gradcheck(lambda *a: streaming_scan(*a, initial, 1, [0, 1], True)[0], inputs)
    carried = initial.clone().requires_grad_(True)
    y, final = streaming_scan(*inputs, carried, 1, [0, 1], True)
    assert not final.requires_grad
    y.sum().backward()
    assert carried.grad is None


def test_gradients_of_the_convolution_stop_at_the_tail() -> None:
    g = torch.Generator().manual_seed(0)
    x, tail, weight, bias = (
        torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, 10, 6), (2, 3, 4), (2, 4, 4), (2, 4))
    )
    inputs = [t.requires_grad_(True) for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda x, w, b: streaming_conv1d(x, tail, w, b, 5, [0, 2]), inputs)
    carried = tail.clone().requires_grad_(True)
    streaming_conv1d(x, carried, weight, bias, 5, [0, 2]).sum().backward()
    assert carried.grad is None


def test_half_precision_keeps_its_state_in_float32() -> None:
    arguments = [a.to(torch.bfloat16) for a in scan_arguments(1, 1, 64, 8)]
    initial = state(1, 8).float()
    y, final = streaming_scan(*arguments, initial, 1, [0], True)
    assert y.dtype == torch.bfloat16 and final.dtype == torch.float32
    expected = streaming_scan_reference(*arguments, initial, 1, [0], True)[1]
    assert (final - expected).norm() <= 5e-7 * expected.norm()


@pytest.mark.parametrize("name", ["vivim::streaming_conv1d", "vivim::streaming_scan"])
def test_cuda_tensors_have_a_kernel_of_their_own(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")


@pytest.mark.slow
def test_operators_obey_the_rules_of_torch_library() -> None:
    arguments = [a.requires_grad_(True) for a in scan_arguments(2, 2, 6, 8, dtype=torch.float32)]
    initial, tail = torch.randn(2, 16, 8), torch.randn(2, 3, 8)
    torch.library.opcheck(torch.ops.vivim.streaming_scan.default, (*arguments, initial, 2, [0, 1], True))
    x, weight, bias = torch.randn(2, 6, 16), torch.randn(2, 8, 4), torch.randn(2, 8)
    torch.library.opcheck(torch.ops.vivim.streaming_conv1d.default, (x, tail, weight, bias, 3, [0, 2]))
