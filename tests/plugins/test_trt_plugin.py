"""libvivim_trt.so as TensorRT would load, ask and run it, without TensorRT or a GPU, on the emulated kernels."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.plugins import test_gpu
from tests.plugins.trt_library import TRT_TYPES, Node, build
from vivim.scan.reference import causal_conv1d_reference, selective_scan_reference

# Relative L2 distance to float64 on the same rounded inputs. The state is float32: some ulp (6e-8) a step, forgotten
# with the decay. In 16 bits the output's own rounding is left: at most 2^-11 and 2^-8 an element, 0.6 of that in the
# mean, and as much again for the directions' own buffers.
TOLERANCES = {torch.float32: 5e-7, torch.float16: 5e-4, torch.bfloat16: 4e-3}
# A GPU's ex2.approx may be 2^-22 off, which the emulator's exact exponential is not (tests/plugins/test_gpu.py derives
# what follows from it); in 16 bits the rounding of the output hides that.
CUDA_TOLERANCES = {**TOLERANCES, torch.float32: test_gpu.TOLERANCES[torch.float32]}


@pytest.fixture(scope="module")
def folder() -> Path:
    return build("emulated")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where enqueue's memory is: of the host for the emulated kernels, of the GPU for the real ones."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU and PyTorch for CUDA")
    return str(request.param)


@pytest.fixture(scope="module")
def compiled(device: str) -> Path:
    """The folder of the library for the device."""
    return build("emulated" if device == "cpu" else "gpu")


def conv_inputs(count: int, batch: int, length: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """xz, weight, bias."""
    g = torch.Generator().manual_seed(5)
    xz = torch.randn(batch, length, 2 * width, generator=g).to(dtype)
    return [xz, torch.randn(count, width, 4, generator=g), torch.randn(count, width, generator=g)]


def scan_inputs(
    count: int, batch: int, length: int, width: int, dtype: torch.dtype, rank: int = 8, shared: bool = False
) -> list[Tensor]:
    """xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip with slow and fast decays; N = 16."""
    g = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    return [
        normal(1 if shared else count, batch, length, width).to(dtype),
        normal(count, batch, length, rank + 32).to(dtype),
        normal(batch, length, 2 * width).to(dtype),
        -torch.rand(count, width, 16, generator=g) * 20,
        normal(count, width, rank) * 0.3,
        normal(count, width) - 2,
        normal(count, width),
    ]


def run(node: Node, inputs: list[Tensor], shape: tuple[int, ...], device: str, tactic: int = 0) -> Tensor:
    """The node's output on the host; what it does not write is NaN."""
    output = torch.full(shape, torch.nan, dtype=inputs[0].dtype, device=device)
    return node.run([tensor.to(device) for tensor in inputs], output, tactic).cpu()


def assert_close(value: Tensor, expected: Tensor, device: str) -> None:
    assert value.isfinite().all()
    tolerance = (TOLERANCES if device == "cpu" else CUDA_TOLERANCES)[value.dtype]
    assert (value.double() - expected).norm() <= tolerance * expected.norm()


def test_library_does_all_that_tensorrt_asks_and_refuses_the_rest_by_name(folder: Path) -> None:
    done = subprocess.run(
        [folder / "vivim_trt_host_test", folder / "libvivim_trt.so"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    # Before there is a logger, messages go to stderr; afterwards none does.
    assert done.stderr == "vivim::SelectiveScan: attribute rows is missing\n"


def test_library_exports_three_functions_and_needs_nothing_of_tensorrt(folder: Path) -> None:
    def names(kind: str) -> set[str]:
        command = ["nm", "-D", kind, str(folder / "libvivim_trt.so")]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return {line.split()[-1] for line in lines}

    assert names("--defined-only") == {"getCreators", "setLoggerFinder", "vivim_trt_headers_version"}
    undefined = names("--undefined-only")
    assert [name for name in undefined if "nvinfer" in name.lower() or name.startswith(("cuda", "cu"))] == []
    assert "vivim_selective_scan" in undefined
    dynamic = subprocess.run(
        ["readelf", "-d", str(folder / "libvivim_trt.so")], capture_output=True, text=True, check=True
    )
    assert "nvinfer" not in dynamic.stdout
    assert "[$ORIGIN]" in dynamic.stdout  # where the kernels' library is looked for


# (directions, rows, L): Vivim; VMamba; Vim with one row; the columns alone, fewer tokens than taps
CONVOLUTIONS = [([0, 1, 2], 5, 35), ([0, 2, 1, 3], 7, 63), ([0, 1], 1, 17), ([2], 3, 3)]


@pytest.mark.parametrize("dtype", TRT_TYPES)
@pytest.mark.parametrize(("directions", "rows", "length"), CONVOLUTIONS)
def test_convolution_equals_float64(
    compiled: Path, device: str, directions: list[int], rows: int, length: int, dtype: torch.dtype
) -> None:
    inputs = conv_inputs(len(directions), 2, length, 16, dtype)
    node = Node(compiled, "CausalConv1d", rows, directions)
    value = run(node, inputs, (len(directions), 2, length, 16), device)
    node.close()
    assert_close(value, causal_conv1d_reference(*inputs, rows, directions), device)


# (directions, rows, L, mean, shared): Vivim; its sum; VMamba over one shared input; one direction
SCANS = [
    ([0, 1, 2], 5, 35, 1, False),
    ([0, 1, 2], 5, 35, 0, False),
    ([0, 2, 1, 3], 7, 63, 1, True),
    ([3], 3, 9, 1, False),
]


@pytest.mark.parametrize("dtype", TRT_TYPES)
@pytest.mark.parametrize(("directions", "rows", "length", "mean", "shared"), SCANS)
def test_scan_equals_float64_with_every_tactic(
    compiled: Path,
    device: str,
    directions: list[int],
    rows: int,
    length: int,
    mean: int,
    shared: bool,
    dtype: torch.dtype,
) -> None:
    inputs = scan_inputs(len(directions), 2, length, 16, dtype, shared=shared)
    expected = selective_scan_reference(*inputs, rows, directions, bool(mean))
    node = Node(compiled, "SelectiveScan", rows, directions, mean)
    assert node.tactics > 1
    for tactic in range(node.tactics + 1):
        assert_close(run(node, inputs, tuple(expected.shape), device, tactic), expected, device)
    node.close()


def test_scan_of_other_rank_and_width(compiled: Path, device: str) -> None:
    inputs = scan_inputs(3, 1, 40, 24, torch.float32, rank=16)
    node = Node(compiled, "SelectiveScan", 5, [0, 1, 2], 1)
    value = run(node, inputs, (1, 40, 24), device)
    node.close()
    assert_close(value, selective_scan_reference(*inputs, 5, [0, 1, 2], True), device)


def test_wrong_attribute_is_refused_with_a_message(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="attribute directions holds 4; expected 0 to 3"):
        Node(folder, "CausalConv1d", 5, [0, 4])


def test_wrong_shape_is_refused_by_the_name_of_its_input(folder: Path) -> None:
    inputs = scan_inputs(3, 1, 40, 16, torch.float32)
    inputs[4] = inputs[4][..., :4]  # dt_weight of rank 4, dbc of rank 8
    node = Node(folder, "SelectiveScan", 5, [0, 1, 2], 1)
    with pytest.raises(RuntimeError, match=r"input dbc has shape \(3, 1, 40, 40\); expected \(3, 1, 40, 36\)"):
        node.run(inputs, torch.zeros(1, 40, 16))
    node.close()
