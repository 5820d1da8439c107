"""The operators against their float64 loop, their gradients, and their registration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vivim.scan.operators import _Chunks, causal_conv1d, selective_scan
from vivim.scan.reference import causal_conv1d_reference, selective_scan_reference, token_of_step

ALL_DIRECTIONS = [
    [0, 1, 2],  # Vivim
    [0, 1],  # Vim
    [0, 2, 1, 3],  # VMamba
    [3],
    [2],
]
# (L, rows): one token; shorter than the taps; odd; one row; one column; several chunks with a ragged last one
GRIDS = [(1, 1), (3, 3), (35, 5), (17, 1), (7, 7), (1030, 5)]


def scan_arguments(
    count: int, batch: int, length: int, width: int, states: int = 16, rank: int = 3, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Random arguments xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip with slow and fast decays."""
    g = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    arguments = [
        normal(count, batch, length, width),
        normal(count, batch, length, rank + 2 * states),
        normal(batch, length, 2 * width),
        -torch.rand(count, width, states, generator=g, dtype=torch.float64) * 20,
        normal(count, width, rank) * 0.5,
        normal(count, width) - 2,
        normal(count, width),
    ]
    return [a.to(dtype) for a in arguments]


@pytest.mark.parametrize("directions", ALL_DIRECTIONS)
@pytest.mark.parametrize(("length", "rows"), GRIDS)
def test_scan_equals_the_sequential_loop(directions: list[int], length: int, rows: int) -> None:
    arguments = scan_arguments(len(directions), 2, length, 8)
    expected = selective_scan_reference(*arguments, rows, directions, True)
    value = selective_scan(*arguments, rows, directions, True)
    # Both in float64: what differs is the order of at most L additions.
    assert (value - expected).norm() <= 1e-13 * expected.norm()
    single = selective_scan(*(a.float() for a in arguments), rows, directions, True)
    # float32: some ulp (6e-8) of rounding a step, forgotten with the decay; 5e-7 is what the CUDA kernels must reach.
    assert (single - expected).norm() <= 5e-7 * expected.norm()


@pytest.mark.parametrize("directions", ALL_DIRECTIONS)
@pytest.mark.parametrize(("length", "rows"), GRIDS)
def test_convolution_equals_the_sequential_loop(directions: list[int], length: int, rows: int) -> None:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(2, length, 16, generator=g, dtype=torch.float64)
    weight = torch.randn(len(directions), 8, 4, generator=g, dtype=torch.float64)
    bias = torch.randn(len(directions), 8, generator=g, dtype=torch.float64)
    expected = causal_conv1d_reference(x, weight, bias, rows, directions)
    assert (causal_conv1d(x, weight, bias, rows, directions) - expected).abs().max() <= 1e-14


def test_scan_without_gate_shared_input_and_sum() -> None:
    arguments = scan_arguments(3, 1, 20, 8)
    arguments[0] = arguments[0][:1]
    ungated = [*arguments[:2], None, *arguments[3:]]
    expected = selective_scan_reference(*ungated, 5, [0, 1, 2], False)
    assert (selective_scan(*ungated, 5, [0, 1, 2], False) - expected).norm() <= 1e-13 * expected.norm()


@pytest.mark.parametrize("decay", [0.0, -1e-3, -150.0, -1e6])
def test_extreme_decays_stay_finite_and_right(decay: float) -> None:
    """From no forgetting at all (a sum over the clip) to a state that vanishes within a step."""
    arguments = scan_arguments(1, 1, 600, 8, dtype=torch.float32)
    arguments[3] = torch.full_like(arguments[3], decay)
    expected = selective_scan_reference(*arguments, 1, [0], True)
    value = selective_scan(*arguments, 1, [0], True)
    assert value.isfinite().all()
    # Without forgetting, 600 roundings add up like a random walk: sqrt(600) * 6e-8 = 1.5e-6.
    assert (value - expected).norm() <= 2e-6 * expected.norm()


def test_half_precision_input_keeps_a_float32_state() -> None:
    arguments = [a.to(torch.bfloat16) for a in scan_arguments(1, 1, 2048, 8)]
    arguments[3] = torch.full_like(arguments[3], -(2.0**-6))  # a bfloat16 state would lose most of what it sums
    expected = selective_scan_reference(*arguments, 1, [0], True)
    value = selective_scan(*arguments, 1, [0], True)
    assert value.dtype == torch.bfloat16
    assert (value.double() - expected).norm() <= 2.0**-8 * expected.norm()  # one rounding of the output


def test_scan_of_one_chunk_equals_the_sequential_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide layers have it; the narrow ones of the other tests are always cut."""
    monkeypatch.setattr("vivim.scan.operators._SMALLEST_STEP", 0)
    arguments = scan_arguments(3, 2, 1030, 8)
    expected = selective_scan_reference(*arguments, 5, [0, 1, 2], True)
    assert (selective_scan(*arguments, 5, [0, 1, 2], True) - expected).norm() <= 1e-13 * expected.norm()


@pytest.mark.parametrize("smallest_step", [pytest.param(0, id="one chunk"), pytest.param(1 << 20, id="chunks")])
def test_gradients_of_the_scan(smallest_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """gradcheck through every argument; with a small limit several channel blocks take part."""
    monkeypatch.setattr("vivim.scan.operators._SMALLEST_STEP", smallest_step)
    monkeypatch.setattr("vivim.scan.operators._HISTORY_ELEMENTS", 1)
    # Three chunks of 4 steps, of which the last has 2; blocks of 8 channels and of 1.
    arguments = scan_arguments(2, 2, 10, 9, states=2, rank=2)
    arguments[3] = arguments[3] / 10
    for a in arguments:
        a.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda *a: selective_scan(*a, 2, [1, 2], True), arguments)


def test_gradients_of_the_scan_without_gate_and_with_shared_input() -> None:
    arguments = scan_arguments(2, 1, 6, 4, states=2, rank=1)
    arguments[0], arguments[3] = arguments[0][:1].clone(), arguments[3] / 10
    inputs = [a.requires_grad_(True) for i, a in enumerate(arguments) if i != 2]
    function = lambda xc, dbc, *rest: selective_scan(xc, dbc, None, *rest, 2, [0, 3], False)  # noqa: E731
    assert torch.autograd.gradcheck(function, inputs)


def test_gradients_of_the_convolution() -> None:
    g = torch.Generator().manual_seed(0)
    shapes = [(2, 10, 6), (3, 4, 4), (3, 4)]
    inputs = [torch.randn(*s, generator=g, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(lambda *a: causal_conv1d(*a, 5, [0, 1, 2]), inputs)


@pytest.mark.slow
def test_operators_obey_the_rules_of_torch_library() -> None:
    """opcheck: schema, fake kernels and autograd agree with the real kernels."""
    arguments = [a.requires_grad_(True) for a in scan_arguments(2, 2, 6, 8, dtype=torch.float32)]
    torch.library.opcheck(torch.ops.vivim.selective_scan.default, (*arguments, 2, [0, 2], True))
    x, weight, bias = torch.randn(2, 6, 16), torch.randn(2, 8, 4), torch.randn(2, 8)
    torch.library.opcheck(torch.ops.vivim.causal_conv1d.default, (x, weight, bias, 3, [0, 2]))


def test_directions_visit_every_token_once() -> None:
    for direction in range(4):
        assert sorted(token_of_step(15, 5, direction).tolist()) == list(range(15))
    # Columns: t moves fastest. 2 rows (frames) of 3 tokens are visited 0, 3, 1, 4, 2, 5.
    assert token_of_step(6, 2, 2).tolist() == [0, 3, 1, 4, 2, 5]
    assert token_of_step(6, 2, 3).tolist() == [5, 2, 4, 1, 3, 0]


def test_chunks_cover_the_sequence_at_every_stage_of_b3() -> None:
    for width, length, expected in ((128, 20480, 64), (256, 5120, 32), (640, 1280, 1), (1024, 320, 1)):
        chunks = _Chunks(torch.zeros(3, 16, width), length)
        assert chunks.chunks * chunks.steps >= length > chunks.chunks * (chunks.steps - 1)
        assert chunks.chunks == expected


def test_autocast_reaches_into_neither_operator() -> None:
    arguments = scan_arguments(3, 2, 35, 8, dtype=torch.float32)
    halves, parameters = [a.bfloat16() for a in arguments[:3]], arguments[3:]
    weight, bias = torch.randn(3, 8, 4), torch.randn(3, 8)

    def both() -> tuple[Tensor, Tensor]:
        return (
            selective_scan(*halves, *parameters, 5, [0, 1, 2], True),
            causal_conv1d(halves[2], weight, bias, 5, [0, 1, 2]),
        )

    expected = both()
    with torch.autocast("cpu", torch.bfloat16):
        value = both()
    # The state is float32 in either case, so not a bit differs.
    assert all(torch.equal(a, b) and a.dtype == torch.bfloat16 for a, b in zip(value, expected, strict=True))
