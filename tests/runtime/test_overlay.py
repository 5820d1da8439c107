"""What is drawn on frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vivim_runtime.errors import UsageError
from vivim_runtime.overlay import Marks, drawn, label_image, parse_layers
from vivim_runtime.sessions.base import ClassInfo

GREEN = ClassInfo("lesion", (0, 255, 0))


def scene() -> tuple[np.ndarray, np.ndarray]:
    image = np.full((64, 64, 3), 100, np.uint8)
    masks = np.zeros((1, 64, 64), bool)
    masks[0, 20:40, 20:40] = True
    return image, masks


def test_overlay_mixes_the_color_by_alpha_inside_the_mask_only() -> None:
    image, masks = scene()
    picture = drawn(image, masks, [GREEN], ("overlay",), 0.5)
    assert (picture[masks[0]] == (50, 177, 50)).all()
    assert (picture[~masks[0]] == 100).all()
    assert (image == 100).all()  # the frame itself stays as it is


def test_contour_outlines_the_mask_and_leaves_its_inside_alone() -> None:
    image, masks = scene()
    picture = drawn(image, masks, [GREEN], ("contour",), 0.5)
    line = picture[20, 25:35]  # anti-aliased: nearly the colour
    assert (line[:, 1] > 200).all() and (line[:, [0, 2]] == 0).all()
    assert (picture[18, 25:35] == 0).all()  # the dark border
    assert (picture[28:32, 28:32] == 100).all()
    assert (picture[:15] == 100).all()


def blob(size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """A mask (1, H, W) with curves, two parts and a hole, one part at the border."""
    mask = np.zeros(size, np.uint8)
    cv2.ellipse(mask, (size[1] // 2, size[0] // 2), (90, 60), 20, 0, 360, 1, cv2.FILLED)
    cv2.circle(mask, (size[1] // 2, size[0] // 2), 20, 0, cv2.FILLED)
    cv2.circle(mask, (0, 30), 25, 1, cv2.FILLED)
    return mask.astype(bool)[None]


@pytest.mark.parametrize("size", [(240, 320), (720, 1280)])
def test_outlines_are_what_opencv_draws(size: tuple[int, int]) -> None:
    mask, image = blob(size), np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    expected, width = image.copy(), max(1, round(size[0] / 256))
    contours, _ = cv2.findContours(mask[0].astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(expected, contours, -1, (0, 0, 0), width + 2, cv2.LINE_AA)
    cv2.drawContours(expected, contours, -1, GREEN.color, width, cv2.LINE_AA)
    found = drawn(image, mask, [GREEN], ("contour",), 0.5)
    # OpenCV rounds at each of the segments that meet in a pixel, and once for each line; ours once.
    assert np.abs(found.astype(int) - expected).max() <= 8


def test_marks_are_drawn_on_every_frame_as_they_would_be_afresh() -> None:
    mask, rng = blob(), np.random.default_rng(1)
    marks = Marks(mask, [GREEN])
    marks.prepare(("overlay",))
    for layers in (("overlay",), ("contour",), ("overlay", "contour"), ("mask", "contour")):
        image = rng.integers(0, 256, (240, 320, 3)).astype(np.uint8)
        before = image.copy()
        assert np.array_equal(marks.on(image, layers, 0.45), drawn(image, mask, [GREEN], layers, 0.45))
        assert np.array_equal(image, before)


def test_mask_layer_replaces_the_frame() -> None:
    image, masks = scene()
    picture = drawn(image, masks, [GREEN], ("mask",), 0.5)
    assert (picture[masks[0]] == (0, 255, 0)).all()
    assert (picture[~masks[0]] == 0).all()


def test_empty_masks_leave_the_frame_as_it_is() -> None:
    image, masks = scene()
    assert (drawn(image, np.zeros_like(masks), [GREEN], ("overlay", "contour"), 0.5) == image).all()


def test_label_image_of_one_class_is_black_and_white() -> None:
    _, masks = scene()
    assert set(np.unique(label_image(masks, masks.astype(np.float32)))) == {0, 255}


def test_label_image_of_several_classes_gives_overlaps_to_the_most_probable() -> None:
    masks = np.array([[[True, True, False]], [[True, False, False]]])
    logits = np.array([[[1.0, 1.0, -1.0]], [[2.0, -9.0, -0.5]]], np.float32)
    assert label_image(masks, logits).tolist() == [[2, 1, 0]]


def test_layers_are_read_from_a_list() -> None:
    assert parse_layers("overlay, contour") == ("overlay", "contour")


@pytest.mark.parametrize("text", ["", "overlay,outline", ","])
def test_unknown_layers_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="overlay, contour, mask"):
        parse_layers(text)
