"""Workflows that others copy: every step that is a command runs as it is written in the file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples" / "workflows").glob("*.yml"))
# What pip would install is here already.
INSTALLS = re.compile(r"^(pip|sudo apt-get|python3 -m venv) ")


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    jobs = workflow["jobs"].values() if "jobs" in workflow else [workflow["runs"]]
    return [step for job in jobs for step in job["steps"]]


def commands(workflow: dict[str, Any]) -> list[str]:
    return [step["run"] for step in steps(workflow) if "run" in step and not INSTALLS.match(step["run"])]


def run(command: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As GitHub runs a step: bash -e, with the commands of this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    given = {**os.environ, **environment, "PATH": path, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", command], cwd=folder, env=given, capture_output=True, text=True, timeout=900
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_step_of_a_workflow_runs_as_written(path: Path, tmp_path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    found = commands(workflow)
    assert len(found) >= 3
    environment = {key: value for key, value in workflow["env"].items() if "${{" not in value}
    for command in found:
        done = run(command, tmp_path, environment)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    # What is kept is there: a pattern that matches nothing would upload nothing, without a word.
    (kept,) = [step["with"]["path"] for step in steps(workflow) if "upload-artifact" in step.get("uses", "")]
    for pattern in kept.split():
        assert list(tmp_path.glob(pattern)), pattern


@pytest.mark.slow
def test_the_action_runs_as_written(tmp_path: Path) -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    inputs = {name: entry["default"] for name, entry in action["inputs"].items()}
    found = [step for step in steps(action) if "run" in step and not INSTALLS.match(step["run"])]
    assert len(found) == 1
    for step in found:
        environment = {
            key: inputs[match[1]]
            for key, value in step["env"].items()
            if (match := re.search(r"inputs\.([\w-]+)", value))
        }
        done = run(step["run"], tmp_path, environment)
        assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "report.json", "report.html"}


@pytest.mark.parametrize("path", [*EXAMPLES, ROOT / "action.yml", *(ROOT / ".github" / "workflows").glob("*.yml")])
def test_nothing_that_others_give_is_pasted_into_a_script(path: Path) -> None:
    """An expression within `run` would let a branch's name, or an input, be a command; through `env` it is a word."""
    workflow = yaml.safe_load(path.read_text())
    found = steps(workflow)
    assert found
    for step in found:
        assert "${{" not in step.get("run", ""), step
        assert "run" in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]), step
        if "runs" in workflow and "run" in step:
            assert step["shell"] == "bash"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_a_workflow_installs_exists(path: Path) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (words,) = re.findall(r"vivim-edge\[([\w,-]+)\]", path.read_text())
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in words.split(","))
