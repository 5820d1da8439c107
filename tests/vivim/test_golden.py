"""The network against numbers of the original implementation (tests/golden, see RECIPE.md).

Tolerances are the original's own spread over threads, oneDNN and float64: relative L2 1.5e-5 and 2e-4 at most on the
models, 5e-5 on a direction of the Mamba module, 2e-6 on the scan. An eps of 1e-6 for 1e-5 in one norm gives 6.7e-5.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch

import vivim
from tests.golden.cases import MODEL_CASES, case_state, read, relative_l2, upstream_state
from tests.golden.recipe import tensor
from vivim.mamba import SpatioTemporalMamba
from vivim.scan.operators import causal_conv1d, selective_scan


@pytest.mark.parametrize("name", MODEL_CASES)
def test_model_computes_what_the_original_computes(name: str) -> None:
    meta, arrays = read(f"case_{name}")
    state = case_state(meta)
    checksum = 0
    for key in sorted(state):
        checksum = zlib.crc32(f"{key}:{zlib.crc32(state[key].numpy().tobytes())};".encode(), checksum)
    assert checksum == meta["weights_crc32"]["all_keys_sorted"]
    clip = torch.from_numpy(tensor("input", meta["input_shape"], meta["case_seed"]))

    with torch.no_grad():
        output = vivim.from_upstream(state)(clip)

    for part, expected in arrays.items():
        value = getattr(output, part).flatten(0, 1).numpy()
        assert relative_l2(value, expected) <= 1.5e-5
        assert np.abs(value - expected).max() <= 2e-4
    assert (output.edge is None) == ("edge" not in arrays)


def _golden_mixer(meta: dict, directions: tuple[str, ...]) -> SpatioTemporalMamba:
    """The tri-directional Mamba module of `mamba_v3`, through the checkpoint translation of a whole network."""
    state = upstream_state((1, 1, 1, 1))
    prefix = "encoder.stages.0.0.0.mamba."
    for key, shape in meta["state_dict"].items():
        state[prefix + key] = torch.from_numpy(tensor(key, shape, meta["case_seed"]))
    mixer = vivim.from_upstream(state).stages[0].mamba[0].mixer
    kept = [mixer.directions[("forward", "backward", "spatial").index(d)] for d in directions]
    for name in ("conv_weight", "conv_bias", "x_proj", "dt_weight", "dt_bias", "A_log", "D"):
        parameter = getattr(mixer, name)
        setattr(mixer, name, torch.nn.Parameter(parameter.detach()[kept]))
    mixer.directions = kept
    return mixer


@pytest.mark.parametrize("direction", ["forward", "backward", "spatial"])
def test_each_direction_of_the_mamba_module(direction: str) -> None:
    meta, arrays = read("mamba_v3")
    mixer = _golden_mixer(meta, (direction,))
    mixer.out_proj = torch.nn.Identity()
    with torch.no_grad():
        value = mixer(torch.from_numpy(arrays["input"]), meta["nframes"])
    assert relative_l2(value.transpose(1, 2).numpy(), arrays[direction]) <= 5e-5


def test_the_mamba_module_averages_its_directions() -> None:
    meta, arrays = read("mamba_v3")
    mixer = _golden_mixer(meta, ("forward", "backward", "spatial"))
    with torch.no_grad():
        value = mixer(torch.from_numpy(arrays["input"]), meta["nframes"])
    assert relative_l2(value.numpy(), arrays["output"]) <= 1.5e-5


@pytest.mark.parametrize(
    ("output", "gate", "skip", "bias"),
    [
        ("out_all", True, True, True),
        ("out_no_z", False, True, True),
        ("out_no_D", True, False, True),
        ("out_no_delta_bias", True, True, False),
        ("out_plain", False, False, False),
        ("out_no_softplus", True, True, True),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_scan_with_every_option(output: str, gate: bool, skip: bool, bias: bool, dtype: torch.dtype) -> None:
    meta, arrays = read("selective_scan")
    batch, width, states, length = (meta["shapes"][k] for k in "BDNL")

    def recipe(key: str, *shape: int) -> torch.Tensor:
        return torch.from_numpy(tensor(key, shape, meta["case_seed"])).double()

    delta = recipe("delta", batch, width, length) * 0.5
    delta_bias = recipe("dt_proj.bias", width)
    if output == "out_no_softplus":  # given dt itself: feed what softplus maps to it
        dt = torch.from_numpy(arrays["in_delta_positive"])
        delta, delta_bias = dt + torch.log(-torch.expm1(-dt)), torch.zeros(width, dtype=torch.float64)
    columns = torch.cat((delta, recipe("B", batch, states, length), recipe("C", batch, states, length)), dim=1)
    z = recipe("z", batch, width, length).transpose(1, 2)
    arguments = (
        recipe("u", batch, width, length).transpose(1, 2)[None],
        columns.transpose(1, 2)[None],
        torch.cat((torch.zeros_like(z), z), dim=-1) if gate else None,
        -torch.exp(recipe("A_log", width, states))[None] * np.log2(np.e),
        torch.eye(width, dtype=torch.float64)[None],
        (delta_bias if bias else torch.zeros_like(delta_bias))[None],
        (recipe("D", width) if skip else torch.zeros(width, dtype=torch.float64))[None],
    )
    arguments = tuple(None if a is None else a.to(dtype) for a in arguments)

    value = selective_scan(*arguments, 1, [0], True).transpose(1, 2).double().numpy()

    expected = arrays[output]
    assert np.linalg.norm(value - expected) / np.linalg.norm(expected) <= 2e-6


def test_convolution_keeps_its_causal_order_across_frames() -> None:
    """Conv and scan never reset at frame borders: the first token of frame 2 sees the last of frame 1."""
    x = torch.zeros(1, 8, 1)
    x[0, 3] = 1.0
    weight = torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])  # the tap one step back
    value = causal_conv1d(x, weight, torch.zeros(1, 1), 2, [0])
    assert value[0, 0, 4, 0] == torch.nn.functional.silu(torch.tensor(1.0))
    assert value.count_nonzero() == 1
