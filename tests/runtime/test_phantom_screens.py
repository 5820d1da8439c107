"""Screens of scanners around phantoms: the truth about lesion and region lies where the picture has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vivim_runtime.datasets.phantom import phantom_clip, phantom_videos
from vivim_runtime.errors import UsageError
from vivim_runtime.phantom import PhantomScreen, PhantomSpec, phantom_frames, phantom_screen
from vivim_runtime.phantom.layouts import LAYOUTS, SCREENS, layouts_of
from vivim_runtime.phantom.probe import Probe
from vivim_runtime.sources.phantom import PhantomSource


def screen(name: str, seed: int = 0, size: tuple[int, int] = (120, 160), frames: int = 2) -> PhantomScreen:
    made = phantom_screen(PhantomSpec(seed, frames, size, screen=name, lesion=True))
    assert made is not None
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_speckle_is_within_the_region_and_letters_stand_still_around_it(layout: str) -> None:
    moved_inside = moved_outside = 0.0
    for seed in range(6):
        made = screen(layout, seed)
        frames = np.stack([image for image, _ in made.frames()]).astype(int)
        moved = np.abs(frames[1] - frames[0]).max(axis=-1)
        moved_inside += moved[made.shown].mean() / 6
        # Noise of a digitised output and the trace move outside; letters, bars and menus must not.
        moved_outside += (moved[~made.shown] > 24).mean() / 6
        x, y, width, height = made.region
        assert made.shown[y : y + height, x : x + width].sum() == made.shown.sum() > 0.08 * made.shown.size
    # Measured 5 to 14 levels inside, at most 0.006 of the pixels outside (the electrocardiogram).
    assert moved_inside > 3 and moved_outside < 0.02


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lesion_lies_within_what_the_probe_shows(layout: str) -> None:
    for seed in range(4):
        made = screen(layout, seed)
        for _, mask in made.frames():
            assert mask.any() and not mask[~made.shown].any()


@pytest.mark.parametrize("name", ["ward-convex", "small-parts", "console-linear", "pocket-sector", "endocavity"])
def test_lesion_is_darker_than_the_tissue_around_it_where_the_truth_says(name: str) -> None:
    darker = 0
    for seed in range(10):
        made = screen(name, seed, frames=1)
        (image, mask) = next(iter(made.frames()))
        grey = image.mean(axis=-1)
        rows, columns = np.nonzero(mask)
        box = np.zeros_like(mask)
        box[max(rows.min() - 5, 0) : rows.max() + 6, max(columns.min() - 5, 0) : columns.max() + 6] = True
        darker += bool(grey[mask].mean() < grey[box & ~mask & made.shown].mean())
    # A shadow or a dark vessel beside the lesion may upset one or two of ten.
    assert darker >= 8


def test_beams_and_places_are_inverse_to_one_another() -> None:
    for probe in (
        Probe("linear", width=1.2),
        Probe("trapezoid", width=0.8, half_angle=0.3),
        Probe("convex", radius=0.5, half_angle=0.5, shown=0.9),
        Probe("sector", radius=0.02, half_angle=0.7),
    ):
        deep = np.linspace(0.05, 0.95, 7, dtype=np.float32)[:, None]
        lateral = np.linspace(-0.9, 0.9, 5, dtype=np.float32)[None]
        found = probe.beam_of(*probe.place(deep, lateral))
        # float32 rounds lengths of about 1 at 6e-8, and some operations follow; a sector's angle near its apex more.
        assert np.allclose(found[0], deep, atol=1e-5) and np.allclose(found[1], lateral, atol=1e-4)


def test_outermost_beams_end_at_the_rectangle() -> None:
    for probe in (Probe("convex", radius=0.5, half_angle=0.5), Probe("trapezoid", width=0.7, half_angle=0.25)):
        y, x = probe.place(np.array([[1.0]], np.float32), np.array([[-1.0, 0.0, 1.0]], np.float32))
        height, width = probe.extent
        assert np.allclose(x[0, [0, 2]], [0, width], atol=1e-5) and np.isclose(y[0, 1], height, atol=1e-5)


def test_a_seed_always_gives_the_same_screen_and_another_one_another() -> None:
    spec = PhantomSpec(3, 2, (96, 128), screen="any")
    first, again, other = phantom_clip(spec), phantom_clip(spec), phantom_clip(replace(spec, seed=4))
    assert np.array_equal(first.pixels, again.pixels) and np.array_equal(first.masks, again.masks)
    assert not np.array_equal(first.pixels, other.pixels)


def test_held_out_layouts_come_only_by_their_own_names() -> None:
    held_out = set(layouts_of("held-out"))
    assert held_out == {name for name, layout in LAYOUTS.items() if layout.held_out} and len(held_out) == 4
    for name in SCREENS:
        if name not in ("none", "held-out", *LAYOUTS):
            assert layouts_of(name) and not held_out & set(layouts_of(name))


def test_mixed_has_plain_ones_whole_screens_and_regions() -> None:
    plain = whole = region = 0
    for seed in range(60):
        spec = PhantomSpec(seed, 1, (64, 64), screen="mixed")
        made = phantom_screen(spec)
        if made is None:
            plain += 1
            if plain < 3:
                assert np.array_equal(phantom_clip(spec).pixels, phantom_clip(replace(spec, screen="none")).pixels)
        elif made.region == (0, 0, 64, 64):
            region += 1
        else:
            whole += 1
    # A third of 60 each; four standard deviations of a binomial are 14.6.
    assert min(plain, whole, region) >= 6


def test_region_fills_the_frame_where_it_alone_is_asked_for() -> None:
    made = phantom_screen(PhantomSpec(2, 1, (64, 64), screen="convex", view="region"))
    assert made is not None and made.region == (0, 0, 64, 64) and not made.shown.all()


@pytest.mark.parametrize("size", [(32, 32), (47, 61), (200, 48), (400, 640)])
def test_screens_are_made_at_any_size(size: tuple[int, int]) -> None:
    for seed in range(3):
        for view in ("whole", "region"):
            image, mask = next(phantom_frames(PhantomSpec(seed, 1, size, screen="any", view=view)))
            assert image.shape == (*size, 3) and image.dtype == np.uint8 and mask.shape == size and mask.dtype == bool


def test_millimetres_follow_the_frames_size() -> None:
    small, large = screen("ward-convex", 5, (360, 480)), screen("ward-convex", 5, (720, 960))
    # The same screen twice as large; its rectangle is rounded to whole pixels, of some 250.
    assert small.mm_per_pixel[0] == pytest.approx(2 * large.mm_per_pixel[0], rel=0.01)
    assert small.mm_per_pixel[0] == pytest.approx(small.mm_per_pixel[1], rel=1e-9)  # not squeezed
    squeezed = screen("ward-convex", 5, (128, 128)).mm_per_pixel
    assert squeezed[1] > 1.2 * squeezed[0]


def test_a_frozen_picture_stands_still_and_says_so() -> None:
    frozen = next(s for s in range(60) if np.isfinite(screen("any", s)._drawn.frozen_from))
    made = phantom_screen(replace(screen("any", frozen, frames=6).spec, fps=1.0))
    assert made is not None
    clip = list(made.frames())
    still = made.shown & (np.abs(clip[5][0].astype(int) - clip[4][0]).max(axis=-1) == 0)
    assert np.array_equal(clip[5][1], clip[4][1])
    moved = made.shown & (np.abs(clip[1][0].astype(int) - clip[0][0]).max(axis=-1) == 0)
    assert moved.sum() < still.sum()


def test_sources_and_data_sets_take_screens_by_name() -> None:
    with PhantomSource("phantom:?seed=3&frames=1&size=64&screen=convex&view=region") as source:
        assert source.spec == PhantomSpec(3, 1, (64, 64), screen="convex", view="region")
        assert next(iter(source)).image.shape == (64, 64, 3)
    videos = phantom_videos("phantom:clips=2,frames=1,size=64,screen=held-out", "test")
    assert [video.spec.screen for video in videos] == ["held-out", "held-out"] and videos[0].frame(0).any()


@pytest.mark.parametrize("name", ["phantom:screen=round", "phantom:screen=any,view=half"])
def test_a_screen_that_does_not_exist_is_refused_with_those_that_do(name: str) -> None:
    with pytest.raises(UsageError, match="expected one of"):
        PhantomSource(name)
