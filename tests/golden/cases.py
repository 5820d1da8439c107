"""The golden model cases as our tests use them: upstream state dict, input, expected outputs, and the error figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.golden.recipe import tensor

FOLDER = Path(__file__).parent
MODEL_CASES = ("A_small", "B_batch", "C_b3", "D_edge")


def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON and the arrays of a case."""
    meta = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return meta, {key: arrays[key] for key in arrays.files}


def upstream_state(
    depths: tuple[int, ...] = (3, 4, 18, 3), edge: bool = False, seed: int = 1003
) -> dict[str, torch.Tensor]:
    """An upstream state dict by the recipe: B3 widths, the SegFormer depths given."""
    keys = json.loads((FOLDER / f"state_dict_b3_{'edge' if edge else 'noedge'}.json").read_text())
    state = {}
    for key, shape in keys.items():
        block = re.match(r"encoder\.downsample_layers\.block\.(\d)\.(\d+)\.", key)
        if block is None or int(block[2]) < depths[int(block[1])]:
            state[key] = torch.from_numpy(tensor(key, shape, seed))
    return state


def case_state(meta: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The upstream state dict of a model case."""
    return upstream_state(tuple(meta["depths"]), meta["with_edge"], meta["case_seed"])


def relative_l2(value: np.ndarray, expected: np.ndarray) -> float:
    """The golden README's relative L2 error: means removed from the error and from the reference."""
    error = value.astype(np.float64) - expected
    centred = expected.astype(np.float64) - expected.mean(dtype=np.float64)
    return float(np.linalg.norm(error - error.mean()) / np.linalg.norm(centred))
