"""Options that are the fields of a configuration: name, type, default and help stand in its dataclass and nowhere else.

    @dataclass(frozen=True)
    class Recipe:
        epochs: Annotated[int, "Passes over the clips."] = 100

    @options_of(Recipe)
    def train(recipe: Recipe, out: Path = Path("runs")) -> None: ...        # has --epochs and --out

A field whose annotation carries no text is no option and keeps its default; a choice (Literal) is taken as text, which
the configuration itself refuses when it is none of its own, and a tuple as its parts joined by commas.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from functools import partial, wraps
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from vivim_runtime.errors import UsageError

__all__ = ["field_options", "options_of"]


def field_options(config: type) -> dict[str, inspect.Parameter]:
    """A keyword parameter, as Typer takes them, for every field of a dataclass whose annotation carries its help."""
    hints = get_type_hints(config, include_extras=True)
    found: dict[str, inspect.Parameter] = {}
    for field in fields(config):
        if get_origin(hints[field.name]) is not Annotated:
            continue
        kind, *notes = get_args(hints[field.name])
        text = next((note for note in notes if isinstance(note, str)), None)
        if text is None:
            continue
        default = field.default if field.default is not MISSING else inspect.Parameter.empty
        taken, note = _taken(kind)
        if isinstance(default, tuple):
            default = ",".join(map(str, default))
        # Named by hand, since a name such as `lr` would get a short option of its own otherwise.
        found[field.name] = inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[taken, typer.Option(_flag(field.name, taken), help=text + note)],
        )
    return found


def _flag(name: str, kind: Any) -> str:
    word = name.replace("_", "-")
    return f"--{word}/--no-{word}" if kind is bool else f"--{word}"


def _taken(kind: Any) -> tuple[Any, str]:
    """What Typer is told of a field's type, and what the help adds."""
    parts = [part for part in get_args(kind) if part is not type(None)]
    optional = get_origin(kind) in (Union, types.UnionType) and len(parts) < len(get_args(kind))
    inner = parts[0] if optional else kind
    if get_origin(inner) is Literal:
        taken, note = str, f" One of {', '.join(map(str, get_args(inner)))}."
    elif get_origin(inner) is tuple:
        taken, note = str, " Joined by commas."
    else:
        taken, note = inner, ""
    return (taken | None if optional else taken), note


def _value(name: str, kind: Any, given: Any) -> Any:
    """A field's value from what was given on the command line."""
    tuples = [part for part in (kind, *get_args(kind)) if get_origin(part) is tuple]
    if not tuples or not isinstance(given, str):
        return given
    of_each = partial(_number, name) if get_args(tuples[0])[0] is float else str
    return tuple(of_each(part.strip()) for part in given.split(",") if part.strip()) or None


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"--{name.replace('_', '-')}: {text} is no number; expected numbers joined by commas"
        ) from None


def options_of(
    config: type, keyword: str, only: Collection[str] | None = None, without: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a command take the fields of a dataclass as options; it is called with one object of it.

    Args:
        config: the dataclass; what it raises for a value goes on to the user.
        keyword: name of the command's parameter that receives the object.
        only: the fields that become options; the others keep their defaults. None takes all that carry a help text.
        without: fields that do not.
    """
    chosen = {
        name: parameter
        for name, parameter in field_options(config).items()
        if (only is None or name in only) and name not in without
    }
    kinds = get_type_hints(config)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != keyword]
        both = {parameter.name for parameter in own} & chosen.keys()
        if both:
            raise TypeError(f"{command.__name__} and {config.__name__} both declare {', '.join(sorted(both))}")

        @wraps(command)
        def call(**given: Any) -> Any:
            values = {name: _value(name, kinds[name], given.pop(name)) for name in chosen}
            return command(**given, **{keyword: config(**values)})

        parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *chosen.values()]
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return decorate
