"""Shapes, sizes and parts of the network."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import SegformerConfig, SegformerModel

import vivim
from vivim.config import ABLATIONS, PRESETS, VivimConfig
from vivim.mamba import DetailSpecificFeedForward
from vivim.model import stage_sizes
from vivim.streaming import CausalFeedForward


def tiny(**changes: object) -> vivim.Vivim:
    torch.manual_seed(0)
    return vivim.Vivim(VivimConfig.preset("tiny", **changes)).eval()


@pytest.mark.parametrize("frames", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [(64, 64), (61, 83), (32, 96)])
def test_any_number_of_frames_and_any_size(frames: int, size: tuple[int, int]) -> None:
    clip = torch.randn(2, frames, 3, *size)
    with torch.no_grad():
        output = tiny()(clip)
    assert output.logits.shape == (2, frames, 1, *size)
    assert output.edge is None
    assert output.logits.isfinite().all()


def test_clips_of_a_batch_do_not_see_each_other() -> None:
    model, clips = tiny(), torch.randn(2, 3, 3, 64, 64)
    with torch.no_grad():
        together, alone = model(clips).logits[1:], model(clips[1:]).logits
    # Only the order of additions inside the GEMMs may differ: some float32 ulp.
    assert (together - alone).abs().max() <= 1e-5


def test_every_frame_sees_every_other_one() -> None:
    model, clip = tiny(), torch.randn(1, 3, 3, 64, 64)
    changed = clip.clone()
    changed[:, 1] += 1.0
    with torch.no_grad():
        difference = (model(clip).logits - model(changed).logits).abs().amax(dim=(0, 2, 3, 4))
    assert (difference > 1e-4).all()


@pytest.mark.parametrize(("name", "count"), [("basic", None), ("C1", 1), ("C2", 2), ("C3", 3)])
def test_ablations_of_table_three(name: str, count: int | None) -> None:
    model = tiny(**ABLATIONS[name])
    assert [layer.mixer.D.shape[0] for stage in model.stages for layer in stage.mamba] == ([count] * 4 if count else [])
    with torch.no_grad():
        assert model(torch.randn(1, 2, 3, 32, 32)).logits.shape == (1, 2, 1, 32, 32)


def test_any_subset_of_the_directions_will_do() -> None:
    with torch.no_grad():
        for directions in (("backward",), ("spatial",), ("forward", "spatial"), ("backward", "spatial")):
            assert tiny(directions=directions)(torch.randn(1, 2, 3, 32, 32)).logits.isfinite().all()


def test_without_mamba_layers_frames_do_not_see_each_other() -> None:
    model, clip = tiny(**ABLATIONS["basic"]), torch.randn(1, 3, 3, 64, 64)
    with torch.no_grad():
        together, alone = model(clip).logits[:, 1], model(clip[:, 1:2]).logits[:, 0]
    # Only the order of additions inside the GEMMs may differ: some float32 ulp.
    assert (together - alone).abs().max() <= 1e-5


@pytest.mark.parametrize("edge_head", ["conv1x1", "conv3", "decoder"])
def test_edge_heads_and_classes(edge_head: str) -> None:
    with torch.no_grad():
        output = tiny(edge_head=edge_head, classes=("nodule", "vessel"))(torch.randn(1, 2, 3, 64, 48))
    assert output.logits.shape == (1, 2, 2, 64, 48)
    assert output.edge is not None and output.edge.shape == (1, 2, 1, 64, 48)


def test_b3_has_the_parameters_of_the_paper_s_network() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in vivim.Vivim(VivimConfig.preset("b3")).parameters())
    assert count == 59_620_439 - 117_398  # upstream, less what it never uses (golden README)


@pytest.mark.parametrize("preset", ["b0", "b3"])
def test_encoder_equals_transformers_segformer(preset: str) -> None:
    """The four SegFormer stages with their Mamba layers taken out, against `transformers` with the same weights."""
    config = PRESETS[preset]
    torch.manual_seed(1)
    theirs = SegformerModel(
        SegformerConfig(
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            num_attention_heads=list(config.heads),
            sr_ratios=list(config.reductions),
        )
    ).eval()
    ours = vivim.from_segformer(theirs.state_dict()).eval()
    assert ours.config == config
    for stage in ours.stages:
        stage.mamba = torch.nn.ModuleList()
    pixels = torch.randn(2, 3, 64, 96)

    with torch.no_grad():
        x, features = pixels, []
        for index, stage in enumerate(ours.stages):
            x = stage(x, 1)
            # theirs normalises what it returns and passes that on; ours passes the un-normalised features on
            norm = theirs.encoder.layer_norm[index]
            x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            features.append(x)
        expected = theirs(pixels, output_hidden_states=True).hidden_states

    for value, reference in zip(features, expected, strict=True):
        # Same arithmetic in float32; fused attention sums in another order. 28 blocks of some 1e-7 each.
        assert (value - reference).norm() <= 2e-6 * reference.norm()


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((5, 3, 64, 64), id="no batch"),
        pytest.param((1, 5, 64, 64, 3), id="channels last"),
        pytest.param((1, 0, 3, 64, 64), id="no frames"),
        pytest.param((1, 5, 3, 16, 64), id="too small for the first stage's attention"),
    ],
)
def test_clips_that_the_network_cannot_take_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(vivim.InputError, match="expected|too small"):
        tiny()(torch.zeros(shape))


def test_stage_sizes_floor_like_the_convolutions() -> None:
    config = PRESETS["b3"]
    assert stage_sizes(config, 256, 256) == [(64, 64), (32, 32), (16, 16), (8, 8)]
    assert stage_sizes(config, 61, 83) == [(16, 21), (8, 11), (4, 6), (2, 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (64, 128, 320)}, "4 integers"),
        ({"directions": ()}, "non-empty subset"),
        ({"directions": ("spatial", "forward")}, "in|subset"),
        ({"edge_head": "conv7"}, "conv1x1"),
        (
            {"st_module": "attention"},
            "'st_mamba' or 'self_attention' or 'window_attention' or 'factorized_attention' or 'identity'",
        ),
        ({"mamba_layers": -1}, "expected 0 to 64"),
        ({"frames": 0}, "expected 1 to 4096"),
        ({"classes": ("a", "a")}, "each once"),
        ({"heads": (3, 2, 5, 8)}, "multiple"),
    ],
)
def test_configurations_that_describe_no_network_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(vivim.ConfigError, match=message):
        VivimConfig(**changes)


def test_configuration_survives_json() -> None:
    config = VivimConfig.preset("tiny", directions=("forward", "spatial"), classes=("a", "b"), frames=8)
    assert VivimConfig.from_json(config.to_json()) == config
    assert config.preset_name == "tiny"
    with pytest.raises(vivim.ConfigError, match="unknown fields"):
        VivimConfig.from_json('{"window": 7}')


def test_configuration_of_a_file_from_before_there_were_rivals_is_st_mamba_s() -> None:
    values = json.loads(VivimConfig.preset("b0").to_json())
    del values["st_module"]
    assert VivimConfig.from_json(json.dumps(values)) == VivimConfig.preset("b0")
    assert VivimConfig.from_json('{"mamba_layers": 0}').mamba_layers == 0
    assert VivimConfig.preset("b0", st_module="self_attention").preset_name == "custom"


def poison() -> None:
    """Fill memory that the next allocations get with NaN, so that reading what nobody has written shows."""
    kept = [torch.full((size,), float("nan")) for size in (*(1 << n for n in range(4, 16)), 8 * 27, 8 * 54)]
    del kept


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", [DetailSpecificFeedForward, CausalFeedForward])
def test_gradients_in_bfloat16_are_those_of_float32(kind: type[DetailSpecificFeedForward], frames: int) -> None:
    torch.manual_seed(0)
    block, x = kind(4, 16), torch.randn(2, frames * 20, 4)
    found = []
    for enabled in (False, True):
        poison()
        block.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = block(x, frames, 4, 5)
        (y if isinstance(y, torch.Tensor) else y[0]).float().pow(2).mean().backward()
        gradient = block.dwconv.weight.grad
        assert gradient is not None
        found.append(gradient.clone())
    # Some roundings of 2^-9 each, of which the largest element sees a few per cent at most; garbage was beyond 1.
    assert (found[0] - found[1]).abs().max() < 0.05 * found[0].abs().max()
