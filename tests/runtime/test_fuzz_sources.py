"""Damaged and lying headers through the sources: frames or one of our errors, never a crash, a hang or all memory."""

from __future__ import annotations

import pytest

from tests.runtime.fuzz_sources import fuzz


@pytest.mark.parametrize("cases", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutated_headers_are_read_or_refused(cases: int) -> None:
    outcomes, findings = fuzz(0, cases)
    assert findings == []
    assert sum(outcomes.values()) == cases
    assert (
        outcomes["refused"] > cases / 10 and outcomes["3 frames"] > cases / 20
    )  # the mutations are neither too mild nor too wild
