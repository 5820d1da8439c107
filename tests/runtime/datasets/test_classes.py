"""Masks of several classes: what names their labels, and how every kind of video gives a mask for each."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from tests.runtime.datasets.test_dicom_videos import segmented
from tests.runtime.datasets.trees import frame_of, write_film, write_image
from vivim_runtime.datasets import Classes, Dataset, check, contact_sheet, open_dataset
from vivim_runtime.datasets.report import class_lines
from vivim_runtime.datasets.splits import held_out
from vivim_runtime.errors import DataError
from vivim_runtime.framing import Framing

NAMES = "lesion,vessel"
LABELS = np.zeros((24, 32), np.uint8)
LABELS[4:12, 4:14], LABELS[10:20, 18:30] = 1, 2
PLANES = np.stack([LABELS == 1, LABELS == 2])
COLOURS = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)  # of video object segmentation: equal maxima


def written(root: Path, mask: np.ndarray | None = None, count: int = 2, suffix: str = ".png") -> Path:
    """A plain data set of one video whose masks all are `mask`."""
    for number in range(count):
        write_image(root / "images" / "v" / f"{number}.png", frame_of(number))
        write_image(root / "masks" / "v" / f"{number}{suffix}", LABELS if mask is None else mask)
    return root


def opened(root: Path, classes: str | None = NAMES, **options: Any) -> Dataset:
    named = None if classes is None else Classes.parse(classes)
    return open_dataset(str(root), classes=named, **options)


@pytest.mark.parametrize(
    ("text", "names", "labels", "background"),
    [
        ("lesion,vessel", ("lesion", "vessel"), ((1, "lesion"), (2, "vessel")), (0,)),
        (" 3 = vessel , 1=lesion", ("vessel", "lesion"), ((3, "vessel"), (1, "lesion")), (0,)),
        ("1=lesion,2=lesion,7=background", ("lesion",), ((1, "lesion"), (2, "lesion")), (0, 7)),
        ("0=background,255=lesion", ("lesion",), ((255, "lesion"),), (0,)),
        ("#ff0000=a,#00FF00=b", ("a", "b"), ((0xFF0000, "a"), (0x00FF00, "b")), (0,)),
        ("nodule", ("nodule",), (), (0,)),  # white on black, named
    ],
)
def test_names_of_labels_are_read(
    text: str, names: tuple[str, ...], labels: tuple[tuple[int, str], ...], background: tuple[int, ...]
) -> None:
    found = Classes.parse(text)
    assert (found.names, found.labels, set(found.background)) == (names, labels, set(background))
    assert found.is_coloured == text.startswith("#") and found.several == (len(names) > 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("lesion,lesion", "stand once each"),
        ("background,lesion", "are of the values from 1 on, without background"),  # 0 first, as others write it
        ("1=lesion,vessel", "is no value or colour"),
        ("1=lesion,#ff0000=vessel", "not of the kind of others"),
        ("1=lesion,1=vessel", "is there twice"),
        ("0=lesion", "calls 0 lesion; expected background"),
        ("1=background", "0 classes; expected 1 to 255"),
        ("70000=lesion", "is no value or colour"),
        ("", "has no name"),
        ("1=" + "x" * 65, "has no name"),
        ("1=a\x1b[2J", "has no name"),
    ],
)
def test_names_that_mean_nothing_are_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        Classes.parse(text)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def paletted(path: Path) -> None:
    image = Image.fromarray(LABELS, mode="P")
    image.putpalette(COLOURS.ravel().tolist())
    image.save(path)


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("grey", NAMES),
        ("palette", NAMES),  # by index, whatever its colours are
        ("palette", "#800000=lesion,#008000=vessel"),
        ("colour", "#800000=lesion,#008000=vessel"),
        ("16 bit", "1000=lesion,2000=vessel"),
        ("equal channels", NAMES),
        ("tif", NAMES),
        ("float", NAMES),
    ],
)
def test_every_kind_of_mask_gives_a_mask_for_each_class(tmp_path: Path, kind: str, classes: str) -> None:
    suffix = ".tif" if kind in ("tif", "float") else ".png"
    mask = {
        "colour": COLOURS[LABELS],
        "16 bit": LABELS.astype(np.uint16) * 1000,
        "equal channels": np.repeat(LABELS[..., None], 3, axis=2),
        "float": LABELS.astype(np.float32),
    }.get(kind, LABELS)
    root = written(tmp_path, mask, suffix=suffix)
    if kind == "palette":
        for path in (root / "masks" / "v").iterdir():
            paletted(path)
    (video,) = opened(root, classes).videos
    image, truth = video.read(1)
    assert np.array_equal(truth, PLANES) and truth.dtype == bool and image.shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("mask", "classes", "reason"),
    [
        (
            LABELS * 3,
            NAMES,
            "the mask of v/0.png has the values 3, 6, which no class has (1 lesion, 2 vessel; --classes)",
        ),
        (LABELS, "1=lesion", "the mask of v/0.png has the value 2, which no class has (1 lesion; --classes)"),
        (COLOURS[LABELS], NAMES, "0.png is of colours; expected values"),
        (COLOURS[LABELS], "#800000=lesion", "has the colour #008000, which no class has (#800000 lesion;"),
        (np.arange(24 * 32, dtype=np.uint16).reshape(24, 32), NAMES, "has the values 3, 4, 5, 6, 7 and 760 more,"),
    ],
)
def test_labels_without_a_class_are_refused_with_the_file(
    tmp_path: Path, mask: np.ndarray, classes: str, reason: str
) -> None:
    (video,) = opened(written(tmp_path, mask), classes).videos
    with pytest.raises(DataError, match=re.escape(reason)):
        video.read(0)


def test_a_label_may_be_left_out_or_stand_for_the_class_of_another(tmp_path: Path) -> None:
    root = written(tmp_path)
    (lesions,) = opened(root, "1=lesion,2=background").videos
    assert np.array_equal(lesions.read(0)[1], PLANES[0])  # one class: (H, W) as ever
    (both,) = opened(root, "1=vessel,2=vessel").videos
    assert np.array_equal(both.read(0)[1], PLANES.any(axis=0))


def test_a_table_of_the_data_set_names_its_labels(tmp_path: Path) -> None:
    root = written(tmp_path)
    (root / "classes.json").write_text(json.dumps({"0": "background", "2": "vessel", "1": "lesion"}))
    assert np.array_equal(opened(root, None).videos[0].read(0)[1], PLANES[::-1])
    assert opened(root, None).classes.names == ("vessel", "lesion")
    assert opened(root).classes.names == ("lesion", "vessel")  # what is said overrides it
    kept, apart = held_out(opened(root, None), 0.5)
    assert np.array_equal(apart.videos[0].read(0)[1], PLANES[::-1]) and kept.classes == apart.classes


@pytest.mark.parametrize("text", ["[1]", "{", '{"1": 2}', '{"1": "a", "1": "b"}', '{"one": "a"}', "{}"])
def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (written(tmp_path) / "classes.json").write_text(text)
    with pytest.raises(DataError, match=r"classes\.json"):
        opened(tmp_path, None)


def test_masks_are_of_the_classes_that_a_model_marks_in_its_order(tmp_path: Path) -> None:
    root = written(tmp_path)
    assert np.array_equal(opened(root, marked=("vessel", "lesion")).videos[0].read(0)[1], PLANES[::-1])
    assert np.array_equal(opened(root, marked=("vessel",)).videos[0].read(0)[1], PLANES[1])
    with pytest.raises(
        DataError, match=r"marks nodule, and the data know lesion, vessel \(--classes\); name the label of"
    ):
        opened(root, marked=("nodule",))
    with pytest.raises(DataError, match=r"such as --classes 1=lesion,2=vessel, or by a table classes\.json"):
        opened(root, None, marked=("lesion", "vessel"))


def test_phantoms_have_one_class_that_may_be_named() -> None:
    assert open_dataset("phantom:clips=1", "test", classes=Classes.parse("nodule")).classes.names == ("nodule",)
    with pytest.raises(DataError, match="phantoms have one class, and --classes names 1 lesion, 2 vessel"):
        open_dataset("phantom", "test", classes=Classes.parse(NAMES))


def test_masks_of_films_have_classes_too(tmp_path: Path) -> None:
    write_film(tmp_path / "images" / "f.mp4", 3, size=(24, 32))
    for number in range(3):
        write_image(tmp_path / "masks" / "f" / f"{number:06d}.png", LABELS)
    (video,) = opened(tmp_path).videos
    assert np.array_equal(video.read(2)[1], PLANES)


def test_a_label_is_the_number_of_a_dicom_segment_and_segments_may_overlap(tmp_path: Path) -> None:
    shutil.copy(get_testdata_file("examples_ybr_color.dcm", download=False), tmp_path / "loop.dcm")
    kept = segmented(tmp_path / "loop.dcm", tmp_path / "s.dcm", segments=2, frames=range(2))
    (video,) = opened(tmp_path, "2=b,1=a").videos
    assert np.array_equal(video.read(1)[1], kept[1][::-1]) and (kept[1][0] & kept[1][1]).any()
    assert video.notes == () and video.mask(2) is None
    for classes, reason in {
        "1=a": "the segmentation s.dcm has the value 2, which no class has",
        "1=lesion 1,2=lesion 0": "s.dcm calls segment 1 lesion 0, and --classes calls it lesion 1",
        "#ff0000=a": "s.dcm has segments and no colours",
    }.items():
        with pytest.raises(DataError, match=reason):
            opened(tmp_path, classes).videos[0].read(0)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_segments_of_dcmqi_have_classes(tmp_path: Path, kind: str) -> None:
    shutil.copy(str(get_testdata_file("MR_small.dcm", download=False)), tmp_path / "slice.dcm")
    shutil.copy(Path(__file__).parent / "dcmqi" / f"{kind}.dcm", tmp_path / "seg.dcm")
    (video,) = opened(tmp_path, "1=large,2=small").videos
    large, small = video.read(0)[1]
    assert large[10:30, 20:50].all() and large.sum() == 600 and small[40:50, 40:50].all() and small.sum() == 100


def test_a_check_counts_every_class_and_lists_labels_without_one(tmp_path: Path) -> None:
    root = written(tmp_path, count=4)
    write_image(root / "masks" / "v" / "2.png", np.where(LABELS == 2, 0, LABELS).astype(np.uint8))
    report = check(opened(root, "1=lesion,2=vessel,9=other"), frames=2)
    lesion, vessel, other = report.classes.values()
    assert (lesion.frames, vessel.frames, other.frames) == (4, 3, 0)
    assert report.shares("vessel") == (0.75, pytest.approx(0.75 * 120 / 768))
    assert [(p.kind, p.what) for p in report.problems] == [("class in no mask", "other")]
    assert (
        list(class_lines(report))[1]
        == "vessel  in 3 masks (75.0%); 11.72% of all pixels, 15.6% of the frame where it is"
    )
    assert report.record()["classes"]["lesion"] == {"frames": 4, "share_of_masks": 1.0, "share_of_area": 80 / 768}
    write_image(root / "masks" / "v" / "3.png", LABELS + 1)
    (problem,) = check(opened(root), frames=2).errors
    assert (problem.kind, problem.where) == ("unreadable mask", "v/3.png") and "has the value 3" in problem.what


def test_a_check_counts_no_class_where_labels_have_no_names(tmp_path: Path) -> None:
    report = check(opened(written(tmp_path, PLANES[0] * np.uint8(255)), None), frames=2)
    assert report.classes == {} and report.record()["classes"] == {} and list(class_lines(report)) == []


def test_a_contact_sheet_outlines_every_class_in_its_colour(tmp_path: Path) -> None:
    sheet = contact_sheet(opened(written(tmp_path)), frames=1, columns=1, width=128)
    for colour in ((0, 230, 118), (255, 145, 0)):
        # Lines are a pixel wide, and partly covered at slants; grey frames have no such colours.
        assert np.abs(sheet.astype(int) - colour).max(axis=2).min() < 60


def test_classes_are_resized_each_for_itself() -> None:
    found = Framing.stretched((12, 16)).truth(PLANES)
    assert found.shape == (2, 12, 16)
    assert all(np.array_equal(a, Framing.stretched((12, 16)).truth(b)) for a, b in zip(found, PLANES, strict=True))


def test_unnamed_classes_are_refused_with_what_names_them(tmp_path: Path) -> None:
    root = written(tmp_path)
    with pytest.raises(DataError, match=r"has areas of the values 1, 2,.*--classes lesion,vessel, or a table classes"):
        opened(root, None).videos[0].read(0)
    assert cv2.imread(str(root / "masks" / "v" / "0.png"), cv2.IMREAD_GRAYSCALE).max() == 2
