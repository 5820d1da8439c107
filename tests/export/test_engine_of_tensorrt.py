"""What only a build with TensorRT itself reaches, on a stand-in of its module: the timing cache and the inspector.

TensorRT for RTX has no timing cache, and builds where no GPU can load the engine again; so its builds, which are real
(test_engine.py), never come here.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.runtime.engines import RECORD
from vivim_export import engine as engine_module
from vivim_export.engine import EngineOptions
from vivim_runtime.errors import ParityError, PrecisionError, UsageError, VivimError
from vivim_runtime.sessions.machine import Machine
from vivim_runtime.sessions.sidecar import sidecar_path


class Cache:
    """ITimingCache."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytearray:
        return bytearray(self.content + b", and new timings")


class Config:
    """IBuilderConfig, as far as the timing cache goes; it takes what begins as a cache of its own."""

    def __init__(self) -> None:
        self.cache: Cache | None = None

    def create_timing_cache(self, content: bytes) -> Cache | None:
        return Cache(content) if content == b"" or content.startswith(b"timings") else None

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch, "timings of another GPU must not be taken"
        self.cache = cache
        return not cache.content.endswith(b"of another GPU")

    def get_timing_cache(self) -> Cache | None:
        return self.cache


def stand_in(precision: str = "Half", loads: bool = True) -> SimpleNamespace:
    """The module `tensorrt`, whose engines have one product of a precision."""
    layers = {"Layers": [{"Name": "mm", "LayerType": "gemm", "Outputs": [{"Name": "y", "Format/Datatype": precision}]}]}

    class Inspector:
        def get_engine_information(self, layout: str) -> str:
            assert layout == "json"
            return json.dumps(layers)

    engine = SimpleNamespace(create_engine_inspector=Inspector) if loads else None
    return SimpleNamespace(
        __version__="10.3.0",
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda content: engine),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
    )


def builder(trt: SimpleNamespace, options: EngineOptions, **changes: Any) -> Any:
    """A build that has come to what is tested."""
    made = object.__new__(engine_module._Builder)
    made.trt, made.options, made.source = trt, options, Path("m.onnx")
    made.machine = Machine(gpu="NVIDIA L4", compute_capability="8.9")
    made.plugin = None
    made.logger, made.config = SimpleNamespace(reason=lambda: "it says why", first=lambda: ""), Config()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_timings_are_taken_from_the_cache_and_written_back(tmp_path: Path) -> None:
    path = tmp_path / "timings"
    path.write_bytes(b"timings")
    build = builder(stand_in(), EngineOptions(backend="tensorrt", timing_cache=path))
    flags: dict[str, str | int] = {}
    assert build._prepare_for_this_gpu(build.config, flags) == ("8.9",)
    assert build.config.cache.content == b"timings" and flags == {"timing_cache_bytes": 7}
    build._save_timings()
    assert path.read_bytes() == b"timings, and new timings"
    assert list(tmp_path.iterdir()) == [path]


def test_the_first_build_begins_a_cache(tmp_path: Path) -> None:
    build = builder(stand_in(), EngineOptions(backend="tensorrt", timing_cache=tmp_path / "new"))
    build._prepare_for_this_gpu(build.config, {})
    build._save_timings()
    assert (tmp_path / "new").read_bytes() == b", and new timings"


@pytest.mark.parametrize("content", [b"no cache", b"timings of another GPU"])
def test_a_cache_that_is_not_of_this_gpu_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "timings"
    path.write_bytes(content)
    build = builder(stand_in(), EngineOptions(backend="tensorrt", timing_cache=path))
    with pytest.raises(UsageError, match=r"is not of this GPU and TensorRT 10\.3\.0"):
        build._prepare_for_this_gpu(build.config, {})
    assert path.read_bytes() == content


def test_without_a_cache_none_is_written(tmp_path: Path) -> None:
    build = builder(stand_in(), EngineOptions(backend="tensorrt"))
    flags: dict[str, str | int] = {}
    build._prepare_for_this_gpu(build.config, flags)
    build._save_timings()
    assert flags == {} and build.config.cache is None


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "m.engine"
    path.write_bytes(b"an engine")
    return path


def test_an_engine_that_does_not_load_again_is_said_with_the_librarys_words(engine: Path) -> None:
    build = builder(stand_in(loads=False), EngineOptions(backend="tensorrt"))
    with pytest.raises(VivimError, match="does not load again: it says why"):
        build._proven(RECORD, engine, engine.with_name("out.engine"))


def test_the_precision_is_read_from_the_engine_and_not_from_the_network(engine: Path) -> None:
    build = builder(stand_in("Float"), EngineOptions(backend="tensorrt", precision="fp16"))
    with pytest.raises(PrecisionError, match="mm"):
        build._proven(RECORD, engine, engine.with_name("out.engine"))


@pytest.mark.parametrize("passed", [True, False])
def test_what_the_inspector_says_and_the_parity_go_into_the_record(
    engine: Path, monkeypatch: pytest.MonkeyPatch, passed: bool
) -> None:
    comparison = SimpleNamespace(passed=passed, failures=["masks differ"], record=lambda: {"passed": passed})

    class Session:
        def __enter__(self) -> Session:
            assert sidecar_path(engine).exists(), "a session needs the sidecar"
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(engine_module, "TensorRTSession", lambda *_, **__: Session())
    monkeypatch.setattr(engine_module, "open_artefact", lambda *_: Session())
    monkeypatch.setattr(engine_module, "compare", lambda *_: comparison)
    build = builder(stand_in("Half"), EngineOptions(backend="tensorrt", precision="fp16"))
    if not passed:
        with pytest.raises(ParityError, match="masks differ; nothing was written"):
            build._proven(RECORD, engine, engine.with_name("out.engine"))
    else:
        record, found = build._proven(RECORD, engine, engine.with_name("out.engine"))
        assert found is comparison and record.parity == {"passed": True}
        assert [(layer.name, layer.precision) for layer in record.layers] == [("mm", "fp16")]
        assert record.precision_found == {"fp16": 1}
        assert record.build_flags["precision_read_from"] == "engine inspector"
    assert "gemm" in engine.with_name("out.engine.layers.json").read_text(), "all that the inspector says is kept"
    assert not sidecar_path(engine).exists()
