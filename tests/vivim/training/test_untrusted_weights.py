"""Weights to start from that are hostile, damaged or no files: one line, exit code 2, and nothing is run or begun."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vivim.training.affine import AffineRegressor
from vivim_runtime.commands import entry


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("echo pwned > pwned",))


def hostile(kind: str, folder: Path) -> Path:
    """A file, or none, of each kind."""
    path = folder / f"w{'.safetensors' if kind.startswith('safetensors') else '.pth'}"
    if kind == "fifo" or kind == "safetensors that is a fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "itself":
        path.symlink_to(path.name)
    elif kind == "folder":
        path.mkdir()
    elif kind == "command":
        torch.save({"model": {"a": torch.zeros(1)}, "x": _Hostile()}, path)
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps(_Hostile()))
    elif kind == "cut off":
        torch.save({"model": {"a": torch.zeros(1000)}}, path)
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "other tensors":
        torch.save({"a\x1b[2J": torch.zeros(1)}, path)
    elif kind == "safetensors of other tensors":
        save_file({"a\n\x1b[2J": torch.zeros(1)}, path, {"x": "\x1b[2J"})
    elif kind == "safetensors of a large header":
        path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    elif kind == "safetensors of deep brackets":
        header = b"[" * 100_000
        path.write_bytes(len(header).to_bytes(8, "little") + header)
    elif kind == "safetensors with a deep description":
        save_file({"a": torch.zeros(1)}, path, {"format": "vivim-edge/1", "config": "[" * 100_000})
    elif kind == "safetensors with a large network":
        config = '{"widths": [1000000000, 1, 1, 1], "depths": [1000000000, 1, 1, 1]}'
        save_file({"a": torch.zeros(1)}, path, {"format": "vivim-edge/1", "config": config})
    elif kind == "safetensors of no numbers":
        state = AffineRegressor().state_dict()
        save_file({key: torch.full_like(value, float("nan")) for key, value in state.items()}, path)
    return path


KINDS = [
    "missing",
    "fifo",
    "device",
    "itself",
    "folder",
    "command",
    "bare pickle",
    "cut off",
    "other tensors",
    "safetensors that is a fifo",
    "safetensors of other tensors",
    "safetensors of a large header",
    "safetensors of deep brackets",
    "safetensors with a deep description",
    "safetensors with a large network",
    "safetensors of no numbers",
]


@pytest.mark.parametrize("option", ["--init", "--encoder", "--regressor"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_to_start_from_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = hostile(kind, tmp_path)
    args = ["fit", "--clips", "1", "--validation-clips", "1", "--frames", "1", "--imgsz", "32", "--batch", "1"]
    args += ["--epochs", "1", "--threads", "1", "--out", "out", option, str(path)]
    args += [] if option == "--init" else ["--preset", "tiny"]
    args += [] if option == "--regressor" else ["--affine", "0"]
    monkeypatch.setattr(sys, "argv", ["vivim-train", *args])
    with pytest.raises(SystemExit) as ended:
        entry.train()
    error = capsys.readouterr().err
    assert ended.value.code == 2, error
    assert error.count("\n") == 1 and error.startswith("error: ") and error.strip().isprintable()
    assert not (tmp_path / "pwned").exists() and not list(tmp_path.glob("out/*.safetensors"))
