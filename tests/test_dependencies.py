"""The oldest and the newest of everything that the base install and extra `cpu` allow, as a user would install them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.environments import REPOSITORY, create_environment, interpreter, run_clean
from vivim.checkpoint import load_checkpoint, resolve_weights
from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx
from vivim_runtime.sources import open_source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What pyproject.toml begins at, on the oldest Python that we promise.
OLDEST = {
    "numpy": "1.24",
    "opencv-python-headless": "4.10.0.84",
    "av": "17",
    "pillow": "10.1",
    "typer": "0.19.1",
    "rich": "13",
    "onnxruntime": "1.18.1",
}
# The first with wheels for a newer Python.
FIRST_WHEELS = {"3.10": {}, "3.13": {"numpy": "2.1.0", "pillow": "10.4.0", "onnxruntime": "1.20.0"}}
PHANTOM = "phantom:?seed=21&frames=6&size=128x128"  # one with a lesion


def test_the_oldest_versions_tested_are_those_that_are_asked_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    matches = [re.fullmatch(r"([\w-]+)>=([\d.]+),<\d+", requirement) for requirement in asked]
    assert {match[1]: match[2] for match in matches if match} == OLDEST and all(matches)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own wheel, built from a copy: building leaves files in the tree."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("vivim", "export", "runtime", "calibration", "plugins"):
        shutil.copytree(
            REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", "build")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(output), str(source)]
    subprocess.run(command, check=True)
    (path,) = output.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    save_onnx(onnx_from_model(load_checkpoint(resolve_weights("tiny"), 3), OnnxOptions(size=(128, 128))), path)
    return path


def masks(folder: Path) -> np.ndarray:
    return np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0 for path in sorted(folder.glob("*.png"))])


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frames of the phantom as they are drawn here."""
    folder = tmp_path_factory.mktemp("pictures")
    with open_source(PHANTOM) as source:
        for frame in source:
            cv2.imwrite(str(folder / f"{frame.index:03}.png"), frame.image[..., ::-1])
    return folder


@pytest.fixture(scope="session")
def expected(pictures: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Their masks, as they come out here."""
    folder = tmp_path_factory.mktemp("expected")
    program = "from vivim_runtime.commands.entry import run; run()"
    command = [sys.executable, "-c", program, pictures, f"{folder}/", "--model", model, "--device", "cpu"]
    subprocess.run([str(part) for part in command], check=True)
    return masks(folder)


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.10", "3.13"])
@pytest.mark.parametrize("age", ["oldest", "newest"])
def test_a_phantom_is_segmented_with_the_oldest_and_the_newest_of_everything(
    python: str, age: str, wheel: Path, model: Path, pictures: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    pins = [f"{name}=={version}" for name, version in {**OLDEST, **FIRST_WHEELS[python]}.items()]
    requirements = [f"{wheel}[cpu]", *(pins if age == "oldest" else [])]
    bin_folder = create_environment(tmp_path / "environment", interpreter(python), *requirements).parent

    for command in ("run", "bench", "doctor"):
        shown = run_clean(bin_folder / f"vivim-{command}", "--help", TERM="dumb", COLUMNS="120")
        assert shown.returncode == 0 and "Usage:" in shown.stdout, shown.stderr
        assert "default: None" not in shown.stdout
    # A wrong option is one.
    assert run_clean(bin_folder / "vivim-run", PHANTOM, tmp_path / "x.mp4", "--nonsense").returncode == 2

    film, folder, ledger = (tmp_path / name for name in ("out.mp4", "masks", "ledger.jsonl"))
    done = run_clean(bin_folder / "vivim-run", PHANTOM, film, f"{folder}/", ledger, "--model", model, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert cv2.VideoCapture(str(film)).read()[0]
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert sum(line["type"] == "frame" for line in lines) == 6, lines
    assert len(masks(folder)) == 6 and masks(folder).any()

    # OpenCV's releases draw a phantom differently by some grey levels, so the masks of the same pictures are compared.
    folder = tmp_path / "of-pictures"
    done = run_clean(bin_folder / "vivim-run", pictures, f"{folder}/", "--model", model, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    # Logits differ by 1e-6 of their range (test_runtime_versions.py): single pixels on the contours at most.
    assert np.count_nonzero(masks(folder) != expected) <= 6

    report = json.loads(run_clean(bin_folder / "vivim-doctor", "--json").stdout)
    assert not [finding for finding in report["findings"] if finding["state"] == "broken"]
