"""The plain scan on an NVIDIA GPU at the shapes of other people's networks, against float64 on the same GPU.

The library is the one that VIVIM_KERNELS names; `make gpu-check` runs this. One test is of these tests themselves, on
the emulator.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.plugins.kernel_library import build
from tests.plugins.test_gpu import TOLERANCES, distance, kernels  # noqa: F401  (a fixture)
from vivim.scan.kernels import KernelLibrary
from vivim.scan.s6 import s6_scan

# (B, G, E, N, L) at 224 x 224, and SegMamba's first stage of a volume of 64 x 64 x 64
NETWORKS = {
    "VMamba, stage 1": (1, 4, 192, 1, 3136),
    "MambaVision, stage 3": (1, 1, 320, 8, 196),
    "Vim": (1, 1, 384, 16, 197),
    "VM-UNet, stage 1": (1, 4, 192, 16, 3136),
    "SegMamba, stage 1": (1, 1, 96, 16, 32768),
    "64 states": (2, 1, 128, 64, 1024),
    "256 states": (1, 1, 40, 256, 333),
}


def arguments_of(shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: str) -> list[Tensor]:
    """u, delta, A, B, C, skip, bias of a fresh network: dt of 1e-3 to 0.1, A = -(1 .. N)."""
    batch, groups, inner, states, length = shape
    width = groups * inner
    g = torch.Generator(device).manual_seed(7)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, device=device)

    dt = 10 ** (-3 + 2 * torch.rand(width, generator=g, device=device))
    return [
        normal(batch, width, length).to(dtype),
        (normal(batch, width, length) * 0.3).to(dtype),
        -torch.arange(1.0, states + 1, device=device).expand(width, states).contiguous(),
        normal(batch, groups, states, length).to(dtype),
        normal(batch, groups, states, length).to(dtype),
        torch.ones(width, device=device),
        dt + torch.log(-torch.expm1(-dt)),  # the inverse of softplus
    ]


def distances(library: KernelLibrary, arguments: list[Tensor]) -> dict[str, float]:
    """Of every tactic to float64, which never goes to the kernels."""
    expected = s6_scan(*(t.double() for t in arguments), True)
    return {
        name: distance(library.s6_scan(*arguments, True, tactic), expected)
        for tactic, name in enumerate(library.s6_tactics)
    }


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_tactic_equals_float64(kernels: KernelLibrary, name: str, dtype: torch.dtype) -> None:  # noqa: F811
    found = distances(kernels, arguments_of(NETWORKS[name], dtype, "cuda"))
    assert found and not {name: value for name, value in found.items() if not value <= TOLERANCES[dtype]}


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_results_are_bitwise_repeatable_and_those_of_the_operator(kernels: KernelLibrary, name: str) -> None:  # noqa: F811
    arguments = arguments_of(NETWORKS[name], torch.float16, "cuda")
    for tactic in range(len(kernels.s6_tactics)):
        first = kernels.s6_scan(*arguments, True, tactic)
        assert all(kernels.s6_scan(*arguments, True, tactic).equal(first) for _ in range(3))
    assert s6_scan(*arguments, True).equal(kernels.s6_scan(*arguments, True))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_these_tests_are_right_on_the_emulator(dtype: torch.dtype) -> None:
    library = KernelLibrary(build())
    found = distances(library, arguments_of((2, 2, 5, 8, 70), dtype, "cpu"))
    assert len(found) == len(library.s6_tactics)
    assert max(found.values()) <= TOLERANCES[dtype]
