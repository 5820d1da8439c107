"""What users bring: NVIDIA's Polygraphy inspects our files, runs them in ONNX Runtime, and gets what vivim-run gets."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vivim_export.onnx_export import OnnxOptions, export_onnx
from vivim_runtime.sessions import open_session

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOADER = ROOT / "examples" / "polygraphy_clips.py"


def polygraphy(*arguments: str, **environment: str) -> str:
    pytest.importorskip("polygraphy", reason="polygraphy is not installed: pip install polygraphy")
    command = [sys.executable, "-c", "import sys; from polygraphy.tools import main; sys.exit(main())", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("polygraphy") / "model.onnx"
    export_onnx("tiny", path, OnnxOptions())
    return path


def source() -> str:
    """A real ultrasound video where the shared data is, else a phantom."""
    videos = sorted((ROOT.parent / "shared" / "data" / "vtus").glob("Train/*"))
    return str(videos[0]) if videos else "phantom:"


def test_model_is_inspected(model: Path) -> None:
    said = polygraphy("inspect", "model", str(model))
    assert "frames [dtype=uint8, shape=(1, 5, 256, 256, 3)]" in said
    assert "logits [dtype=float32, shape=(1, 5, 1, 256, 256)]" in said


def test_onnx_runtime_in_polygraphy_gives_our_logits_of_the_same_clip(model: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs.json"
    run = ["run", str(model), "--onnxrt", "--data-loader-script", str(LOADER), "--save-outputs", str(outputs)]
    given = {"VIVIM_MODEL": str(model), "VIVIM_SOURCE": source()}
    assert "PASSED" in polygraphy(*run, **given)
    code = (
        "import sys, numpy as np; from polygraphy.comparator import RunResults;"
        "(name, (iteration,)), = RunResults.load(sys.argv[1]).items(); np.save(sys.argv[2], iteration['logits'])"
    )
    subprocess.run([sys.executable, "-c", code, str(outputs), str(tmp_path / "logits.npy")], check=True)
    spec = importlib.util.spec_from_file_location("polygraphy_clips", LOADER)
    assert spec and spec.loader
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        (clip,) = loader.load_data()
    with open_session(model, "cpu") as session:
        ours = session(clip["frames"])
    theirs = np.load(tmp_path / "logits.npy")
    # The same library; it may order sums differently where it has another number of threads.
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4 * float(np.abs(ours).max()))
    assert ours.std() > 0.1  # a picture that says something
