"""The notebook of the documentation runs as it is, cell after cell, in a folder of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs(tmp_path: Path) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 6 and all(cell["outputs"] == [] for cell in cells)  # kept without results of one machine
    checks = "assert comparison.passed and same.passed and report.frames == 20 and dice > 0.5, dice"
    script = "\n".join(["".join(cell["source"]) for cell in cells] + [checks])
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (tmp_path / "notebook").iterdir()} == {"model.onnx", "masks.png", "parity.html"}


def test_the_notebook_is_what_its_writer_writes(tmp_path: Path) -> None:
    before = NOTEBOOK.read_bytes()
    subprocess.run([sys.executable, str(NOTEBOOK.parent / "tools" / "notebook.py")], check=True)
    assert NOTEBOOK.read_bytes() == before
