"""Gradients through the packages' kernels: the same as the vectorised ones, and taken only where they can be.

There is no GPU here, so the two packages' functions are played by their definitions (causal_conv1d_ref and
selective_scan_ref of the packages) in plain PyTorch, which refuse what the real kernels refuse: wrong layouts, dtypes
and strides, forward and backward.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.vivim.scan.test_operators import ALL_DIRECTIONS, scan_arguments
from vivim.scan import fused_backward, operators
from vivim.scan.operators import causal_conv1d, selective_scan

# (L, rows): one token; shorter than the taps; odd; one row; one column
GRIDS = [(1, 1), (3, 3), (35, 5), (17, 1), (7, 7)]
FLOATS = (torch.float32, torch.float64)  # float64 stands for float32, so that a mistake shows beyond rounding
CUDA_FLOATS = [torch.float32, torch.float16, torch.bfloat16]


# --- the packages -------------------------------------------------------------------------------------------------


def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor, *, activation: str) -> Tensor:
    """x (B, D, L), weight (D, taps), bias (D,) -> (B, D, L)."""
    batch, width, length = x.shape
    assert type(x) is Tensor  # what traces has no data for a kernel
    assert x.dtype in FLOATS and weight.dtype == bias.dtype == x.dtype and activation == "silu"
    assert weight.shape[0] == width and 2 <= weight.shape[1] <= 4 and bias.shape == (width,)
    assert bias.stride() == (1,)
    check_conv_layout(x)
    padded = functional.pad(x, (weight.shape[1] - 1, 0))
    out = functional.silu(functional.conv1d(padded, weight[:, None], bias, groups=width))
    assert out.shape == (batch, width, length)
    return Watched.apply(out, check_conv_layout)  # type: ignore[no-any-return, no-untyped-call]


def check_conv_layout(x: Tensor) -> None:
    assert 1 in (x.stride(1), x.stride(2))
    if x.stride(1) == 1 and x.stride(2) > 1:
        assert x.shape[1] % 8 == x.stride(0) % 8 == x.stride(2) % 8 == 0


def selective_scan_fn(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, delta_bias: Tensor, delta_softplus: bool
) -> Tensor:
    """u, delta (B, D, L), A (D, N), B and C (B, groups, N, L), D and delta_bias (D,) -> (B, D, L)."""
    batch, width, length = u.shape
    groups, states = B.shape[1:3]
    assert type(u) is Tensor  # what traces has no data for a kernel
    assert u.dtype in FLOATS and all(t.dtype == u.dtype for t in (delta, A, B, C, D, delta_bias)) and delta_softplus
    assert delta.shape == u.shape and A.shape == (width, states) and D.shape == delta_bias.shape == (width,)
    assert B.shape == C.shape == (batch, groups, states, length) and width % groups == 0 and states <= 256
    for tensor in (u, delta, B, C, D, delta_bias):
        check_contiguous_steps(tensor)
    dt = functional.softplus(delta + delta_bias[:, None])
    B, C = (t.repeat_interleave(width // groups, dim=1) for t in (B, C))  # (B, D, N, L)
    h, out = torch.zeros(batch, width, states, dtype=u.dtype), []
    for i in range(length):
        h = torch.exp(dt[:, :, i, None] * A) * h + (dt * u)[:, :, i, None] * B[..., i]
        out.append((h * C[..., i]).sum(-1) + D * u[:, :, i])
    return Watched.apply(torch.stack(out, dim=-1), check_contiguous_steps)  # type: ignore[no-any-return, no-untyped-call]


def check_contiguous_steps(x: Tensor) -> None:
    assert x.stride(-1) == 1 or x.shape[-1] == 1


class Watched(torch.autograd.Function):
    """The identity; checks the gradient as the packages prepare it, made contiguous where no dimension is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, check: Callable[[Tensor], None]) -> Tensor:
        ctx.check = check
        return x.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ctx.check(grad if 1 in grad.stride()[1:] else grad.contiguous())
        return grad, None


@pytest.fixture(autouse=True)
def forget_the_packages() -> Iterator[None]:
    def forget() -> None:
        for found in (fused_backward._causal_conv1d_fn, fused_backward._selective_scan_fn):
            found.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Both are installed; the parts say what a test wants to change about them."""
    conv = SimpleNamespace(causal_conv1d_fn=causal_conv1d_fn)
    scan = SimpleNamespace(selective_scan_fn=selective_scan_fn, selective_scan_cuda=object())
    monkeypatch.setitem(sys.modules, "causal_conv1d", conv)
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", scan)
    return SimpleNamespace(conv=conv, scan=scan)


def conv_arguments(count: int, batch: int, length: int, width: int = 8, taps: int = 4) -> list[Tensor]:
    """x of which half is read, weight, bias."""
    g = torch.Generator().manual_seed(3)
    shapes = [(batch, length, 2 * width), (count, width, taps), (count, width)]
    return [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def assert_equal(found: tuple[Tensor | None, ...], expected: tuple[Tensor | None, ...], tolerance: float) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) is (b is None)
        if a is not None and b is not None:
            assert a.dtype == b.dtype and a.shape == b.shape
            assert (a - b).norm() <= tolerance * b.norm()


# float64: the order of at most B * L = 70 additions of 1e-16 each. float32: gradients sum terms that cancel, each some
# ulp (6e-8) off. The vectorised form is up to 6.2e-7 off the float64 one on these shapes; twice that for two forms.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 1.3e-6}


# --- the numbers --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("directions", ALL_DIRECTIONS)
@pytest.mark.parametrize(("length", "rows"), GRIDS)
def test_gradients_of_the_convolution_are_the_vectorised_ones(
    directions: list[int], length: int, rows: int, dtype: torch.dtype
) -> None:
    arguments = [a.to(dtype) for a in conv_arguments(len(directions), 2, length)]
    grad = normal(len(directions), 2, length, 8).to(dtype)
    found = fused_backward.conv_gradients(grad, *arguments, rows, directions)
    assert_equal(found, operators._vectorised_conv_gradients(grad, *arguments, rows, directions), TOLERANCES[dtype])


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("directions", ALL_DIRECTIONS)
@pytest.mark.parametrize(("length", "rows"), GRIDS)
def test_gradients_of_the_scan_are_the_vectorised_ones(
    directions: list[int], length: int, rows: int, dtype: torch.dtype
) -> None:
    arguments = [a.to(dtype) for a in scan_arguments(len(directions), 2, length, 8)]
    grad = normal(2, length, 8).to(dtype)
    found = fused_backward.scan_gradients(grad, *arguments, rows, directions, True)
    expected = operators._chunked_scan_gradients(grad, *arguments, rows, directions, True)
    assert_equal(found, expected, TOLERANCES[dtype])


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per direction"])
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "ungated"])
def test_gradients_of_every_kind_of_scan_are_the_vectorised_ones(gated: bool, shared: bool, mean: bool) -> None:
    xc, dbc, xz, *parameters = scan_arguments(4, 2, 24, 8)
    arguments = (xc[:1] if shared else xc, dbc, xz if gated else None, *parameters)
    grad = normal(2, 24, 8)
    found = fused_backward.scan_gradients(grad, *arguments, 4, [0, 2, 1, 3], mean)
    expected = operators._chunked_scan_gradients(grad, *arguments, 4, [0, 2, 1, 3], mean)
    assert_equal(found, expected, TOLERANCES[torch.float64])


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("taps", [2, 3])
def test_gradients_of_fewer_taps_are_the_vectorised_ones(taps: int) -> None:
    arguments = conv_arguments(2, 2, 12, taps=taps)
    grad = normal(2, 2, 12, 8)
    found = fused_backward.conv_gradients(grad, *arguments, 3, [0, 3])
    expected = operators._vectorised_conv_gradients(grad, *arguments, 3, [0, 3])
    assert_equal(found, expected, TOLERANCES[torch.float64])


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("layout", ["expanded", "channels first"])
def test_a_gradient_of_any_layout_is_taken(layout: str) -> None:
    """A sum's gradient is expanded from one number; other layers may leave theirs transposed."""
    grad = normal(3, 2, 8, 10).mT if layout == "channels first" else torch.ones((), dtype=torch.float64)
    arguments = conv_arguments(3, 2, 10)
    given = grad.expand(3, 2, 10, 8)
    found = fused_backward.conv_gradients(given, *arguments, 5, [0, 1, 2])
    expected = operators._vectorised_conv_gradients(given, *arguments, 5, [0, 1, 2])
    assert_equal(found, expected, TOLERANCES[torch.float64])
    others = scan_arguments(3, 2, 10, 8)
    given = given[0]
    result = fused_backward.scan_gradients(given, *others, 5, [0, 1, 2], True)
    assert_equal(result, operators._chunked_scan_gradients(given, *others, 5, [0, 1, 2], True), 1e-13)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_half_precision_are_computed_in_float32_and_returned_in_the_inputs_types(
    dtype: torch.dtype,
) -> None:
    # Tensors as a network under autocast has them: data in 16 bits, parameters in float32. One rounding, of the result.
    tolerance = torch.finfo(dtype).eps
    xc, dbc, xz, *parameters = (a.to(dtype) for a in scan_arguments(3, 2, 35, 8))
    arguments = (xc, dbc, xz, *(p.float() for p in parameters))
    grad = normal(2, 35, 8).to(dtype)
    found = fused_backward.scan_gradients(grad, *arguments, 5, [0, 1, 2], True)
    exact = operators._chunked_scan_gradients(grad.double(), *(a.double() for a in arguments), 5, [0, 1, 2], True)
    assert [None if t is None else t.dtype for t in found] == [dtype] * 3 + [torch.float32] * 4
    assert_equal(tuple(t.double() for t in found if t is not None), exact, tolerance)

    x, weight, bias = (a.to(dtype) for a in conv_arguments(3, 2, 35))
    grad = normal(3, 2, 35, 8).to(dtype)
    result = fused_backward.conv_gradients(grad, x, weight.float(), bias.float(), 5, [0, 1, 2])
    exact = operators._vectorised_conv_gradients(
        grad.double(), x.double(), weight.double(), bias.double(), 5, [0, 1, 2]
    )
    assert [t.dtype for t in result] == [dtype, torch.float32, torch.float32]
    assert_equal(tuple(t.double() for t in result), exact, tolerance)


# --- the choice ---------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(packages: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions of the packages that were called, where tensors of the CPU count as being on a GPU."""
    called: list[str] = []

    def counted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **options: Any) -> Tensor:
            called.append(function.__name__)
            return function(*args, **options)

        return call

    packages.conv.causal_conv1d_fn = counted(causal_conv1d_fn)
    packages.scan.selective_scan_fn = counted(selective_scan_fn)
    monkeypatch.setattr(fused_backward, "_DEVICE", "cpu")
    return called


def backward_of_both(width: int = 8, states: int = 16, taps: int = 4, dtype: torch.dtype = torch.float32) -> None:
    """The backward pass of both operators over 12 tokens, 3 directions."""
    inputs = [a.to(dtype).requires_grad_() for a in conv_arguments(3, 1, 12, width, taps)]
    causal_conv1d(*inputs, 3, [0, 1, 2]).sum().backward()
    others = [a.to(dtype).requires_grad_() for a in scan_arguments(3, 1, 12, width, states)]
    selective_scan(*others, 3, [0, 1, 2], True).sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in (*inputs, *others))


@pytest.mark.parametrize("dtype", CUDA_FLOATS, ids=str)
def test_operators_call_each_package_once_for_all_directions(calls: list[str], dtype: torch.dtype) -> None:
    backward_of_both(dtype=dtype)
    assert calls == ["causal_conv1d_fn", "selective_scan_fn"]


def test_whole_backward_pass_is_the_vectorised_one(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through autograd, the convolution's result into the scan."""

    def gradients() -> tuple[Tensor, ...]:
        xz, weight, bias = conv_arguments(3, 2, 20)
        _, *rest = scan_arguments(3, 2, 20, 8)
        rest[1] = xz
        leaves = [t.float().requires_grad_() for t in (xz, weight, bias, *rest[:1], *rest[2:])]
        x, w, b, dbc, *parameters = leaves
        y = selective_scan(causal_conv1d(x, w, b, 5, [0, 1, 2]), dbc, x, *parameters, 5, [0, 1, 2], True)
        return torch.autograd.grad((y * normal(2, 20, 8)).sum(), leaves)

    fused = gradients()
    assert calls == ["selective_scan_fn", "causal_conv1d_fn"]
    monkeypatch.setattr(fused_backward, "_DEVICE", "cuda")
    assert_equal(fused, gradients(), 2 * TOLERANCES[torch.float32])  # of two operators, one behind the other
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"width": 12}, ["selective_scan_fn"], id="width no multiple of 8"),
        pytest.param({"taps": 5}, ["selective_scan_fn"], id="five taps"),
        pytest.param({"taps": 1}, ["selective_scan_fn"], id="one tap"),
        pytest.param({"states": 257}, ["causal_conv1d_fn"], id="257 states"),
        pytest.param({"dtype": torch.float64}, [], id="float64"),
    ],
)
def test_what_the_kernels_cannot_take_is_vectorised(
    calls: list[str], given: dict[str, Any], expected: list[str]
) -> None:
    backward_of_both(**given)
    assert calls == expected


def test_tensors_of_more_than_32_bits_of_elements_are_vectorised(calls: list[str]) -> None:
    x = torch.empty(1, 1, 8).expand(1 << 20, 1 << 9, 8)  # of 2^32 elements, none of which is stored more than once
    parameters = torch.empty(1, 8, 4)
    with torch.no_grad():
        assert not fused_backward.takes_conv(x, parameters) and not fused_backward.takes_scan(x[None], parameters)
        assert fused_backward.takes_conv(x[: 1 << 19], parameters) and fused_backward.takes_scan(
            x[None, :9], parameters
        )


def test_tensors_of_the_cpu_are_vectorised(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_backward, "_DEVICE", "cuda")
    backward_of_both()
    assert calls == []


def test_repeatable_backward_pass_is_vectorised(calls: list[str]) -> None:
    """The packages' kernels add up with atomics."""
    torch.use_deterministic_algorithms(True)
    try:
        backward_of_both()
    finally:
        torch.use_deterministic_algorithms(False)
    assert calls == []


def test_second_derivatives_are_not_lost_in_silence(calls: list[str]) -> None:
    inputs = [a.float().requires_grad_() for a in conv_arguments(1, 1, 6)]
    (first,) = torch.autograd.grad(causal_conv1d(*inputs, 1, [0]).sum(), inputs[:1], create_graph=True)
    assert calls == [] and first.requires_grad


def test_tracing_takes_the_vectorised_form(calls: list[str]) -> None:
    arguments = [a.requires_grad_(True) for a in scan_arguments(2, 2, 6, 8, dtype=torch.float32)]
    torch.library.opcheck(
        torch.ops.vivim.selective_scan.default, (*arguments, 2, [0, 2], True), test_utils="test_aot_dispatch_static"
    )


@pytest.mark.parametrize("name", ["causal_conv1d", "mamba_ssm"])
def test_missing_package_is_vectorised_without_a_word(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)

    def find_spec(module: str, *_: object) -> None:
        if module.partition(".")[0] == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=find_spec), *sys.meta_path])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backward_of_both()
    assert calls == [{"causal_conv1d": "selective_scan_fn", "mamba_ssm": "causal_conv1d_fn"}[name]]


@pytest.mark.parametrize("error", ["OSError", "ImportError", "AttributeError", "ModuleNotFoundError"])
def test_package_that_cannot_be_imported_is_named_once(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """Extensions built for another torch fail in many ways; what they need may be missing too."""
    (tmp_path / "causal_conv1d.py").write_text(f"raise {error}('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "causal_conv1d")
    with pytest.warns(
        RuntimeWarning, match=f"causal-conv1d is installed but cannot be used.*{error}: undefined symbol"
    ):
        backward_of_both()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backward_of_both()
    assert calls == ["selective_scan_fn", "selective_scan_fn"]


def test_mamba_ssm_without_its_extension_is_vectorised(calls: list[str], packages: SimpleNamespace) -> None:
    """As versions after 2.3.2 are built by default: their function fails when it is called."""
    packages.scan.selective_scan_cuda = None
    with pytest.warns(RuntimeWarning, match="without selective_scan_cuda"):
        backward_of_both()
    assert calls == ["causal_conv1d_fn"]


# --- on a GPU -----------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("dtype", CUDA_FLOATS, ids=str)
def test_packages_on_a_gpu_give_the_vectorised_gradients(dtype: torch.dtype) -> None:
    # float32: exponentials of both are 2^-22 off at most, and gradients cancel; float32 sums with atomics in any order.
    # 16 bits: one rounding of the result on top.
    tolerance = 2e-5 + (0.0 if dtype == torch.float32 else torch.finfo(dtype).eps)
    xc, dbc, xz, *parameters = (a.to(dtype).cuda() for a in scan_arguments(3, 2, 2570, 16))
    x, weight, bias = (a.to(dtype).cuda() for a in conv_arguments(3, 2, 2570, 16))
    arguments = (xc, dbc, xz, *(p.float() for p in parameters))
    with torch.no_grad():
        if not (fused_backward.takes_conv(x, weight) and fused_backward.takes_scan(xc, arguments[3])):
            pytest.skip("mamba-ssm and causal-conv1d are not installed: pip install --no-build-isolation both")
        grad = normal(3, 2, 2570, 16).to(dtype).cuda()
        found = fused_backward.conv_gradients(grad, x, weight, bias, 5, [0, 1, 2])
        assert_equal(found, operators._vectorised_conv_gradients(grad, x, weight, bias, 5, [0, 1, 2]), tolerance)
        result = fused_backward.scan_gradients(grad[0], *arguments, 5, [0, 1, 2], True)
        expected = operators._chunked_scan_gradients(grad[0], *arguments, 5, [0, 1, 2], True)
        assert_equal(result, expected, tolerance)
