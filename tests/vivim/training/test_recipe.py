"""Recipes: the paper's defaults, the rate, files of options, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

import vivim
from vivim.config import PRESETS
from vivim.training.batches import Augmentation
from vivim.training.recipe import FitConfig, learning_rate, read_recipe

NAMES = {field.name for field in dataclasses.fields(FitConfig)}
EXAMPLES = Path(__file__).parents[3] / "examples"


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_default_recipe_is_the_papers() -> None:
    config = FitConfig()
    # Section IV-B: Adam, 1e-4 falling to 1e-6 as a cosine, 100 epochs, four clips of five frames; Eq. 9 and 8.
    assert (config.optimizer, config.lr, config.min_lr, config.warmup, config.epochs) == ("adam", 1e-4, 1e-6, 0.0, 100)
    assert (config.batch, config.frames, config.accumulate, config.max_norm, config.ema) == (4, 5, 1, 0.0, 0.0)
    assert (config.boundary, config.affine, config.delta_1, config.delta_2) == (0.3, 0.3, 1.0, 0.01)
    assert (config.weighting, config.balanced, config.target) == ("intended", False, "all")
    assert (config.patience, config.amp, config.init) == (0, "off", None)
    assert config.network() == dataclasses.replace(PRESETS["b3"], edge_head="conv3", frames=5)


@pytest.mark.parametrize(("boundary", "affine", "head"), [(0.3, 0.0, "conv3"), (0.0, 0.3, "conv3"), (0.0, 0.0, "none")])
def test_network_has_an_edge_head_where_a_loss_looks_at_outlines(boundary: float, affine: float, head: str) -> None:
    config = FitConfig(preset="tiny", boundary=boundary, affine=affine)
    assert config.network().edge_head == head and config.has_edges == (head == "conv3")


@pytest.mark.parametrize(
    ("of_weights", "asked", "head"),
    [
        ("decoder", None, "decoder"),
        ("conv1x1", None, "conv1x1"),
        ("none", None, "conv3"),
        ("decoder", "conv3", "conv3"),
        ("conv3", "decoder", "decoder"),
    ],
)
def test_the_edge_head_is_that_of_the_weights_unless_another_is_asked_for(
    of_weights: Any, asked: Any, head: str
) -> None:
    start = dataclasses.replace(PRESETS["tiny"], edge_head=of_weights)
    assert FitConfig(preset="tiny", edge_head=asked).network_from(start).edge_head == head
    assert FitConfig(preset="tiny", boundary=0.0, affine=0.0).network_from(start).edge_head == "none"


def test_parts_of_the_network_are_changed_one_by_one() -> None:
    assert FitConfig(preset="tiny").changes() == {"edge_head": "conv3", "frames": 5}
    config = FitConfig(preset="tiny", directions=("forward",), mamba_layers=0, st_module="self_attention", frames=2)
    network = config.network()
    assert (network.directions, network.mamba_layers) == (("forward",), 0)
    assert (network.st_module, network.frames) == ("self_attention", 2)


def test_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    config = FitConfig(lr=1.0, min_lr=0.1, warmup=0.1)
    rates = [learning_rate(config, step, 100) for step in range(101)]
    # One figure each from the formula, in float64.
    assert rates[0] == pytest.approx(0.1) and rates[4] == pytest.approx(0.5)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx((1.0 + 0.1) / 2)
    assert rates[25] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 6)) / 2)
    assert rates[100] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 10), (0.05, 1), (1.0, 4)])
def test_rate_is_defined_without_warm_up_and_for_a_single_step(warmup: float, steps: int) -> None:
    rates = [learning_rate(FitConfig(lr=1.0, warmup=warmup), step, steps) for step in range(steps + 1)]
    assert all(0 < rate <= 1 for rate in rates) and max(rates) == 1.0


NAN = float("nan")
REFUSED = [
    ({"epochs": 0}, "--epochs is 0"),
    ({"batch": 0}, "--batch is 0"),
    ({"frames": -1}, "--frames is -1"),
    ({"accumulate": 0}, "--accumulate is 0"),
    ({"seed": -1}, "--seed is -1"),
    ({"patience": -1}, "--patience is -1"),
    ({"boundary": -0.1}, "--boundary is -0.1"),
    ({"affine": NAN}, "--affine is nan"),
    ({"flicker": -1.0}, "--flicker is -1.0"),
    ({"flicker": 1.0, "frames": 1}, "--flicker compares the frames of a clip"),
    ({"scales": (1.0, 0.1)}, "--scales is 1.0,0.1; expected sizes of 0.125 to 8"),
    ({"scales": (NAN,)}, "--scales is nan"),
    ({"scales": ()}, "--scales is ; expected"),
    ({"max_norm": -1.0}, "--max-norm is -1.0; expected at least 0"),
    ({"weight_decay": -0.1}, "--weight-decay is -0.1"),
    ({"warmup": -0.1}, "--warmup is -0.1"),
    ({"warmup": 1.5}, "--warmup is 1.5; expected a share of the steps, 0 to 1"),
    ({"preset": "b9"}, "there is no preset 'b9'"),
    ({"directions": ("up",)}, r"directions are \('up',\)"),
    ({"mamba_layers": -1}, "mamba_layers is -1"),
    ({"st_module": "lstm"}, "st_module is 'lstm'"),
    ({"lr": 1e-7}, "learning rate 1e-07 and lowest 1e-06"),
    ({"lr": NAN}, "learning rate nan"),
    ({"min_lr": -1e-6}, "lowest -1e-06"),
    ({"ema": 1.0}, "--ema is 1.0; expected a decay of 0 to below 1"),
    ({"ema": -0.1}, "--ema is -0.1"),
    ({"optimizer": "sgd"}, "--optimizer is sgd; expected adam or adamw"),
    ({"weighting": "none"}, "--weighting is none; expected intended or authors"),
    ({"edge_head": "none"}, "--edge-head is none; expected conv1x1 or conv3 or decoder"),
    ({"target": "last"}, "--target is last; expected all or centre"),
    ({"amp": "fp8"}, "--amp is fp8; expected off or bf16 or fp16"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[str(changes) for changes, _ in REFUSED])
def test_runs_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(vivim.ConfigError, match=message):
        FitConfig(**changes)


def test_file_gives_options_by_the_names_of_the_command_line(tmp_path: Path) -> None:
    text = 'preset = "tiny"\nmin-lr = 1e-5\nmax_norm = 1\nbalanced = false\ndirections = ["forward", "spatial"]\n'
    values = read_recipe(written(tmp_path, text), NAMES)
    assert {name: float(values[name]) for name in ("min_lr", "max_norm")} == {"min_lr": 1e-5, "max_norm": 1.0}
    assert values["preset"] == "tiny" and str(values["balanced"]).lower() == "false"
    assert values["directions"] == "forward,spatial"


def test_table_of_augmentation_changes_what_it_names(tmp_path: Path) -> None:
    values = read_recipe(written(tmp_path, "epochs = 3\n[augmentation]\nflip = 0\nrotation = 25.5\n"), NAMES)
    assert values["augmentation"] == Augmentation(flip=0.0, rotation=25.5)
    assert isinstance(values["augmentation"].flip, float)
    assert "augmentation" not in read_recipe(written(tmp_path, "epochs = 3\n"), NAMES)


REFUSED_FILES = [
    ("epochs = \n", "recipe.toml is no TOML file"),
    ("epochs = 1\nepochs = 2\n", "recipe.toml is no TOML file"),
    (
        "momentum = 0.9\nzoom = 1\n",
        "recipe.toml has unknown options momentum, zoom; expected some of accumulate, affine",
    ),
    ("augmentation = 3\n", r"augmentation is no table of numbers; expected \[augmentation\]"),
    ('[augmentation]\nflip = "often"\n', "augmentation is no table of numbers"),
    ("[augmentation]\nblur = 1\nhue = 1\n", "augmentation has unknown fields blur, hue; expected some of backwards"),
    ("[augmentation]\nscale = 0\n", "augmentation: scale is 0.0; expected at least 1"),
    ("[augmentation]\nflip = 2\n", "augmentation: flip is 2.0; expected a chance, 0 to 1"),
    ("[lr]\nfirst = 1e-3\n", "recipe.toml: lr is a table; expected one value"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED_FILES, ids=[text for text, _ in REFUSED_FILES])
def test_files_that_are_no_recipes_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(vivim.ConfigError, match=message) as error:
        read_recipe(written(tmp_path, text), NAMES)
    assert "recipe.toml" in str(error.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(vivim.ConfigError, match=r"cannot read --config .*nothing\.toml: No such file"):
        read_recipe(tmp_path / "nothing.toml", NAMES)
    with pytest.raises(vivim.ConfigError, match="Is a directory"):
        read_recipe(tmp_path, NAMES)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(vivim.ConfigError, match="is no TOML file"):
        read_recipe(tmp_path / "bytes.toml", NAMES)


@pytest.mark.parametrize(
    "changes",
    [
        {"flip": 1.1},
        {"backwards": -0.1},
        {"rotation": -1.0},
        {"scale": 0.9},
        {"shift": -0.1},
        {"gamma": 0.0},
        {"gain": 0.5},
        {"offset": -0.1},
        {"colour": 0.0},
        {"speckle": float("nan")},
    ],
    ids=str,
)
def test_augmentation_that_makes_no_sense_is_refused(changes: dict[str, float]) -> None:
    (name,) = changes
    with pytest.raises(vivim.ConfigError, match=f"augmentation: {name} is .*; expected"):
        Augmentation(**changes)


def test_examples_are_recipes() -> None:
    paths = sorted(EXAMPLES.rglob("*.toml"))
    assert [path.parent.name for path in paths].count("tiny") == 3
    of_the_command = {"imgsz", "clips", "validation_clips", "fresh", "data", "layout", "stride", "strides", "hop"}
    for path in paths:
        values = read_recipe(path, NAMES | of_the_command)
        types = {field.name: type(field.default) for field in dataclasses.fields(FitConfig)}
        chosen = {name: value for name, value in values.items() if name in NAMES}
        converted = {n: types[n](v) if types[n] in (int, float) else v for n, v in chosen.items()}
        recipe = FitConfig(**converted)
        assert recipe.preset == "tiny" or recipe.init
