"""What every command has alike: -h, --version, completion of the shell, and a line about what it needs.

    app = Application(extra="train", help="Train Vivim.")

A command is used like Typer's own `typer.Typer`; options that all commands have are declared here, once.
"""

from __future__ import annotations

import platform
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.main import get_command

from vivim_runtime.installation import NAME, install_words, installed_version

__all__ = ["Application", "needs"]


def needs(extra: str) -> str:
    """The last line of the help of a command that a base install does not run."""
    return f"Needs the extra '{extra}': pip install {install_words(extra)}"


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"{NAME} {installed_version()} (Python {platform.python_version()}, {platform.machine()})")
        raise typer.Exit


def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, expose_value=False, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Holds the options that every command has."""


def _common_options() -> list[Any]:
    """Of a command that has them alone: Typer has no other public way to make an option."""
    alone = typer.Typer(add_completion=False)
    alone.command()(_common)
    return list(get_command(alone).params)


class Application(typer.Typer):
    """A command, or a group of them.

    Args:
        extra: the extra that it needs besides the base install; its help says so.
        options: of typer.Typer.
    """

    def __init__(self, *, extra: str = "", **options: Any) -> None:
        options.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(add_completion=True, **options)
        self._extra = extra

    def __call__(self, *args: Any, **options: Any) -> Any:
        command = get_command(self)
        command.params.extend(_common_options())
        if self._extra:
            command.epilog = escape(needs(self._extra))  # [export] is no markup
        return command(*args, **options)
