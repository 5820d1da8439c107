"""The evidence of a release: made twice to the same bytes, true of what is installed, and verified as others would."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "docs" / "tools" / "evidence.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evidence", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_list_of_software_is_what_is_installed_and_says_what_each_is_for(tool: ModuleType) -> None:
    rows = {row["name"]: row for row in csv.DictReader(tool.soup(tool.parts()).splitlines())}
    assert set(tool.USED_FOR) <= set(rows)
    for name, row in rows.items():
        assert row["version"] == version(name)
        assert row["licence"] and row["used for"] and row["needed by"]
    assert not {"torch", "onnx", "safetensors"} & set(rows)  # a bedside machine has none of them


def test_every_requirement_of_the_base_install_is_said_to_be_used_for_something(tool: ModuleType) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    base = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert base
    assert {tool.canonical(name) for name in re.findall(r'"([\w-]+)[><=~]', base[1])} <= set(tool.USED_FOR)


def test_the_bill_of_materials_is_whole(tool: ModuleType) -> None:
    bill = tool.sbom(tool.parts(), "0.2.0", 1_700_000_000)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    known = {component["bom-ref"] for component in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    assert {entry["ref"] for entry in bill["dependencies"]} == known
    needed = {ref for entry in bill["dependencies"] for ref in entry["dependsOn"]}
    assert needed == known - {bill["metadata"]["component"]["bom-ref"]}  # each is there since something needs it
    assert bill == tool.sbom(tool.parts(), "0.2.0", 1_700_000_000)


def test_every_test_stands_under_a_requirement(tool: ModuleType) -> None:
    rows = tool.requirements(ROOT / "tests")
    assert len(rows) > 500
    assert [row["test"] for row in rows if not row["requirement"]] == []
    here = [row for row in rows if row["test"].endswith("::test_every_test_stands_under_a_requirement")]
    assert [row["behaviour"] for row in here] == ["every test stands under a requirement"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_it_is_made_twice_to_the_same_bytes_and_verified_by_the_doctor(tmp_path: Path) -> None:
    key = tmp_path / "release.key"
    key.write_text("07" * 32)
    made = []
    for name in ("one", "two"):
        command = [sys.executable, str(TOOL), "--out", str(tmp_path / name), "--key", str(key)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        made.append(contents(tmp_path / name))
    assert made[0] == made[1]
    assert {"manifest.json", "sbom.cdx.json", "soup.csv", "requirements.csv", "threat-model.md"} <= set(made[0])
    assert len([name for name in made[0] if name.endswith(".whl")]) == 1
    assert set(json.loads(made[0]["manifest.json"])["files"]) == set(made[0]) - {"manifest.json"}

    doctor = [sys.executable, "-c", "from vivim_runtime.commands.entry import doctor; doctor()", "--verify"]
    verify = [*doctor, str(tmp_path / "one" / "manifest.json"), "--key", str(tmp_path / "one-key.pub")]
    assert subprocess.run(verify, capture_output=True).returncode == 0
    (tmp_path / "one" / "soup.csv").write_text("nothing")
    done = subprocess.run(verify, capture_output=True, text=True)
    assert done.returncode == 3 and "soup.csv is not the file that was signed" in done.stderr
