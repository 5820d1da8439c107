"""The live run as a whole, on sources and models that misbehave on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.live.rig import Frames, NullSession, Run, playable, steady
from vivim_runtime import RunOptions, open_source
from vivim_runtime.errors import SinkError, SourceError, UsageError
from vivim_runtime.live.run import LiveOptions
from vivim_runtime.live.status import State
from vivim_runtime.sinks import Segmented
from vivim_runtime.sinks.video import VideoWriter
from vivim_runtime.sources import Frame, Paced


class Kept:
    """A sink that keeps what it gets; `error` makes it fail, `gate` makes it wait."""

    path = "kept"

    def __init__(self, error: Exception | None = None, gate: threading.Event | None = None) -> None:
        self.items: list[Segmented] = []
        self.closed: list[object] = []
        self._error, self._gate = error, gate

    def write(self, item: Segmented) -> None:
        if self._gate:
            self._gate.wait(10)
        if self._error and len(self.items) == 5:
            raise self._error
        self.items.append(item)

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.closed.append(kind)


def moving() -> Iterator[np.ndarray]:
    """Frame n has a white square whose left side is at 2 n; 50 frames a second."""
    began = time.monotonic()
    for index in range(10_000):
        time.sleep(max(0.0, began + index / 50 - time.monotonic()))
        image = np.zeros((64, 96, 3), np.uint8)
        left = 2 * index % 64
        image[16:48, left : left + 32] = 255
        yield image


def test_a_source_that_is_there_goes_live_and_every_frame_is_accounted_for() -> None:
    with Run(Frames([steady(60)])) as run:
        run.probe.wait_state(State.live, 5)
        time.sleep(1.0)
        run.end()
    counts = run.counts
    assert counts["captured"] >= 40 and counts["shown"] >= 0.8 * counts["captured"]
    assert run.probe.lost == 0
    assert run.probe.indices == sorted(set(run.probe.indices))
    assert run.probe.states[0] is State.warming_up and run.probe.states[-1] is State.ended
    status = run.probe.last.status
    assert status.source == "frames" and status.model == "null" and status.backend == "null"


def test_masks_are_drawn_on_the_newest_frame_and_say_how_old_they_are() -> None:
    with Run(Frames([steady(60)]), keep=200) as run:
        run.probe.wait(lambda shown: shown.masks is not None)
        time.sleep(0.3)
        run.end()
    shown = [one for one in run.probe.kept if one.masks is not None]
    assert all(one.masks.all() and one.masks.shape == (1, 64, 96) for one in shown)
    # Bright grey (200), filled with 45 % of (0, 230, 118), away from the outline.
    assert shown[0].picture[32, 48].tolist() == [110, 213, 163]
    assert all(0 <= one.status.mask_age_ms < 1000 for one in shown if one.status.state is State.live)


def test_with_a_slow_model_the_newest_frame_is_shown_and_the_mask_age_is_bounded() -> None:
    session = NullSession(seconds=0.2)
    with Run(Frames([steady(60)]), session, LiveOptions(sync="off"), keep=400) as run:
        run.probe.wait_state(State.live, 10)
        time.sleep(2.0)
        hop = run.probe.last.status.hop
        run.end()
    counts = run.counts
    assert counts["shown"] >= 0.8 * counts["captured"]  # the model does not hold up the picture
    assert 8 <= hop <= 14  # 50 frames a second, 0.2 s a clip: 10, and what else a clip needs
    ages = [one.status.mask_age_ms for one in run.probe.kept if one.status.mask_age_ms is not None]
    # A mask is a call old when it comes, and gets one more call old until the next; 100 ms for a busy machine.
    assert min(ages) >= 195 and np.percentile(ages, 95) <= 500
    assert run.report.inference["not_inferred"] > 0


def test_a_model_that_keeps_up_has_a_hop_of_one() -> None:
    with Run(Frames([steady(60, fps=20)])) as run:
        run.probe.wait_state(State.live, 5)
        time.sleep(1.0)
        assert run.probe.last.status.hop == 1


def test_a_fixed_hop_is_kept() -> None:
    with Run(Frames([steady(60)]), options=LiveOptions(RunOptions(hop=4))) as run:
        run.probe.wait_state(State.live, 5)
        time.sleep(1.0)
        assert 4 <= run.probe.last.status.hop <= 5


def numbered(first: int, seconds: float, fps: float = 50.0) -> Callable[[], Iterator[np.ndarray]]:
    """A connection whose frames are grey: first, first + 1, ... first + 99, and again."""

    def frames() -> Iterator[np.ndarray]:
        for index, image in enumerate(steady(seconds, fps)()):
            yield np.full_like(image, first + index % 100)

    return frames


def test_a_clip_never_reaches_over_a_break_nor_holds_black_or_one_frame_again_and_again() -> None:
    session = NullSession()
    session.clips = []
    with Run(Frames([numbered(10, 0.4), numbered(110, 60)]), session) as run:
        run.probe.wait(lambda shown: shown.frame is not None and shown.frame.image.max() >= 150)
        run.end()
    clips = [[int(frame[0, 0, 0]) for frame in clip[0]] for clip in session.clips]
    assert any(max(clip) < 110 for clip in clips) and any(max(clip) > 140 for clip in clips)
    for clip in clips:
        assert min(clip) >= 10 and (max(clip) < 110 or min(clip) >= 110)
        assert len(set(clip)) >= 4  # a machine that is busy delays a frame, and its neighbour serves for two


def test_a_new_connection_is_another_scene_however_soon_it_comes() -> None:
    """At 5 frames a second the 0.25 s until the next connection are no gap."""
    session = NullSession()
    session.clips = []
    with Run(Frames([numbered(10, 1.6, 5.0), numbered(110, 60, 5.0)], fps=5.0), session) as run:
        run.probe.wait(lambda shown: shown.frame is not None and shown.frame.image.max() >= 115)
        run.end()
    sides = [{int(value) >= 110 for value in clip[0, :, 0, 0, 0]} for clip in session.clips]
    assert {True} in sides and {False} in sides and {True, False} not in sides


def test_a_lost_signal_is_said_and_comes_back_by_itself() -> None:
    from functools import partial

    def dead() -> Iterator[np.ndarray]:
        raise SourceError("frames: cable pulled")
        yield

    source = Frames([steady(0.5), *[dead] * 3, partial(steady(60))])
    with Run(source) as run:
        run.probe.wait_state(State.live, 5)
        run.probe.wait_state(State.no_signal, 5)
        assert "cable pulled" in run.probe.last.status.message or "ended" in run.probe.last.status.message
        assert run.probe.wait_state(State.live, 10) < 5.0
        run.end()
    waits = np.diff(source.opened)
    assert waits[1] >= 0.25 and waits[2] >= 0.5 and waits[3] >= 1.0  # growing, not hammering
    assert run.report.reconnects == 1 and run.probe.lost == 0
    assert run.counts["captured"] > 25
    assert run.probe.indices == sorted(run.probe.indices)


def test_masks_from_before_a_gap_are_not_drawn_behind_it() -> None:
    source = Frames([steady(0.6, value=250), steady(60, value=10)])
    with Run(source, keep=5000) as run:
        run.probe.wait(
            lambda shown: shown.frame is not None and shown.frame.image.max() == 10 and shown.masks is not None
        )
        run.end()
    dark = [one for one in run.probe.kept if one.frame is not None and one.frame.image.max() == 10]
    # The old masks, which mark everything, are still young; but they are of another scene.
    assert len(dark) > 1 and not any(one.masks.any() for one in dark if one.masks is not None)


def test_no_frame_at_all_is_an_error_that_says_why() -> None:
    run = Run(Frames([]), options=LiveOptions(timeout_s=0.8))
    began = time.monotonic()
    with run:
        run.join(10)
        assert isinstance(run.error, SourceError) and "gave no frame for 0.8 s (frames: unplugged)" in str(run.error)
        run.error = None
    assert time.monotonic() - began < 5


def test_the_time_out_counts_from_the_last_frame() -> None:
    run = Run(Frames([steady(1.5)]), options=LiveOptions(timeout_s=1.0))
    with run:
        run.join(10)
        assert isinstance(run.error, SourceError)
        run.error = None


def test_a_reader_that_hangs_is_replaced_and_its_frames_ignored() -> None:
    gate = threading.Event()

    def hanging() -> Iterator[np.ndarray]:
        yield np.full((64, 96, 3), 200, np.uint8)
        gate.wait(30)
        yield np.full((64, 96, 3), 77, np.uint8)  # after all; it must not be seen

    with Run(Frames([hanging, steady(60)]), keep=5000) as run:
        run.probe.wait_state(State.no_signal, 10)
        # patience 1 s and 3 s of grace, then the next connection is read
        run.probe.wait_state(State.live, 10)
        gate.set()
        time.sleep(0.3)
        run.end()
    assert run.counts["captured"] > 5
    assert {one.frame.image.max() for one in run.probe.kept if one.frame is not None} == {200}


def test_a_model_that_hangs_is_told_and_recovers() -> None:
    session = NullSession()
    with Run(Frames([steady(60)]), session, LiveOptions(stuck_s=0.5)) as run:
        run.probe.wait_state(State.live, 5)
        session.hang.set()
        run.probe.wait_state(State.stuck, 5)
        assert "has not answered" in run.probe.last.status.message
        shown = len(run.probe.indices)
        time.sleep(0.8)
        assert len(run.probe.indices) > shown + 10  # the picture goes on
        assert run.probe.last.masks is None  # without the old mask
        session.hang.clear()
        assert run.probe.wait_state(State.live, 5) < 5.0
        assert run.end() < 2.0


def test_a_run_ends_in_time_though_the_model_hangs() -> None:
    session = NullSession()
    try:
        with Run(Frames([steady(60)]), session) as run:
            run.probe.wait_state(State.live, 5)
            session.hang.set()
            time.sleep(0.2)
            assert run.end() < 2.0
        assert run.report.abandoned == ("inference",)
    finally:
        session.hang.clear()


def test_a_model_that_fails_now_and_then_is_told_and_one_that_fails_for_good_ends_the_run() -> None:
    session = NullSession()
    with Run(Frames([steady(60)]), session) as run:
        run.probe.wait_state(State.live, 5)
        session.failing = True
        run.probe.wait_state(State.stuck, 5)
        assert "out of memory" in run.probe.last.status.message
        session.failing = False
        run.probe.wait_state(State.live, 5)
        session.failing = True
        run.join(10)
        assert "out of memory" in str(run.error)
        run.error = None


def test_pause_freezes_the_picture_and_counts_what_passes() -> None:
    with Run(Frames([moving])) as run:
        run.probe.wait_state(State.live, 5)
        run.controls.paused.set()
        run.probe.wait_state(State.paused, 5)
        frozen = run.probe.last
        time.sleep(0.7)
        later = run.probe.last
        assert later.frame is frozen.frame and later.status.state is State.paused
        assert np.array_equal(later.masks, frozen.masks)  # of that picture, and not newer ones
        run.controls.toggle("overlay")
        run.controls.toggle("contour")
        run.probe.wait(lambda shown: np.array_equal(shown.picture, shown.frame.image), 2)
        run.controls.paused.clear()
        run.probe.wait_state(State.live, 5)
        run.end()
    assert run.counts["paused"] >= 20 and run.probe.lost == 0


def test_the_threshold_can_be_moved_while_it_runs() -> None:
    with Run(Frames([steady(60, value=140)])) as run:  # logit 0.75, probability 0.68
        run.probe.wait(lambda shown: shown.masks is not None and shown.masks.all())
        for _ in range(5):
            run.controls.change_threshold(0.05)
        run.probe.wait(lambda shown: shown.masks is not None and not shown.masks.any(), 5)


def test_damaged_frames_are_neither_shown_nor_inferred() -> None:
    class Damaged(Frames):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield replace(frame, damaged=frame.index % 3 == 0)

    session = NullSession()
    with Run(Damaged([steady(60)]), session) as run:
        run.probe.wait_state(State.live, 5)
        time.sleep(0.5)
        run.end()
    assert run.counts["damaged"] >= 10 and all(index % 3 for index in run.probe.indices)


def test_a_source_that_gives_damaged_frames_alone_has_no_signal() -> None:
    whole = threading.Event()
    whole.set()

    class Damaged(Frames):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield replace(frame, damaged=not whole.is_set())

    with Run(Damaged([steady(60)])) as run:
        run.probe.wait_state(State.live, 5)
        whole.clear()
        assert run.probe.wait_state(State.no_signal, 5) < 2.0
        assert "no frame that is whole for 1 s" in run.probe.last.status.message
        whole.set()
        assert run.probe.wait_state(State.live, 5) < 2.0


def test_recordings_hold_pictures_as_shown_and_masks_with_their_own_frames(tmp_path: Path) -> None:
    masks = Kept()

    def sinks() -> list[object]:
        return [VideoWriter(tmp_path / "o.mp4", (64, 96), 50.0), masks]

    with Run(Frames([moving]), NullSession(0.05), sinks=sinks) as run:
        run.controls.recording.set()
        run.probe.wait_state(State.live, 5)
        assert run.probe.last.status.recording
        time.sleep(1.0)
        run.end()
    assert masks.items and masks.closed == [None]
    for item in masks.items:
        # The frame is squeezed to 64 x 64 and the logits spread again: edges may move by one pixel.
        assert (item.masks[0] != (item.frame.image[..., 0] > 128)).mean() < 0.03
    indices = [item.frame.index for item in masks.items]
    assert indices == sorted(set(indices))
    written = run.report.recordings[str(tmp_path / "o.mp4")]["written"]
    assert playable(tmp_path / "o.mp4") == written >= 20
    assert run.report.failures == ()


def test_a_recorder_that_is_slow_drops_and_does_not_slow_the_picture() -> None:
    gate = threading.Event()
    slow = Kept(gate=gate)
    with Run(Frames([steady(60)]), sinks=lambda: [slow]) as run:
        run.controls.recording.set()
        run.probe.wait_state(State.live, 5)
        time.sleep(1.5)
        gate.set()
        run.end()
    assert run.report.recordings["kept"]["dropped"] > 10
    assert run.counts["shown"] >= 0.8 * run.counts["captured"]


def test_a_full_disk_ends_the_recording_alone_and_is_told() -> None:
    full = Kept(error=OSError(28, "No space left on device"))
    with Run(Frames([steady(60)]), sinks=lambda: [full]) as run:
        run.controls.recording.set()
        run.probe.wait(lambda shown: "No space left" in shown.status.message, 10)
        assert not run.probe.last.status.recording
        shown = len(run.probe.indices)
        time.sleep(0.5)
        assert len(run.probe.indices) > shown + 10
        run.end()
    assert full.closed == [OSError] and "No space left" in run.report.failures[0]
    assert len(full.items) == 5


def test_a_recording_that_cannot_be_opened_ends_the_run() -> None:
    def sinks() -> list[object]:
        raise SinkError("cannot write o.mp4")

    run = Run(Frames([steady(60)]), sinks=sinks)
    with run:
        run.join(10)
        assert isinstance(run.error, SinkError)
        run.error = None


def test_a_recording_can_be_asked_for_on_the_way(tmp_path: Path) -> None:
    def film() -> VideoWriter:
        return VideoWriter(tmp_path / "film.mp4", (64, 96), 50.0)

    with Run(Frames([steady(60)]), film=film) as run:
        run.probe.wait_state(State.live, 5)
        assert not run.probe.last.status.recording
        run.controls.recording.set()
        run.probe.wait(lambda shown: shown.status.recording, 5)
        time.sleep(0.6)
        run.end()
    assert playable(tmp_path / "film.mp4") >= 15


def test_pictures_of_another_size_are_fitted_into_the_recording(tmp_path: Path) -> None:
    def sinks() -> list[object]:
        return [VideoWriter(tmp_path / "o.mp4", (64, 96), 50.0)]

    with Run(Frames([steady(0.5), steady(60, size=(96, 64))]), sinks=sinks) as run:
        run.controls.recording.set()
        run.probe.wait(lambda shown: shown.frame is not None and shown.frame.image.shape == (96, 64, 3))
        run.probe.wait_state(State.live, 5)
        time.sleep(0.4)
        run.end()
    assert run.report.failures == () and playable(tmp_path / "o.mp4") > 20
    with open_source(str(tmp_path / "o.mp4")) as video:
        last = list(video)[-1].image
    assert last.shape == (64, 96, 3)
    # 96 x 64 pixels within 64 x 96: 43 columns in the middle; 16 is the rounding of H.264 at black.
    assert last[:, :20].max() <= 16 and last[32, 48].max() > 100


def test_the_ledger_has_a_line_for_every_frame_and_counts_that_sum(tmp_path: Path) -> None:
    with Run(Frames([steady(1.0)]), ledger=(tmp_path / "l.jsonl", {"source": "frames"})) as run:
        run.probe.wait_state(State.live, 5)
        run.probe.wait_state(State.no_signal, 5)
        run.end()
    lines = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    frames = [line for line in lines if line["type"] == "frame"]
    summary = lines[-1]
    assert [line["type"] for line in (lines[0], summary)] == ["run", "summary"]
    assert summary["captured"] == len(frames) == 50 and summary["lines_lost"] == 0
    assert sorted(line["index"] for line in frames) == list(range(50))
    for fate in ("shown", "replaced", "paused", "damaged", "unseen"):
        assert summary[fate] == sum(line["fate"] == fate for line in frames)
    masked = [line for line in frames if line.get("mask_of") is not None]
    assert masked and all(line["mask_of"] <= line["index"] and line["mask_age_ms"] >= 0 for line in masked)


def test_a_recorded_source_plays_at_its_own_speed_and_ends() -> None:
    with Run(Paced(open_source("phantom:?frames=20&size=48x64&fps=20"))) as run:
        began = time.monotonic()
        run.join(20)
        took = time.monotonic() - began
    assert 0.9 <= took < 4.0
    assert run.counts["captured"] == 20 and run.probe.states[-1] is State.ended


def test_a_recorded_source_waits_until_the_model_is_warm() -> None:
    class Cold(NullSession):
        def warm_up(self) -> None:
            time.sleep(1.0)

    with Run(Paced(open_source("phantom:?frames=20&size=48x64&fps=20")), Cold()) as run:
        assert run.probe.wait_state(State.warming_up, 5) < 1.0
        run.join(20)
    assert run.report.inference["inferred"] >= 18 and run.counts["captured"] == 20


def test_a_camera_does_not_wait_for_the_model() -> None:
    class Cold(NullSession):
        def warm_up(self) -> None:
            time.sleep(1.5)

    with Run(Frames([steady(60)]), Cold()) as run:
        assert run.probe.wait(lambda shown: shown.frame is not None, 5) < 1.0
        assert run.probe.last.status.state is State.warming_up


def test_a_loop_goes_forwards_and_backwards_without_a_jump() -> None:
    recorded = open_source("phantom:?frames=4&size=48x64&fps=100")
    originals = [frame.image.tobytes() for frame in recorded]
    frames = []
    for frame in Paced(recorded, loop=True):
        frames.append(frame)
        if len(frames) == 14:
            break
    assert [originals.index(frame.image.tobytes()) for frame in frames] == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]
    assert [frame.index for frame in frames] == list(range(14))
    assert np.diff([frame.taken for frame in frames]).min() >= 0.0099


def test_a_run_stops_after_max_frames() -> None:
    with Run(Frames([steady(60)]), options=LiveOptions(RunOptions(max_frames=12))) as run:
        run.join(10)
    assert run.counts["captured"] == 12


def test_a_damaged_recording_is_an_error_and_not_tried_again() -> None:
    class Broken(Frames):
        reconnects = False

        def __iter__(self) -> Iterator[Frame]:
            yield from (frame for frame, _ in zip(super().__iter__(), range(5), strict=False))
            raise SourceError("frame 5 cannot be decoded")

    run = Run(Broken([steady(60)]))
    with run:
        run.join(10)
        assert isinstance(run.error, SourceError) and "frame 5" in str(run.error)
        run.error = None


@pytest.mark.parametrize("values", [{"timeout_s": 0.0}, {"max_mask_age_s": -1.0}, {"clip_fps": float("nan")}])
def test_live_options_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected more than 0"):
        LiveOptions(**values)
