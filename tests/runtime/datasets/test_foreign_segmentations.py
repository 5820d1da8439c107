"""DICOM Segmentations as other programs write them, and of loops whose headers are wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.uid import generate_uid

from tests.runtime.sources.made import grey, loop
from vivim_runtime.datasets import check, open_dataset
from vivim_runtime.errors import DataError
from vivim_runtime.sinks import Segmented, open_sink
from vivim_runtime.sources import open_source

Masks = npt.NDArray[np.bool_]
COUNT, SIZE = 4, (12, 20)
GREYS = np.stack([grey(index, SIZE) for index in range(COUNT)])


def model(segments: int = 1) -> Any:
    from vivim_runtime.sessions.base import ClassInfo

    classes = tuple(ClassInfo(f"lesion {number}", (0, 230, 118)) for number in range(segments))
    return type("Info", (), {"classes": classes, "preset": "tiny", "precision": "fp32", "weights_sha256": "0" * 64})()


def write_segmentation(source: Path, target: Path, segments: int = 1) -> list[Masks]:
    """Through our sink, at the size that is seen; the masks (K, H, W) that went in."""
    random, kept = np.random.default_rng(0), []
    with open_source(str(source)) as opened, open_sink(str(target), opened, model(segments), {}) as sink:
        for frame in opened:
            masks = np.zeros((segments, *opened.size), bool)
            top, left = random.integers(1, 5, 2)
            masks[:, top : top + 5, left : left + 8] = True
            kept.append(masks)
            sink.write(Segmented(frame, 0, 0, False, masks.astype(np.float32), masks, frame.image, 1.0))
    return kept


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    loop(tmp_path / "loop.dcm", GREYS)
    return tmp_path


def rewritten(folder: Path, change: Callable[[Any], object]) -> None:
    dataset = pydicom.dcmread(folder / "seg.dcm")
    change(dataset)
    dataset.save_as(folder / "seg.dcm")


def masks_of(folder: Path, layout: str = "auto") -> list[Masks]:
    (video,) = open_dataset(str(folder), layout=layout).videos
    return [video.read(index)[1] for index in range(len(video))]


def same(found: list[Masks], expected: list[Masks]) -> bool:
    return all(np.array_equal(a, b.any(axis=0)) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("told", [None, "2", "9"])
def test_a_segmentation_refers_to_the_frames_that_there_are(tmp_path: Path, told: str | None) -> None:
    loop(tmp_path / "loop.dcm", GREYS, NumberOfFrames=told)
    kept = write_segmentation(tmp_path / "loop.dcm", tmp_path / "seg.dcm")
    groups = pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
    referred = [int(g.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber) for g in groups]
    assert referred == [1, 2, 3, 4]
    assert same(masks_of(tmp_path), kept)


@pytest.mark.parametrize("aspect", [["1", "2"], ["3", "2"]])
def test_a_segmentation_lies_on_the_stored_pixels_of_a_stretched_loop(tmp_path: Path, aspect: list[str]) -> None:
    loop(tmp_path / "loop.dcm", GREYS, PixelAspectRatio=aspect)
    kept = write_segmentation(tmp_path / "loop.dcm", tmp_path / "seg.dcm")
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (dataset.Rows, dataset.Columns) == SIZE
    assert [str(value) for value in dataset.PixelAspectRatio] == aspect
    found = masks_of(tmp_path)
    with open_source(str(tmp_path / "loop.dcm")) as source:
        assert found[0].shape == source.size != SIZE
    # Stored at half the resolution or so and back: two opposite sides of the rectangle move by at most a pixel each.
    assert all(np.count_nonzero(a != b[0]) <= 2 * 8 for a, b in zip(found, kept, strict=True))


def test_references_are_found_frame_by_frame_where_the_series_names_none(folder: Path) -> None:
    kept = write_segmentation(folder / "loop.dcm", folder / "seg.dcm")
    rewritten(folder, lambda dataset: delattr(dataset, "ReferencedSeriesSequence"))
    assert same(masks_of(folder), kept)


@pytest.mark.parametrize("empty", [False, True])
def test_frames_without_derivation_are_taken_in_order_where_there_is_one_for_each(folder: Path, empty: bool) -> None:
    kept = write_segmentation(folder / "loop.dcm", folder / "seg.dcm", segments=2)

    def change(dataset: Any) -> None:
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            if empty:
                groups.DerivationImageSequence = []
            else:
                del groups.DerivationImageSequence

    rewritten(folder, change)
    assert same(masks_of(folder), kept)
    (video,) = open_dataset(str(folder)).videos
    assert "seg.dcm does not say which frames it means; they are taken in order" in video.notes


def test_frames_without_derivation_that_are_fewer_are_refused(folder: Path) -> None:
    write_segmentation(folder / "loop.dcm", folder / "seg.dcm")

    def change(dataset: Any) -> None:
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            del groups.DerivationImageSequence
        dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:3]
        dataset.NumberOfFrames, dataset.PixelData = 3, dataset.PixelData[: 3 * 30]

    rewritten(folder, change)
    with pytest.raises(DataError, match=r"seg\.dcm does not say which frames it means, and has 3 for the 4"):
        masks_of(folder)


def test_a_segmentation_that_refers_to_nothing_is_refused(folder: Path) -> None:
    write_segmentation(folder / "loop.dcm", folder / "seg.dcm")

    def change(dataset: Any) -> None:
        del dataset.ReferencedSeriesSequence
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            del groups.DerivationImageSequence

    rewritten(folder, change)
    with pytest.raises(DataError, match=r"seg\.dcm refers to 0 instances"):
        open_dataset(str(folder))


def test_frames_that_are_left_out_are_empty_only_where_the_user_says_so(folder: Path) -> None:
    kept = write_segmentation(folder / "loop.dcm", folder / "seg.dcm")

    def change(dataset: Any) -> None:
        dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:2]
        dataset.NumberOfFrames, dataset.PixelData = 2, dataset.PixelData[: 2 * 30]

    rewritten(folder, change)
    with pytest.raises(DataError, match=r"loop, frame 2 has no mask; .*--layout plain-sparse"):
        masks_of(folder)
    report = check(open_dataset(str(folder)), frames=2)
    assert [problem.where for problem in report.errors] == ["loop, frame 2", "loop, frame 3"]
    found = masks_of(folder, "plain-sparse")
    assert same(found[:2], kept[:2]) and not found[2].any() and not found[3].any()
    assert open_dataset(str(folder), layout="plain-sparse").videos[0].notes == (
        "2 frames of loop that seg.dcm leaves out count as empty",
    )


def test_a_label_map_is_one_object_whatever_its_labels(folder: Path) -> None:
    """PS3.3 A.51, Label Map Segmentation: one frame holds all segments, 0 is background."""
    kept = write_segmentation(folder / "loop.dcm", folder / "seg.dcm")

    def change(dataset: Any) -> None:
        values = np.stack([mask[0].astype(np.uint8) * (1 + index % 3) for index, mask in enumerate(kept)])
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.SegmentationType = "LABELMAP"
        background = pydicom.Dataset()
        background.SegmentNumber, background.SegmentLabel = 0, "Background"
        dataset.SegmentSequence = [background, *dataset.SegmentSequence]
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            del groups.SegmentIdentificationSequence
        dataset.PixelData = values.tobytes()
        dataset["PixelData"].VR = "OB"

    rewritten(folder, change)
    assert same(masks_of(folder), kept)
    assert open_dataset(str(folder)).videos[0].notes == ()


def test_frames_derived_from_several_instances_belong_to_none(folder: Path) -> None:
    write_segmentation(folder / "loop.dcm", folder / "seg.dcm")

    def change(dataset: Any) -> None:
        del dataset.ReferencedSeriesSequence
        image = dataset.PerFrameFunctionalGroupsSequence[1].DerivationImageSequence[0].SourceImageSequence[0]
        image.ReferencedSOPInstanceUID = generate_uid()

    rewritten(folder, change)
    with pytest.raises(DataError, match=r"seg\.dcm refers to 2 instances"):
        open_dataset(str(folder))


# --- highdicom ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("omit", [False, True])
def test_a_segmentation_by_highdicom_is_read(tmp_path: Path, kind: str, omit: bool) -> None:
    """highdicom wants a frame of reference, which ultrasound has none of: hence a slice of MR."""
    import highdicom
    from pydicom.data import get_testdata_file
    from pydicom.sr.codedict import codes

    source = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    source.save_as(tmp_path / "loop.dcm")
    labels = np.zeros((1, 64, 64), np.uint8)
    labels[0, 10:30, 20:50], labels[0, 40:50, 40:50] = 1, 2
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"lesion {number}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Neoplasm,
            algorithm_type="MANUAL",
        )
        for number in (1, 2)
    ]
    values: Any = labels
    if kind == "FRACTIONAL":
        values = np.stack([labels == 1, labels == 2], axis=-1).astype(np.float32) * 0.8
    highdicom.seg.Segmentation(
        [source],
        values,
        kind,
        segments,
        highdicom.UID(),
        1,
        highdicom.UID(),
        1,
        "maker",
        "model",
        "1",
        "serial",
        omit_empty_frames=omit,
    ).save_as(tmp_path / "seg.dcm")
    assert np.array_equal(masks_of(tmp_path)[0], labels[0] > 0)


@pytest.mark.parametrize("told", [None, "2"])
def test_highdicom_finds_the_frames_of_our_segmentations(tmp_path: Path, told: str | None) -> None:
    import highdicom

    loop(tmp_path / "loop.dcm", GREYS, NumberOfFrames=told)
    kept = write_segmentation(tmp_path / "loop.dcm", tmp_path / "seg.dcm")
    uid = pydicom.dcmread(tmp_path / "loop.dcm").SOPInstanceUID
    pixels = highdicom.seg.segread(tmp_path / "seg.dcm").get_pixels_by_source_frame(
        source_sop_instance_uid=uid, source_frame_numbers=[1, 2, 3, 4], segment_numbers=[1]
    )
    assert all(np.array_equal(pixels[index, ..., 0] > 0, kept[index][0]) for index in range(COUNT))


# --- dcmqi -------------------------------------------------------------------------------------------------------

DCMQI = Path(__file__).parent / "dcmqi"  # how they were made: its README


@pytest.mark.parametrize("kind", ["binary", "labelmap", "deflated"])
def test_a_segmentation_by_dcmqi_is_read(tmp_path: Path, kind: str) -> None:
    from pydicom.data import get_testdata_file

    shutil.copy(str(get_testdata_file("MR_small.dcm", download=False)), tmp_path / "slice.dcm")
    shutil.copy(DCMQI / f"{kind}.dcm", tmp_path / "seg.dcm")
    expected = np.zeros((64, 64), bool)
    expected[10:30, 20:50] = expected[40:50, 40:50] = True
    (found,) = masks_of(tmp_path)
    assert np.array_equal(found, expected)
    assert open_dataset(str(tmp_path)).videos[0].notes == ("the 2 segments of slice count as one object",)


def test_a_segmentation_by_dcmqi_that_refers_to_no_loop_is_refused(folder: Path) -> None:
    shutil.copy(DCMQI / "loop.dcm", folder / "seg.dcm")
    with pytest.raises(DataError, match=r"seg\.dcm refers to 0 instances; expected the one loop that it segments"):
        open_dataset(str(folder))
