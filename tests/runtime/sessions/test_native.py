"""Finding the compiled operators, and what a session of ONNX Runtime does with and without them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from tests.plugins.native_library import library
from tests.plugins.test_ort_operators import DATA, FLOAT, feed, node_model, scan_of
from tests.runtime.models import brightness_model
from vivim.scan import kernels
from vivim.scan.operators import causal_conv1d, selective_scan
from vivim_runtime.errors import PluginError
from vivim_runtime.sessions import native
from vivim_runtime.sessions.native import native_library
from vivim_runtime.sessions.onnx import OnnxSession, inference_session, onnx_runtime

DIRECTIONS = [0, 1, 2]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing named, nothing built, nothing installed."""
    monkeypatch.delenv("VIVIM_ORT", raising=False)
    monkeypatch.setattr(native, "_BUILD_FOLDER", tmp_path / "build")
    monkeypatch.setattr(native, "_PACKAGE", "vivim_native_that_is_not_installed")


def scan_model(element: int = FLOAT) -> bytes:
    arguments = scan_of(DIRECTIONS, 1, 35, 24)
    return node_model("SelectiveScan", arguments, element, {}, rows=5, directions=DIRECTIONS, mean=1)


def opened(model: bytes, bodies: bool = False) -> tuple[object, str]:
    return inference_session(model, onnx_runtime("a test").SessionOptions, ["CPUExecutionProvider"], bodies)


def test_the_library_that_is_named_says_which_one_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIM_ORT", str(library()))
    found = native_library()
    assert found is not None and found.path == library() and found.version == "0.2.0"
    assert found.instruction_set in ("avx512", "avx2", "baseline")


def test_a_built_library_goes_before_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "vivim_native_of_a_test"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "libvivim_ort.so").symlink_to(library())
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(native, "_PACKAGE", package.name)
    assert native_library() is not None and native_library().path == package / "libvivim_ort.so"  # type: ignore[union-attr]
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "libvivim_ort.so").symlink_to(library())
    assert native_library().path == tmp_path / "build" / "libvivim_ort.so"  # type: ignore[union-attr]


@pytest.mark.parametrize("content", [None, b"", b"no library"])
def test_a_library_that_does_not_load_is_refused_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    wrong = tmp_path / "wrong.so"
    if content is not None:
        wrong.write_bytes(content)
    monkeypatch.setenv("VIVIM_ORT", str(wrong))
    with pytest.raises(PluginError, match="build it again with: make native, or run without it: VIVIM_ORT=bodies"):
        native_library()
    model = brightness_model(tmp_path / "model.onnx")
    with pytest.raises(PluginError, match="wrong.so"):
        OnnxSession(model, "cpu")


def test_a_session_takes_the_operators_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VIVIM_ORT", str(library()))
    session, operators = opened(scan_model())
    assert operators == native_library().instruction_set  # type: ignore[union-attr]
    assert caplog.records == []
    bodies, told = opened(scan_model(), bodies=True)
    assert told == "bodies" and caplog.records == []
    values = [s.run(None, feed(scan_of(DIRECTIONS, 1, 35, 24)))[0] for s in (session, bodies)]  # type: ignore[attr-defined]
    # Two summation orders in float32.
    assert np.linalg.norm(values[0] - values[1]) <= 1e-6 * np.linalg.norm(values[1])
    assert not np.array_equal(*values)  # they are two implementations indeed


def test_a_session_that_runs_bodies_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert opened(scan_model())[1] == "bodies"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].count("\n") == 0 and "make native" in caplog.messages[0]
    caplog.clear()
    with OnnxSession(brightness_model(tmp_path / "model.onnx"), "cpu") as session:
        assert session.operators == "bodies"
    assert caplog.records == []  # a file without our operators loses nothing
    monkeypatch.setenv("VIVIM_ORT", "bodies")
    opened(scan_model())
    assert caplog.records == []  # what was asked for is no news


def test_types_that_the_operators_do_not_have_take_the_bodies(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VIVIM_ORT", str(library()))
    model = onnx.load_from_string(scan_model())
    casts = {f"{name}_": name for name in DATA["SelectiveScan"]}
    for node in model.graph.node:  # all of it in float16, parameters too
        if node.op_type == "Cast" and node.output[0] in casts:
            node.attribute[0].i = TensorProto.FLOAT16
    for index, name in enumerate(("A_log2e", "dt_weight", "dt_bias", "d_skip")):
        node = next(n for n in model.graph.node if n.op_type == "SelectiveScan")
        node.input[3 + index] = f"{name}_"
        model.graph.node.insert(0, helper.make_node("Cast", [name], [f"{name}_"], to=TensorProto.FLOAT16))
    session, operators = opened(model.SerializeToString())
    assert operators == "bodies"
    assert len(caplog.records) == 1 and "cannot run this file" in caplog.messages[0]
    value = session.run(None, feed(scan_of(DIRECTIONS, 1, 35, 24)))[0]  # type: ignore[attr-defined]
    assert np.isfinite(value).all()


def test_the_line_reaches_a_user_who_configured_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(scan_model())
    code = (
        "from pathlib import Path\n"
        "from vivim_runtime.sessions import native\n"
        "native._BUILD_FOLDER, native._PACKAGE = Path('none'), 'vivim_native_that_is_not_installed'\n"
        "from vivim_runtime.sessions.onnx import inference_session, onnx_runtime\n"
        "inference_session('model.onnx', onnx_runtime('a test').SessionOptions, ['CPUExecutionProvider'])\n"
    )
    path = os.pathsep.join(str(Path(__file__).parents[3] / name) for name in ("", "runtime"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "several times slower" in done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pytorch_takes_the_same_kernels_and_keeps_its_gradients(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    found = {}
    for name in ("library", "chunks"):
        monkeypatch.setenv("VIVIM_ORT", str(library()) if name == "library" else "bodies")
        kernels.cpu_library.cache_clear()
        assert (kernels.cpu_library() is None) is (name == "chunks")
        scan = [tensor.to(dtype).requires_grad_() for tensor in scan_of(DIRECTIONS, 2, 35, 24).values()]
        y = selective_scan(*scan, 5, DIRECTIONS, True)
        xc = causal_conv1d(scan[2], torch.ones(3, 24, 4, dtype=dtype), torch.zeros(3, 24, dtype=dtype), 5, DIRECTIONS)
        (y.square().sum() + xc.square().sum()).backward()
        found[name] = [y.detach(), xc.detach(), *(tensor.grad for tensor in scan)]
    kernels.cpu_library.cache_clear()
    # One rounding of the data's type, in the values and in what multiplies the gradients.
    tolerance = {torch.float32: 1e-6, torch.float16: 2**-9, torch.bfloat16: 2**-6}[dtype]
    for ours, chunked in zip(found["library"], found["chunks"], strict=True):
        assert ours.dtype == dtype and (ours - chunked).double().norm() <= tolerance * chunked.double().norm()


def test_pytorch_in_double_precision_takes_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIM_ORT", str(library()))
    kernels.cpu_library.cache_clear()
    arguments = list(scan_of(DIRECTIONS, 1, 35, 24).values())
    assert selective_scan(*arguments, 5, DIRECTIONS, True).dtype == torch.float64
    kernels.cpu_library.cache_clear()
