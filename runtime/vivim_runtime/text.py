"""Text that others wrote, as it may be read and shown: bounded, without control characters, nested no deeper than sane.

Names, metadata and messages come from files and from the network. A terminal obeys control characters, a page and a
table are torn by them, and a parser that recurses ends with the stack.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from typing import Any

__all__ = [
    "check_depth",
    "csv_cell",
    "html_text",
    "latex_text",
    "markdown_text",
    "parse_json",
    "parse_number",
    "printable",
]

# Of lists and objects within each other; ours have six.
_MOST_DEPTH = 64
_LATEX = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "\N{REPLACEMENT CHARACTER}": "?",
}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)


def printable(text: str, most: int = 2000) -> str:
    """The text in one line that nothing obeys: control, format and separator characters are replaced.

    Args:
        most: characters; what is longer ends in an ellipsis.
    """
    shown = text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def html_text(text: str) -> str:
    """Text of others within a page or a picture of XML: words, and nothing else."""
    return html.escape(printable(text))


def markdown_text(text: str) -> str:
    """Text of others in a line or a cell of Markdown: no column, page, link or emphasis of its own."""
    return re.sub(r"[\\`*\[\]<|]", r"\\\g<0>", printable(text))


def latex_text(text: str) -> str:
    """Text of others in LaTeX."""
    return "".join(_LATEX.get(c, c) for c in printable(text))


def csv_cell(text: str) -> str:
    """Text of others in a cell of CSV, which a spreadsheet takes for no formula."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


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
