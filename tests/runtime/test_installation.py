"""What is said about installing an extra is true of the copy that says it."""

from __future__ import annotations

from typing import Any

import pytest

import vivim_runtime
from vivim_runtime import installation
from vivim_runtime.errors import MissingExtraError
from vivim_runtime.installation import install_words, installed_version

FILE = "file:" + "//"  # in pieces: no tracked file holds a path of a machine
WHEEL = "https://host.example/vivim_edge-0.2.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        pytest.param({}, "'vivim-edge[cpu]'", id="an index"),
        pytest.param(
            {"url": FILE + "/home/me/vivim%20edge", "dir_info": {"editable": True}},
            "-e '/home/me/vivim edge[cpu]'",
            id="a checkout, editable",
        ),
        pytest.param({"url": FILE + "/src/vivim", "dir_info": {}}, "'/src/vivim[cpu]'", id="a checkout"),
        pytest.param({"url": WHEEL, "archive_info": {}}, f"'vivim-edge[cpu] @ {WHEEL}'", id="a wheel"),
        pytest.param(
            {"url": "https://host.example/v.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "'vivim-edge[cpu] @ git+https://host.example/v.git@abc'",
            id="a repository",
        ),
    ],
)
def test_an_extra_is_installed_from_where_this_copy_came(
    origin: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "_origin", lambda: origin)
    assert install_words("cpu") == words
    assert str(MissingExtraError("this", "cpu")).endswith(f"pip install {words}")


def test_the_version_is_that_of_the_distribution() -> None:
    assert vivim_runtime.__version__ == installed_version() != "0+unknown"
