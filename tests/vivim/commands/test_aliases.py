"""Names that stand outside this repository, in command lines and scripts, still start what they name."""

from __future__ import annotations

import subprocess
import sys


def test_the_module_that_torchrun_is_given_starts_vivim_train() -> None:
    # The documented command is `torchrun -m vivim.cli fit ...`: a module that only defines its commands does nothing.
    done = subprocess.run([sys.executable, "-m", "vivim.cli", "fit", "--nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "No such option: --nothing" in done.stderr and "see vivim-train --help" in done.stderr
