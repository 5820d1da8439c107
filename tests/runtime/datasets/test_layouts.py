"""Which videos and splits every layout finds, and that a layout is never guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.runtime.datasets.trees import frame_of, mask_of, write_film, write_image, write_video_folders, write_vtus
from vivim_runtime.datasets import PHANTOM_SPLITS, Dataset, open_dataset, read_clip
from vivim_runtime.datasets.phantom import phantom_clip
from vivim_runtime.errors import DataError, UsageError
from vivim_runtime.framing import Framing
from vivim_runtime.phantom import PhantomSpec

VTUS = Path(__file__).parents[4] / "shared" / "data" / "vtus"
needs_vtus = pytest.mark.skipif(not VTUS.is_dir(), reason="needs the real video of ../shared/data/vtus")


def names(dataset: Dataset) -> list[str]:
    return [video.name for video in dataset.videos]


def folders(root: Path, frames: str, masks: str, count: int = 2, first: int = 1) -> None:
    write_video_folders(root / frames, root / masks, count, first)


# VTUS


def test_vtus_has_the_splits_of_its_folders(tmp_path: Path) -> None:
    write_vtus(tmp_path, {"0010": 2, "0002": 3}, {"0004": 4})
    assert names(open_dataset(str(tmp_path), "train")) == ["0002", "0010"]
    assert names(open_dataset(str(tmp_path), "test")) == ["0004"]
    everything = open_dataset(str(tmp_path))
    assert (everything.name, everything.layout, everything.split) == ("VTUS", "vtus", "")
    assert names(everything) == ["0002", "0010", "0004"] and len(everything) == 9
    assert np.array_equal(everything.videos[2].read(3)[0], frame_of(4))


def test_a_case_that_is_in_two_splits_is_named_by_both(tmp_path: Path) -> None:
    write_vtus(tmp_path, {"0001": 2}, {"0001": 3})
    assert names(open_dataset(str(tmp_path))) == ["train/0001", "test/0001"]
    assert [len(v) for v in open_dataset(str(tmp_path), "test").videos] == [3]


def test_masks_of_a_case_without_frames_are_not_lost(tmp_path: Path) -> None:
    write_vtus(tmp_path, {"0001": 2})
    write_image(tmp_path / "Train_GT" / "0009" / "0001.png", mask_of(1))
    opened = open_dataset(str(tmp_path), "train")
    assert names(opened) == ["0001", "0009"] and [len(v) for v in opened.videos] == [2, 0]
    assert opened.videos[1].strays == ("0009/0001.png",)


@needs_vtus
def test_the_real_video_is_read() -> None:
    opened = open_dataset(str(VTUS), "train")
    assert (opened.name, opened.layout, names(opened), len(opened)) == ("VTUS", "vtus", ["0002"], 91)
    clip = read_clip(opened.videos[0], range(5), Framing.stretched((256, 256)))
    assert clip.pixels.shape == (5, 256, 256, 3) and clip.masks.shape == (5, 256, 256)
    # By eye the nodule of this case fills a tenth of the frame.
    assert 0.05 < clip.masks.mean() < 0.25 and clip.pixels.std() > 20


# BUV2022


def test_buv2022_is_images_and_labels(tmp_path: Path) -> None:
    for name in ("b2", "b10"):
        folders(tmp_path, f"images/{name}", f"labels/{name}", 3)
    opened = open_dataset(str(tmp_path))
    assert (opened.name, opened.layout, names(opened)) == ("BUV2022", "buv2022", ["b2", "b10"])
    image, mask = opened.videos[0].read(1)
    assert np.array_equal(image, frame_of(2)) and np.array_equal(mask, mask_of(2) == 255)


def test_lists_beside_buv2022_make_its_splits(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        folders(tmp_path, f"images/{name}", f"labels/{name}")
    (tmp_path / "train.txt").write_text("c\na\n\n")
    (tmp_path / "val.txt").write_text("b\n")
    (tmp_path / "readme.txt").write_text("not a list\n")
    assert names(open_dataset(str(tmp_path), "train")) == ["c", "a"]
    assert names(open_dataset(str(tmp_path), "validation")) == ["b"]
    with pytest.raises(DataError, match=r"has no split 'test'; it has train, validation"):
        open_dataset(str(tmp_path), "test")


def test_wrong_lists_beside_buv2022_are_refused_with_every_name(tmp_path: Path) -> None:
    folders(tmp_path, "images/a", "labels/a")
    (tmp_path / "train.txt").write_text("a\nx\n")
    (tmp_path / "test.txt").write_text("y\na\n")
    with pytest.raises(DataError, match=r"test\.txt, train\.txt: y is no video; x is no video; a stands in them twice"):
        open_dataset(str(tmp_path))


# Polyps


def polyps(root: Path) -> Path:
    """All places in which PNS-Net's download and Vivim's code have videos, two frames each."""
    train, test = root / "VPS-TrainSet", root / "VPS-TestSet"
    folders(train, "ASU-Mayo_Clinic/Train/3/Frame", "ASU-Mayo_Clinic/Train/3/GT")
    folders(train, "CVC-ColonDB-300/Train/1/Frame", "CVC-ColonDB-300/Train/1/GT")
    folders(train, "CVC-ClinicDB-612/Train/10/Frame", "CVC-ClinicDB-612/Train/10/GT")
    folders(root, "Kvasir-SEG/Frame", "Kvasir-SEG/GT")
    folders(test, "CVC-ColonDB-300/Frame/5", "CVC-ColonDB-300/GT/5")
    folders(test, "CVC-ClinicDB-612-Valid/Frame/2", "CVC-ClinicDB-612-Valid/GT/2")
    folders(test, "CVC-ClinicDB-612-Valid/Frame/11", "CVC-ClinicDB-612-Valid/GT/11")
    folders(test, "CVC-ClinicDB-612-Test/Frame/0", "CVC-ClinicDB-612-Test/GT/0")
    return root


def test_the_polyp_sets_train_and_test_as_in_the_paper(tmp_path: Path) -> None:
    root = str(polyps(tmp_path))
    assert names(open_dataset(root, "train")) == [
        "Kvasir-SEG",
        "ASU-Mayo_Clinic/3",
        "CVC-ClinicDB-612/10",
        "CVC-ColonDB-300/1",
    ]
    assert names(open_dataset(root, "CVC-300-TV")) == ["CVC-ColonDB-300/5"]
    assert names(open_dataset(root, "cvc-612-v")) == ["CVC-ClinicDB-612-Valid/2", "CVC-ClinicDB-612-Valid/11"]
    assert names(open_dataset(root, "CVC-612-T")) == ["CVC-ClinicDB-612-Test/0"]
    assert sorted(names(open_dataset(root, "test"))) == [
        "CVC-ClinicDB-612-Test/0",
        "CVC-ClinicDB-612-Valid/11",
        "CVC-ClinicDB-612-Valid/2",
        "CVC-ColonDB-300/5",
    ]
    everything = open_dataset(root)
    assert everything.layout == "polyp" and len(everything.videos) == 8 and len(everything) == 16
    assert everything.notes == ("Kvasir-SEG holds still images: the frames of a clip of it do not belong together",)


def test_a_polyp_test_set_can_be_opened_alone(tmp_path: Path) -> None:
    root = polyps(tmp_path) / "VPS-TestSet" / "CVC-ClinicDB-612-Valid"
    opened = open_dataset(str(root), "CVC-612-V")
    assert names(opened) == ["CVC-ClinicDB-612-Valid/2", "CVC-ClinicDB-612-Valid/11"]
    assert np.array_equal(opened.videos[0].read(1)[0], frame_of(2))


def test_polyps_lie_as_in_vivims_code(tmp_path: Path) -> None:
    folders(tmp_path, "Train/7/Frame", "Train/7/GT")
    folders(tmp_path, "Train/Kvasir/Frame", "Train/Kvasir/GT")
    folders(tmp_path, "CVC-ColonDB-300/Frame/3", "CVC-ColonDB-300/GT/3")
    assert names(open_dataset(str(tmp_path), "train")) == ["7", "Kvasir"]
    assert names(open_dataset(str(tmp_path), "CVC-300-TV")) == ["CVC-ColonDB-300/3"]


def test_polyp_folders_that_say_nothing_train_when_frame_holds_frames(tmp_path: Path) -> None:
    folders(tmp_path / "p", "a/Frame", "a/GT")
    folders(tmp_path / "p", "b/Frame/1", "b/GT/1")
    assert names(open_dataset(str(tmp_path / "p"), "train")) == ["a"]
    assert names(open_dataset(str(tmp_path / "p"), "b")) == ["b/1"]


# Plain


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        pytest.param([("images/v10", "masks/v10"), ("images/v9", "masks/v9")], ["v9", "v10"], id="by kind"),
        pytest.param([("v10/images", "v10/masks"), ("v9/images", "v9/masks")], ["v9", "v10"], id="by video"),
        pytest.param([("images", "masks")], ["data"], id="a single video"),
    ],
)
def test_plain_folders(tmp_path: Path, pairs: list[tuple[str, str]], expected: list[str]) -> None:
    for frames, masks in pairs:
        folders(tmp_path / "data", frames, masks, 3)
    opened = open_dataset(str(tmp_path / "data"))
    assert (opened.name, opened.layout, names(opened), len(opened)) == ("data", "plain", expected, 3 * len(expected))
    image, mask = opened.videos[0].read(2)
    assert np.array_equal(image, frame_of(3)) and np.array_equal(mask, mask_of(3) == 255)


def test_plain_folders_may_stand_in_folders_of_splits(tmp_path: Path) -> None:
    folders(tmp_path, "train/images/a", "train/masks/a")
    folders(tmp_path, "Val/b/images", "Val/b/masks")
    folders(tmp_path, "test/images/a", "test/masks/a")
    assert names(open_dataset(str(tmp_path), "train")) == ["train/a"]
    assert names(open_dataset(str(tmp_path), "validation")) == names(open_dataset(str(tmp_path), "val")) == ["b"]
    assert names(open_dataset(str(tmp_path))) == ["train/a", "b", "test/a"]


def test_a_video_without_folder_of_masks_is_not_left_out(tmp_path: Path) -> None:
    folders(tmp_path, "images/a", "masks/a")
    write_image(tmp_path / "images" / "b" / "1.png", frame_of(1))
    write_image(tmp_path / "masks" / "c" / "1.png", mask_of(1))
    folders(tmp_path, "d/images", "d/masks")
    write_image(tmp_path / "e" / "images" / "1.png", frame_of(1))
    opened = open_dataset(str(tmp_path))
    assert names(opened) == ["a", "b", "c", "d", "e"] and [len(v) for v in opened.videos] == [2, 1, 0, 2, 1]
    assert [opened.videos[i].mask(0) for i in (1, 4)] == [None, None] and opened.videos[2].strays == ("c/1.png",)


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    folders(tmp_path, "images/a", "masks/a")
    folders(tmp_path, "a/images", "a/masks")
    with pytest.raises(DataError, match="several videos are called a; give them names"):
        open_dataset(str(tmp_path))


# Which layout


def test_a_folder_of_no_known_layout_is_refused_with_all_layouts(tmp_path: Path) -> None:
    write_image(tmp_path / "x" / "1.png", frame_of(1))
    with pytest.raises(DataError, match=r"no layout that is known \(vtus: .*; buv2022: .*; polyp: .*; plain: .*\)$"):
        open_dataset(str(tmp_path))


def test_the_folder_above_the_data_gets_a_hint(tmp_path: Path) -> None:
    write_vtus(tmp_path / "unpacked", {"0001": 1})
    with pytest.raises(DataError, match=r"; did you mean .*unpacked\?$"):
        open_dataset(str(tmp_path))


def test_a_folder_of_two_layouts_is_refused_until_one_is_named(tmp_path: Path) -> None:
    folders(tmp_path, "images/a", "masks/a")
    folders(tmp_path, "images/b", "labels/b")
    with pytest.raises(DataError, match=r"may be buv2022 or plain \(.*\); say which with --layout"):
        open_dataset(str(tmp_path))
    assert open_dataset(str(tmp_path), layout="plain").layout == "plain"


def test_a_layout_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--layout is coco; expected auto, phantom, vtus, buv2022, polyp, plain"):
        open_dataset(str(tmp_path), layout="coco")


def test_a_layout_that_finds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no videos; the layout vtus is Train/"):
        open_dataset(str(tmp_path), layout="vtus")


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder .*/nowhere; expected"):
        open_dataset(str(tmp_path / "nowhere"))


def test_a_name_that_the_system_refuses_is_refused() -> None:
    with pytest.raises(DataError, match="cannot list x+: File name too long"):
        open_dataset("x" * 300)


def test_a_list_beside_buv2022_that_is_no_text_names_no_videos(tmp_path: Path) -> None:
    folders(tmp_path, "images/a", "labels/a")
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"the lists train\.txt: .* is no video"):
        open_dataset(str(tmp_path))


# Phantoms


def test_phantoms_have_the_seeds_of_their_split() -> None:
    opened = open_dataset("phantom:clips=2,frames=3,size=48x64", "validation")
    assert opened.layout == "phantom" and names(opened) == ["validation-0000", "validation-0001"]
    made = phantom_clip(PhantomSpec(PHANTOM_SPLITS["validation"] + 1, 3, (48, 64)))
    clip = read_clip(opened.videos[1], range(3), Framing.stretched((48, 64)))
    assert np.array_equal(clip.pixels, made.pixels) and np.array_equal(clip.masks, made.masks)


def test_phantoms_have_three_splits_and_defaults() -> None:
    assert len(open_dataset("phantom").videos) == 120 and len(open_dataset("phantom", "test").videos) == 40
    video = open_dataset("phantom", "val").videos[0]
    assert video.name == "validation-0000" and len(video) == 5


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("phantom:clip=2", "unknown clip; expected something like phantom:clips=40"),
        ("phantom:clips=two", "has a value that is no number"),
        ("phantom:clips=0", "asks for 0 clips"),
        ("phantom:size=1x2x3", "size of phantom:size=1x2x3 is 1x2x3; expected one number, or height x width"),
    ],
)
def test_wrong_phantoms_are_refused(name: str, problem: str) -> None:
    with pytest.raises((DataError, UsageError), match=problem):
        open_dataset(name)


def test_phantoms_refuse_other_splits_and_split_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="phantoms have no split 'fold1'; expected one of train, validation, test"):
        open_dataset("phantom", "fold1")
    with pytest.raises(DataError, match="splits of their own"):
        open_dataset("phantom", "train", split_file=tmp_path / "s.json")


def test_frames_of_a_phantom_cannot_be_changed_for_later_readers() -> None:
    image, _ = open_dataset("phantom:clips=1,size=32", "train").videos[0].read(0)
    with pytest.raises(ValueError, match="read-only"):
        image[:] = 0


def test_film_and_masks_make_a_plain_video(tmp_path: Path) -> None:
    write_film(tmp_path / "images" / "a.mp4", 6)
    for number in range(6):
        write_image(tmp_path / "masks" / "a" / f"{number:06d}.png", mask_of(number, (48, 64)))
    opened = open_dataset(str(tmp_path))
    assert (opened.layout, names(opened), len(opened)) == ("plain", ["a"], 6)
    image, mask = opened.videos[0].read(4)
    assert image.mean() == pytest.approx(32, abs=2) and np.array_equal(mask, mask_of(4, (48, 64)) == 255)
