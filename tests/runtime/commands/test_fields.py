"""A field of a configuration is an option: declared once, in the dataclass."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer

from vivim_runtime.commands.fields import field_options, options_of
from vivim_runtime.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """What the tests take from a command line."""

    preset: Annotated[str, "Which network."] = "b3"
    init: Annotated[str | None, "Weights to start from."] = None
    directions: Annotated[tuple[str, ...] | None, "Scans."] = None
    epochs: Annotated[int, "Passes over the clips."] = 100
    scales: Annotated[tuple[float, ...] | None, "Sizes."] = None
    lr: Annotated[float, "Learning rate."] = 1e-4
    fresh: Annotated[bool, "New clips in every epoch."] = True
    optimizer: Annotated[Literal["adam", "adamw"], "How weights move."] = "adam"
    noise: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.optimizer not in ("adam", "adamw"):
            raise UsageError(f"--optimizer is {self.optimizer}")


def run(*arguments: str, only: tuple[str, ...] | None = None) -> dict[str, Any]:
    """What the command received; its exit code is 0 unless it raises."""
    app, seen = typer.Typer(), {}

    @app.command()
    @options_of(Recipe, "recipe", only=only)
    def command(recipe: Recipe, out: Path = Path("runs")) -> None:
        """Do something."""
        seen.update(recipe=recipe, out=out)

    app(list(arguments), standalone_mode=False)
    return seen


def test_without_options_a_command_gets_the_defaults_of_the_dataclass() -> None:
    assert run() == {"recipe": Recipe(), "out": Path("runs")}


def test_every_field_with_a_help_text_is_an_option_of_its_type() -> None:
    words = "--preset tiny --init w.pt --directions a,b --epochs 3 --scales 1,.5 --lr 0.5 --no-fresh"
    expected = Recipe("tiny", "w.pt", ("a", "b"), 3, (1.0, 0.5), 0.5, False, "adamw")
    assert run(*words.split(), "--optimizer", "adamw", "--out", "x") == {"recipe": expected, "out": Path("x")}
    assert "noise" not in field_options(Recipe)


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="half is no number; expected numbers joined by commas"):
        run("--scales", "1,half")


def test_what_the_configuration_refuses_is_refused() -> None:
    with pytest.raises(UsageError, match="--optimizer is sgd"):
        run("--optimizer", "sgd")
    with pytest.raises(Exception, match="valid integer"):
        run("--epochs", "many")


def test_fields_that_a_command_does_not_take_keep_their_defaults() -> None:
    assert run("--epochs", "2", only=("epochs",))["recipe"] == Recipe(epochs=2)
    with pytest.raises(Exception, match="No such option"):
        run("--lr", "1", only=("epochs",))


def test_the_help_says_what_the_field_says(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setenv("COLUMNS", "200")
    run("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("Passes over the clips.", "[default: 100]", "One of adam, adamw.", "--no-fresh", "Do something."):
        assert text in shown


def test_an_option_that_is_declared_twice_is_a_defect() -> None:
    with pytest.raises(TypeError, match="both declare epochs"):

        @options_of(Recipe, "recipe")
        def command(recipe: Recipe, epochs: int = 1) -> None: ...
