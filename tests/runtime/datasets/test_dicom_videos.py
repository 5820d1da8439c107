"""DICOM loops and the segmentations of our own sink, and of others."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import RLELossless, generate_uid

from vivim_runtime.datasets import open_dataset
from vivim_runtime.datasets.dicom import DicomVideo, list_dicom
from vivim_runtime.datasets.videos import Orphan
from vivim_runtime.errors import DataError
from vivim_runtime.sessions.base import ClassInfo
from vivim_runtime.sinks import Segmented, open_sink
from vivim_runtime.sources import Frame, open_source

CINE = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False)))  # 30 frames of 240 x 320
STILL = Path(str(get_testdata_file("examples_rgb_color.dcm", download=False)))
Masks = npt.NDArray[np.bool_]


def model(segments: int) -> Any:
    classes = tuple(ClassInfo(f"lesion {number}", (0, 230, 118)) for number in range(segments))
    return type("Info", (), {"classes": classes, "preset": "tiny", "precision": "fp32", "weights_sha256": "0" * 64})()


def segmented(source: Path, target: Path, segments: int = 1, frames: range | None = None) -> dict[int, Masks]:
    """Write a segmentation with our sink; the masks (K, H, W) that went in, by frame."""
    random = np.random.default_rng(0)
    kept: dict[int, Masks] = {}
    with open_source(str(source)) as opened, open_sink(str(target), opened, model(segments), {}) as sink:
        for index in frames or range(opened.frame_count or 1):
            masks = kept[index] = random.random((segments, *opened.size)) > 0.7
            image = np.zeros((*opened.size, 3), np.uint8)
            frame = Frame(index, index / 25, image)
            sink.write(Segmented(frame, 0, 0, False, masks.astype(np.float32), masks, 1.0, image))
    return kept


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(CINE, tmp_path / "loop.dcm")
    return tmp_path


def test_a_loop_finds_the_segmentation_that_refers_to_it(folder: Path) -> None:
    kept = segmented(folder / "loop.dcm", folder / "anything.dcm")
    opened = open_dataset(str(folder))
    (video,) = opened.videos
    assert (opened.layout, video.name, len(video), video.strays, video.notes) == ("plain", "loop", 30, (), ())
    with open_source(str(CINE)) as source:
        frames = [frame.image for frame in source]
    for index in (0, 7, 29, 3):
        image, mask = video.read(index)
        assert np.array_equal(image, frames[index]) and np.array_equal(mask, kept[index][0])


def test_loops_and_segmentations_may_lie_in_images_and_masks(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    shutil.copy(CINE, tmp_path / "images" / "b.dcm")
    shutil.copy(STILL, tmp_path / "images" / "a.dcm")
    kept = segmented(STILL, tmp_path / "masks" / "1.dcm")
    segmented(CINE, tmp_path / "masks" / "2.dcm")
    videos = open_dataset(str(tmp_path)).videos
    assert [(video.name, len(video)) for video in videos] == [("a", 1), ("b", 30)]
    assert np.array_equal(videos[0].read(0)[1], kept[0][0])


def test_masks_are_unpacked_when_frames_are_no_multiple_of_a_byte(tmp_path: Path) -> None:
    loop = pydicom.dcmread(get_testdata_file("examples_rgb_color.dcm", download=False))
    loop.Rows, loop.Columns, loop.NumberOfFrames = 5, 7, 3
    loop.PixelData = np.random.default_rng(1).integers(0, 255, (3, 5, 7, 3), np.uint8).tobytes() + b"\0"
    loop.save_as(tmp_path / "loop.dcm")
    kept = segmented(tmp_path / "loop.dcm", tmp_path / "s.dcm")
    (video,) = open_dataset(str(tmp_path)).videos
    assert [np.array_equal(video.read(index)[1], kept[index][0]) for index in range(3)] == [True] * 3


def test_several_segments_count_as_one_object(folder: Path) -> None:
    kept = segmented(folder / "loop.dcm", folder / "s.dcm", segments=3, frames=range(2))
    (video,) = open_dataset(str(folder)).videos
    assert np.array_equal(video.read(1)[1], kept[1].any(axis=0))
    assert video.notes == ("the 3 segments of loop count as one object",)


def test_frames_that_no_mask_refers_to_have_none(folder: Path) -> None:
    kept = segmented(folder / "loop.dcm", folder / "s.dcm", frames=range(10, 20))
    (video,) = open_dataset(str(folder)).videos
    assert video.mask(9) is None and video.mask(20) is None
    assert np.array_equal(video.read(10)[1], kept[10][0])
    with pytest.raises(DataError, match="loop, frame 9 has no mask"):
        video.read(9)


def test_masks_of_frames_that_the_loop_lacks_are_strays(folder: Path) -> None:
    segmented(folder / "loop.dcm", folder / "s.dcm")
    video = DicomVideo("loop", folder / "loop.dcm", folder / "s.dcm", frames=28)
    assert video.strays == ("s.dcm for frame 28", "s.dcm for frame 29")


def test_a_loop_without_segmentation_and_the_reverse_are_not_lost(folder: Path) -> None:
    shutil.copy(STILL, folder / "other.dcm")
    segmented(STILL, folder / "s.dcm")
    (folder / "other.dcm").unlink()
    videos = list_dicom(sorted(folder.iterdir()))
    assert [video.name for video in videos] == ["loop", "s"]
    assert videos[0].mask(0) is None and len(videos[0]) == 30
    assert isinstance(videos[1], Orphan) and len(videos[1]) == 0 and videos[1].strays == ("s.dcm",)


def test_two_segmentations_of_a_loop_are_refused(folder: Path) -> None:
    segmented(folder / "loop.dcm", folder / "reader1.dcm", frames=range(1))
    segmented(folder / "loop.dcm", folder / "reader2.dcm", frames=range(1))
    with pytest.raises(DataError, match=r"loop\.dcm has reader1\.dcm, reader2\.dcm: leave one"):
        open_dataset(str(folder))


def rewritten(path: Path, change: Any) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


@pytest.mark.parametrize(
    ("most", "inside", "outside"),
    [
        pytest.param(200, 100, 99, id="fractional"),
        pytest.param(255, 128, 127, id="fractional, half of an odd number"),
        pytest.param(None, 1, 0, id="labels"),
    ],
)
def test_a_compressed_segmentation_of_bytes_is_read(folder: Path, most: int | None, inside: int, outside: int) -> None:
    """As other tools write them."""
    kept = segmented(folder / "loop.dcm", folder / "s.dcm", frames=range(3))

    def change(dataset: Any) -> None:
        masks = np.stack([kept[index][0] for index in range(3)])
        values = np.where(masks, inside, outside).astype(np.uint8)
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.SegmentationType = "FRACTIONAL" if most else "LABELMAP"
        if most:
            dataset.MaximumFractionalValue = most
        dataset.PixelData = values.tobytes()
        dataset.compress(RLELossless, encoding_plugin="pydicom")

    rewritten(folder / "s.dcm", change)
    (video,) = open_dataset(str(folder)).videos
    assert np.array_equal(video.read(2)[1], kept[2][0])


def test_a_segmentation_of_two_instances_is_refused(folder: Path) -> None:
    segmented(folder / "loop.dcm", folder / "s.dcm", frames=range(1))

    def change(dataset: Any) -> None:
        instances = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        instances.append(copy.deepcopy(instances[0]))
        instances[1].ReferencedSOPInstanceUID = generate_uid()

    rewritten(folder / "s.dcm", change)
    with pytest.raises(DataError, match=r"s\.dcm refers to 2 instances; expected the one loop"):
        open_dataset(str(folder))


def test_a_segmentation_that_does_not_say_which_frames_is_refused(folder: Path) -> None:
    segmented(folder / "loop.dcm", folder / "s.dcm", frames=range(1))
    rewritten(folder / "s.dcm", lambda dataset: delattr(dataset, "PerFrameFunctionalGroupsSequence"))
    with pytest.raises(DataError, match=r"s\.dcm does not describe its masks well \(AttributeError\)"):
        open_dataset(str(folder)).videos[0].mask(0)


def test_a_segmentation_with_too_few_pixels_is_refused(folder: Path) -> None:
    segmented(folder / "loop.dcm", folder / "s.dcm", frames=range(3))
    rewritten(folder / "s.dcm", lambda dataset: setattr(dataset, "PixelData", dataset.PixelData[:9600]))
    video = open_dataset(str(folder)).videos[0]
    assert video.mask(0) is not None
    with pytest.raises(DataError, match=r"the mask of frame 2 in .*s\.dcm cannot be decoded \(ValueError\)"):
        video.mask(2)


def test_a_damaged_file_is_refused_without_quoting_it(folder: Path) -> None:
    (folder / "loop.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"SECRET" * 20)
    with pytest.raises(DataError, match=r"loop\.dcm does not say what it is \(\w+\); is it complete\?") as caught:
        open_dataset(str(folder))
    assert "SECRET" not in str(caught.value)


def test_objects_without_pixels_are_no_videos(folder: Path) -> None:
    report = pydicom.dcmread(folder / "loop.dcm")
    for name in ("PixelData", "Rows", "Columns", "NumberOfFrames"):
        delattr(report, name)
    report.SOPInstanceUID = generate_uid()
    report.save_as(folder / "report.dcm")
    assert [video.name for video in open_dataset(str(folder)).videos] == ["loop"]


def test_a_loop_that_cannot_be_decoded_is_refused(folder: Path) -> None:
    dataset = pydicom.dcmread(folder / "loop.dcm")
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]
    dataset.save_as(folder / "loop.dcm")
    (video,) = open_dataset(str(folder)).videos
    with pytest.raises(DataError, match=r"loop\.dcm"):
        for index in range(30):
            video.frame(index)
