"""Which copy of this package runs, and how to install an extra of it: from where it came, be that an index or not."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlsplit

__all__ = ["NAME", "install_words", "installed_version"]

NAME = "vivim-edge"


def installed_version() -> str:
    """The version of this package; "0+unknown" where its files lie about without having been installed."""
    try:
        return distribution(NAME).version
    except PackageNotFoundError:
        return "0+unknown"


def _origin() -> dict[str, object]:
    """Where pip took this copy from (PEP 610); empty of an index."""
    try:
        text = distribution(NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def install_words(extra: str) -> str:
    """What to write behind `pip install` for an extra of this very copy.

    `'vivim-edge[cpu]'` of an index; of a checkout, a wheel or a repository that was installed by its address, that.
    """
    origin = _origin()
    url, named = str(origin.get("url", "")), f"{NAME}[{extra}]"
    folder, repository = origin.get("dir_info"), origin.get("vcs_info")
    if isinstance(folder, dict):
        path = f"{unquote(urlsplit(url).path)}[{extra}]"
        return f"{'-e ' if folder.get('editable') else ''}{shlex.quote(path)}"
    if isinstance(repository, dict):
        return shlex.quote(f"{named} @ {repository.get('vcs', 'git')}+{url}@{repository.get('commit_id', 'HEAD')}")
    return shlex.quote(f"{named} @ {url}" if url else named)
