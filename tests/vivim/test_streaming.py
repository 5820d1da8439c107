"""A network frame by frame: it equals itself over a clip, looks back only, and takes over weights of clip networks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from vivim.checkpoint import load_checkpoint
from vivim.config import VivimConfig
from vivim.conversion import streaming_from
from vivim.model import Vivim, stage_sizes
from vivim.streaming import LayerState, flat_states, packed_states, zero_states
from vivim_runtime.errors import ConfigError, InputError

SIZE = 32
TINY = VivimConfig.preset("tiny", streaming=True, directions=("forward", "frame_backward"), frames=1)
DIRECTIONS = [
    ("forward",),
    ("forward", "frame_backward"),
    ("forward", "frame_backward", "frame_columns"),
    ("frame_forward", "frame_backward"),
]


def network(directions: tuple[str, ...] = TINY.directions, dtype: torch.dtype = torch.float64) -> Vivim:
    torch.manual_seed(0)
    return Vivim(dataclasses.replace(TINY, directions=directions)).eval().to(dtype)


def film(frames: int, dtype: torch.dtype = torch.float64, batch: int = 1) -> Tensor:
    return torch.randn(batch, frames, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=dtype)


def steps(model: Vivim, frames: Tensor) -> tuple[Tensor, list[LayerState]]:
    states, found = None, []
    for t in range(frames.shape[1]):
        output, states = model.step(frames[:, t], states)
        found.append(output.logits)
    assert states is not None
    return torch.stack(found, 1), states


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


@torch.no_grad()
@pytest.mark.parametrize("directions", DIRECTIONS, ids="+".join)
@pytest.mark.parametrize("count", [1, 5, 16, pytest.param(60, marks=pytest.mark.slow)])
def test_steps_equal_one_clip(directions: tuple[str, ...], count: int) -> None:
    model, frames = network(directions), film(count)
    (whole, _), last = model.run(frames)
    found, states = steps(model, frames)
    # Float64: the order of additions alone differs, some 1e-15 a layer.
    assert relative(found, whole) <= 1e-12
    for value, right in zip(flat_states(states), flat_states(last), strict=True):
        assert relative(value, right) <= 1e-12


@torch.no_grad()
def test_steps_equal_one_clip_in_float32() -> None:
    model, frames = network(dtype=torch.float32), film(16, torch.float32)
    assert relative(steps(model, frames)[0], model(frames).logits) <= 1e-5  # what is promised; measured 2e-7


@torch.no_grad()
@pytest.mark.parametrize("directions", DIRECTIONS, ids="+".join)
def test_uneven_pieces_equal_one_clip(directions: tuple[str, ...]) -> None:
    model, frames = network(directions), film(11, batch=2)
    states, found, begin = None, [], 0
    for count in (1, 3, 2, 5):
        (logits, _), states = model.run(frames[:, begin : begin + count], states)
        found.append(logits)
        begin += count
    assert relative(torch.cat(found, 1), model(frames).logits) <= 1e-12


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_frame_changes_none_before_it(dtype: torch.dtype) -> None:
    """To the bit, in a clip too."""
    model, frames = network(DIRECTIONS[2], dtype), film(10, dtype)
    changed = frames.clone()
    changed[:, 7] += 1
    before, after = model(frames).logits, model(changed).logits
    assert torch.equal(before[:, :7], after[:, :7])
    assert all(not torch.equal(before[:, t], after[:, t]) for t in (7, 8, 9))


@torch.no_grad()
def test_what_is_remembered_matters() -> None:
    """The proof that these tests can fail: without any one of the three states, the second frame is another."""
    model, frames = network(), film(2)
    states = model.step(frames[:, 0])[1]
    right = model.step(frames[:, 1], states)[0].logits
    for part in LayerState._fields:
        without = [state._replace(**{part: torch.zeros_like(getattr(state, part))}) for state in states]
        assert relative(model.step(frames[:, 1], without)[0].logits, right) > 1e-6, part


def test_zero_states_are_those_before_a_film() -> None:
    for directions in DIRECTIONS:
        model = network(directions)
        zeros = zero_states(model.config, stage_sizes(model.config, SIZE, SIZE), batch=2)
        flat = flat_states(zeros)
        assert all(tensor.dtype == torch.float32 for tensor in flat)
        with torch.no_grad():
            frame = film(1, batch=2)[:, 0]
            found, states = model.step(frame, packed_states([t.double() for t in flat], model.config.carries))
            assert torch.equal(found.logits, model.step(frame)[0].logits)
        assert [t.shape for t in flat_states(states)] == [t.shape for t in flat]


def test_gradients_reach_every_parameter_and_stop_at_the_states() -> None:
    model, frames = network(DIRECTIONS[2], torch.float32).train(), film(2, torch.float32, batch=2)
    _, states = model.run(frames)
    assert not any(tensor.requires_grad for tensor in flat_states(states))
    model.run(frames, states)[0].logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.no_grad()
def test_weights_of_a_clip_network_are_taken_over() -> None:
    """Where nothing moves, DSF meets the same frame three times, and gives what the clip network's gave."""
    source = load_checkpoint("tiny").eval().double()
    model = streaming_from(source, ("forward", "frame_backward"))
    assert model.config.streaming and model.config.directions == ("forward", "frame_backward")
    ours, theirs = model.stages[0].mamba[0], source.stages[0].mamba[0]
    assert torch.equal(ours.mixer.conv_weight, theirs.mixer.conv_weight[:2])
    taps, given = ours.mlp.dwconv.weight, theirs.mlp.dwconv.weight
    assert not taps[:, :, 0].any() and torch.equal(taps[:, :, 1], given[:, :, 0])
    x = torch.randn(1, 1, 64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    still = x.expand(-1, 5, -1, -1).flatten(1, 2)
    middle = slice(2 * 64, 3 * 64)  # the first two frames have zeros before them
    found = ours.mlp(still, 5, 8, 8)[0][:, middle]
    assert relative(found, theirs.mlp(still, 5, 8, 8)[:, middle]) <= 1e-12
    with pytest.raises(ConfigError, match="weights of a clip network"):
        streaming_from(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": ("forward", "backward")}, "frame_backward"),
        ({"directions": ("frame_backward", "forward")}, "directions are"),
        ({"frames": 5}, "5 frames"),
        ({"st_module": "self_attention"}, "st_module 'self_attention'"),
        ({"streaming": "yes"}, "streaming is 'yes'"),
    ],
)
def test_wrong_streaming_configurations_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TINY, **changes)


def test_configuration_of_a_clip_network_reads_as_before() -> None:
    """Files of clip networks stay the same to the byte."""
    assert "streaming" not in VivimConfig.preset("tiny").to_json()
    assert VivimConfig.from_json(TINY.to_json()) == TINY
    assert TINY.preset_name == "tiny"


def test_a_clip_network_does_not_step() -> None:
    with pytest.raises(InputError, match="takes whole clips"):
        Vivim(VivimConfig.preset("tiny")).step(torch.zeros(1, 3, 32, 32))
    with pytest.raises(InputError, match=r"expected \(B, 3, H, W\)"):
        network().step(torch.zeros(1, 1, 3, 32, 32))
