"""The ablation of Table III: which networks and losses its rows have, and that a stopped one trains nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vivim
from vivim.training.ablation import VARIANTS, AblationRow, differences, markdown, records, run_ablation, variant
from vivim.training.batches import phantom_clips
from vivim.training.fit import EpochReport, RunOptions
from vivim.training.recipe import FitConfig
from vivim.training.scores import Scores, evaluate
from vivim_runtime.clips import Clip

RECIPE = FitConfig(preset="tiny", epochs=2, batch=1, frames=1, seed=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clips() -> tuple[list[Clip], list[Clip], list[Clip]]:
    """To train on, to validate on and to test on."""
    training, validation, test = (phantom_clips(split, 1, 1, (64, 64)) for split in ("train", "validation", "test"))
    return training, validation, test


@pytest.mark.parametrize(
    ("name", "layers", "directions"),
    [
        ("basic", 0, None),
        ("C1", 1, ("forward",)),
        ("C2", 1, ("forward", "backward")),
        ("C3", 1, ("forward", "backward", "spatial")),
        ("ours", 1, ("forward", "backward", "spatial")),
    ],
)
def test_variants_are_the_papers(name: str, layers: int, directions: tuple[str, ...] | None) -> None:
    recipe = variant(name, RECIPE)
    network = recipe.network()
    model = vivim.Vivim(network)
    assert [len(stage.mamba) for stage in model.stages] == [layers] * 4
    assert directions is None or network.directions == directions
    # The constraint, and the head that it needs, belong to the whole method alone.
    assert (model.edge_head is not None) == (name == "ours")
    assert (recipe.boundary, recipe.affine) == ((0.3, 0.3) if name == "ours" else (0.0, 0.0))
    # Nothing else differs.
    same = {"mamba_layers": None, "directions": None, "boundary": 0.3, "affine": 0.3}
    assert replace(recipe, **same) == RECIPE


@pytest.mark.parametrize(
    ("name", "module"),
    [("identity", "identity"), ("M1", "self_attention"), ("M2", "window_attention"), ("M3", "factorized_attention")],
)
def test_rows_beside_the_papers_replace_the_mixer_and_nothing_else(name: str, module: str) -> None:
    recipe, whole = variant(name, RECIPE), variant("C3", RECIPE)
    assert recipe == replace(whole, st_module=module, directions=None) and whole.directions is not None
    ours, theirs = (vivim.Vivim(r.network()).state_dict() for r in (recipe, whole))
    same = {key for key in theirs if ".mixer." not in key}
    assert same == {key for key in ours if ".mixer." not in key}
    assert {key for key in ours if ".mixer." in key} == set() or name != "identity"


def test_identity_leaves_norms_and_convolutions_of_a_layer() -> None:
    torch.manual_seed(0)
    layer = vivim.Vivim(variant("identity", RECIPE).network()).stages[0].mamba[0]  # type: ignore[index, union-attr]
    x = torch.randn(1, 2 * 3 * 4, 16)
    mixed = x + layer.norm1(x)  # type: ignore[operator]
    expected = mixed + layer.mlp(layer.norm2(mixed), 2, 3, 4)  # type: ignore[operator]
    assert torch.equal(layer(x, 2, 3, 4), expected)


def seeded(name: str, *dice: float) -> list[AblationRow]:
    return [replace(row(name), seed=seed, scores=replace(row(name).scores, dice=d)) for seed, d in enumerate(dice)]


def test_rows_are_compared_in_pairs_of_one_seed() -> None:
    # Seeds differ by 10 points, and within each of them C3 is 1 point better than identity, give or take 0.1.
    rows = seeded("C3", 0.71, 0.809, 0.911, 0.61) + seeded("identity", 0.70, 0.80, 0.90, 0.60)
    (dice, hd95) = differences(rows)
    assert (dice.row, dice.other, dice.figure, dice.seeds) == ("C3", "identity", "dice", 4)
    # Mean 0.01, deviation 0.00082, a standard error of 0.00041; t of 3 degrees of freedom is 3.18.
    assert dice.value == pytest.approx(0.01) and dice.is_shown
    assert (dice.low, dice.high) == pytest.approx((0.01 - 0.0013, 0.01 + 0.0013), abs=2e-5)
    assert (hd95.value, hd95.is_shown) == (0.0, False)


def test_nothing_is_shown_by_one_seed_or_by_seeds_that_disagree() -> None:
    (one, _) = differences(seeded("ours", 0.9) + seeded("C3", 0.5))
    assert (one.low, one.high, one.seeds, one.is_shown) == (None, None, 1, False)
    rows = seeded("ours", 0.9, 0.5) + seeded("C3", 0.8, 0.6)
    assert not differences(rows)[0].is_shown
    text = markdown(rows)
    assert "| ours - C3 | Dice, points | +0.00 |" in text and text.count("not shown") == 2
    assert text.splitlines()[2].startswith("| C3 | ST-Mamba | ✓ | ✓ | ✓ |  | 0.7000 |")


def test_seeds_that_only_one_of_two_rows_has_are_left_out() -> None:
    found = differences(seeded("ours", 0.9, 0.8, 0.7) + seeded("C3", 0.8, 0.6))
    assert found[0].seeds == 2 and found[0].value == pytest.approx(0.15)


def test_variants_stand_in_the_order_of_the_table() -> None:
    assert VARIANTS == ("basic", "C1", "C2", "C3", "ours")


def test_variants_that_do_not_exist_are_refused() -> None:
    with pytest.raises(
        vivim.ConfigError, match="no variant 'C4'; expected some of basic, identity, C1, C2, C3, M1, M2, M3, ours"
    ):
        variant("C4", RECIPE)
    with pytest.raises(vivim.ConfigError, match="'ours' is the one with the boundary losses"):
        variant("ours", replace(RECIPE, boundary=0.0, affine=0.0))


def row(name: str, hd95: float | None = 4.5) -> AblationRow:
    return AblationRow(name, Scores(0.91234, 0.85, 0.9, 0.95, hd95, 6), 1_234_567, 90.0)


def test_table_marks_the_parts_of_every_variant() -> None:
    lines = markdown([row(name) for name in VARIANTS]).splitlines()
    lines = lines[: lines.index("")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:6] == ["", "mixer", "forward", "backward", "spatial", "BAC"]
    assert [line.count("|") for line in lines] == [len(cells[0]) + 1] * 7
    marks = {line[0]: "".join("x" if cell == "✓" else "." for cell in line[2:6]) for line in cells[2:]}
    assert marks == {"basic": "....", "C1": "x...", "C2": "xx..", "C3": "xxx.", "ours": "xxxx"}


def test_table_has_figures_in_the_order_of_its_head() -> None:
    head, _, line = markdown([row("C1")]).splitlines()
    named = dict(zip(*([cell.strip() for cell in text.strip("|").split("|")] for text in (head, line)), strict=True))
    figures = {"Dice": "0.9123", "Jaccard": "0.8500", "precision": "0.9000", "recall": "0.9500", "HD95, px": "4.50"}
    assert {**figures, "parameters": "1.23 M", "minutes": "1.5"}.items() <= named.items()
    assert "|  | 1.23 M |" in markdown([row("C1", hd95=None)])
    assert json.loads(json.dumps(records([row("C1")])))[0]["scores"]["hd95"] == 4.5


def test_rows_are_the_last_weights_of_runs_side_by_side(
    clips: tuple[list[Clip], list[Clip], list[Clip]], tmp_path: Path
) -> None:
    training, validation, test = clips
    told: list[tuple[str, int]] = []

    def on_epoch(name: str, report: EpochReport) -> None:
        told.append((name, report.epoch))

    names = ("basic", "C3", "ours")
    recipe = replace(RECIPE, epochs=1)
    rows = list(run_ablation(names, recipe, training, validation, test, tmp_path, RunOptions(), on_epoch))
    assert [r.variant for r in rows] == list(names) and told == [(name, 1) for name in names]
    for r in rows:
        assert r.scores == evaluate(vivim.load_checkpoint(tmp_path / r.variant / "last.safetensors"), test)
        log = json.loads((tmp_path / r.variant / "log.jsonl").read_text())
        assert r.seconds == log["seconds"] > 0
        assert set(log["terms"]) == {"segmentation", "total"} | (
            {"boundary", "affine"} if r.variant == "ours" else set()
        )
    basic, c3, ours = (r.parameters for r in rows)
    assert basic < c3 == ours  # the edge head is not deployed
    assert c3 == sum(p.numel() for p in vivim.Vivim(variant("C3", RECIPE).network()).parameters())


def test_stopped_ablation_goes_on_and_trains_nothing_twice(
    clips: tuple[list[Clip], list[Clip], list[Clip]], tmp_path: Path
) -> None:
    def run(folder: str, stop: tuple[str, int] | None) -> tuple[list[AblationRow], list[tuple[str, int]]]:
        told: list[tuple[str, int]] = []
        rows: list[AblationRow] = []

        def on_epoch(name: str, report: EpochReport) -> None:
            told.append((name, report.epoch))
            if told[-1] == stop:
                raise KeyboardInterrupt

        try:
            for r in run_ablation(("basic", "C1"), RECIPE, *clips, tmp_path / folder, RunOptions(), on_epoch):
                rows.append(r)
        except KeyboardInterrupt:
            assert stop
        return rows, told

    whole, epochs = run("whole", None)
    assert epochs == [("basic", 1), ("basic", 2), ("C1", 1), ("C1", 2)]
    rows, told = run("stopped", ("C1", 1))
    assert [r.variant for r in rows] == ["basic"] and told == epochs[:3]
    again, told = run("stopped", None)
    assert told == [("C1", 2)]
    assert [(r.variant, r.scores, r.parameters) for r in again] == [(r.variant, r.scores, r.parameters) for r in whole]
    assert run("stopped", None)[1] == []


def test_unknown_variants_are_refused_before_anything_is_trained(
    clips: tuple[list[Clip], list[Clip], list[Clip]], tmp_path: Path
) -> None:
    with pytest.raises(vivim.ConfigError, match="no variant 'C9'"):
        next(run_ablation(("basic", "C9"), RECIPE, *clips, tmp_path, RunOptions()))
    assert list(tmp_path.iterdir()) == []
