"""The binding of the compiled kernels: how the library is found, and what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.plugins.kernel_library import build
from tests.vivim.scan.test_operators import scan_arguments
from vivim.scan import kernels
from vivim.scan.operators import causal_conv1d, selective_scan
from vivim.scan.reference import causal_conv1d_reference, selective_scan_reference
from vivim_runtime.errors import KernelError


@pytest.fixture(autouse=True)
def forget_the_library() -> Iterator[None]:
    kernels.library.cache_clear()
    yield
    kernels.library.cache_clear()


def test_library_is_found_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIM_KERNELS", str(build()))
    found = kernels.library()
    assert found is not None and len(found.tactics) == 10
    assert kernels.library() is found


def test_a_library_that_is_missing_or_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.so").write_text("hello")
    for name in ("nothing.so", "text.so"):
        kernels.library.cache_clear()
        monkeypatch.setenv("VIVIM_KERNELS", str(tmp_path / name))
        with pytest.raises(KernelError, match="make plugins"):
            kernels.library()


@pytest.mark.parametrize(
    ("width", "states", "rank", "dtype", "expected"),
    [
        pytest.param(8, 16, 3, torch.float32, True, id="as Vivim"),
        pytest.param(8, 16, 3, torch.float64, False, id="float64"),
        pytest.param(12, 16, 3, torch.float32, False, id="width no multiple of 8"),
        pytest.param(8, 17, 3, torch.float32, False, id="too many states"),
        pytest.param(8, 16, 65, torch.float32, False, id="rank too large"),
    ],
)
def test_what_the_kernels_cannot_take_is_left_to_pytorch(
    width: int, states: int, rank: int, dtype: torch.dtype, expected: bool
) -> None:
    arguments = scan_arguments(3, 1, 10, width, states, rank, dtype)
    assert kernels.KernelLibrary.takes_scan(arguments[0], arguments[3], arguments[4]) is expected


def test_non_contiguous_tensors_and_half_parameters_are_taken() -> None:
    library = kernels.KernelLibrary(build())
    arguments = scan_arguments(3, 2, 10, 8)
    expected = selective_scan_reference(*arguments, 5, [0, 1, 2], True)
    given = [a.float() for a in arguments]
    given[0] = given[0].transpose(1, 2).contiguous().transpose(1, 2)
    value = library.selective_scan(*given, 5, [0, 1, 2], True)
    assert (value - expected).norm() <= 5e-7 * expected.norm()  # float32, as for every scan


def test_cuda_tensors_have_a_kernel_of_their_own() -> None:
    for name in ("vivim::causal_conv1d", "vivim::selective_scan"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_operators_on_a_gpu_equal_the_sequential_loop(dtype: torch.dtype) -> None:
    # float32: ex2.approx may be 2^-22 off at every step (tests/plugins/test_gpu.py derives it).
    tolerance = {torch.float32: 2.5e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}[dtype]
    arguments = [a.to(dtype).double() for a in scan_arguments(3, 2, 1030, 8)]
    expected = selective_scan_reference(*arguments, 5, [0, 1, 2], True)
    value = selective_scan(*(a.to(dtype).cuda() for a in arguments), 5, [0, 1, 2], True)
    assert (value.cpu() - expected).norm() <= tolerance * expected.norm()
    x, weight, bias = (
        torch.randn(*s, dtype=torch.float64).to(dtype).double() for s in ((2, 35, 16), (3, 8, 4), (3, 8))
    )
    expected = causal_conv1d_reference(x, weight, bias, 5, [0, 1, 2])
    value = causal_conv1d(*(t.to(dtype).cuda() for t in (x, weight, bias)), 5, [0, 1, 2])
    assert (value.cpu() - expected).norm() <= tolerance * expected.norm()
