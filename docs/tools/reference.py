"""What the documentation site has beyond the pages of docs/: the reference of commands, made from the commands.

A hook of MkDocs (mkdocs.yml). Links to files outside docs/ become links to the repository where its address is known
(`REPOSITORY_URL`), and plain text where it is not.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODULES = {
    "vivim-run": "vivim_runtime.commands.run",
    "vivim-export": "vivim_export.commands",
    "vivim-check": "vivim_runtime.commands.check",
    "vivim-calibrate": "vivim_calibration.commands",
    "vivim-eval": "vivim_runtime.commands.evaluate",
    "vivim-bench": "vivim_runtime.commands.bench",
    "vivim-train": "vivim.commands.train",
    "vivim-doctor": "vivim_runtime.commands.doctor",
    "vivim-plugins": "vivim_runtime.commands.plugins",
}
# What is public of each package: its __all__, from the docstrings.
PYTHON = ("vivim_runtime", "vivim", "vivim_runtime.sources", "vivim_runtime.sinks", "vivim_runtime.errors")


def commands_page() -> str:
    """Every command and subcommand with its arguments and options, as Markdown."""
    from typer.main import get_command

    lines = [
        "# Commands",
        "",
        "Every command has `-h`, `--version`, `--install-completion` and `--show-completion`.",
        "",
    ]
    for name, module in MODULES.items():
        command = get_command(importlib.import_module(module).app)
        lines += [f"## {name}", ""]
        lines += _described(name, command)
    return "\n".join(lines) + "\n"


def _described(name: str, command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        yield from (str(command.help or ""), "")
        for word, inner in command.commands.items():
            yield from (f"### {name} {word}", "")
            yield from _described(f"{name} {word}", inner)
        return
    arguments = [each for each in command.params if not each.opts[0].startswith("-")]
    options = [each for each in command.params if each.opts[0].startswith("-") and not getattr(each, "hidden", False)]
    usage = " ".join([name, *(str(each.metavar or each.name).upper() for each in arguments), "[OPTIONS]"])
    yield from (_text(command.help), "", "```", usage, "```", "")
    if arguments:
        yield from ("| argument | |", "|---|---|")
        for each in arguments:
            yield f"| `{each.metavar or each.name}` | {_text(each.help)} |"
        yield ""
    yield from ("| option | default | |", "|---|---|---|")
    for each in options:
        names = ", ".join(f"`{word}`" for word in [*each.opts, *each.secondary_opts] if word != "--help")
        if not names or "completion" in names:
            continue
        default = each.default
        shown = (
            ""
            if default is None or default is False or default == "" or not each.show_default
            else f"`{getattr(default, 'value', default)}`"
        )
        yield f"| {names} | {shown} | {_text(each.help)} |"
    yield ""


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")


def python_page() -> str:
    """The public names of the packages, by their docstrings."""
    return "# Python\n\n" + "\n".join(f"::: {name}\n" for name in PYTHON)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for path, content in (("reference/commands.md", commands_page()), ("reference/python.md", python_page())):
        files.append(File.generated(config, path, content=content))
    return files


_OUTSIDE = re.compile(
    r"\[(?P<text>[^\]]*)\]\((?P<target>\.\./[^)#\s]*|(?:\.\./)*(?:CONTRIBUTING|CHANGELOG)\.md)[^)]*\)"
)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links that leave docs/."""
    address = os.environ.get("REPOSITORY_URL", "")

    def replaced(match: re.Match[str]) -> str:
        path = (ROOT / "docs" / page.file.src_uri).parent.joinpath(match["target"]).resolve()
        if path.is_relative_to(ROOT / "docs") or not path.exists():
            return match[0]
        name = path.relative_to(ROOT).as_posix()
        return f"[{match['text']}]({address}/blob/main/{name})" if address else f"{match['text']} (`{name}`)"

    return _OUTSIDE.sub(replaced, markdown)
