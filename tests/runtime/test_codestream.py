"""What coded pictures say about themselves, and DICOM files that contradict them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames

from vivim_runtime.errors import SourceError
from vivim_runtime.sources import open_source
from vivim_runtime.sources.codestream import Codestream, has_whole_segments, read_codestream


def coded(name: str) -> bytes:
    return next(generate_frames(pydicom.dcmread(get_testdata_file(name, download=False)).PixelData, number_of_frames=1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("SC_rgb_jpeg_gdcm.dcm", Codestream((100, 100), 3, 8), id="lossless JPEG"),
        pytest.param("SC_rgb_jls_lossy_line.dcm", Codestream((100, 100), 3, 8), id="JPEG-LS"),
        pytest.param("JPEG2000.dcm", Codestream((1024, 256), 1, 16), id="JPEG 2000"),
        pytest.param("GDCMJ2K_TextGBR.dcm", Codestream((400, 400), 3, 8), id="JPEG 2000 in a JP2 file"),
    ],
)
def test_the_header_of_a_coded_picture_is_read(name: str, expected: Codestream) -> None:
    assert read_codestream(coded(name)) == expected


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8", b"hello", b"\xff\xd8\xff\xc0\x00", b"\xff\x4f\xff\x51\x00"]
)
def test_what_has_no_header_is_none(data: bytes) -> None:
    assert read_codestream(data) is None


@pytest.mark.parametrize("place", range(60))
def test_a_header_that_is_cut_anywhere_is_none_or_whole(place: int) -> None:
    data = coded("JPEG2000.dcm")
    assert read_codestream(data[:place]) in (None, read_codestream(data))


# Each of these ended the process, within GDCM, or set aside gigabytes.
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("SC_rgb_jpeg_gdcm.dcm", {"Rows": 65535}, id="more rows than are coded"),
        pytest.param("SC_rgb_jpeg_gdcm.dcm", {"BitsAllocated": 32}, id="more bits than JPEG has"),
        pytest.param("SC_rgb_jpeg_gdcm.dcm", {"BitsStored": 7}, id="colours that do not fill their bytes"),
        pytest.param("SC_rgb_jls_lossy_line.dcm", {"Columns": 1}, id="fewer columns than are coded"),
        pytest.param("JPEG2000.dcm", {"SamplesPerPixel": 3}, id="more samples than are coded"),
        pytest.param("JPEG2000.dcm", {"PhotometricInterpretation": "RGB"}, id="colours of one sample"),
        pytest.param("MR_small.dcm", {"NumberOfFrames": 2_000_000_000}, id="more frames than a file can hold"),
        pytest.param("MR_small.dcm", {"Rows": 65535, "Columns": 65535}, id="more pixels than are read"),
    ],
)
def test_headers_that_contradict_the_pixels_are_refused(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    dataset = pydicom.dcmread(get_testdata_file(name, download=False))
    for key, value in changes.items():
        setattr(dataset, key, value)
    dataset.save_as(tmp_path / "x.dcm")
    with pytest.raises(SourceError), open_source(str(tmp_path / "x.dcm")) as source:
        list(source)


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jls_lossy_line.dcm"])
def test_bytes_between_the_markers_are_refused_before_gdcm_ends_the_process(tmp_path: Path, name: str) -> None:
    data = coded(name)
    place = data.index(b"\xff\xda")
    assert has_whole_segments(data)
    damaged = data[:place] + b"\1" * 23 + data[place:]
    assert not has_whole_segments(damaged)
    dataset = pydicom.dcmread(get_testdata_file(name, download=False))
    dataset.PixelData = encapsulate([damaged])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "x.dcm")
    with pytest.raises(SourceError, match="its markers are damaged"), open_source(str(tmp_path / "x.dcm")) as source:
        list(source)
