"""The TensorRT plugin of the plain scan, on the emulated kernels or a GPU: the numbers of the float64 loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.plugins.test_s6_kernels import Case, arguments_of
from tests.plugins.test_trt_plugin import (  # noqa: F401  (fixtures)
    assert_close,
    compiled,
    device,
    run,
)
from tests.plugins.trt_library import Node
from vivim.scan.s6 import s6_scan_reference

CASES = {
    "VMamba": Case(batch=2, groups=4, inner=6, states=1, length=49),
    "MambaVision": Case(batch=2, inner=9, states=8, length=98, dtype=torch.float16),
    "N = 16": Case(groups=2, length=131),
    "N = 40, time as it is": Case(states=40, softplus=False, dtype=torch.bfloat16),
}
FROM_TORCH = (0, 1, 3, 4, 2, 5, 6)  # the order of the node's inputs


@pytest.mark.parametrize("name", CASES)
def test_plain_scan_equals_float64_with_every_tactic(compiled: Path, device: str, name: str) -> None:  # noqa: F811
    case = CASES[name]
    arguments = arguments_of(case)
    expected = s6_scan_reference(*arguments, case.softplus)
    node = Node(compiled, "S6Scan", softplus=int(case.softplus))
    assert node.tactics > 1
    for tactic in range(node.tactics + 1):
        value = run(node, [arguments[i] for i in FROM_TORCH], tuple(expected.shape), device, tactic)
        assert_close(value, expected, device)
    node.close()


def test_wrong_shape_is_refused_by_the_name_of_its_input(compiled: Path, device: str) -> None:  # noqa: F811
    arguments = arguments_of(Case(groups=2, states=4, length=20))
    inputs = [arguments[i].to(device) for i in FROM_TORCH]
    inputs[3] = inputs[3][..., :-1]
    node = Node(compiled, "S6Scan", softplus=1)
    with pytest.raises(RuntimeError, match=r"input C has shape \(1, 2, 4, 19\); expected \(1, 2, 4, 20\)"):
        node.run(inputs, torch.zeros(1, 10, 20, device=device))
    node.close()
