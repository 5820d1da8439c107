"""Which modules of others go onto the fused operators, proven equal, and which stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vivim_export.foreign import load_network, stand_ins
from vivim_export.foreign.fusing import fused_modules

FORKS = Path(__file__).parent / "forks"


@pytest.mark.parametrize(
    ("name", "arguments", "directions", "mean", "gate"),
    [
        ("one_direction", {}, (0,), True, True),
        ("two_directions", {}, (0, 1), False, True),
        ("two_directions", {"halved": True}, (0, 1), True, True),
        ("three_directions", {}, (0, 1, 2), False, True),
        ("crossing", {}, (0, 2, 1, 3), False, False),
        ("crossing", {"told": True}, (0, 2, 1, 3), False, False),
    ],
)
def test_modules_that_fit_are_fused_and_give_the_same(
    name: str, arguments: dict[str, bool], directions: tuple[int, ...], mean: bool, gate: bool
) -> None:
    torch.manual_seed(0)
    with stand_ins([FORKS]), torch.no_grad():
        network = load_network(f"replica:{name}", [FORKS], arguments)
        x = torch.randn(2, 3, 8, 12) if name == "crossing" else torch.randn(2, 12, 8)
        before = [dict(vars(module)) for module in network.modules()]
        expected = network(x)
        with fused_modules(network, x) as sites:
            value = network(x)
        assert [dict(vars(module)) for module in network.modules()] == before
    for site in sites:
        assert site.variant is not None, site.reason
        assert (site.variant.directions, site.variant.mean, site.variant.gate) == (directions, mean, gate)
        assert 0 < site.error <= 2e-6  # two ways to add in float32: some ulp (6e-8) a step
    assert (value - expected).norm() <= 2e-6 * expected.norm()


def test_modules_that_scan_in_another_order_stay_with_a_reason() -> None:
    torch.manual_seed(0)
    with stand_ins([FORKS]):
        network = load_network("replica:mixed", [FORKS])
        with fused_modules(network, torch.randn(1, 3, 8, 12)) as sites:
            pass
    assert [site.variant is not None for site in sites] == [True, False, False]
    assert all("differs by" in site.reason for site in sites[1:])


def test_a_module_that_looks_the_same_and_is_not_stays() -> None:
    """The proof looks at numbers: here one sign of the skip is another."""
    torch.manual_seed(0)
    with stand_ins([FORKS]):
        network = load_network("replica:one_direction", [FORKS])
        mamba = network.blocks[0]
        scan = mamba.scan
        mamba.scan = lambda xz, suffix: scan(xz, suffix) + 1e-3 * xz[:, :16]
        with fused_modules(network, torch.randn(1, 12, 8)) as sites:
            pass
    assert sites[0].variant is None and "differs by" in sites[0].reason


def test_modules_of_another_order_than_most_stay() -> None:
    torch.manual_seed(0)
    with stand_ins([FORKS]):
        import replica

        network = replica.Sequence(replica.Mamba("v2"), replica.Mamba("v2"), replica.Mamba()).eval()
        with fused_modules(network, torch.randn(1, 12, 8)) as sites:
            pass
    assert [site.variant is not None for site in sites] == [True, True, False]
    assert "directions [0], most others another order" in sites[2].reason
