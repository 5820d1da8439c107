"""Exported files in the releases of ONNX Runtime that we promise, each in an environment of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.environments import create_environment, run_clean
from tests.plugins.native_library import library
from vivim.checkpoint import load_checkpoint, resolve_weights
from vivim_calibration.calibration import learn_ranges
from vivim_calibration.clips import whole_clips
from vivim_calibration.float_model import load_float_model
from vivim_calibration.quantise import quantise_layers
from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx
from vivim_runtime.sessions import open_session

pytestmark = pytest.mark.slow

FRAMES, SIZE = 3, (64, 96)
CLIP = f"phantom:?seed=5&frames={FRAMES}&size={SIZE[0]}x{SIZE[1]}"

# The oldest that we allow, what Python 3.10 and 3.13 got when they were new, and the newest there is.
RELEASES = ["==1.18.1", "==1.20.*", "==1.23.*", "==1.26.*", ">=1.26"]

# How far a file may be from the newest release's result, as rel-L2 of the logits.
TOLERANCES = {
    "fp32": 1e-6,  # some hundred roundings of 2^-24 in sums of another order; measured 8e-8
    "open": 1e-6,
    "cpu": 1e-6,
    "fp16": 1e-3,  # 2^-11 a rounding, where a release keeps another intermediate in float32; measured 4e-5
    "int8": 1e-2,  # an activation between two levels (1/127 of its range) may take the other one; measured 2e-3
}

# What runs there, each file by its bodies and by the compiled operators; an open batch takes two clips.
PROGRAM = """
import sys
import numpy as np
import onnxruntime

clips, output, library, *files = sys.argv[1:]
pixels = np.load(clips)
results = {}
for name, path in (file.split("=") for file in files):
    for by in ("bodies", "operators"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # As vivim_runtime.sessions.onnx does.
        options.enable_mem_pattern = not onnxruntime.__version__.startswith("1.18.")
        if by == "operators":
            options.register_custom_ops_library(library)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        given = np.concatenate([pixels, pixels[:, ::-1]]) if name == "open" else pixels
        session.run(None, {session.get_inputs()[0].name: 0 * given})  # a first run may leave something behind
        (results[f"{name} by {by}"],) = session.run(None, {session.get_inputs()[0].name: given})
np.savez(output, **results)
print(onnxruntime.__version__)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped weights in every arithmetic, for short and small clips."""
    folder = tmp_path_factory.mktemp("files")
    paths = {name: folder / f"{name}.onnx" for name in TOLERANCES}
    model = load_checkpoint(resolve_weights("tiny"), FRAMES)
    save_onnx(onnx_from_model(model, OnnxOptions(size=SIZE)), paths["fp32"])
    save_onnx(onnx_from_model(model, OnnxOptions(size=SIZE, batch=None)), paths["open"])
    save_onnx(onnx_from_model(model, OnnxOptions(size=SIZE, cpu=True)), paths["cpu"])
    save_onnx(onnx_from_model(model, OnnxOptions(size=SIZE, precision="fp16")), paths["fp16"])
    source = load_float_model(paths["fp32"])
    clips = whole_clips([CLIP], FRAMES, SIZE)
    ranges = learn_ranges(source.proto, source.info, source.sha256, clips, "minmax", threads=1).ranges
    onnx.save(quantise_layers(source.proto, ranges), paths["int8"])
    return paths


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clips.npy"
    (clip,) = whole_clips([CLIP], FRAMES, SIZE)
    np.save(path, clip.pixels[None])
    return path


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_of_onnx_runtime_loads_and_runs_every_file(
    release: str, files: dict[str, Path], clips: Path, tmp_path: Path
) -> None:
    if release == RELEASES[0] and sys.version_info >= (3, 13):
        pytest.skip("ONNX Runtime 1.18 has no wheel for Python 3.13")
    python = create_environment(tmp_path / "environment", Path(sys.executable), f"onnxruntime{release}")
    output = tmp_path / "results.npz"
    named = [f"{name}={path}" for name, path in files.items()]
    done = run_clean(python, "-c", PROGRAM, clips, output, library(), *named)
    assert done.returncode == 0, done.stderr
    version = done.stdout.strip()
    pixels, differences = np.load(clips), {}
    with np.load(output) as results:
        for name, path in files.items():
            with open_session(path, "cpu", 1) as session:
                given = np.concatenate([pixels, pixels[:, ::-1]]) if name == "open" else pixels
                expected = session(given)
            for by in ("bodies", "operators"):
                difference = np.linalg.norm(results[f"{name} by {by}"] - expected) / np.linalg.norm(expected)
                differences[f"{name} by {by}"] = float(difference)
    far = {name: value for name, value in differences.items() if not value <= TOLERANCES[name.split()[0]]}
    assert not far, f"ONNX Runtime {version}: {differences}"
