"""`vivim-doctor`: what is installed and what it means. A thin layer over vivim_runtime.doctor."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from vivim_runtime.commands.application import Application
from vivim_runtime.commands.terminal import Terminal
from vivim_runtime.doctor import Finding, State, diagnose
from vivim_runtime.errors import UsageError
from vivim_runtime.manifest import read_key, verify_manifest

__all__ = ["app"]

app = Application()

_STYLES = {State.ok: "green", State.missing: "yellow", State.broken: "bold red"}
_STATE_WIDTH, _PART_WIDTH = 7, 16


@app.command()
def doctor_command(
    as_json: Annotated[bool, typer.Option("--print-json", help="Print one JSON object instead of lines.")] = False,
    manifest: Annotated[
        Path | None,
        typer.Option("--verify", metavar="MANIFEST", help="Check that files are the ones that were signed."),
    ] = None,
    key: Annotated[str, typer.Option(help="With --verify: the public key, as hexadecimal digits or a file.")] = "",
    old_json: Annotated[bool, typer.Option("--json", hidden=True, help="The same as --print-json.")] = False,
) -> None:
    """Show what is installed on this machine and what it means for each feature.

    Nothing is changed. Exit code 1 if something is broken; optional parts that are missing do not count.
    """
    if manifest is not None:
        if not key:
            raise UsageError("--verify needs --key, from elsewhere than the manifest: anybody can sign with a key")
        count = verify_manifest(manifest, read_key(key))
        typer.echo(f"{manifest}: {count} files are those that were signed")
        return
    findings = diagnose()
    if as_json or old_json:
        typer.echo(json.dumps(_record(findings), indent=2))
    else:
        _print(findings)
    if any(finding.state is State.broken for finding in findings):
        raise typer.Exit(1)


def _counts(findings: list[Finding]) -> dict[str, int]:
    return {state.value: sum(finding.state is state for finding in findings) for state in State}


def _record(findings: list[Finding]) -> dict[str, object]:
    return {"counts": _counts(findings), "findings": [asdict(finding) for finding in findings]}


def _print(findings: list[Finding]) -> None:
    console = Terminal(highlight=False)
    for finding in findings:
        line = Table.grid(padding=(0, 1))
        for width in (_STATE_WIDTH, _PART_WIDTH, None):
            line.add_column(width=width)
        style = _STYLES[finding.state]
        described = Text(finding.found).append(f" - {finding.means}", "dim")
        line.add_row(Text(finding.state.value, style), Text(finding.part, "bold"), described)
        console.print(line)
        if finding.fix:
            # Never broken into lines, so that it can be copied.
            console.print(
                Text(f"{'':{_STATE_WIDTH + _PART_WIDTH + 2}}fix: ").append(finding.fix, style), soft_wrap=True
            )
    counts = _counts(findings)
    console.print(f"{counts['ok']} ok, {counts['missing']} missing (optional), {counts['broken']} broken")
