"""What a regulator asks for, made from what is there: see docs/evidence.md.

python docs/tools/evidence.py --out build/evidence [--key release.key]
"""

from __future__ import annotations

import argparse
import ast
import csv
import io
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from vivim_runtime.files import write_text
from vivim_runtime.manifest import read_key, write_manifest
from vivim_runtime.signing import public_key

ROOT = Path(__file__).parents[2]
# What a bedside machine has.
EXTRAS = ("cpu", "dicom", "display")
# What each is used for here; of what stands behind these it is said who needs it.
USED_FOR = {
    "numpy": "arrays of pixels and logits",
    "opencv-python-headless": "resizing, colours, drawing, PNG and JPEG",
    "av": "reading and writing films, streams and cameras (FFmpeg)",
    "pillow": "pictures with several pages, EXIF, JPEG of DICOM",
    "typer": "the command line",
    "rich": "tables and progress on the terminal",
    "onnxruntime": "running the model on a CPU",
    "pydicom": "reading and writing DICOM",
    "python-gdcm": "decoding what scanners compress",
    "pygame-ce": "the window",
}


@dataclass(frozen=True)
class Part:
    """An installed distribution, and the names of those that need it."""

    found: Distribution
    needed_by: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonical(str(self.found.metadata["Name"]))

    @property
    def licence(self) -> str:
        """As its metadata say it: an SPDX expression, a short text, or a classifier."""
        metadata = self.found.metadata
        said = str(metadata.get("License-Expression") or "").strip()
        classified = [
            line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")
        ]
        text = str(metadata.get("License") or "").strip()
        short = text if text and "\n" not in text and len(text) < 80 else ""
        return said or short or "; ".join(sorted(set(classified) - {"OSI Approved"})) or "not said in its metadata"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def parts(root: str = "vivim-edge", extras: tuple[str, ...] = EXTRAS) -> list[Part]:
    """What is installed of a distribution's requirements, and of theirs, by name; itself left out."""
    needed: dict[str, set[str]] = {}
    waiting = [(canonical(root), extras)]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            raise SystemExit(f"{name} is not installed here; install vivim-edge[{','.join(EXTRAS)}] first") from None
        for line in lines:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                other = canonical(requirement.name)
                needed.setdefault(other, set()).add(name)
                waiting.append((other, tuple(sorted(requirement.extras))))
    needed.pop(canonical(root), None)
    return [Part(distribution(name), tuple(sorted(needed[name]))) for name in sorted(needed)]


def sbom(found: list[Part], version: str, when: int) -> dict[str, Any]:
    """CycloneDX 1.5."""
    refs = {part.name: f"pkg:pypi/{part.name}@{part.found.version}" for part in found}
    own = f"pkg:pypi/vivim-edge@{version}"
    components = [
        {
            "type": "library",
            "bom-ref": refs[part.name],
            "name": part.name,
            "version": part.found.version,
            "purl": refs[part.name],
            "licenses": [{"license": {"name": part.licence}}],
        }
        for part in found
    ]
    depends: dict[str, list[str]] = {own: [], **{ref: [] for ref in refs.values()}}
    for part in found:
        for name in part.needed_by:
            depends[own if name == "vivim-edge" else refs[name]].append(refs[part.name])
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": stamp(when),
            "component": {"type": "application", "bom-ref": own, "name": "vivim-edge", "version": version, "purl": own},
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": sorted(others)} for ref, others in sorted(depends.items())],
    }
    # The same content has the same number.
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    return {"serialNumber": f"urn:uuid:{number}", **content}


def stamp(when: int) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(when, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def soup(found: list[Part]) -> str:
    """Software of unknown provenance, as CSV."""
    rows = [
        {
            "name": part.name,
            "version": part.found.version,
            "licence": part.licence,
            "needed by": " ".join(part.needed_by),
            "used for": USED_FOR.get(part.name, f"needed by {', '.join(part.needed_by)}"),
        }
        for part in found
    ]
    return as_csv(rows)


def as_csv(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def requirements(tests: Path) -> list[dict[str, str]]:
    """A row a test: what its module is about, the behaviour that it is named after, and where it stands."""
    rows = []
    for path in sorted(tests.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        about = first_paragraph(tree) or about_module(path)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                rows.append(
                    {
                        "requirement": " ".join(about.split()),
                        "behaviour": node.name.removeprefix("test_").replace("_", " "),
                        "level": ", ".join(sorted(set(marks(node)))) or "fast",
                        "test": f"{path.relative_to(ROOT).as_posix()}::{node.name}",
                    }
                )
    return rows


def first_paragraph(tree: ast.Module) -> str:
    return (ast.get_docstring(tree) or "").strip().split("\n\n")[0]


def about_module(test: Path) -> str:
    """What the module says of itself that a test without a word of its own is named after."""
    name = test.stem.removeprefix("test_")
    for package in ("calibration", "export", "runtime", "vivim"):
        if package in test.parts:
            for path in sorted((ROOT / package).rglob(f"{name}.py")):
                return first_paragraph(ast.parse(path.read_text(encoding="utf-8")))
    return f"{test.parent.name}: {name.replace('_', ' ')}"


def marks(node: ast.FunctionDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        word = ast.unparse(decorator)
        for mark in ("slow", "gpu"):
            if word == f"pytest.mark.{mark}":
                yield mark


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def wheel(folder: Path, when: int) -> Path:
    """The wheel of the commit, built in an empty place: what lies about in a checkout is not in it."""
    with tempfile.TemporaryDirectory() as made:
        source = Path(made) / "source"
        source.mkdir()
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-build-isolation", "--wheel-dir", made, str(source)]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(when), "PYTHONHASHSEED": "0"}
        subprocess.run(command, check=True, env=environment, umask=0o022)
        (built,) = Path(made).glob("*.whl")
        return Path(shutil.copy(built, folder / built.name))


def secret_key(given: Path | None, beside: Path) -> bytes:
    """The key that signs: the given one, or one that is made once and kept beside the evidence."""
    file = given or beside
    if given is None and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
            written.write(secrets.token_hex(32) + "\n")
    key = read_key(str(file))
    write_text(beside.with_suffix(".pub"), public_key(key).hex() + "\n")
    return key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/evidence"))
    parser.add_argument("--key", type=Path)
    given = parser.parse_args()
    out: Path = given.out
    shutil.rmtree(out, ignore_errors=True)
    (out / "weights").mkdir(parents=True)
    when = int(git("log", "-1", "--format=%ct"))
    found = parts()
    built = wheel(out, when)
    version = built.name.split("-")[1]
    write_text(out / "sbom.cdx.json", json.dumps(sbom(found, version, when), indent=1, sort_keys=True) + "\n")
    write_text(out / "soup.csv", soup(found))
    rows = requirements(ROOT / "tests")
    write_text(out / "requirements.csv", as_csv(rows))
    for name in ("model-card.md", "data-card.md", "threat-model.md"):
        shutil.copyfile(ROOT / "docs" / name, out / name)
    for file in sorted((ROOT / "vivim" / "weights").iterdir()):
        shutil.copyfile(file, out / "weights" / file.name)
    key = secret_key(given.key, out.with_name(f"{out.name}-key"))
    write_manifest(out / "manifest.json", [path for path in out.rglob("*") if path.is_file()], key)
    print(f"{out}: {len(found)} distributions, {len(rows)} tests, {built.name}")
    print(f"vivim-doctor --verify {out}/manifest.json --key {out.with_name(f'{out.name}-key.pub')}")


if __name__ == "__main__":
    main()
