"""What pip installed, and whether it is as new as vivim-edge asks for."""

from __future__ import annotations

import re
from importlib import metadata

__all__ = ["base_dependencies", "least_version", "older", "version_of"]

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)[^;]*?>=\s*(?P<least>[\d.]+)[^;]*(?P<marker>;.*)?")


def version_of(distribution: str) -> str | None:
    """The installed version; None where it is not there."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def base_dependencies() -> dict[str, str]:
    """What every install of vivim-edge has, with the oldest version of each; empty where it is not installed."""
    return {name: least for name, least, marker in _requirements() if not marker}


def least_version(distribution: str) -> str | None:
    """The oldest version that vivim-edge or one of its extras takes; None where it does not say."""
    return next((least for name, least, _ in _requirements() if name == distribution), None)


def older(version: str, least: str) -> bool:
    """Whether a version comes before another; only their numbers count."""
    return _numbers(version) < _numbers(least)


def _requirements() -> list[tuple[str, str, str | None]]:
    """(name, oldest version, condition) of every requirement in our metadata that has an oldest version."""
    try:
        lines = metadata.requires("vivim-edge") or []
    except metadata.PackageNotFoundError:
        return []
    matches = [_REQUIREMENT.match(line) for line in lines]
    return [(match["name"], match["least"], match["marker"]) for match in matches if match]


def _numbers(version: str) -> tuple[int, ...]:
    """1.18.1+cuda -> (1, 18, 1), without zeros at the end."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
