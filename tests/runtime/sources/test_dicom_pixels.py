"""DICOM as its makers meant it: frames by the pixels, palettes, windows, bits, times, films, aspect, colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import MPEG2MPML, MPEG4HP41, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from tests.runtime.sources.made import (
    coded_loop,
    grey,
    jpeg,
    loop,
    picture,
    rgb_frames,
    rgb_jpeg,
    without_jfif,
    write_film,
)
from vivim_runtime.datasets import check, open_dataset
from vivim_runtime.errors import NoPictureError, SourceError
from vivim_runtime.sources import open_source
from vivim_runtime.sources.dicom.frames import count_frames

COUNT = 6
GREYS = np.stack([grey(index) for index in range(COUNT)])
COLOURS = [picture(index) for index in range(COUNT)]
# Quality 98, colours at full resolution, once; and YCbCr in between. Measured 4.
JPEG_LOSS = 6


def read(path: Path) -> tuple[Any, list[Any]]:
    with open_source(str(path)) as source:
        return source, list(source)


def shown_grey(frames: list[Any], truth: np.ndarray = GREYS) -> int:
    """The largest difference from the truth (N, H, W)."""
    assert len(frames) == len(truth)
    return max(int(np.abs(f.image.astype(int) - t[..., None]).max()) for f, t in zip(frames, truth, strict=True))


# --- frames: the pixels count ------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [None, "", "0", "1", "4", "9", "-3"])
@pytest.mark.parametrize("kind", ["native", "jpeg", "jpeg with offsets", "jpeg in pieces", "rle"])
def test_frames_are_those_of_the_pixels_whatever_the_header_says(tmp_path: Path, kind: str, told: str | None) -> None:
    path = tmp_path / "a.dcm"
    if kind == "native":
        loop(path, GREYS, NumberOfFrames=told)
    elif kind == "rle":
        loop(path, GREYS)
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, encoding_plugin="pydicom")
        if told is None:
            del dataset.NumberOfFrames
        else:
            dataset.NumberOfFrames = told
        dataset.save_as(path)
    else:
        pieces, offsets = (3 if "pieces" in kind else 1), "offsets" in kind
        frames = [jpeg(image) for image in COLOURS]
        coded_loop(path, frames, (48, 64), offsets=offsets, fragments=pieces, NumberOfFrames=told)
    source, found = read(path)
    assert source.frame_count == len(found) == COUNT
    assert [frame.time for frame in found] == pytest.approx([0.04 * index for index in range(COUNT)])
    assert len([note for note in source.notes if "its pixels are 6" in note]) == 1
    assert count_frames(path)[1] == COUNT
    report = check(open_dataset(str(tmp_path)))
    assert report.frames == COUNT


def test_a_header_that_is_right_needs_no_note(tmp_path: Path) -> None:
    assert read(loop(tmp_path / "a.dcm", GREYS))[0].notes == []
    assert read(loop(tmp_path / "b.dcm", GREYS[:1], NumberOfFrames=None))[0].notes == []


def test_pixels_that_are_cut_off_say_how_much_is_missing(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(loop(tmp_path / "a.dcm", GREYS))
    dataset.PixelData = dataset.PixelData[: 48 * 64 * 4 + 1000]
    dataset.save_as(tmp_path / "a.dcm")
    source, found = read(tmp_path / "a.dcm")
    assert len(found) == 4 and source.lost == 2
    assert source.notes == ["a.dcm is cut off within frame 4: 2 frames are missing"]


def test_a_coded_frame_that_is_damaged_is_counted_and_the_others_are_read(tmp_path: Path) -> None:
    frames = [jpeg(image) for image in COLOURS]
    frames[2] = frames[2][:2] + b"\0" * (len(frames[2]) - 2)
    source, found = read(coded_loop(tmp_path / "a.dcm", frames, (48, 64)))
    assert [frame.index for frame in found] == [0, 1, 3, 4, 5] and source.lost == 1
    assert "1 frame of a.dcm cannot be decoded" in source.notes[-1]
    (video,) = open_dataset(str(tmp_path)).videos
    assert np.array_equal(video.frame(3), found[2].image)
    with pytest.raises(Exception, match="frame 2 of .*cannot be decoded"):
        video.frame(2)


# --- palettes ----------------------------------------------------------------------------------------------------

ENTRIES = np.stack([np.arange(256), 255 - np.arange(256), (np.arange(256) * 7) % 256], axis=-1).astype(np.uint16)


def palette(bits: int, data: list[bytes], first: int = 0, segmented: bool = False) -> dict[str, Any]:
    attributes: dict[str, Any] = {"photometric": "PALETTE COLOR"}
    for colour, content in zip(("Red", "Green", "Blue"), data, strict=True):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [256, first, bits]
        name = "Segmented" if segmented else ""
        attributes[f"{name}{colour}PaletteColorLookupTableData"] = content
    return attributes


def words(values: np.ndarray) -> list[bytes]:
    return [values[:, channel].astype("<u2").tobytes() for channel in range(3)]


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param(palette(8, words(ENTRIES)), id="8 bits in words"),
        pytest.param(palette(8, [ENTRIES[:, c].astype("u1").tobytes() for c in range(3)]), id="8 bits, packed"),
        pytest.param(palette(16, words(ENTRIES * 257)), id="16 bits"),
        pytest.param(palette(16, words(ENTRIES << 8)), id="16 bits, the high byte alone"),
        pytest.param(palette(16, words(ENTRIES)), id="16 bits say the descriptors, 8 the values"),
        pytest.param(palette(12, words(ENTRIES * 16)), id="12 bits"),
        pytest.param(
            # A discrete segment (0, length, values) of all entries (C.7.9.2)
            palette(
                16,
                [np.concatenate([[0, 256], ENTRIES[:, c] * 257]).astype("<u2").tobytes() for c in range(3)],
                segmented=True,
            ),
            id="segmented",
        ),
        pytest.param(
            palette(
                16,
                [np.concatenate([[0, 256], ENTRIES[:, c]]).astype("<u2").tobytes() for c in range(3)],
                segmented=True,
            ),
            id="segmented, 8 bits in words",
        ),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_palettes_give_their_colours_however_they_are_stored(
    tmp_path: Path, attributes: dict[str, Any], syntax: str
) -> None:
    found = read(loop(tmp_path / "a.dcm", GREYS, syntax=syntax, **attributes))[1]
    for frame, indices in zip(found, GREYS, strict=True):
        assert np.array_equal(frame.image, ENTRIES[indices].astype(np.uint8))


def test_values_before_and_behind_a_palette_take_its_ends(tmp_path: Path) -> None:
    attributes = palette(16, words((ENTRIES * 257)[:100]), first=50)
    for colour in ("Red", "Green", "Blue"):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [100, 50, 16]
    found = read(loop(tmp_path / "a.dcm", GREYS, **attributes))[1]
    expected = ENTRIES[(GREYS[0].astype(int) - 50).clip(0, 99)]
    assert np.array_equal(found[0].image, expected.astype(np.uint8))


# --- windows, tables, bits ---------------------------------------------------------------------------------------


def lut_item(descriptor: list[int] | None, data: list[int] | None) -> Any:
    item = pydicom.Dataset()
    if descriptor is not None:
        item.LUTDescriptor = descriptor
    if data is not None:
        item.add_new("LUTData", "US", data)
    return item


NOTHING = [
    pytest.param({"WindowCenter": "0", "WindowWidth": "0"}, id="width 0"),
    pytest.param({"WindowCenter": "128", "WindowWidth": "0.5"}, id="width below 1"),
    pytest.param({"WindowCenter": "128", "WindowWidth": "-256"}, id="negative width"),
    pytest.param({"WindowCenter": None, "WindowWidth": ""}, id="empty width"),
    pytest.param({"WindowCenter": "", "WindowWidth": ""}, id="empty window"),
    pytest.param({"WindowCenter": "", "WindowWidth": "", "VOILUTFunction": ""}, id="empty window and function"),
    pytest.param({"VOILUTSequence": []}, id="VOI LUT sequence without items"),
    pytest.param({"VOILUTSequence": [lut_item(None, None)]}, id="VOI LUT item without content"),
    pytest.param({"VOILUTSequence": [lut_item([256, 0, 16], [0])]}, id="VOI LUT of one entry"),
    pytest.param({"VOILUTSequence": [lut_item([256, 0, 16], [0] * 256)]}, id="VOI LUT of zeros"),
    pytest.param({"ModalityLUTSequence": []}, id="modality LUT sequence without items"),
    pytest.param({"RescaleSlope": "0", "RescaleIntercept": "0"}, id="slope 0"),
    pytest.param({"RescaleSlope": "", "RescaleIntercept": ""}, id="empty rescale"),
    pytest.param({"RescaleIntercept": "", "RescaleSlope": "1", "RescaleType": "US"}, id="empty intercept"),
]


@pytest.mark.parametrize("attributes", NOTHING)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_what_says_nothing_is_left_out(tmp_path: Path, attributes: dict[str, Any], bits: int) -> None:
    used = min(bits, 12)
    values = GREYS if bits == 8 else (GREYS.astype(np.uint16) * 257) >> (16 - used)
    given = {name: value for name, value in attributes.items() if value is not None}
    source, found = read(loop(tmp_path / "a.dcm", values, stored=bits, **given))
    assert shown_grey(found) <= 1
    assert "left out" in " ".join(source.notes) or "RescaleType" in attributes


@pytest.mark.parametrize("bits", [8, 16])
def test_a_window_that_says_something_is_used_even_behind_one_that_does_not(tmp_path: Path, bits: int) -> None:
    values = GREYS.astype(f"u{bits // 8}")
    window = {"WindowCenter": ["0", "100"], "WindowWidth": ["0", "101"]}
    _, found = read(loop(tmp_path / "a.dcm", values, **window))
    share = ((values[0] - 99.5) / 100 + 0.5).clip(0, 1)  # C.11.2.1.2.1
    # pydicom rounds down to stored values: of 8 bits, one step
    assert np.abs(found[0].image[..., 0] - 255 * share).max() <= 1.5


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_narrow_windows_of_other_functions_are_no_mistake(tmp_path: Path, function: str) -> None:
    window = {"WindowCenter": "100", "WindowWidth": "0.5", "VOILUTFunction": function}
    source, found = read(loop(tmp_path / "a.dcm", GREYS, **window))
    assert source.notes == [] and set(np.unique(found[0].image)) <= {0, 127, 128, 255}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_lookup_table_is_used_by_the_bits_of_its_entries(tmp_path: Path, syntax: str) -> None:
    table = lut_item([256, 0, 16], [(255 - value) * 16 for value in range(256)])  # 12 bits, inverted
    _, found = read(loop(tmp_path / "a.dcm", GREYS, syntax=syntax, VOILUTSequence=[table]))
    assert shown_grey(found, 255 - GREYS) <= 1


@pytest.mark.parametrize(("stored", "used"), [(16, 10), (16, 12), (16, 16), (12, 12), (10, 10), (12, 8), (14, 14)])
def test_sixteen_bits_without_window_are_scaled_by_the_bits_that_count(tmp_path: Path, stored: int, used: int) -> None:
    values = (GREYS.astype(np.uint16) * 257) >> (16 - used)
    _, found = read(loop(tmp_path / "a.dcm", values, stored=stored))
    assert shown_grey(found) <= 1


def test_the_range_is_that_of_the_whole_loop(tmp_path: Path) -> None:
    """A loop that fades in: its first frame is dark, and stays so."""
    values = np.stack([np.full((48, 64), value, np.uint16) for value in (40, 1000, 4000)])
    assert [f.image.max() for f in read(loop(tmp_path / "a.dcm", values))[1]] == [2, 62, 249]
    signed = values.astype(np.int16) - 40
    assert [f.image.max() for f in read(loop(tmp_path / "b.dcm", signed))[1]] == [0, 62, 255]


def test_few_bits_are_spread(tmp_path: Path) -> None:
    _, found = read(loop(tmp_path / "a.dcm", GREYS // 4, stored=6))
    assert shown_grey(found) <= 4


def test_sixteen_bit_colours_are_scaled_by_their_bits(tmp_path: Path) -> None:
    values = (np.stack(COLOURS).astype(np.uint16) * 257) >> 4
    found = read(loop(tmp_path / "a.dcm", values, stored=12))[1]
    assert np.abs(found[3].image.astype(int) - COLOURS[3]).max() <= 1


def test_a_sign_bit_that_the_codestream_contradicts_does_no_harm() -> None:
    """pydicom's own file: a picture all the same, as the one that agrees with itself is."""
    _, (frame,) = read(Path(str(get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False))))
    assert frame.image.min() == 0 and frame.image.max() == 255 and 30 < frame.image.mean() < 120


# --- times -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        pytest.param(["40"], "has 1 values", id="one value"),
        pytest.param(["0"] + ["40"] * 3, "has 4 values", id="too few"),
        pytest.param(["0"] + ["40"] * 9, "has 10 values", id="too many"),
        pytest.param(["0", "40", "-5", "40", "40", "40"], "no times", id="negative"),
        pytest.param(["0"] * 6, "no times", id="zeros"),
    ],
)
@pytest.mark.parametrize(("time", "fps"), [("50", 20.0), (None, 25.0)])
def test_frame_times_that_cannot_be_fall_back_with_a_note(
    tmp_path: Path, vector: list[str], said: str, time: str | None, fps: float
) -> None:
    source, found = read(loop(tmp_path / "a.dcm", GREYS, FrameTimeVector=vector, FrameTime=time))
    assert shown_grey(found) == 0
    assert source.fps == pytest.approx(fps) and said in source.notes[0]
    assert ("25 fps assumed" in source.notes[-1]) == (time is None)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        pytest.param(b"0\\20,0\\20,0\\60,0\\20,0\\20,0 ", [0, 0.02, 0.04, 0.1, 0.12, 0.14], id="decimal commas"),
        pytest.param(b"0\\NaN\\20\\20\\20\\20 ", None, id="NaN"),
        pytest.param(b"0\\a\\20\\20\\20\\20 ", None, id="no number"),
        pytest.param(b"0\\1e999\\2\\2\\2\\2 ", None, id="infinite"),
    ],
)
def test_times_are_read_as_they_are_written(tmp_path: Path, text: bytes, steps: list[float] | None) -> None:
    loop(tmp_path / "a.dcm", GREYS, FrameTimeVector=["0", "1", "1", "1", "1", "1"])
    data = (tmp_path / "a.dcm").read_bytes()
    place = data.index(b"\x18\x00\x65\x10DS")
    length = int.from_bytes(data[place + 6 : place + 8], "little")
    changed = data[: place + 6] + len(text).to_bytes(2, "little") + text + data[place + 8 + length :]
    (tmp_path / "a.dcm").write_bytes(changed)
    source, found = read(tmp_path / "a.dcm")
    assert shown_grey(found) == 0
    assert [f.time for f in found] == pytest.approx(steps or [0.04 * index for index in range(COUNT)])
    assert bool(source.notes) == (steps is None)


# --- films, aspect -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "syntax", "options"),
    [
        ("a.m2v", "mpeg2video", MPEG2MPML, {"qmin": "1", "qmax": "2"}),
        ("a.h264", "libx264", MPEG4HP41, {"crf": "4"}),
        ("a.mp4", "libx264", MPEG4HP41, {"crf": "4"}),
        ("a.ts", "libx264", MPEG4HP41, {"crf": "4"}),
        ("a.hevc", "libx265", "1.2.840.10008.1.2.4.107", {"crf": "4"}),
    ],
)
@pytest.mark.parametrize("told", [COUNT, 2, None])
def test_films_in_dicom_are_decoded_and_counted(
    tmp_path: Path, name: str, codec: str, syntax: str, options: dict[str, str], told: int | None
) -> None:
    film = write_film(tmp_path / name, rgb_frames(COLOURS, "yuv420p"), codec, "yuv420p", rate=25, options=options)
    data = film.read_bytes()
    path = coded_loop(
        tmp_path / "a.dcm",
        [data + b"\0" * (len(data) % 2)],
        (48, 64),
        syntax,
        "YBR_PARTIAL_420",
        NumberOfFrames=told,
    )
    source, found = read(path)
    assert len(found) == source.frame_count == COUNT and count_frames(path)[1] == COUNT
    # Colours at half the resolution, and MPEG-2 at its best: measured 10.
    assert max(np.abs(f.image.astype(int) - c).max() for f, c in zip(found, COLOURS, strict=True)) <= 13
    assert ("its pixels are 6" in " ".join(source.notes)) == (told != COUNT)


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        pytest.param({"PixelAspectRatio": ["1", "2"]}, (48, 128), id="ratio: twice as wide as high"),
        pytest.param({"PixelAspectRatio": ["4", "3"]}, (64, 64), id="ratio: higher than wide"),
        pytest.param({"PixelAspectRatio": ["1", "1"]}, (48, 64), id="square"),
        pytest.param({"PixelAspectRatio": ["0", "3"]}, (48, 64), id="nonsense"),
        pytest.param({"PixelSpacing": ["0.1", "0.2"]}, (48, 128), id="spacing of rows and columns"),
        pytest.param({"PixelAspectRatio": ["1", "1"], "PixelSpacing": ["0.1", "0.2"]}, (48, 64), id="both"),
    ],
)
def test_pixels_of_dicom_become_square(tmp_path: Path, attributes: dict[str, Any], size: tuple[int, int]) -> None:
    source, found = read(loop(tmp_path / "a.dcm", GREYS, **attributes))
    assert source.size == size == found[0].image.shape[:2] and source.stored_size == (48, 64)
    assert np.abs(found[0].image[..., 0].astype(int) - grey(0, size)).max() <= 4  # a smooth picture


# --- colours of JPEG ---------------------------------------------------------------------------------------------


def scanner_like(index: int) -> np.ndarray:
    """A sector in grey on black with a little colour, as ultrasound is."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[8:40, 10:54] = grey(index)[8:40, 10:54, None]
    image[20:26, 20:30] = (200, 40, 30)
    return image


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.parametrize(
    ("coded", "says"),
    [
        pytest.param(lambda image: jpeg(image), True, id="YCbCr, JFIF"),
        pytest.param(lambda image: without_jfif(jpeg(image)), False, id="YCbCr, no marker"),
        pytest.param(lambda image: without_jfif(jpeg(image, subsampling=1)), True, id="YCbCr, halved colours"),
        pytest.param(lambda image: rgb_jpeg(image, says=True), True, id="RGB, named so"),
        pytest.param(lambda image: rgb_jpeg(image, says=False), False, id="RGB, no marker"),
    ],
)
def test_jpeg_is_what_it_is_whatever_the_header_says(tmp_path: Path, coded: Any, says: bool, photometric: str) -> None:
    truth = [scanner_like(index) for index in range(3)]
    path = coded_loop(tmp_path / "a.dcm", [coded(image) for image in truth], (48, 64), photometric=photometric)
    _, found = read(path)
    for frame, image in zip(found, truth, strict=True):
        # Edges of colours at quality 98; wrong components are off by more than 100 on average.
        assert np.abs(frame.image.astype(int) - image).mean() <= 3


def test_a_colourful_picture_without_shade_is_what_its_header_says(tmp_path: Path) -> None:
    bright = [np.full((48, 64, 3), (200, 120, 110), np.uint8)]
    for photometric, data in (("RGB", rgb_jpeg(bright[0], says=False)), ("YBR_FULL", without_jfif(jpeg(bright[0])))):
        _, found = read(coded_loop(tmp_path / "a.dcm", [data], (48, 64), photometric=photometric))
        assert np.abs(found[0].image.astype(int) - bright[0]).max() <= JPEG_LOSS


def test_a_film_that_is_none_is_refused_by_the_name_of_its_syntax(tmp_path: Path) -> None:
    path = coded_loop(tmp_path / "a.dcm", [b"\0" * 400], (48, 64), MPEG2MPML, "YBR_PARTIAL_420")
    with pytest.raises(SourceError, match=r"transfer syntax MPEG2 Main Profile / Main Level, which cannot be decoded"):
        read(path)


# --- pixels that are no picture ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "says"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "a segmentation, whose pixels are masks"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.7"}, "a segmentation, whose pixels are masks"),
        ({"Modality": "SEG"}, "a segmentation, whose pixels are masks"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.30"}, "a parametric map, whose pixels are measurements"),
        ({"Modality": "RTDOSE"}, "a distribution of dose"),
    ],
)
def test_masks_and_measurements_are_not_run_as_pictures(tmp_path: Path, elements: dict[str, str], says: str) -> None:
    path = loop(tmp_path / "a.dcm", GREYS, **elements)
    with pytest.raises(NoPictureError, match=says):
        open_source(str(path))


def test_a_dose_of_the_wild_is_refused() -> None:
    with pytest.raises(NoPictureError, match="a distribution of dose"):
        open_source(str(get_testdata_file("rtdose.dcm", download=False)))
