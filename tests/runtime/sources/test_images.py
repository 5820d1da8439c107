"""Images as their makers meant them: orientation, bits, several pictures in a file, and names."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.runtime.sources.made import STORED, grey, loop, picture
from vivim_runtime.datasets import check, open_dataset
from vivim_runtime.datasets.folder import FolderVideo, read_mask
from vivim_runtime.errors import DataError, SourceError
from vivim_runtime.sources import open_source
from vivim_runtime.sources.names import natural_key

# Quality 98 at full resolution of colours; measured 3.
JPEG_LOSS = 5


def read(path: Path) -> tuple[Any, list[Any]]:
    with open_source(str(path)) as source:
        return source, list(source)


def write_oriented(path: Path, stored: np.ndarray, orientation: int) -> None:
    image = Image.fromarray(np.ascontiguousarray(stored))
    if path.suffix == ".tif":
        image.save(path, tiffinfo={274: orientation})
        return
    exif = Image.Exif()
    exif[274] = orientation
    quality = {".jpg": {"quality": 98, "subsampling": 0}, ".webp": {"lossless": True}}.get(path.suffix, {})
    image.save(path, exif=exif, **quality)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_orientation_turns_frames_masks_and_runs_alike(tmp_path: Path, suffix: str, orientation: int) -> None:
    frames, masks = tmp_path / "images", tmp_path / "masks"
    frames.mkdir(), masks.mkdir()
    seen, mask = picture(0), np.zeros((48, 64), np.uint8)
    mask[6:20, 30:60] = 255
    write_oriented(frames / f"0{suffix}", STORED[orientation](seen), orientation)
    write_oriented(masks / f"0{suffix}", STORED[orientation](mask), orientation)
    source, (frame,) = read(frames)
    assert source.size == (48, 64)
    assert np.abs(frame.image.astype(int) - seen).max() <= JPEG_LOSS
    image, found = FolderVideo.listed("a", frames, masks).read(0)
    assert np.array_equal(image, frame.image)
    assert np.array_equal(found, mask > 0)


def test_orientation_of_png_is_found_behind_the_pixels(tmp_path: Path) -> None:
    write_oriented(tmp_path / "a.png", STORED[6](picture(0)), 6)
    data = (tmp_path / "a.png").read_bytes()
    place = data.index(b"eXIf") - 4
    length = int.from_bytes(data[place : place + 4], "big") + 12
    chunk, end = data[place : place + length], data.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(data[:place] + data[place + length : end] + chunk + data[end:])
    assert np.array_equal(read(tmp_path / "a.png")[1][0].image, picture(0))


def test_a_mask_that_is_turned_against_its_frame_is_a_warning(tmp_path: Path) -> None:
    """Frames say that they are to be turned, and masks, drawn on them so, do not: the sizes agree all the same."""
    for name, orientation in (("right", 1), ("wrong", 3)):
        for index in range(4):
            image, mask = np.full((120, 160, 3), 40, np.uint8), np.zeros((120, 160), np.uint8)
            mask[20 + index : 50, 15:70] = 255
            image[mask > 0] = 190
            for kind in ("images", "masks"):
                (tmp_path / kind / name).mkdir(parents=True, exist_ok=True)
            write_oriented(tmp_path / f"images/{name}/{index}.png", image, orientation)
            Image.fromarray(mask).save(tmp_path / f"masks/{name}/{index}.png")
    report = check(open_dataset(str(tmp_path)), frames=2)
    found = [problem for problem in report.warnings if "only after a turn" in problem.kind]
    assert [(problem.where, problem.what) for problem in found] == [
        ("wrong", "they fit when they are turned by 180 degrees")
    ]


# --- bits --------------------------------------------------------------------------------------------------------


def deep(image: np.ndarray, bits: int) -> np.ndarray:
    """Values of 8 bits spread over so many."""
    return (image.astype(np.uint16) * 257) >> (16 - bits)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
@pytest.mark.parametrize("colour", [False, True])
def test_sixteen_bit_images_are_scaled_by_the_bits_that_they_use(
    tmp_path: Path, suffix: str, bits: int, colour: bool
) -> None:
    if colour and suffix == ".pgm":
        return
    pictures = [picture(index) if colour else grey(index) for index in range(3)]
    for index, image in enumerate(pictures):
        values = deep(image, bits)
        cv2.imwrite(str(tmp_path / f"{index}{suffix}"), values[..., ::-1] if colour else values)
    source, found = read(tmp_path)
    for frame, image in zip(found, pictures, strict=True):
        expected = image if colour else np.repeat(image[..., None], 3, axis=2)
        assert np.abs(frame.image.astype(int) - expected).max() <= 1
    assert source.notes == [f"pictures of more than 8 bits: {2**bits - 1} is white, in all of them"]
    video = FolderVideo.listed("a", tmp_path, tmp_path / "none")
    assert all(np.array_equal(video.frame(index), found[index].image) for index in (1, 0, 2))
    assert video.notes == (f"a: {source.notes[0]}",)


def test_images_and_dicom_of_the_same_values_look_the_same(tmp_path: Path) -> None:
    values = np.stack([deep(grey(index), 12) for index in range(3)])
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), values[index])
    loop(tmp_path / "a.dcm", values, stored=12)
    dicom, images = read(tmp_path / "a.dcm")[1], read(tmp_path)[1]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(dicom, images, strict=True))


def test_a_dark_picture_among_brighter_ones_stays_dark(tmp_path: Path) -> None:
    """Several pictures are scaled alike: by the brightest of them, not each by itself."""
    cv2.imwrite(str(tmp_path / "0.png"), np.full((8, 8), 100, np.uint16))
    cv2.imwrite(str(tmp_path / "1.png"), np.full((8, 8), 4000, np.uint16))
    assert [frame.image.max() for frame in read(tmp_path)[1]] == [6, 249]


def test_the_header_of_netpbm_says_what_is_white(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5\n# by hand\n2 1\n4095\n" + np.array([0, 1000], ">u2").tobytes())
    assert read(tmp_path / "a.pgm")[1][0].image[0, :, 0].tolist() == [0, 62]
    (tmp_path / "b.pgm").write_bytes(b"P5\n2 1\n100\n" + bytes([0, 100]))
    assert read(tmp_path / "b.pgm")[1][0].image[0, :, 0].tolist() == [0, 255]


# --- several pictures in a file ----------------------------------------------------------------------------------

PAGES = [picture(index) for index in range(5)]


def write_pages(path: Path, pages: list[np.ndarray], **options: Any) -> None:
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=others, **options)


def test_pages_of_a_tiff_file_are_a_film(tmp_path: Path) -> None:
    write_pages(tmp_path / "a.tif", PAGES)
    source, found = read(tmp_path / "a.tif")
    assert source.frame_count == 5 and [frame.index for frame in found] == list(range(5))
    assert all(np.array_equal(frame.image, page) for frame, page in zip(found, PAGES, strict=True))
    assert source.notes == ["a.tif holds 5 pictures, read as a film; it tells no times, 25 fps assumed"]


def test_pages_of_sixteen_bits_are_scaled_alike(tmp_path: Path) -> None:
    cv2.imwritemulti(str(tmp_path / "a.tif"), [deep(grey(index), 12) for index in range(4)])
    found = read(tmp_path / "a.tif")[1]
    assert [int(np.abs(frame.image[..., 0].astype(int) - grey(frame.index)).max()) for frame in found] == [0] * 4


def test_thumbnails_in_a_tiff_file_are_no_pages(tmp_path: Path) -> None:
    small = Image.fromarray(PAGES[0][::4, ::4].copy())
    small.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(PAGES[0]).save(tmp_path / "a.tif", save_all=True, append_images=[small])
    (frame,) = read(tmp_path / "a.tif")[1]
    assert np.array_equal(frame.image, PAGES[0])


def test_pages_of_several_sizes_are_refused(tmp_path: Path) -> None:
    write_pages(tmp_path / "a.tif", [PAGES[0], PAGES[1][:40]])
    with pytest.raises(SourceError, match=r"pages of several sizes \(64x40, 64x48\)"):
        read(tmp_path / "a.tif")


def test_a_stack_by_imagej_keeps_its_times(tmp_path: Path) -> None:
    said = "ImageJ=1.53t\nimages=5\nframes=5\nfinterval=0.2\nloop=false\n"
    write_pages(tmp_path / "a.tif", PAGES, description=said)
    source, found = read(tmp_path / "a.tif")
    assert source.fps == pytest.approx(5) and [f.time for f in found] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_an_animation_is_a_film_with_its_times(tmp_path: Path, suffix: str) -> None:
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    write_pages(tmp_path / f"a{suffix}", PAGES, duration=[40, 80, 120, 40, 200], **options)
    source, found = read(tmp_path / f"a{suffix}")
    assert all(np.array_equal(frame.image, page) for frame, page in zip(found, PAGES, strict=True))
    assert [frame.time for frame in found] == pytest.approx([0, 0.04, 0.12, 0.24, 0.28])
    assert source.fps == pytest.approx(5 / 0.48)


def test_the_still_of_an_animated_png_is_no_frame(tmp_path: Path) -> None:
    write_pages(tmp_path / "a.png", PAGES, duration=100, default_image=True)
    found = read(tmp_path / "a.png")[1]
    assert all(np.array_equal(frame.image, page) for frame, page in zip(found, PAGES[1:], strict=True))


def test_a_frame_of_a_data_set_that_holds_several_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    write_pages(tmp_path / "f/a.tif", PAGES)
    with pytest.raises(DataError, match="holds 5 pictures; expected one a file"):
        FolderVideo.listed("v", tmp_path / "f", tmp_path / "f").frame(0)


# --- names, folders, sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["①002.png", "①010.png", "①100.png"], id="a circled digit"),
        pytest.param(["a²1.png", "a²2.png", "a²10.png"], id="a superscript"),
        pytest.param(["٣.png", "١٠.png"], id="digits of another script are numbers"),
    ],
)
def test_frames_are_read_in_the_order_of_their_numbers(tmp_path: Path, names: list[str]) -> None:
    for index, name in enumerate(reversed(names)):
        Image.fromarray(np.full((4, 6), index, np.uint8)).save(tmp_path / name)
    assert [int(f.image.max()) for f in read(tmp_path)[1]] == list(reversed(range(len(names))))
    assert sorted(map(Path, names), key=natural_key) == list(map(Path, names))


@pytest.mark.parametrize("name", ["rtsp:", "phantom:x", "gst:a", "http:", "0", "7", "10:30"])
def test_a_folder_that_exists_is_a_folder_whatever_its_name_looks_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    Image.fromarray(PAGES[0]).save(Path(name) / "0.png")
    source, found = read(Path(name))
    assert len(found) == 1 and ("camera" in " ".join(source.notes)) == name.isdigit()


def test_superscript_digits_are_no_camera() -> None:
    with pytest.raises(SourceError, match="there is no file or folder ²"):
        open_source("²")


def test_what_other_programs_leave_in_folders_is_no_data(tmp_path: Path) -> None:
    for folder in ("__MACOSX/images", "@eaDir", "images/a/@eaDir", "masks/a/@eaDir", "images/a/x.png", "images/.b"):
        (tmp_path / folder).mkdir(parents=True)
    for place in ("images/a", "masks/a"):
        for index in range(2):
            Image.fromarray(grey(index)).save(tmp_path / place / f"{index}.png")
        (tmp_path / place / "Thumbs.db").write_bytes(b"\0")
        (tmp_path / place / ".DS_Store").write_bytes(b"\0")
        (tmp_path / place / "._0.png").write_bytes(b"\0")
        Image.fromarray(grey(0)).save(tmp_path / place / "@eaDir" / "0.png")
    Image.fromarray(grey(0)).save(tmp_path / "__MACOSX/images/0.png")
    (video,) = open_dataset(str(tmp_path)).videos
    assert (video.name, len(video), video.strays) == ("a", 2, ())
    assert len(read(tmp_path / "images/a")[1]) == 2


def test_images_of_several_sizes_are_refused_before_the_first_is_given(tmp_path: Path) -> None:
    for index, size in enumerate([(48, 64), (48, 64), (40, 64)]):
        Image.fromarray(picture(0, size)).save(tmp_path / f"{index}.png")
    with pytest.raises(SourceError, match=r"2\.png is 64x40, the first image is 64x48"):
        open_source(str(tmp_path))


def test_a_size_that_asks_for_all_memory_is_refused_by_its_header(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    struct.pack_into(">II", data, 16, 30_000, 30_000)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(SourceError, match="tells a size that cannot be read"):
        open_source(str(tmp_path / "a.png"))


def test_a_picture_that_is_cut_off_is_refused_in_runs_too(tmp_path: Path) -> None:
    Image.fromarray(picture(0, (240, 320))).save(tmp_path / "a.jpg", quality=95)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match="cut off"):
        read(tmp_path / "a.jpg")


def test_what_a_camera_appends_to_a_picture_does_no_harm(tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "a.jpg", quality=98, subsampling=0)
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(b"\0" * 5000)  # the film of a motion photo
    assert np.abs(read(tmp_path / "a.jpg")[1][0].image.astype(int) - picture(0)).max() <= JPEG_LOSS


def test_a_mask_keeps_its_values_whatever_its_form(tmp_path: Path) -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 255
    colours = np.zeros((4, 6, 4), np.uint8)
    colours[..., 1], colours[..., 3] = mask, 255
    Image.fromarray(colours).save(tmp_path / "rgba.png")
    Image.fromarray(mask > 0).save(tmp_path / "bits.png")
    Image.fromarray(mask).convert("P").save(tmp_path / "palette.png")
    cv2.imwrite(str(tmp_path / "deep.png"), mask.astype(np.uint16) * 257)
    for name in ("rgba", "bits", "palette", "deep"):
        assert np.array_equal(read_mask(tmp_path / f"{name}.png"), mask), name
