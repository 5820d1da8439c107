"""Files are whole or absent, and what cannot be written is said in one line."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vivim_runtime.errors import SinkError
from vivim_runtime.files import atomic_path, part_name, sha256_file, writable_folder, write_text


@pytest.fixture
def below_a_file(tmp_path: Path) -> Path:
    """A folder that cannot exist, even for root: its parent is a regular file."""
    (tmp_path / "file").write_text("x")
    return tmp_path / "file" / "folder"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_target_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model.onnx"
    with atomic_path(target) as temporary:
        # The same folder, so that the rename is atomic; the same suffix, since libraries choose a format by it.
        assert temporary.parent == target.parent and temporary.suffix == ".onnx" and temporary != target
        temporary.write_text("whole")
        assert not target.exists()
        inode = temporary.stat().st_ino
    assert target.read_text() == "whole" and names(target.parent) == ["model.onnx"]
    assert target.stat().st_ino == inode  # renamed, not copied: never half there


def test_target_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    write_text(str(target), "neu: ü")
    assert target.read_bytes() == "neu: ü".encode() and names(tmp_path) == ["report.json"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_failure_leaves_nothing_behind(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)), atomic_path(tmp_path / "model.onnx") as temporary:
        temporary.write_text("half")
        raise error
    assert names(tmp_path) == []


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_text("old")
    with pytest.raises(ValueError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ValueError
    assert target.read_text() == "old" and names(tmp_path) == ["model.onnx"]


def test_full_disk_is_an_output_error_that_names_the_target(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    with (
        pytest.raises(SinkError, match=r"model\.onnx: No space left on device$") as caught,
        atomic_path(target) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert caught.value.exit_code == 2 and names(tmp_path) == []


def test_block_that_writes_nothing_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"cannot write .*model\.onnx"), atomic_path(tmp_path / "model.onnx"):
        pass
    assert names(tmp_path) == []


def test_folder_as_target_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="is a folder; expected a file name"), atomic_path(tmp_path):
        pytest.fail("the block ran")
    assert names(tmp_path) == []


def test_target_in_a_folder_that_cannot_exist_is_refused_before_any_work(below_a_file: Path) -> None:
    with pytest.raises(SinkError, match="cannot create the folder"), atomic_path(below_a_file / "model.onnx"):
        pytest.fail("the block ran")


def test_writable_folder_is_created_with_its_parents(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert writable_folder(folder) == folder and folder.is_dir()
    assert writable_folder(folder) == folder


def test_file_in_the_place_of_a_folder_is_refused(below_a_file: Path) -> None:
    for folder in (below_a_file, below_a_file.parent):
        with pytest.raises(SinkError, match="cannot create the folder.*choose another output") as caught:
            writable_folder(folder)
        assert "\n" not in str(caught.value)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    yield folder
    folder.chmod(0o700)


def test_read_only_folder_is_refused(read_only: Path) -> None:
    with pytest.raises(SinkError, match="permission denied"):
        writable_folder(read_only)


def test_denied_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the test above, for users whom no folder denies anything."""
    asked = []
    monkeypatch.setattr(os, "access", lambda folder, mode: bool(asked.append((folder, mode))))
    with pytest.raises(SinkError, match="permission denied"):
        writable_folder(tmp_path)
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_part_of_a_growing_file_keeps_folder_and_suffix() -> None:
    assert part_name(Path("out/film.mp4")) == Path("out/film.part.mp4")


def test_sha256_of_small_and_large_files(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"abc")  # FIPS 180-4's example
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for size in (0, (1 << 20), (1 << 20) + 1):  # nothing, one whole block, one block and a byte
        content = bytes(range(256)) * (size // 256) + b"\0" * (size % 256)
        path.write_bytes(content)
        assert sha256_file(str(path)) == hashlib.sha256(content).hexdigest()


def test_a_temporary_file_may_itself_be_written_whole(tmp_path: Path) -> None:
    """As an export does, which compares a file with PyTorch before it appears."""
    with atomic_path(tmp_path / "model.onnx") as judged:
        write_text(judged, "whole")
    assert (tmp_path / "model.onnx").read_text() == "whole" and names(tmp_path) == ["model.onnx"]
