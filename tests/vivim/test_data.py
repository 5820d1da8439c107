"""Clips: which ones, how they are augmented, and how an epoch deals them out."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

import vivim.data
from vivim import DataError
from vivim.config import MEAN, STD
from vivim.data import SPLITS, Clip, augmented, batches, normalised, phantom_clips
from vivim_runtime.phantom import PhantomClip, PhantomSpec

MOST_CLIPS = 1_000_000


def same(a: list[Clip], b: list[Clip]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.frames, y.frames) and np.array_equal(x.masks, y.masks) for x, y in zip(a, b, strict=True)
    )


def moving_rectangle(frames: int = 4, height: int = 72, width: int = 96) -> Clip:
    """White inside the mask and black outside, in another place in every frame, off the middle."""
    masks = np.zeros((frames, height, width), bool)
    for t in range(frames):
        masks[t, 16 + 4 * t : 36 + 4 * t, 22 + 5 * t : 52 + 5 * t] = True
    return Clip(np.repeat(masks[..., None] * np.uint8(255), 3, axis=-1), masks)


def numbered(count: int, frames: int) -> list[Clip]:
    """Clips whose pixels tell clip and frame: 10 * clip + frame; the mask is true in odd frames."""
    clips = []
    for number in range(count):
        values = (10 * number + np.arange(frames)).astype(np.uint8)
        pixels = np.broadcast_to(values[:, None, None, None], (frames, 4, 6, 3)).copy()
        clips.append(Clip(pixels, np.broadcast_to((np.arange(frames) % 2 == 1)[:, None, None], (frames, 4, 6)).copy()))
    return clips


def dealt(clips: list[Clip], batch: int, frames: int, seed: list[int]) -> list[list[list[int]]]:
    """The numbers (batch, clip, frame) of the pixels that an epoch deals, read back from the normalised values."""
    return [
        ((pixels[:, :, 0, 0, 0] * STD[0] + MEAN[0]) * 255).round().int().tolist()
        for pixels, _ in batches(clips, batch, frames, seed)
    ]


@pytest.fixture
def unaugmented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vivim.data, "augmented", lambda clip, rng: clip)


def test_splits_never_meet() -> None:
    starts = [range(first, first + MOST_CLIPS) for first in SPLITS.values()]
    assert all(a.stop <= b.start or b.stop <= a.start for a, b in combinations(starts, 2))
    with pytest.raises(DataError, match="expected 1 to"):
        phantom_clips("train", MOST_CLIPS + 1, 1, (32, 32))


@pytest.mark.parametrize("split", SPLITS)
def test_clips_of_a_split_are_its_first_seeds(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[PhantomSpec] = []

    def record(spec: PhantomSpec) -> PhantomClip:
        made.append(spec)
        return PhantomClip(np.zeros((1, 1, 1, 3), np.uint8), np.zeros((1, 1, 1), bool))

    monkeypatch.setattr(vivim.data, "phantom_clip", record)
    assert len(phantom_clips(split, 5, 3, (48, 64))) == 5
    assert [spec.seed for spec in made] == list(range(SPLITS[split], SPLITS[split] + 5))
    assert {(spec.frames, spec.size) for spec in made} == {(3, (48, 64))}


def test_phantom_clips_are_the_same_every_time_and_differ_from_each_other() -> None:
    once = phantom_clips("validation", 3, 2, (48, 32))
    assert once[0].frames.shape == (2, 48, 32, 3) and once[0].masks.shape == (2, 48, 32)
    assert same(phantom_clips("validation", 2, 2, (48, 32)), once[:2])
    assert not same(once[:1], once[1:2])
    assert not same(phantom_clips("test", 1, 2, (48, 32)), once[:1])


def test_workers_make_the_same_clips_in_the_same_order() -> None:
    # 17: the fewest that are shared out are 16; they go out in portions of 8, so the last portion is short.
    assert same(phantom_clips("train", 17, 1, (32, 32), workers=2), phantom_clips("train", 17, 1, (32, 32)))


@pytest.mark.parametrize(
    ("split", "count", "message"),
    [("holdout", 1, "holdout.*expected one of train, validation, test"), ("train", 0, "0 clips"), ("test", -1, "-1")],
)
def test_clips_that_do_not_exist_are_refused(split: str, count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        phantom_clips(split, count, 1, (32, 32))


@pytest.mark.parametrize("seed", range(12))
def test_augmentation_moves_frames_and_masks_together(seed: int) -> None:
    clip = moving_rectangle()
    result = augmented(clip, np.random.default_rng(seed))
    assert result.frames.shape == clip.frames.shape and result.frames.dtype == np.uint8
    assert result.masks.shape == clip.masks.shape and result.masks.dtype == bool
    # Tones end within 0..15 for black and 188..255 for white. Pixels are interpolated and masks are not, so the two may
    # differ in the pixels on both sides of the outline, and nowhere else.
    bright = result.frames[..., 0] > 100
    for t in range(len(clip.masks)):
        around = np.stack([np.roll(result.masks[t], (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)])
        assert bright[t][around.all(axis=0)].all()
        assert not bright[t][~around.any(axis=0)].any()
    assert result.masks.any(axis=(1, 2)).all()


def test_augmentation_treats_every_frame_alike() -> None:
    still = Clip(np.repeat(phantom_clips("train", 1, 1, (64, 64))[0].frames, 5, axis=0), np.ones((5, 64, 64), bool))
    for seed in range(6):
        result = augmented(still, np.random.default_rng(seed))
        assert (result.frames == result.frames[:1]).all() and (result.masks == result.masks[:1]).all()


def test_augmentation_flips_reverses_scales_and_retones() -> None:
    clip = moving_rectangle()
    columns = np.arange(96)
    seen = {"mirrored": set(), "backwards": set(), "larger": set()}
    whites = set()
    for seed in range(24):
        result = augmented(clip, np.random.default_rng(seed))
        centres = [(mask.any(axis=0) * columns).sum() / mask.any(axis=0).sum() for mask in result.masks]
        areas = result.masks.sum(axis=(1, 2))
        # The rectangle goes right and down; mirrored or backwards it goes left, backwards it goes up.
        rows = [np.flatnonzero(mask.any(axis=1)).mean() for mask in result.masks]
        backwards = rows[-1] < rows[0]
        seen["backwards"].add(backwards)
        seen["mirrored"].add((centres[-1] < centres[0]) != backwards)
        seen["larger"].add(bool(areas[0] > clip.masks[0].sum()))
        whites.add(int(result.frames.max()))
    assert all(values == {False, True} for values in seen.values()), seen
    assert len(whites) > 3


def test_augmentation_shifts_both_ways_along_both_axes() -> None:
    masks = np.zeros((1, 60, 80), bool)
    masks[:, 20:40, 30:50] = True  # around the middle, where flips and scales leave its centre
    clip, shifts = Clip(np.zeros((1, 60, 80, 3), np.uint8), masks), []
    for seed in range(24):
        moved = augmented(clip, np.random.default_rng(seed)).masks[0]
        shifts.append(np.argwhere(moved).mean(axis=0) - (29.5, 39.5))
    # A tenth of the frame at most, plus a pixel of rounding; of 24 uniform draws some go most of the way.
    furthest = np.array([np.min(shifts, axis=0), np.max(shifts, axis=0)])
    assert (np.abs(furthest) <= (7, 9)).all()
    assert (furthest[0] < (-3, -4)).all() and (furthest[1] > (3, 4)).all()


def test_augmentation_leaves_its_input_alone() -> None:
    clip, before = moving_rectangle(), moving_rectangle()
    for seed in range(4):
        augmented(clip, np.random.default_rng(seed))
    assert same([clip], [before])


def test_normalised_frames_are_channels_first_with_imagenet_statistics() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    value = normalised(frames)
    assert value.shape == (2, 3, 5, 7) and value.dtype == torch.float32
    expected = np.moveaxis((frames / 255.0 - np.array(MEAN)) / np.array(STD), -1, -3)
    # Three float32 operations on values below 3.
    assert np.abs(value.numpy() - expected).max() <= 3 * 3 * 6e-8 * 2
    assert torch.equal(normalised(frames[:, :, ::-1]), value.flip(-1))


@pytest.mark.usefixtures("unaugmented")
def test_an_epoch_deals_every_clip_once_in_random_order() -> None:
    clips = numbered(12, 1)
    order = [clip[0] for batch in dealt(clips, 3, 1, [0, 0]) for clip in batch]
    assert sorted(order) == [10 * number for number in range(12)]
    assert order != sorted(order)


@pytest.mark.usefixtures("unaugmented")
def test_a_last_short_batch_is_dropped() -> None:
    epoch = dealt(numbered(8, 1), 3, 1, [0, 0])
    assert [len(batch) for batch in epoch] == [3, 3]
    assert len({clip[0] for batch in epoch for clip in batch}) == 6
    assert dealt(numbered(2, 1), 3, 1, [0, 0]) == []


@pytest.mark.usefixtures("unaugmented")
def test_frames_of_a_batch_are_consecutive_and_start_anywhere() -> None:
    clips, firsts = numbered(4, 5), set()
    for seed in range(20):
        for pixels, truth in batches(clips, 2, 3, [seed]):
            assert pixels.shape == (2, 3, 3, 4, 6) and truth.shape == (2, 3, 1, 4, 6)
            assert pixels.dtype == truth.dtype == torch.float32
            values = ((pixels[:, :, 0, 0, 0] * STD[0] + MEAN[0]) * 255).round() % 10
            assert (values.diff(dim=1) == 1).all()
            assert torch.equal(truth, (values % 2)[:, :, None, None, None].expand_as(truth))
            firsts |= set(values[:, 0].int().tolist())
    assert firsts == {0, 1, 2}


def test_same_seed_deals_the_same_batches_and_another_epoch_others() -> None:
    clips = phantom_clips("train", 4, 3, (32, 32))

    def epoch(*seed: int) -> list[Any]:
        return [tensor for pair in batches(clips, 2, 2, list(seed)) for tensor in pair]

    first, again, next_epoch, other_seed = epoch(0, 0), epoch(0, 0), epoch(0, 1), epoch(1, 0)
    assert len(first) == 4 and all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], next_epoch[0]) and not torch.equal(first[0], other_seed[0])
