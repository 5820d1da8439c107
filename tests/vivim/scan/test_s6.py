"""The plain S6 scan against its float64 loop: shapes, types, what may be absent, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.plugins.native_library import library
from vivim.scan.kernels import CpuLibrary
from vivim.scan.s6 import s6_scan, s6_scan_reference
from vivim_runtime.sessions.native import NativeLibrary

# (B, G, E, N, L): N = 1 (VMamba), 8 (MambaVision), 16, 64; one and four groups; one token; ragged chunks
SHAPES = [
    (2, 4, 16, 1, 196),
    (1, 1, 24, 8, 37),
    (1, 1, 40, 16, 1030),
    (3, 4, 8, 16, 1),
    (1, 2, 5, 64, 100),
    (1, 1, 3, 5, 130),
]


def s6_arguments(shape: tuple[int, int, int, int, int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Random u, delta, A, B, C, skip, bias with slow and fast decays."""
    batch, groups, inner, states, length = shape
    g = torch.Generator().manual_seed(11)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    width = groups * inner
    arguments = [
        normal(batch, width, length),
        normal(batch, width, length) * 0.5,
        -torch.rand(width, states, generator=g, dtype=torch.float64) * 16,
        normal(batch, groups, states, length),
        normal(batch, groups, states, length),
        normal(width),
        normal(width) - 3,
    ]
    return [a.to(dtype) for a in arguments]


@pytest.fixture(params=["kernels", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the compiled kernels of this checkout, and without."""
    kernels = CpuLibrary(NativeLibrary(library(), "", "", "")) if request.param == "kernels" else None
    assert kernels is None or kernels.takes_s6(*s6_arguments(SHAPES[0], torch.float32)[:5])
    monkeypatch.setattr("vivim.scan.s6.cpu_library", lambda: kernels)
    return str(request.param)


@pytest.mark.parametrize("shape", SHAPES)
def test_scan_equals_the_sequential_loop(shape: tuple[int, int, int, int, int], path: str) -> None:
    arguments = s6_arguments(shape)
    expected = s6_scan_reference(*arguments, True)
    # float64 never goes to the kernels; what differs from the loop is the order of at most L additions.
    assert (s6_scan(*arguments, True) - expected).norm() <= 1e-13 * expected.norm()
    single = s6_scan(*(a.float() for a in arguments), True)
    # As of the fused scan: some ulp (6e-8) a step, forgotten with the decay.
    assert (single - expected).norm() <= 5e-7 * expected.norm()


@pytest.mark.parametrize(("dtype", "half_ulp"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_data_keep_their_state_in_float32(dtype: torch.dtype, half_ulp: float, path: str) -> None:
    arguments = s6_arguments((1, 2, 8, 16, 300))
    data = [a.to(dtype) if i in (0, 1, 3, 4) else a.float() for i, a in enumerate(arguments)]
    expected = s6_scan_reference(*data, True)
    value = s6_scan(*data, True)
    assert value.dtype == dtype
    assert (value.double() - expected).norm() <= half_ulp * expected.norm()  # the rounding of the result


@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("absent", [(5,), (6,), (5, 6)])
def test_skip_and_bias_may_be_absent(absent: tuple[int, ...], softplus: bool, path: str) -> None:
    arguments: list[Tensor | None] = list(s6_arguments((1, 2, 8, 4, 50), torch.float32))
    if not softplus:
        for index in (1, 6):  # a time step below zero would let the state grow
            arguments[index] = arguments[index].abs()  # type: ignore[union-attr]
    for index in absent:
        arguments[index] = None
    expected = s6_scan_reference(*arguments, softplus)  # type: ignore[arg-type]
    assert (s6_scan(*arguments, softplus) - expected).norm() <= 5e-7 * expected.norm()


@pytest.mark.parametrize("decay", [0.0, -150.0, -1e6])
def test_extreme_decays_stay_finite_and_right(decay: float, path: str) -> None:
    arguments = s6_arguments((1, 1, 8, 16, 600), torch.float32)
    arguments[2] = torch.full_like(arguments[2], decay)
    expected = s6_scan_reference(*arguments, True)
    value = s6_scan(*arguments, True)
    assert value.isfinite().all()
    # Without decay the rounding of 600 additions stays: at worst 600 * 6e-8, in the mean its square root.
    assert (value - expected).norm() <= 5e-6 * expected.norm()


def test_an_empty_batch_gives_an_empty_result() -> None:
    arguments = s6_arguments((0, 1, 4, 4, 5), torch.float32)
    assert s6_scan(*arguments, True).shape == (0, 4, 5)


@pytest.mark.parametrize(
    ("index", "shape", "words"),
    [
        (1, (1, 8, 9), "delta is"),
        (2, (7, 4), "A is"),
        (3, (1, 3, 4, 10), "do not divide into 3 groups"),
        (4, (1, 2, 5, 10), "C is"),
        (5, (4,), "skip is"),
    ],
)
def test_shapes_that_contradict_each_other_are_refused(index: int, shape: tuple[int, ...], words: str) -> None:
    arguments = s6_arguments((1, 2, 4, 4, 10))
    arguments[index] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=words):
        s6_scan(*arguments, True)


def test_the_operator_is_registered_soundly() -> None:
    arguments = s6_arguments((1, 2, 4, 4, 10), torch.float32)
    torch.library.opcheck(
        torch.ops.vivim.s6_scan.default,
        (*arguments, True),
        test_utils=("test_schema", "test_faketensor"),
    )
