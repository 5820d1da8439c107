"""Finding the plugin's library, knowing which one it is, and giving it to TensorRT."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.runtime.fake_gpu import FakeCuda, FakeTensorRT
from vivim_runtime.errors import PluginError
from vivim_runtime.sessions import plugin
from vivim_runtime.sessions.plugin import Plugin


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two libraries, as empty as they can be."""
    folder = tmp_path_factory.mktemp("libraries")
    (folder / "kernels.c").write_text('char const* vivim_kernels_revision(void) { return "revision-3"; }')
    (folder / "trt.c").write_text("int vivim_trt_headers_version(void) { return 100300; }")
    for name, source in (("libvivim_kernels.so", "kernels.c"), ("libvivim_trt.so", "trt.c")):
        try:
            subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / name, folder / source], check=True)
        except FileNotFoundError:
            pytest.skip("there is no C compiler")
    return folder


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No plugin named, and an empty build folder."""
    monkeypatch.delenv("VIVIM_PLUGIN", raising=False)
    monkeypatch.setattr(plugin, "_BUILD_FOLDER", tmp_path / "build")
    return tmp_path


def test_plugin_that_is_named_is_known_by_revision_and_hashes(libraries: Path) -> None:
    found = Plugin.find(libraries / "libvivim_trt.so")
    assert found.version == "revision-3"
    for path, digest in (("libvivim_trt.so", found.sha256), ("libvivim_kernels.so", found.kernels_sha256)):
        assert digest == hashlib.sha256((libraries / path).read_bytes()).hexdigest()


def test_option_goes_before_variable_and_variable_before_build_folder(
    libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "_BUILD_FOLDER", libraries)
    assert Plugin.find().path == libraries / "libvivim_trt.so"
    link = tmp_path / "link.so"
    link.symlink_to(libraries / "libvivim_trt.so")  # the kernels lie beside what it leads to
    monkeypatch.setenv("VIVIM_PLUGIN", str(link))
    assert Plugin.find().path == link
    assert Plugin.find(libraries / "libvivim_trt.so").path == libraries / "libvivim_trt.so"


@pytest.mark.parametrize("by", ["option", "variable", "nothing"])
def test_plugin_that_is_not_there_says_where_it_looked_and_how_to_build_it(
    by: str, nowhere: Path, libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by != "nothing":  # what is named wrongly is not replaced by what lies elsewhere
        monkeypatch.setattr(plugin, "_BUILD_FOLDER", libraries)
    if by == "variable":
        monkeypatch.setenv("VIVIM_PLUGIN", str(nowhere / "named.so"))
    with pytest.raises(PluginError, match="make plugins") as caught:
        Plugin.find(nowhere / "named.so" if by == "option" else None)
    message = str(caught.value)
    assert "\n" not in message and ("named.so" in message) == (by != "nothing")
    assert str(plugin._BUILD_FOLDER / "libvivim_trt.so") in message and "VIVIM_PLUGIN" in message


@pytest.mark.parametrize(
    ("kernels", "message"),
    [(None, "has no libvivim_kernels.so beside it"), (b"text", "is no library of our kernels")],
)
def test_plugin_without_its_kernels_is_refused(kernels: bytes | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "libvivim_trt.so").write_bytes(b"")
    if kernels is not None:
        (tmp_path / "libvivim_kernels.so").write_bytes(kernels)
    with pytest.raises(PluginError, match=message):
        Plugin.find(tmp_path / "libvivim_trt.so")


def test_plugin_is_given_to_the_registry_once(libraries: Path) -> None:
    module = FakeTensorRT(FakeCuda(), "10.13.3.9")
    module.creators.clear()
    found = Plugin.find(libraries / "libvivim_trt.so")
    for _ in range(2):
        found.load(module)
    assert module.libraries == [str(libraries / "libvivim_trt.so")]


@pytest.mark.parametrize(
    ("source", "version", "message"),
    [
        ("100300", "11.1.0", r"was built for TensorRT 10, this is 11\.1\.0; .*VIVIM_TENSORRT_MAJOR=11 make plugins"),
        ("110000", "10.3.0", r"was built for TensorRT 11, this is 10\.3\.0; .*VIVIM_TENSORRT_MAJOR=10 make plugins"),
        (None, "10.3.0", "does not say for which TensorRT it was built"),
    ],
    ids=["10 in 11", "11 in 10", "an earlier version"],
)
def test_library_for_another_tensorrt_is_refused_before_the_registry_sees_it(
    source: str | None, version: str, message: str, tmp_path: Path
) -> None:
    name = "vivim_trt_headers_version" if source else "nothing"
    (tmp_path / "trt.c").write_text(f"int {name}(void) {{ return {source or 0}; }}")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "plugin.so", tmp_path / "trt.c"], check=True)
    module = FakeTensorRT(FakeCuda(), version)
    module.creators.clear()
    with pytest.raises(PluginError, match=message):
        Plugin(tmp_path / "plugin.so", "", "", "").load(module)
    assert module.libraries == []


def test_library_that_the_loader_refuses_is_told_with_its_reason(libraries: Path, tmp_path: Path) -> None:
    module = FakeTensorRT(FakeCuda(), "10.13.3.9")
    module.creators.clear()
    (tmp_path / "libvivim_trt.so").write_bytes(b"text")
    with pytest.raises(PluginError, match=r"libvivim_trt\.so does not load: .*build it again"):
        Plugin(tmp_path / "libvivim_trt.so", "", "", "").load(module)
    assert module.libraries == []


def test_library_without_an_operator_of_the_graph_is_told_as_an_earlier_one(libraries: Path) -> None:
    module = FakeTensorRT(FakeCuda(), "10.13.3.9")
    found = Plugin.find(libraries / "libvivim_trt.so")
    found.expect(module, {"SelectiveScan"})
    with pytest.raises(PluginError, match=r"libvivim_trt\.so has no S6Scan: it is of an earlier version; build"):
        found.expect(module, {"S6Scan", "SelectiveScan"})


def test_library_whose_operators_are_not_taken_is_told(libraries: Path) -> None:
    taken: set[str] = set()

    def load(path: str) -> Any:
        taken.add("CausalConv1d")

    registry = SimpleNamespace(load_library=load, get_creator=lambda name, *_: name if name in taken else None)
    module = SimpleNamespace(get_plugin_registry=lambda: registry, __version__="10.13.3.9")
    with pytest.raises(PluginError, match=r"TensorRT 10\.13\.3\.9 took no SelectiveScan from"):
        Plugin.find(libraries / "libvivim_trt.so").load(module)
