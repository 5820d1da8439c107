"""DICOM: the objects that pydicom ships, and copies of them with what scanners also do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels import convert_color_space
from pydicom.uid import MPEG4HP41

from vivim_runtime.errors import SourceError
from vivim_runtime.sources import open_source

CINE = str(get_testdata_file("examples_ybr_color.dcm", download=False))
RGB = str(get_testdata_file("examples_rgb_color.dcm", download=False))


def read(path: str | Path) -> tuple[Any, list[np.ndarray]]:
    with open_source(str(path)) as source:
        return source, [frame.image for frame in source]


def changed(path: str, target: Path, **values: Any) -> Path:
    dataset = pydicom.dcmread(path)
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.save_as(target)
    return target


def test_cine_loop_comes_whole_with_its_frame_time() -> None:
    with open_source(CINE) as source:
        frames = list(source)
    assert len(frames) == source.frame_count == 30
    assert source.size == (240, 320)
    assert source.fps == pytest.approx(30.0, abs=0.1)  # FrameTime 33.333 ms
    assert frames[29].time == pytest.approx(29 * 0.033333, abs=1e-4)


def test_ybr_becomes_rgb() -> None:
    _, images = read(CINE)
    raw = pydicom.dcmread(CINE)
    ybr = pydicom.pixels.pixel_array(raw, index=0, raw=True)
    expected = convert_color_space(ybr, "YBR_FULL", "RGB")
    assert np.array_equal(images[0], expected)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param("examples_rgb_color.dcm", (240, 320), id="RGB, uncompressed"),
        pytest.param("examples_jpeg2k.dcm", (480, 640), id="YBR_RCT, JPEG 2000"),
        pytest.param("examples_palette.dcm", (350, 800), id="palette"),
        pytest.param("SC_rgb_rle.dcm", (100, 100), id="RGB, RLE"),
        pytest.param("SC_rgb_rle_16bit.dcm", (100, 100), id="RGB, RLE, 16 bit"),
        pytest.param("SC_ybr_full_422_uncompressed.dcm", (100, 100), id="YBR_FULL_422, uncompressed"),
        pytest.param("SC_rgb_jpeg_gdcm.dcm", (100, 100), id="lossless JPEG"),
        pytest.param("SC_rgb_jls_lossy_line.dcm", (100, 100), id="JPEG-LS"),
        pytest.param("MR_small_RLE.dcm", (64, 64), id="grey, 16 bit, RLE"),
        pytest.param("MR_small_bigendian.dcm", (64, 64), id="grey, 16 bit, big endian"),
        pytest.param("image_dfl.dcm", (512, 512), id="deflated"),
    ],
)
def test_every_common_coding_gives_8_bit_rgb(name: str, size: tuple[int, int]) -> None:
    path = get_testdata_file(name, download=False)
    source, images = read(str(path))
    assert source.size == size
    assert images[0].shape == (*size, 3) and images[0].dtype == np.uint8
    assert images[0].std() > 1  # a picture, not a plain


def test_the_same_picture_in_two_codings_is_the_same() -> None:
    """An MR image, 16 bit: uncompressed and run-length coded (lossless)."""
    plain, coded = (read(str(get_testdata_file(n, download=False)))[1][0] for n in ("MR_small.dcm", "MR_small_RLE.dcm"))
    assert np.array_equal(plain, coded)


def test_grey_of_16_bits_is_windowed_as_the_file_says() -> None:
    path = str(get_testdata_file("MR_small.dcm", download=False))
    dataset, (image,) = pydicom.dcmread(path), read(path)[1]
    centre, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
    share = (dataset.pixel_array - (centre - 0.5)) / (width - 1) + 0.5  # PS3.3 C.11.2.1.2.1
    assert np.abs(image[..., 0] - np.clip(share, 0, 1) * 255).max() <= 1.0  # rounding to stored values, then to bytes
    assert (image[..., 0] == image[..., 2]).all()


def test_grey_without_a_window_uses_the_whole_range(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    del dataset.WindowWidth, dataset.WindowCenter
    dataset.save_as(tmp_path / "m.dcm")
    _, (image,) = read(tmp_path / "m.dcm")
    assert image.min() == 0 and image.max() == 255


def test_monochrome1_is_shown_with_low_values_bright(tmp_path: Path) -> None:
    path = str(get_testdata_file("MR_small.dcm", download=False))
    _, plain = read(path)
    _, inverted = read(changed(path, tmp_path / "m1.dcm", PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(inverted[0], 255 - plain[0])


@pytest.mark.parametrize(
    ("changes", "times", "fps"),
    [
        pytest.param({"FrameTime": "50"}, [0, 0.05, 0.10], 20.0, id="frame time"),
        pytest.param({"FrameTime": None, "CineRate": "12"}, [0, 1 / 12, 2 / 12], 12.0, id="cine rate"),
        pytest.param(
            {"FrameTime": None, "CineRate": None, "RecommendedDisplayFrameRate": "8"}, [0, 0.125], 8.0, id="d"
        ),
        pytest.param(
            {"FrameTime": None, "FrameTimeVector": ["0", "20", "60", *["40"] * 27]},
            [0, 0.02, 0.08, 0.12],
            29 / 1.16,
            id="a time for every frame",
        ),
    ],
)
def test_frame_times_come_from_wherever_the_file_tells(
    tmp_path: Path, changes: dict[str, Any], times: list[float], fps: float
) -> None:
    with open_source(str(changed(CINE, tmp_path / "c.dcm", **changes))) as source:
        frames = [frame.time for frame, _ in zip(source, times, strict=False)]
    assert frames == pytest.approx(times)
    assert source.fps == pytest.approx(fps, rel=1e-3)
    assert not source.notes


def test_a_loop_that_tells_no_rate_says_what_was_assumed(tmp_path: Path) -> None:
    untold = {"FrameTime": None, "CineRate": None, "RecommendedDisplayFrameRate": None}
    source, _ = read(changed(CINE, tmp_path / "c.dcm", **untold))
    assert source.fps == 25.0
    assert source.notes == ["c.dcm does not tell its frame rate; 25 fps assumed"]


def test_notes_and_names_hold_no_patient_data(tmp_path: Path) -> None:
    source, _ = read(changed(CINE, tmp_path / "c.dcm", PatientName="Doe^Jane", FrameTime=None, CineRate=None))
    assert "Doe" not in " ".join([source.name, *source.notes])


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.dcm").write_bytes(Path(CINE).read_bytes()[:100_000])
    with pytest.raises(SourceError, match="cut off"):
        read(tmp_path / "cut.dcm")


def test_uncompressed_pixels_that_are_too_few_are_refused() -> None:
    with pytest.raises(SourceError, match="cannot be decoded.*less than expected"):
        read(str(get_testdata_file("MR_truncated.dcm", download=False)))


def test_fewer_frames_than_promised_are_read_with_a_note(tmp_path: Path) -> None:
    source, images = read(changed(CINE, tmp_path / "c.dcm", NumberOfFrames=40))
    assert len(images) == source.frame_count == 30
    assert source.notes == ["c.dcm says that it has 40 frames; its pixels are 30, and these count"]


def test_an_object_without_pixels_is_refused() -> None:
    with pytest.raises(SourceError, match=r"has no pixels \(RT Plan Storage\)"):
        read(str(get_testdata_file("rtplan.dcm", download=False)))


def test_a_transfer_syntax_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(CINE)
    dataset.file_meta.TransferSyntaxUID = MPEG4HP41
    dataset.save_as(tmp_path / "m.dcm")
    with pytest.raises(SourceError, match=r"transfer syntax MPEG-4 .* cannot be decoded"):
        read(tmp_path / "m.dcm")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"hello", "no DICOM file", id="text"),
        pytest.param(b"", "no DICOM file|no readable", id="empty"),
        pytest.param(bytes(128) + b"DICM", "no pixels|does not|no readable", id="header alone"),
    ],
)
def test_files_that_are_no_dicom_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.dcm").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "x.dcm")


def test_dicom_is_known_by_its_content_where_the_name_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(Path(RGB).read_bytes())
    assert read(tmp_path / "IM0001")[1][0].shape == (240, 320, 3)
