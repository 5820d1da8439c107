"""The phantom: reproducible, of the right kind, and its mask is where the lesion is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from vivim_runtime.clips import Clip
from vivim_runtime.datasets.phantom import phantom_clip, phantom_videos
from vivim_runtime.errors import UsageError
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.sources.phantom import spec_from_uri


def clip(seed: int = 0, frames: int = 2, size: tuple[int, int] = (64, 64), **options: Any) -> Clip:
    return phantom_clip(PhantomSpec(seed=seed, frames=frames, size=size, **options))


def same(a: Clip, b: Clip) -> bool:
    return np.array_equal(a.pixels, b.pixels) and np.array_equal(a.masks, b.masks)


def test_a_seed_always_gives_the_same_clip() -> None:
    assert same(clip(7), clip(7))
    state = np.random.get_state()[1]
    clip(8)
    assert np.array_equal(np.random.get_state()[1], state)  # no hidden draws from NumPy's global generator


def test_different_seeds_give_different_clips() -> None:
    made = [clip(seed, frames=1) for seed in range(8)]
    assert not any(same(a, b) for i, a in enumerate(made) for b in made[:i])


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((32, 32), id="the smallest"),
        pytest.param((61, 47), id="odd and taller than wide"),
        pytest.param((97, 101), id="odd and a little wider than tall"),
        pytest.param((200, 32), id="a narrow strip"),
        pytest.param((48, 200), id="a wide strip, most of it far from every shadow"),
    ],
)
def test_frames_are_rgb_bytes_and_masks_are_booleans_of_any_size(size: tuple[int, int]) -> None:
    # 30 seeds draw every kind of sector, shadow and furniture several times.
    for seed in range(30):
        made = clip(seed, frames=2, size=size)
        assert made.pixels.shape == (2, *size, 3) and made.pixels.dtype == np.uint8
        assert made.masks.shape == (2, *size) and made.masks.dtype == bool
        assert made.pixels.std() > 5


def test_first_frames_of_a_longer_clip_are_those_of_a_shorter_one() -> None:
    long, short = clip(3, frames=5), clip(3, frames=2)
    assert np.array_equal(long.pixels[:2], short.pixels) and np.array_equal(long.masks[:2], short.masks)


def test_frames_one_by_one_are_those_of_the_clip() -> None:
    spec = PhantomSpec(seed=4, frames=3, size=(48, 40))
    pairs = list(phantom_frames(spec))
    whole = phantom_clip(spec)
    assert len(pairs) == 3
    assert all(np.array_equal(image, whole.pixels[t]) for t, (image, _) in enumerate(pairs))
    assert all(np.array_equal(mask, whole.masks[t]) for t, (_, mask) in enumerate(pairs))


def test_lesion_moves_between_frames_but_does_not_jump() -> None:
    for seed in range(10):
        masks = clip(seed, frames=10, size=(96, 96), fps=5.0, lesion=True).masks  # 1.8 seconds
        area = masks.sum(axis=(1, 2)).mean()
        changes = (masks[1:] != masks[:-1]).sum(axis=(1, 2))
        # Motion is some 0.02 heights at some 1 Hz, the lesion 0.07 to 0.21 in radius: measured 6 % to 60 % over the
        # clip. Between neighbours it stays well below what a lesion elsewhere would change (two areas).
        assert (masks != masks[:1]).sum(axis=(1, 2)).max() > 0.03 * area
        assert changes.max() < 0.8 * area


def test_motion_is_per_second_not_per_frame() -> None:
    slow, fast = clip(2, frames=3, fps=10.0, lesion=True), clip(2, frames=5, fps=20.0, lesion=True)
    assert np.array_equal(fast.masks[::2], slow.masks)
    assert not np.array_equal(fast.masks[1], slow.masks[1])


def test_speckle_is_partly_new_in_every_frame() -> None:
    frames = clip(5, frames=3, fps=1000.0).pixels.astype(float)
    # 6 % of the speckle's power is new, a quarter of its amplitude: measured 15 levels of 255. The motion of one or two
    # milliseconds, some hundredths of a pixel, makes 2 to 4 of them.
    assert all(np.abs(frames[a] - frames[b]).mean() > 8 for a, b in ((0, 1), (1, 2), (0, 2)))


def test_lesion_is_darker_than_the_tissue_around_it() -> None:
    darker = 0
    for seed in range(30):
        made = clip(seed, frames=1, size=(96, 96), lesion=True)
        mask, grey = made.masks[0], made.pixels[0].mean(axis=-1)
        around = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & ~mask
        darker += bool(grey[mask].mean() < grey[around].mean() - 4)
    # Eight decibels or more of 62 are 33 of 255 levels, but a vessel or the edge of the sector may darken the ring.
    assert darker >= 27


def test_without_a_lesion_the_masks_are_empty() -> None:
    for seed in range(4):
        made = clip(seed, lesion=False)
        assert not made.masks.any() and made.pixels.any()


def test_a_share_of_lesions_takes_some_away_and_leaves_the_others_as_they_are() -> None:
    usual, half = ([clip(seed, frames=1, size=(64, 64), lesion=share) for seed in range(40)] for share in (None, 0.5))
    kept = [bool(video.masks.any()) for video in half]
    assert 10 <= sum(kept) <= 30  # of 40 at 0.5: beyond three standard deviations
    assert sum(bool(video.masks.any()) for video in usual) > 30
    for one, other, has in zip(usual, half, kept, strict=True):
        assert np.array_equal(one.pixels, other.pixels) or not has
    assert phantom_videos("phantom:clips=40,lesion=0.5", "test")[0].spec.lesion == 0.5
    assert spec_from_uri("phantom:lesion=0").lesion == 0.0


@pytest.mark.parametrize("share", ["1.5", "-0.1", "nan", "half"])
def test_a_share_of_lesions_that_is_none_is_refused(share: str) -> None:
    with pytest.raises(UsageError, match="lesion="):
        spec_from_uri(f"phantom:lesion={share}")


def test_with_a_lesion_no_mask_is_empty_or_most_of_the_frame() -> None:
    for seed in range(30):
        shares = clip(seed, frames=1, lesion=True).masks.mean(axis=(1, 2))
        # Ellipse-like, 0.07 to 0.21 heights in radius and stretched up to 1.6: 1.5 % to 22 % of a square, less what the
        # sector hides, more by the harmonics.
        assert shares.min() > 0.005 and shares.max() < 0.4


def test_seed_decides_whether_there_is_a_lesion_about_nine_times_in_ten() -> None:
    present = sum(bool(clip(seed, frames=1, size=(32, 32)).masks.any()) for seed in range(100))
    # Binomial(100, 0.9): four standard deviations are 12.
    assert 78 <= present <= 99


def test_mask_stays_within_what_the_scanner_shows() -> None:
    hidden_somewhere = 0
    for seed in range(40, 50):  # of these, the lesions of 41 and 44 reach beyond their sectors
        made = clip(seed, frames=3, size=(96, 96), lesion=True)
        _, regions = cv2.connectedComponents((made.pixels == 0).all(axis=(0, 3)).astype(np.uint8))
        rim = np.concatenate((regions[0], regions[-1], regions[:, 0], regions[:, -1]))
        # Black in every frame and connected to the frame's border: outside the sector.
        hidden = np.isin(regions, rim[rim > 0])
        assert not made.masks[:, hidden].any()
        hidden_somewhere += bool(hidden.mean() > 0.05)
    assert hidden_somewhere >= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"seed": -1}, "seed -1", id="NumPy takes no negative seeds"),
        pytest.param({"frames": 0}, "0 frames", id="no frames"),
        pytest.param({"fps": 0.0}, "0.0 fps", id="time would be infinite"),
        pytest.param({"fps": -25.0}, "-25.0 fps", id="backwards"),
        pytest.param({"fps": float("nan")}, "nan fps", id="no number, which compares as false with everything"),
        pytest.param({"size": (31, 64)}, "31x64", id="too low"),
        pytest.param({"size": (64, 31)}, "64x31", id="too narrow"),
        pytest.param({"size": (64, 4097)}, "64x4097", id="too wide"),
    ],
)
def test_specs_that_make_no_video_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PhantomSpec(**changes)


@pytest.mark.parametrize("trouble", ["shadow", "lift", "contrast", "any"])
def test_trouble_hides_the_lesion_for_a_while_and_moves_nothing(trouble: str) -> None:
    spec = PhantomSpec(seed=3, frames=40, size=(64, 64), lesion=True)
    plain, hidden = (list(phantom_frames(replace(spec, trouble=what))) for what in ("", trouble))
    changed = [not np.array_equal(a, b) for (a, _), (b, _) in zip(plain, hidden, strict=True)]
    # From the first 3 to 15 frames on, in stretches of 5 to 30 with as many between them.
    assert not any(changed[:3]) and 5 <= sum(changed) < 40
    gone = [not mask.any() for _, mask in hidden]
    if trouble in ("shadow", "contrast"):
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(plain, hidden, strict=True))
    elif trouble == "lift":
        assert any(gone) and all(dark.mean() < 40 for (dark, _), is_gone in zip(hidden, gone, strict=True) if is_gone)
    again = list(phantom_frames(replace(spec, trouble=trouble)))
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(hidden, again, strict=True))


def test_drift_changes_the_gain_slowly_and_nothing_else() -> None:
    spec = PhantomSpec(seed=3, frames=100, size=(32, 32), lesion=True)
    plain, crept = (list(phantom_frames(replace(spec, trouble=what))) for what in ("", "drift"))
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(plain, crept, strict=True))
    gains = np.array([b.mean() / a.mean() for (a, _), (b, _) in zip(plain, crept, strict=True)])
    # Between 1 / 1.4 ** 2 = 0.51 and 1, by less than 2 pi / 60 * ln 1.4 = 3.5 % a frame; pixels are rounded down.
    assert gains.min() < 0.6 and 0.9 < gains.max() <= 1 and np.abs(np.diff(gains)).max() < 0.045


def test_unknown_trouble_is_refused() -> None:
    with pytest.raises(UsageError, match="trouble=fog: expected shadow, lift, contrast, drift, any"):
        PhantomSpec(trouble="fog")
