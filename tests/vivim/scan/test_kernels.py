"""The binding of the compiled kernels: how the library is found, and what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.plugins.kernel_library import build
from tests.plugins.native_library import library
from tests.vivim.scan.test_operators import scan_arguments
from vivim.scan import kernels
from vivim.scan.operators import causal_conv1d, selective_scan
from vivim.scan.reference import causal_conv1d_reference, selective_scan_reference, streaming_scan_reference
from vivim.scan.streaming import streaming_scan
from vivim_runtime.errors import KernelError
from vivim_runtime.sessions.native import NativeLibrary


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


@pytest.fixture(params=["kernels", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the compiled kernels for this CPU, and without."""
    found = kernels.CpuLibrary(NativeLibrary(library(), "", "", "")) if request.param == "kernels" else None
    monkeypatch.setattr("vivim.scan.operators.cpu_library", lambda: found)
    return str(request.param)


@pytest.mark.parametrize("shape", [(2, 35, 24, 16), (1, 70, 37, 5), (3, 1, 8, 16), (1, 130, 100, 64)])
@pytest.mark.parametrize("streams", [False, True])
def test_gradients_on_a_cpu_equal_those_of_autograd(shape: tuple[int, int, int, int], streams: bool, path: str) -> None:
    batch, length, width, states = shape
    given = [a.requires_grad_() for a in scan_arguments(3, batch, length, width, states)]
    rows = 5 if length % 5 == 0 else 1
    initial = torch.randn(batch, states, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weight = torch.randn(batch, length, width, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def gradients(dtype: torch.dtype, reference: bool) -> list[torch.Tensor]:
        tensors = [a.to(dtype) for a in given]
        if streams:
            scan = streaming_scan_reference if reference else streaming_scan
            y = scan(*tensors, initial.to(dtype), rows, [0, 1, 2], True)[0]
        else:
            y = (selective_scan_reference if reference else selective_scan)(*tensors, rows, [0, 1, 2], True)
        return list(torch.autograd.grad((y * weight.to(dtype)).sum(), given))

    expected = gradients(torch.float64, reference=True)
    for ours, wanted in zip(gradients(torch.float32, reference=False), expected, strict=True):
        # Float32 sums of up to 3 x 130 steps, of products of rounded factors: a few ulp (6e-8) of their root.
        assert (ours - wanted).norm() <= 5e-6 * wanted.norm()


def test_gradients_do_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kernels.CpuLibrary(NativeLibrary(library(), "", "", ""))
    monkeypatch.setattr("vivim.scan.operators.cpu_library", lambda: found)
    before, results = torch.get_num_threads(), []
    g = torch.Generator().manual_seed(7)
    dt, u, grad = (torch.rand(2, 50, 70, generator=g) for _ in range(3))
    b, c = (torch.randn(2, 50, 16, generator=g) for _ in range(2))
    A, skip = -torch.rand(70, 16, generator=g), torch.rand(70, generator=g)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(found.scan_gradients(dt, u, b, c, A, skip, None, grad))
    finally:
        torch.set_num_threads(before)
    assert all(one.equal(other) for one, other in zip(*results, strict=True))


def test_a_library_of_before_leaves_gradients_to_pytorch() -> None:
    class Former:
        """Has what every release had."""

        vivim_cpu_error = type("Function", (), {})()

    native = type("Native", (), {"load": lambda self: Former()})()
    assert not kernels.CpuLibrary(native).takes_gradients(16)
    ours = kernels.CpuLibrary(NativeLibrary(library(), "", "", ""))
    assert ours.takes_gradients(16) and not ours.takes_gradients(257)
