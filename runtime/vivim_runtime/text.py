"""Text that others wrote, as it may be read and shown: bounded, without control characters, nested no deeper than sane.

Names, metadata and messages come from files and from the network. A terminal obeys control characters, a page and a
table are torn by them, and a parser that recurses ends with the stack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

__all__ = ["check_depth", "parse_json", "parse_number", "printable"]

# Of lists and objects within each other; ours have six.
_MOST_DEPTH = 64
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)


def printable(text: str, most: int = 2000) -> str:
    """The text in one line that nothing obeys: control, format and separator characters are replaced.

    Args:
        most: characters; what is longer ends in an ellipsis.
    """
    shown = text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def parse_number(text: str) -> int | None:
    """A whole number as people and files write it, of ASCII digits; None for anything else ("²", a thousand digits)."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def parse_json(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What JSON text says.

    Args:
        pairs: what becomes of an object; a dict without it.

    Raises:
        ValueError: it is no JSON, or nested too deeply to be anything of ours.
    """
    check_depth(text)
    return json.loads(text, object_pairs_hook=pairs)


def check_depth(text: str) -> None:
    """ValueError for text whose brackets, outside strings, lie deeper in each other than a parser should follow."""
    if text.count("[") + text.count("{") <= _MOST_DEPTH:
        return
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > _MOST_DEPTH:
            raise ValueError(f"lists and objects are nested deeper than {_MOST_DEPTH}")
