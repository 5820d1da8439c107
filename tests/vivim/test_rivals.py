"""The attention modules of Table IV against plain references, what they can see, and their way to ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

import vivim
from vivim.config import VivimConfig
from vivim.preprocessing import normalised
from vivim.rivals import RIVALS, FactorizedAttention, SelfAttention, WindowAttention, segments
from vivim.segformer import Attention
from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx
from vivim_runtime.sessions import open_session

WIDTH, HEADS = 16, 2
# More than a window along every axis, and no multiple of one.
GRID = (11, 9, 16)


def tokens(frames: int, height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, frames * height * width, WIDTH, dtype=torch.float64)


def made(name: str, index: int = 0) -> torch.nn.Module:
    torch.manual_seed(0)
    return RIVALS[name](WIDTH, HEADS, index).double().eval()


def dense(attention: Attention, x: Tensor, allowed: Tensor) -> Tensor:
    """The definition: softmax(q k' / sqrt(d)) v, head by head, over the pairs of tokens that are allowed."""
    size = WIDTH // HEADS
    query, (key, value) = attention.query(x), attention.key_value(x).chunk(2, dim=-1)
    heads = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / size**0.5
        heads.append(torch.softmax(scores.masked_fill(~allowed, -torch.inf), dim=-1) @ value[..., part])
    return attention.out(torch.cat(heads, dim=-1))


def places(frames: int, height: int, width: int) -> Tensor:
    """(L, 3): t, h, w of every token."""
    return torch.cartesian_prod(*(torch.arange(n) for n in (frames, height, width))).view(-1, 3)


def same_window(grid: tuple[int, int, int], shifted: bool) -> Tensor:
    """(L, L): which pairs Video Swin lets see each other, from the windows' numbers alone."""
    numbers = []
    for place, size, window in zip(places(*grid).T, grid, (8, 7, 7), strict=True):
        shift = window // 2 if shifted and size > window else 0
        numbers.append((place - shift).div(window, rounding_mode="floor"))
    number = torch.stack(numbers, dim=1)
    return (number[:, None] == number[None]).all(dim=-1)


def same(grid: tuple[int, int, int], axes: list[int]) -> Tensor:
    """(L, L): which pairs have the same t (axis 0), h (1) or w (2)."""
    place = places(*grid)[:, axes]
    return (place[:, None] == place[None]).all(dim=-1)


# The same sums in another order, in float64.
TOLERANCE = 1e-12


@pytest.mark.parametrize("grid", [(3, 4, 5), (1, 1, 1), (1, 6, 2)])
def test_self_attention_is_attention_over_all_tokens(grid: tuple[int, int, int]) -> None:
    module, x = made("self_attention"), tokens(*grid, batch=2)
    expected = dense(module.attention, x, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool))
    assert (module(x, *grid) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    "grid",
    [
        pytest.param(GRID, id="partial windows on every axis"),
        pytest.param((8, 7, 7), id="one window"),
        pytest.param((2, 14, 8), id="fewer frames than a window has"),
        pytest.param((16, 3, 14), id="whole windows"),
        pytest.param((1, 1, 1), id="one token"),
    ],
)
def test_window_attention_is_attention_within_video_swins_windows(grid: tuple[int, int, int], shifted: bool) -> None:
    module, x = made("window_attention", int(shifted)), tokens(*grid, batch=2)
    expected = dense(module.attention, x, same_window(grid, shifted))
    assert (module(x, *grid) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("grid", [(3, 4, 5), (1, 6, 2), (5, 1, 1)])
def test_factorized_attention_is_attention_in_space_then_in_time(grid: tuple[int, int, int]) -> None:
    module, x = made("factorized_attention"), tokens(*grid, batch=2)
    within = dense(module.spatial, x, same(grid, [0]))
    expected = dense(module.temporal, within, same(grid, [1, 2]))
    assert (module(x, *grid) - expected).abs().max() <= TOLERANCE


def test_windows_cover_an_axis_once_and_only_its_ends_have_partial_ones() -> None:
    for size in range(1, 40):
        for shifted in (False, True):
            parts = segments(size, 7, shifted)
            assert sum(part.windows * part.length for part in parts) == size
            assert all(part.length == min(7, size) for part in parts[1:-1])
            assert all(0 < part.length <= 7 and part.windows > 0 for part in parts)
    assert segments(20, 7, True) == [(1, 3), (2, 7), (1, 3)]
    assert segments(20, 7, False) == [(2, 7), (1, 6)]
    assert segments(7, 7, True) == [(1, 7)]


def seen_by(module: torch.nn.Module, grid: tuple[int, int, int], token: int) -> Tensor:
    """(L,): which tokens the output at `token` depends on, by its gradient."""
    x = tokens(*grid).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x, *grid)[0, token].sum(), x)
    return gradient[0].abs().amax(dim=-1) > 0


@pytest.mark.parametrize("token", [0, 700, 11 * 9 * 16 - 1])
def test_what_a_token_sees(token: int) -> None:
    everything = torch.ones(11 * 9 * 16, dtype=torch.bool)
    assert torch.equal(seen_by(made("self_attention"), GRID, token), everything)
    for shifted in (False, True):
        window = same_window(GRID, shifted)[token]
        assert not window.all()
        assert torch.equal(seen_by(made("window_attention", int(shifted)), GRID, token), window)
    factorized = made("factorized_attention")
    # In one layer all is seen, though through the frame's row alone: the temporal half sees its own place only.
    assert torch.equal(seen_by(factorized, GRID, token), everything)
    factorized.spatial = Identity()
    assert torch.equal(seen_by(factorized, GRID, token), same(GRID, [1, 2])[token])
    factorized = made("factorized_attention")
    factorized.temporal = Identity()
    assert torch.equal(seen_by(factorized, GRID, token), same(GRID, [0])[token])


class Identity(torch.nn.Module):
    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return x


def network(name: str, **changes: object) -> vivim.Vivim:
    torch.manual_seed(0)
    return vivim.Vivim(VivimConfig.preset("tiny", st_module=name, **{"mamba_layers": 2, **changes})).eval()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("self_attention", SelfAttention),
        ("window_attention", WindowAttention),
        ("factorized_attention", FactorizedAttention),
    ],
)
def test_a_rival_takes_the_place_of_st_mamba_alone(name: str, kind: type) -> None:
    rival, ours = network(name), network("st_mamba")
    for stage, heads in zip(rival.stages, rival.config.heads, strict=True):
        for index, layer in enumerate(stage.mamba):
            assert isinstance(layer.mixer, kind)
            assert {m.heads for m in layer.mixer.modules() if isinstance(m, Attention)} == {heads}
            if kind is WindowAttention:
                assert layer.mixer.shifted == bool(index)
    outside = [{k: v.shape for k, v in net.state_dict().items() if ".mixer." not in k} for net in (rival, ours)]
    assert outside[0] == outside[1]


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize(("frames", "size"), [(1, (32, 32)), (9, (61, 83))])
def test_a_rival_takes_any_number_of_frames_and_any_size(name: str, frames: int, size: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = network(name)(torch.randn(2, frames, 3, *size)).logits
    assert logits.shape == (2, frames, 1, *size) and logits.isfinite().all()


@pytest.mark.parametrize("name", RIVALS)
def test_every_parameter_of_a_rival_learns(name: str) -> None:
    model = network(name).train()
    model(torch.randn(1, 2, 3, 64, 64)).logits.square().mean().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("changes", [{"st_module": name} for name in RIVALS] + [{"mamba_layers": 0}])
def test_networks_without_st_mamba_survive_a_checkpoint(changes: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = vivim.Vivim(VivimConfig.preset("tiny", **changes)).eval()
    vivim.save_checkpoint(tmp_path / "m.safetensors", model)
    loaded = vivim.load_checkpoint(tmp_path / "m.safetensors")
    clip = torch.randn(1, 2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(clip).logits, model(clip).logits)
    assert loaded.config == model.config
    assert loaded.config.preset_name == "custom"


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        ({"mamba_layers": 0}, "fp32"),
        ({"st_module": "factorized_attention"}, "fp32"),
        *(
            pytest.param({"st_module": name, "frames": 9}, precision, marks=pytest.mark.slow)
            for name in RIVALS
            for precision in ("fp32", "fp16")
        ),
    ],
)
def test_networks_without_st_mamba_run_from_an_onnx_file(changes: dict, precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = vivim.Vivim(VivimConfig.preset("tiny", **{"frames": 3, **changes})).eval()
    save_onnx(onnx_from_model(model, OnnxOptions(size=(32, 64), precision=precision)), tmp_path / "m.onnx")
    file = onnx.load(tmp_path / "m.onnx")
    assert not file.functions and all(entry.domain != "vivim" for entry in file.opset_import)
    assert {node.domain for node in file.graph.node} == {""}
    frames = np.random.default_rng(0).integers(0, 256, (1, model.config.frames, 32, 64, 3), np.uint8)
    with torch.no_grad():
        expected = model(normalised(frames)).logits.numpy()
    with open_session(tmp_path / "m.onnx", "cpu") as session:
        value = session(frames)
    error = np.linalg.norm(value - expected) / np.linalg.norm(expected - expected.mean())
    # float32: other orders of summation, 1e-7 to 2e-6. fp16: 2^-11 a rounding, some dozen of which follow each other.
    assert error <= (1e-5 if precision == "fp32" else 1e-2)
    if precision == "fp16":
        softmax = [node.input[0] for node in file.graph.node if node.op_type == "Softmax"]
        types = {v.name: v.type.tensor_type.elem_type for v in file.graph.value_info}
        assert {types[name] for name in softmax} == {onnx.TensorProto.FLOAT}
