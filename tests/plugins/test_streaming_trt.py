"""The TensorRT plugins with a state, emulated: the numbers of the float64 loop, and a state that is float32."""

from __future__ import annotations

import pytest
import torch

from tests.plugins.test_trt_plugin import TOLERANCES
from tests.plugins.trt_library import TRT_TYPES, Node, build
from tests.vivim.scan.test_operators import scan_arguments
from vivim.scan.reference import causal_conv1d_reference, streaming_scan_reference


@pytest.mark.parametrize("dtype", TRT_TYPES)
@pytest.mark.parametrize(("directions", "rows", "length"), [([0, 1], 5, 35), ([0, 1, 2], 7, 63), ([0], 1, 2)])
def test_scan_goes_on_from_a_state(directions: list[int], rows: int, length: int, dtype: torch.dtype) -> None:
    count = len(directions)
    arguments = scan_arguments(count, 2, length, 16)
    arguments[3] = arguments[3] / 20  # some of what comes in is still there at the end
    arguments.append(torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    given = [a.to(dtype) if i < 3 else a.float() for i, a in enumerate(arguments)]
    node = Node(build("emulated"), "StreamingScan", rows, directions, 1)
    y, final = torch.full((2, length, 16), torch.nan, dtype=dtype), torch.full((2, 16, 16), torch.nan)
    expected = streaming_scan_reference(*given, rows, directions, True)
    for tactic in range(node.tactics + 1):
        node.run(given, y, tactic, final)
        assert (y.double() - expected[0]).norm() <= TOLERANCES[dtype] * expected[0].norm()
        # Slower decays keep roundings 20 times as long as those of the other tests, and their root is 4.5.
        assert (final.double() - expected[1]).norm() <= 4.5 * TOLERANCES[torch.float32] * expected[1].norm()
    node.close()


@pytest.mark.parametrize("dtype", TRT_TYPES)
@pytest.mark.parametrize("length", [1, 2, 35])
def test_convolution_goes_on_from_its_tail(length: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(3)
    x, tail = (torch.randn(*s, generator=g).to(dtype) for s in ((2, length, 32), (2, 3, 16)))
    weight, bias = torch.randn(2, 16, 4, generator=g) * 0.5, torch.randn(2, 16, generator=g) * 0.1
    node = Node(build("emulated"), "StreamingConv1d", 1, [0, 1])
    value = node.run([x, tail, weight, bias], torch.full((2, 2, length, 16), torch.nan, dtype=dtype))
    node.close()
    expected = causal_conv1d_reference(x, weight, bias, 1, [0, 1], tail)
    assert (value.double() - expected).norm() <= TOLERANCES[dtype] * expected.norm()
