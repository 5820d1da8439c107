"""Clips: which ones, how they are augmented, and how an epoch deals them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vivim.training.batches
from tests.runtime.datasets.trees import frame_of, mask_of, write_video_folders, write_vtus
from vivim import DataError
from vivim.commands.clip_options import ClipOptions
from vivim.config import MEAN, STD
from vivim.preprocessing import normalised
from vivim.training.batches import (
    NO_AUGMENTATION,
    Augmentation,
    ClipSource,
    DatasetClips,
    MemoryClips,
    MixedClips,
    PhantomClips,
    StillClips,
    TrainingBatches,
    augmented,
    clip_name,
    micro_batches,
    phantom_clips,
    scaled,
)
from vivim_runtime import errors
from vivim_runtime.clips import Clip
from vivim_runtime.datasets import PHANTOM_SPLITS, open_dataset
from vivim_runtime.datasets.phantom import phantom_clip
from vivim_runtime.framing import mask_at, resized
from vivim_runtime.phantom import PhantomSpec

MOST_CLIPS = 1_000_000


def same(a: list[Clip], b: list[Clip]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.pixels, y.pixels) and np.array_equal(x.masks, y.masks) for x, y in zip(a, b, strict=True)
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


def dealt(
    clips: ClipSource | Sequence[Clip],
    frames: int,
    epoch: int = 0,
    batch: int = 1,
    seed: int = 0,
    options: Augmentation = NO_AUGMENTATION,
    a_step: int = 1,
) -> list[tuple[Tensor, Tensor]]:
    """The batches of an epoch."""
    numbers = micro_batches(seed, epoch, len(clips), batch, a_step)
    return list(TrainingBatches(clips, frames, seed, options).of(epoch, numbers))


def values_of(pixels: Tensor) -> list[list[int]]:
    """The numbers (clip, frame) that `numbered` gave the pixels (B, T, 3, H, W), read back after normalisation."""
    return ((pixels[:, :, 0, 0, 0] * STD[0] + MEAN[0]) * 255).round().int().tolist()


def equal(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) > 0 and all(
        torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)
    )


def test_splits_never_meet() -> None:
    starts = [range(first, first + MOST_CLIPS) for first in PHANTOM_SPLITS.values()]
    assert all(a.stop <= b.start or b.stop <= a.start for a, b in combinations(starts, 2))
    with pytest.raises(DataError, match="expected 1 to"):
        phantom_clips("train", MOST_CLIPS + 1, 1, (32, 32))


@pytest.mark.parametrize("split", PHANTOM_SPLITS)
def test_clips_of_a_split_are_its_first_seeds(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[PhantomSpec] = []

    def record(spec: PhantomSpec) -> Clip:
        made.append(spec)
        return Clip(np.zeros((1, 1, 1, 3), np.uint8), np.zeros((1, 1, 1), bool))

    monkeypatch.setattr(vivim.training.batches, "phantom_clip", record)
    assert len(phantom_clips(split, 5, 3, (48, 64))) == 5
    assert [spec.seed for spec in made] == list(range(PHANTOM_SPLITS[split], PHANTOM_SPLITS[split] + 5))
    assert {(spec.frames, spec.size) for spec in made} == {(3, (48, 64))}


def test_phantom_clips_are_the_same_every_time_and_differ_from_each_other() -> None:
    once = phantom_clips("validation", 3, 2, (48, 32))
    assert once[0].pixels.shape == (2, 48, 32, 3) and once[0].masks.shape == (2, 48, 32)
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
    assert result.pixels.shape == clip.pixels.shape and result.pixels.dtype == np.uint8
    assert result.masks.shape == clip.masks.shape and result.masks.dtype == bool
    # Tones end within 0..15 for black and 188..255 for white. Pixels are interpolated and masks are not, so the two may
    # differ in the pixels on both sides of the outline, and nowhere else.
    bright = result.pixels[..., 0] > 100
    for t in range(len(clip.masks)):
        around = np.stack([np.roll(result.masks[t], (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)])
        assert bright[t][around.all(axis=0)].all()
        assert not bright[t][~around.any(axis=0)].any()
    assert result.masks.any(axis=(1, 2)).all()


def test_augmentation_treats_every_frame_alike() -> None:
    still = Clip(np.repeat(phantom_clips("train", 1, 1, (64, 64))[0].pixels, 5, axis=0), np.ones((5, 64, 64), bool))
    for seed in range(6):
        result = augmented(still, np.random.default_rng(seed), dataclasses.replace(Augmentation(), speckle=0.0))
        assert (result.pixels == result.pixels[:1]).all() and (result.masks == result.masks[:1]).all()


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
        whites.add(int(result.pixels.max()))
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


def test_no_augmentation_is_the_identity() -> None:
    clip = moving_rectangle()
    noisy = Clip(np.random.default_rng(0).integers(0, 256, clip.pixels.shape, np.uint8), clip.masks)
    for seed in range(6):
        assert same([augmented(noisy, np.random.default_rng(seed), NO_AUGMENTATION)], [noisy])


def only(**changes: float) -> Augmentation:
    """One kind of change and no other."""
    return dataclasses.replace(NO_AUGMENTATION, **changes)


def test_chances_of_one_mirror_and_reverse_every_clip() -> None:
    clip = moving_rectangle()
    mirrored = augmented(clip, np.random.default_rng(0), only(flip=1.0))
    assert same([mirrored], [Clip(clip.pixels[:, :, ::-1], clip.masks[:, :, ::-1])])
    backwards = augmented(clip, np.random.default_rng(0), only(backwards=1.0))
    assert same([backwards], [Clip(clip.pixels[::-1], clip.masks[::-1])])


def test_half_the_clips_are_mirrored_at_a_chance_of_a_half() -> None:
    clip = moving_rectangle()
    mirrored = sum(
        not same([augmented(clip, np.random.default_rng(seed), only(flip=0.5))], [clip]) for seed in range(64)
    )
    assert 20 <= mirrored <= 44  # 32 and three standard deviations of 4


def centred(size: int = 81) -> Clip:
    """A bar through the middle, 41 x 11, on a frame of odd size."""
    masks = np.zeros((1, size, size), bool)
    masks[0, size // 2 - 5 : size // 2 + 6, size // 2 - 20 : size // 2 + 21] = True
    return Clip(np.repeat(masks[..., None] * np.uint8(200), 3, axis=-1), masks)


def seeds(options: Augmentation, measure: Callable[[Clip], Any], count: int = 48) -> np.ndarray:
    """What `measure` says of a centred bar, changed in `count` ways."""
    return np.array([measure(augmented(centred(), np.random.default_rng(seed), options)) for seed in range(count)])


def test_rotation_turns_both_ways_about_the_middle_up_to_the_angle() -> None:
    def angle(clip: Clip) -> float:
        """Of the bar's long axis, degrees."""
        rows, columns = np.nonzero(clip.masks[0])
        assert abs(rows.mean() - 40) < 0.6 and abs(columns.mean() - 40) < 0.6
        y, x = rows - rows.mean(), columns - columns.mean()
        return float(np.degrees(0.5 * np.arctan2(2 * (x * y).mean(), (x * x).mean() - (y * y).mean())))

    angles = seeds(only(rotation=20.0), angle)
    # A bar of 41 pixels tells its angle to about a pixel in forty, 1.4 degrees.
    assert -21.4 <= angles.min() < -15 and 15 < angles.max() <= 21.4


def test_scale_goes_in_and_out_up_to_the_factor() -> None:
    lengths = seeds(only(scale=1.5), lambda clip: clip.masks[0].any(axis=0).sum())
    # 41 / 1.5 to 41 * 1.5, and a pixel of rounding at both ends.
    assert 26 <= lengths.min() < 31 and 54 < lengths.max() <= 63
    areas = seeds(only(scale=1.5), lambda clip: clip.masks[0].sum() / (41 * 11))
    assert areas.min() < 0.6 and areas.max() > 1.8  # in both axes alike


def test_tones_stay_within_their_ranges_and_masks_where_they_are() -> None:
    def white(clip: Clip) -> tuple[int, int, int]:
        assert np.array_equal(clip.masks, centred().masks)
        return tuple(clip.pixels[0, 40, 40].tolist())

    # Of a pixel of 200 / 255 = 0.784: gain 1.25 gives 160 to 250; gamma 2 gives 0.784^2 to 0.784^0.5, 156.9 to 225.8;
    # an offset of 0.1 gives 174.5 to 225.5; colour 1.1 gives 181.8 to 220, by channel; rounded.
    for options, least, most in (
        (only(gain=1.25), 160, 250),
        (only(gamma=2.0), 157, 226),
        (only(offset=0.1), 174, 226),
        (only(colour=1.1), 182, 220),
    ):
        values = seeds(options, white)
        reach = most - least
        assert least <= values.min() < least + 0.15 * reach and most - 0.15 * reach < values.max() <= most, options
        assert (values[:, 0] != values[:, 1]).any() == (options.colour > 1)


def test_speckle_is_noise_in_proportion_to_the_signal_and_new_in_every_frame() -> None:
    grey = np.full((3, 64, 64, 3), 120, np.uint8)
    grey[:, :32] = 0
    clip = Clip(grey, np.ones((3, 64, 64), bool))
    spread = []
    for seed in range(24):
        frames = augmented(clip, np.random.default_rng(seed), only(speckle=0.2)).pixels.astype(float)
        assert (frames[:, :32] == 0).all()  # of nothing, nothing
        assert (frames[..., 0] == frames[..., 1]).all() and (frames[..., 0] == frames[..., 2]).all()  # grey stays grey
        grain = frames[:, 32:, :, 0] - frames[:, 32:, :, 0].mean(axis=(1, 2), keepdims=True)
        spread.append(grain.std() / 120)
        if spread[-1] > 0.02:
            assert not np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[1], frames[2])
            correlation = (grain[0] * grain[1]).mean() / grain.std() ** 2
            assert abs(correlation) < 5 / np.sqrt(32 * 64)  # five standard errors of independent noise
    # A standard deviation between 0 and 0.2; 2048 pixels a frame tell it to 2 %, and rounding adds 0.3 grey values.
    assert max(spread) <= 0.21 and max(spread) > 0.15 and min(spread) < 0.05


def test_an_epoch_deals_every_clip_once_in_random_order() -> None:
    order = [clip[0] for pixels, _ in dealt(numbered(12, 1), 1, batch=3) for clip in values_of(pixels)]
    assert sorted(order) == [10 * number for number in range(12)]
    assert order != sorted(order)


def test_order_follows_from_seed_and_epoch() -> None:
    orders = [micro_batches(seed, epoch, 12, 3, 1) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for a, b in combinations(orders, 2))
    assert micro_batches(1, 0, 12, 3, 1) == orders[2]


def test_what_makes_no_whole_step_is_dropped() -> None:
    assert [len(batch) for batch in micro_batches(0, 0, 8, 3, 1)] == [3, 3]
    # Steps of two batches of three: of 17 clips, two steps take 12.
    batches = micro_batches(0, 0, 17, 3, 2)
    assert [len(batch) for batch in batches] == [3] * 4
    assert len({number for batch in batches for number in batch}) == 12
    assert micro_batches(0, 0, 5, 3, 2) == []


def test_how_many_batches_make_a_step_does_not_change_which_ones_there_are() -> None:
    assert micro_batches(0, 4, 24, 2, 1) == micro_batches(0, 4, 24, 2, 4) == micro_batches(0, 4, 24, 2, 2)


def test_frames_of_a_batch_are_consecutive_and_start_anywhere() -> None:
    firsts = set()
    for seed in range(20):
        for pixels, truth in dealt(numbered(4, 5), 3, batch=2, seed=seed):
            assert pixels.shape == (2, 3, 3, 4, 6) and truth.shape == (2, 3, 1, 4, 6)
            assert pixels.dtype == truth.dtype == torch.float32
            values = torch.tensor(values_of(pixels)) % 10
            assert (values.diff(dim=1) == 1).all()
            assert torch.equal(truth, (values % 2).float()[:, :, None, None, None].expand_as(truth))
            firsts |= set(values[:, 0].tolist())
    assert firsts == {0, 1, 2}


def test_same_seed_deals_the_same_batches_and_another_epoch_others() -> None:
    clips = phantom_clips("train", 4, 3, (32, 32))

    def deal(seed: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
        return dealt(clips, 2, epoch, batch=2, seed=seed, options=Augmentation())

    first = deal(0, 0)
    assert equal(first, deal(0, 0))
    assert not torch.equal(first[0][0], deal(0, 1)[0][0]) and not torch.equal(first[0][0], deal(1, 0)[0][0])


def test_a_clip_is_augmented_alike_whatever_is_dealt_before_it() -> None:
    clips = phantom_clips("train", 4, 3, (32, 32))
    deal = TrainingBatches(clips, 2, 7)
    [(both, _), (alone, _)] = [*deal.of(5, [[2, 3]]), *deal.of(5, [[3]])]
    assert torch.equal(both[1], alone[0])
    [(later, _)] = deal.of(6, [[3]])
    assert not torch.equal(later[0], alone[0])
    single = TrainingBatches([clips[3]] * 4, 2, 7)
    [(twice, _)] = single.of(5, [[0, 1]])
    assert not torch.equal(twice[0], twice[1])  # the same clip under other numbers is changed in other ways


def test_workers_deal_the_same_batches_as_none_epoch_after_epoch() -> None:
    source = PhantomClips("train", 5, 3, (32, 32))
    here, ahead = (TrainingBatches(source, 2, 3, workers=workers) for workers in (0, 2))
    for epoch in (0, 1):
        numbers = micro_batches(3, epoch, 5, 2, 1)
        assert equal(list(here.of(epoch, numbers)), list(ahead.of(epoch, numbers)))


def test_a_batch_of_another_size_is_averaged_where_it_gets_smaller_and_masks_stay_masks() -> None:
    pixels = torch.rand(2, 3, 3, 64, 96)
    truth = (torch.rand(2, 3, 2, 64, 96) > 0.5).float()
    small, marked = scaled(pixels, truth, 0.5)
    assert small.shape == (2, 3, 3, 32, 64) and marked.shape == (2, 3, 2, 32, 64)  # 48 is no multiple of 32
    half, _ = scaled(pixels[..., :64], truth[..., :64], 0.5)
    means = pixels[..., :64].unflatten(4, (32, 2)).unflatten(3, (32, 2)).mean((4, 6))
    assert torch.allclose(half, means, atol=1e-6)  # sums of four numbers below 1
    assert set(marked.unique().tolist()) == {0.0, 1.0}
    large, wide = scaled(pixels, truth, 1.5)
    assert large.shape[-2:] == wide.shape[-2:] == (96, 128)  # 144 lies between two, the even one is taken
    assert scaled(pixels, truth, 0.1)[0].shape[-2:] == (32, 32)
    odd = pixels[..., :60, :], truth[..., :60, :]  # a size that nobody asked to change
    assert all(a is b for a, b in zip(scaled(*odd, 1.0), odd, strict=True))
    assert all(a is b for a, b in zip(scaled(pixels, truth, 1.0), (pixels, truth), strict=True))


def test_fresh_phantoms_are_new_in_every_epoch_and_the_same_for_the_same_epoch() -> None:
    fresh, still = (PhantomClips("train", 2, 1, (32, 32), fresh=fresh) for fresh in (True, False))
    listed = phantom_clips("train", 6, 1, (32, 32))
    assert len(fresh) == len(still) == 2
    for epoch in (2, 0, 1, 0):
        assert same([fresh.clip(index, epoch) for index in range(2)], listed[2 * epoch : 2 * epoch + 2])
        assert same([still.clip(index, epoch) for index in range(2)], listed[:2])


def test_phantoms_of_several_speeds_show_the_same_lesions_further_apart() -> None:
    plain, fast = (PhantomClips("train", 3, 4, (32, 32), strides=strides) for strides in (1, 3))
    assert same([plain.clip(0, 0)], [fast.clip(0, 0)])  # number 0: every frame
    for number, stride in ((1, 2), (2, 3)):
        slow = phantom_clip(PhantomSpec(PHANTOM_SPLITS["train"] + number, 3 * stride + 1, (32, 32)))
        found = fast.clip(number, 0)
        # The tissue moves as it does in every so manieth frame of the film, to a pixel of its outline.
        assert np.mean(found.masks != slow.masks[::stride]) < 0.02 < np.mean(found.masks)
        assert not same([found], [plain.clip(number, 0)])
    for strides in (0, 26):
        with pytest.raises(DataError, match="strides of 1 to"):
            PhantomClips("train", 3, 4, (32, 32), strides=strides)


def test_phantoms_of_several_speeds_are_judged_at_their_own() -> None:
    options = ClipOptions(frames=2, size=(32, 32), strides=3)
    assert options.clips("train", 4).strides == 3  # type: ignore[attr-defined]
    assert options.judged("validation", 4) == PhantomClips("validation", 4, 2, (32, 32), fresh=False)


def test_phantoms_without_a_lesion_can_be_asked_for() -> None:
    options = ClipOptions(data="phantom:screen=mixed,lesion=0", frames=1, size=(64, 64))
    source = options.clips("train", 12)
    assert isinstance(source, PhantomClips) and source.lesion == 0.0
    assert not any(source.clip(i, epoch=3).masks.any() for i in range(12))


@pytest.mark.parametrize("name", ["lesion=2", "screen=fog", "trouble=fog"])
def test_phantoms_that_cannot_be_drawn_are_refused_before_anything_begins(name: str) -> None:
    with pytest.raises(errors.UsageError, match=name.partition("=")[0]):
        ClipOptions(data=f"phantom:{name}", frames=1, size=(64, 64)).clips("train", 2)


def test_fresh_phantoms_stay_in_their_split_however_many_epochs_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def record(spec: PhantomSpec) -> Clip:
        made.append(spec.seed)
        return Clip(np.zeros((1, 1, 1, 3), np.uint8), np.zeros((1, 1, 1), bool))

    monkeypatch.setattr(vivim.training.batches, "phantom_clip", record)
    PhantomClips("train", MOST_CLIPS, 1, (32, 32)).clip(3, 7)
    PhantomClips("train", 400_000, 1, (32, 32)).clip(399_999, 2)
    assert made == [PHANTOM_SPLITS["train"] + 3, PHANTOM_SPLITS["train"] + 199_999]


@pytest.mark.parametrize(("split", "count"), [("holdout", 1), ("train", 0), ("train", MOST_CLIPS + 1)])
def test_sources_of_phantoms_that_do_not_exist_are_refused(split: str, count: int) -> None:
    with pytest.raises(DataError, match="expected"):
        PhantomClips(split, count, 1, (32, 32))


def test_clips_in_memory_are_the_same_in_every_epoch() -> None:
    clips = numbered(2, 3)
    source = MemoryClips(clips)
    assert len(source) == 2 and source.clip(1, 0) is source.clip(1, 9) is clips[1]


def test_clips_of_a_data_set_are_frames_of_one_video_with_their_masks(tmp_path: Path) -> None:
    write_vtus(tmp_path, {"0001": 4, "0002": 2, "0003": 5})
    source = DatasetClips(open_dataset(str(tmp_path), "train"), 3, (24, 32), stride=1, hop=2)
    # 0001: frames 1 to 3, and 2 to 4, with which it ends; 0002 is too short; 0003: 1 to 3 and 3 to 5, from file 1 on.
    assert len(source) == 4
    for index, first in ((0, 1), (1, 2), (2, 1), (3, 3)):
        clip = source.clip(index, epoch=4)
        numbers = range(first, first + 3)
        assert np.array_equal(clip.pixels, np.stack([frame_of(number) for number in numbers]))
        assert np.array_equal(clip.masks, np.stack([mask_of(number) > 0 for number in numbers]))


def test_clips_of_a_data_set_have_their_stride_and_size(tmp_path: Path) -> None:
    write_vtus(tmp_path, {"0001": 6})
    source = DatasetClips(open_dataset(str(tmp_path), "train"), 3, (48, 64), stride=2, hop=1)
    assert len(source) == 2
    clip = source.clip(1, 0)
    assert clip.pixels.shape == (3, 48, 64, 3) and clip.masks.shape == (3, 48, 64)
    whole = np.stack([mask_of(number) > 0 for number in (2, 4, 6)])
    assert clip.masks[:, 1::2, 1::2].mean() == pytest.approx(whole.mean(), rel=0.05)


def test_data_sets_without_a_long_enough_video_are_refused(tmp_path: Path) -> None:
    write_vtus(tmp_path, {"0001": 4})
    dataset = open_dataset(str(tmp_path), "train")
    with pytest.raises(DataError, match="no video of VTUS has the 5 frames of a clip; take fewer --frames"):
        DatasetClips(dataset, 3, (24, 32), stride=2)
    with pytest.raises(errors.UsageError, match="stride 0"):
        DatasetClips(dataset, 3, (24, 32), stride=0)


def test_frames_that_cannot_be_read_are_told_when_their_clip_is_asked_for(tmp_path: Path) -> None:
    write_vtus(tmp_path, {"0001": 2})
    (tmp_path / "Train_GT" / "0001" / "0002.png").unlink()
    source = DatasetClips(open_dataset(str(tmp_path), "train"), 1, (24, 32))
    assert source.clip(0, 0).masks.any()
    with pytest.raises(errors.DataError, match=r"0002.* has no mask"):
        source.clip(1, 0)


def test_options_open_phantoms_and_data_sets(tmp_path: Path) -> None:
    write_vtus(tmp_path, {"0001": 4, "0002": 4}, {"0001": 3})
    phantoms = ClipOptions(frames=2, size=(32, 48))
    made = phantoms.clips("validation", 3)
    assert isinstance(made, PhantomClips) and not made.fresh and len(made) == 3
    assert phantoms.described(made, "validation") == "phantom validation, 3 clips of 2x32x48"
    assert phantoms.clips("train", 3, fresh=True) == PhantomClips("train", 3, 2, (32, 48), fresh=True)
    videos = ClipOptions(str(tmp_path), frames=2, size=(32, 48), hop=2)
    read = videos.clips("train", 99)
    assert isinstance(read, DatasetClips) and len(read) == 2 and len(videos.clips("test", 99)) == 2
    assert videos.described(read, "train") == "VTUS train, 2 clips of 2x32x48"
    with pytest.raises(DataError, match="clips of 0 frames of 32x48"):
        dataclasses.replace(videos, frames=0).clips("train", 1)
    with pytest.raises(DataError, match="clips of 2 frames of 0x48"):
        dataclasses.replace(phantoms, size=(0, 48)).clips("train", 1)


def test_augmentation_for_endoscopy_turns_frames_and_masks_together() -> None:
    marked = np.zeros((2, 8, 8), bool)
    marked[:, 1, 2] = True
    clip = Clip(np.repeat(marked[..., None] * np.uint8(255), 3, axis=-1), marked)
    still = dataclasses.replace(NO_AUGMENTATION)
    places = {
        "upside_down": {(6, 2)},
        "half_turn": {(6, 5)},
        "quarter_turns": {(5, 1), (6, 5), (2, 6)},  # by 90, 180 and 270 degrees
    }
    for name, expected in places.items():
        seen = set()
        for seed in range(24):
            turned = augmented(clip, np.random.default_rng(seed), dataclasses.replace(still, **{name: 1.0}))
            assert np.array_equal(turned.pixels[..., 0] > 0, turned.masks)
            seen.add(tuple(int(i) for i in np.argwhere(turned.masks[0])[0]))
        assert seen == expected, name
    wide = Clip(clip.pixels[:, :6], clip.masks[:, :6])
    turned = augmented(wide, np.random.default_rng(0), dataclasses.replace(still, quarter_turns=1.0))
    assert turned.masks.shape == (2, 6, 8) and np.argwhere(turned.masks[0]).tolist() == [[4, 5]]


def test_tones_of_frames_and_noise_of_masks_are_those_of_the_authors_code() -> None:
    (clip,) = phantom_clips("train", 1, 3, (64, 64))
    same = Clip(np.repeat(clip.pixels[:1], 3, 0), np.repeat(clip.masks[:1], 3, 0))
    toned = augmented(same, np.random.default_rng(0), dataclasses.replace(NO_AUGMENTATION, frame_tones=1.0))
    assert np.array_equal(toned.masks, same.masks)
    means = toned.pixels.mean((1, 2, 3))
    assert len(set(means.round(3))) == 3 and (means < 1.6 * same.pixels.mean()).all()  # brightness of 0.5 to 1.5
    noisy = augmented(same, np.random.default_rng(0), dataclasses.replace(NO_AUGMENTATION, mask_noise=0.02))
    # Half of the pixels that are drawn change: 0.01 of 12,288, 123 with a deviation of 11; four of these.
    assert abs(int((noisy.masks != same.masks).sum()) - 123) < 45
    assert np.array_equal(noisy.pixels, same.pixels)


def test_still_pictures_are_clips_that_stand_still_behind_those_of_videos(tmp_path: Path) -> None:
    write_vtus(tmp_path / "data", {"0001": 4})
    write_video_folders(tmp_path / "stills" / "images", tmp_path / "stills" / "masks", 3)
    videos = DatasetClips(open_dataset(str(tmp_path / "data"), "train"), 3, (32, 48))
    pictures = open_dataset(str(tmp_path / "stills"))
    mixed = MixedClips(videos, StillClips(pictures, 3, (32, 48)))
    assert len(mixed) == 2 + 3
    assert np.array_equal(mixed.clip(1, 0).pixels, videos.clip(1, 0).pixels)
    for index in range(3):
        clip = mixed.clip(2 + index, 0)
        image, mask = pictures.videos[0].read(index)
        assert clip.pixels.shape == (3, 32, 48, 3) and clip.masks.shape == (3, 32, 48)
        for picture, truth in zip(clip.pixels, clip.masks, strict=True):
            np.testing.assert_array_equal(picture, resized(image, (32, 48)))
            np.testing.assert_array_equal(truth, mask_at(mask, (32, 48)))
    assert (clip_name(mixed, 1), clip_name(mixed, 3)) == ("0001 from frame 1", pictures.videos[0].label(1))
