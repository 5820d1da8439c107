"""Sources that are no files, and files that unpack to more than a machine has: one line, at once."""

from __future__ import annotations

import os
import signal
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.runtime.models import brightness_model
from tests.runtime.sources.made import grey, loop
from tests.runtime.test_nothing_lost import ran
from vivim_runtime.datasets import check, open_dataset
from vivim_runtime.errors import SourceError, VivimError
from vivim_runtime.live.run import LiveOptions
from vivim_runtime.sources import LiveSource, open_source
from vivim_runtime.sources.dicom import files

SUFFIXES = [".png", ".jpg", ".tif", ".dcm", ".mp4", ".mkv", ".gif"]


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """Whatever waits for ever fails."""

    def late(*_: object) -> None:
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["/dev/zero", "/dev/full", "socket", "itself"])
def test_devices_under_names_of_files_are_one_line(tmp_path: Path, suffix: str, kind: str) -> None:
    import socket

    path = tmp_path / f"a{suffix}"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        path.symlink_to(path.name if kind == "itself" else kind)
    with pytest.raises(SourceError, match="neither a file nor a folder|there is no file") as caught:
        open_source(str(path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_fifo_is_a_live_source_which_gives_up(tmp_path: Path, suffix: str) -> None:
    """Whatever its name: nobody waits for it but a live run, for as long as that is told to."""
    brightness_model(tmp_path / "model.onnx")
    os.mkfifo(tmp_path / f"a{suffix}")
    with open_source(str(tmp_path / f"a{suffix}")) as source:
        assert isinstance(source, LiveSource) and LiveOptions().timeout_s is None
    if suffix == ".png":
        code, error = ran(tmp_path, "a.png", "o.jsonl", "--timeout", "0.3", "-q")
        assert code == 2 and "Traceback" not in error


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_of_fifos_holds_nothing(tmp_path: Path, suffix: str) -> None:
    for index in range(3):
        os.mkfifo(tmp_path / f"{index}{suffix}")
    with pytest.raises(SourceError, match="holds no images"):
        open_source(str(tmp_path))
    with pytest.raises(VivimError):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("place", ["images/v", "masks/v", "", "images"])
def test_fifos_among_the_files_of_a_data_set_are_not_waited_for(tmp_path: Path, place: str) -> None:
    for folder in ("images/v", "masks/v"):
        (tmp_path / folder).mkdir(parents=True)
        for index in range(2):
            Image.fromarray(grey(index)).save(tmp_path / folder / f"{index}.png")
    for suffix in (*SUFFIXES, ".json", ".txt", ".toml", ""):
        os.mkfifo(tmp_path / place / f"9{suffix}")
    report = check(open_dataset(str(tmp_path)))
    assert report.frames == 2


# --- what unpacks to more than there is ---------------------------------------------------------------------------


def deflated(path: Path, pixels: np.ndarray) -> Path:
    dataset = pydicom.dcmread(loop(path, pixels))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    return path


def test_a_deflated_loop_that_is_one_is_read(tmp_path: Path) -> None:
    frames = np.stack([grey(index) for index in range(3)])
    with open_source(str(deflated(tmp_path / "a.dcm", frames))) as source:
        assert all(np.array_equal(frame.image[..., 0], frames[frame.index]) for frame in source)


def test_a_deflated_loop_is_unpacked_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = deflated(tmp_path / "a.dcm", np.zeros((400, 64, 64), np.uint8))  # 1.6 MB in some kB
    assert path.stat().st_size < 10_000
    assert open_source(str(path)).frame_count == 400
    monkeypatch.setattr(files, "_MOST_INFLATED", 1 << 20)
    for read in (open_source, lambda name: files.read_header(Path(name))):
        with pytest.raises(SourceError, match="unpacks to more than 1 MiB"):
            read(str(path))


@pytest.mark.slow
def test_gigabytes_in_megabytes_cost_no_memory(tmp_path: Path) -> None:
    """15 MB that are 3 GB: the bound is 1 GiB, and nothing of it is kept."""
    import resource

    path = deflated(tmp_path / "a.dcm", np.zeros((1, 8, 8), np.uint8))
    data, packer = path.read_bytes(), zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    end = 144 + struct.unpack_from("<I", data, 140)[0]
    block = packer.compress(b"\0" * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # which can be repeated
    path.write_bytes(data[:end] + block * (3 << 10))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError, match="unpacks to more than 1024 MiB"):
        open_source(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("cut", [140, 200, 400, -30])
def test_a_deflated_loop_that_is_damaged_is_one_line(tmp_path: Path, cut: int) -> None:
    path = deflated(tmp_path / "a.dcm", np.stack([grey(index) for index in range(3)]))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SourceError) as caught:
        list(open_source(str(path)))
    assert str(caught.value).isprintable()
