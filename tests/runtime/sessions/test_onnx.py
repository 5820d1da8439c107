"""Opening and running model files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.models import brightness_model
from vivim_runtime.errors import ModelError, UsageError
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.base import ModelInfo
from vivim_runtime.sessions.onnx import _providers


def test_session_runs_the_model_and_tells_about_it(tmp_path: Path) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (1, 5, 32, 48, 3), dtype=np.uint8)
    with open_session(brightness_model(tmp_path / "m.onnx"), "cpu", threads=1) as session:
        session.warm_up()
        logits = session(clips)
        assert (session.info.frames, session.info.size, session.device) == (5, (32, 48), "cpu")
        assert [c.name for c in session.info.classes] == ["lesion"]
    # Means of three bytes and a division by 16: exact to a float32 ulp of 128 / 16.
    assert np.abs(logits[:, :, 0] - (clips.mean(-1) - 128) / 16).max() <= 1e-5


def test_raw_input_is_normalised_by_the_session(tmp_path: Path) -> None:
    """The model then takes float32 (B, T, 3, H, W); onnxruntime refuses uint8, so the feed itself is looked at."""
    session = open_session(brightness_model(tmp_path / "m.onnx"), "cpu")
    session.info = replace(session.info, input="float32")
    fed, logits = {}, np.zeros((1, 5, 1, 32, 48), np.float32)
    session._session = type("Fake", (), {"run": lambda self, names, feed: [fed.update(feed) or logits]})()
    clips = np.full((1, 5, 32, 48, 3), 255, np.uint8)
    session(clips)
    value = fed["frames"]
    assert value.dtype == np.float32 and value.shape == (1, 5, 3, 32, 48)
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        assert value[0, 0, channel] == pytest.approx((1 - mean) / std, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        pytest.param((1, 4, 32, 48, 3), np.uint8, id="fewer frames"),
        pytest.param((1, 5, 48, 32, 3), np.uint8, id="turned"),
        pytest.param((2, 5, 32, 48, 3), np.uint8, id="another batch"),
        pytest.param((1, 5, 32, 48, 3), np.float32, id="floats"),
    ],
)
def test_clips_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    session = open_session(brightness_model(tmp_path / "m.onnx"), "cpu")
    with pytest.raises(ModelError, match=r"takes uint8 \(1, 5, 32, 48, 3\)"):
        session(np.zeros(shape, dtype))


def test_any_batch_is_taken_where_it_is_dynamic(tmp_path: Path) -> None:
    session = open_session(brightness_model(tmp_path / "m.onnx", batch=None), "cpu")
    assert session(np.zeros((3, 5, 32, 48, 3), np.uint8)).shape == (3, 5, 1, 32, 48)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        pytest.param(None, "m.onnx", "there is no model", id="missing"),
        pytest.param(b"hello", "m.onnx", "no ONNX model that ONNX Runtime can load", id="text"),
        pytest.param(b"hello", "m.tflite", "expected a .onnx or .engine file", id="another kind"),
    ],
)
def test_files_that_are_no_model_are_refused(tmp_path: Path, content: bytes | None, name: str, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        open_session(tmp_path / name)


def test_truncated_models_are_refused(tmp_path: Path) -> None:
    path = brightness_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ModelError, match="no ONNX model|not written by vivim-export"):
        open_session(path)


def test_models_of_others_are_refused() -> None:
    with pytest.raises(ModelError, match="was not written by vivim-export"):
        ModelInfo.from_metadata(Path("other.onnx"), {"author": "somebody"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"format": "3"}, "update vivim-edge", id="newer format"),
        pytest.param({"format": "one"}, "update vivim-edge", id="no number"),
        pytest.param({"mean": "none"}, "describes itself wrongly", id="no JSON"),
        pytest.param({"height": ""}, "describes itself wrongly", id="no height"),
    ],
)
def test_descriptions_that_cannot_be_read_are_refused(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        open_session(brightness_model(tmp_path / "m.onnx", **changes))


def test_devices_choose_the_providers() -> None:
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert _providers("auto", both)[0] == ("CUDAExecutionProvider", {"device_id": 0})
    assert _providers("cuda:1", both)[0] == ("CUDAExecutionProvider", {"device_id": 1})
    assert _providers("cpu", both) == ["CPUExecutionProvider"]
    assert _providers("auto", both[1:]) == ["CPUExecutionProvider"]


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "cuda:x", ""])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(UsageError, match="expected auto, cpu, cuda"):
        _providers(device, ["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_cuda_without_its_provider_says_what_to_install() -> None:
    with pytest.raises(UsageError, match=r"vivim-edge\[gpu\]"):
        _providers("cuda", ["CPUExecutionProvider"])


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_cuda_provider_that_does_not_load_is_one_line_or_an_error(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """onnxruntime-gpu without cuDNN: the provider is listed, fails to load, and ONNX Runtime goes on on the CPU."""
    onnxruntime = pytest.importorskip("onnxruntime")
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers, enable_fallback, **_: real(path, options, providers=both[1:]),
    )
    model = brightness_model(tmp_path / "m.onnx")
    if device == "auto":
        with open_session(model, device) as session:
            assert session.device == "cpu"
        (record,) = caplog.records
        assert "CUDA provider did not load" in record.getMessage() and "\n" not in record.getMessage()
    else:
        with pytest.raises(UsageError, match=rf"--device is {device}, but .* would run on the CPU"):
            open_session(model, device)
    caplog.clear()
    with open_session(model, "cpu"):
        assert not caplog.records
