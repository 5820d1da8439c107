"""Names that stand outside this repository, in command lines and scripts, still start what they name."""

from __future__ import annotations

import runpy
import sys

import pytest


def test_the_module_that_torchrun_is_given_starts_vivim_train(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # The documented command is `torchrun -m vivim.cli fit ...`: a module that only defines its commands does nothing.
    monkeypatch.setattr(sys, "argv", ["vivim/cli.py", "fit", "--nothing"])
    monkeypatch.delitem(sys.modules, "vivim.cli", raising=False)
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("vivim.cli", run_name="__main__", alter_sys=True)  # as `python -m` does
    err = capfd.readouterr().err
    assert exit.value.code == 2
    assert "No such option: --nothing" in err and "see vivim-train --help" in err
