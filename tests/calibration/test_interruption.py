"""A run that is stopped leaves the ranges it had learnt, whole, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.calibration.conftest import clips_of
from vivim_calibration import procedure
from vivim_calibration.procedure import Options, calibrate

CODE = """
import sys
from pathlib import Path
from vivim_calibration.procedure import Options, calibrate
model, output, cache = map(Path, sys.argv[1:4])
options = Options(target="a test", runs=1, threads=1, device="cpu", cache=cache)
calibrate(model, output, sys.argv[4:5], sys.argv[5:6], options, lambda stage: print(stage, flush=True))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_it_goes_on_from_the_ranges_and_leaves_nothing_half_written(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    folder, scratch = tmp_path / "out", tmp_path / "tmp"
    folder.mkdir()
    scratch.mkdir()
    output, cache = folder / "net.int8.onnx", folder / "ranges.json"
    data = [clips_of(1), clips_of(21)]
    arguments = [sys.executable, "-c", CODE, str(exported), str(output), str(cache), *data]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as p:
        assert p.stdout is not None
        for line in p.stdout:
            if line.startswith("judging int8"):
                p.send_signal(how)
                break
    assert p.returncode not in (0, None)
    assert [path.name for path in folder.iterdir()] == ["ranges.json"]
    if how == signal.SIGINT:
        assert not list(scratch.glob("tmp*"))

    monkeypatch.setattr(procedure, "learn_ranges", None)  # whoever calls it fails
    options = replace(Options(target="a test", runs=1, threads=1, device="cpu"), cache=cache)
    assert calibrate(exported, output, data[:1], data[1:], options).passed
    assert output.is_file()
