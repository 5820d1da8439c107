"""The parts of the live run, each by itself."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tests.runtime.judging.sets import KnownSession
from vivim_runtime.errors import SinkError
from vivim_runtime.live.buffer import ClipBuffer
from vivim_runtime.live.inference import Inference
from vivim_runtime.live.ledger import FATES, LiveLedger
from vivim_runtime.live.meters import Durations, Recent
from vivim_runtime.live.recording import fitted
from vivim_runtime.live.threads import Branch, Crew, Mailbox
from vivim_runtime.sources import Frame


def frame(index: int, time: float, size: tuple[int, int] = (4, 6)) -> Frame:
    return Frame(index, time, np.zeros((*size, 3), np.uint8), taken=time)


def test_a_mailbox_keeps_the_newest_and_gives_back_what_it_replaces() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert [mailbox.put(n) for n in (1, 2, 3)] == [None, 1, 2]
    assert not mailbox.empty
    assert (mailbox.take(), mailbox.take()) == (3, None)


def test_a_mailbox_wakes_who_waits() -> None:
    mailbox: Mailbox[int] = Mailbox()
    threading.Timer(0.05, lambda: mailbox.put(7)).start()
    began = time.monotonic()
    assert mailbox.take(5.0) == 7 and time.monotonic() - began < 1.0


def test_a_branch_writes_in_order_and_closes_well() -> None:
    written, closed = [], []
    branch: Branch[int] = Branch("b", 100, lambda n: written.append(n) or 1, closed.append)
    assert all(branch.offer(n) for n in range(50))
    branch.finish(time.monotonic() + 5)
    assert branch.join(time.monotonic() + 5)
    assert written == list(range(50)) and closed == [None]
    assert (branch.written, branch.dropped) == (50, 0)


def test_a_branch_that_is_too_slow_drops_and_never_blocks() -> None:
    gate = threading.Event()
    branch: Branch[int] = Branch("b", 4, lambda _: 1 if gate.wait(10) else 0, lambda _: None)
    began = time.monotonic()
    taken = sum(branch.offer(n) for n in range(1000))
    assert time.monotonic() - began < 0.5
    assert taken in (4, 5) and branch.dropped == 1000 - taken  # four wait, and one may be in hand
    gate.set()
    branch.finish(time.monotonic() + 5)
    assert branch.join(time.monotonic() + 5) and branch.written == taken


@pytest.mark.parametrize("error", [SinkError("no space left"), OSError(28, "No space left on device"), ValueError("x")])
def test_a_branch_that_fails_ends_alone_and_closes_with_its_error(error: Exception) -> None:
    closed = []

    def write(n: int) -> int:
        if n == 3:
            raise error
        return 1

    branch: Branch[int] = Branch("b", 100, write, closed.append)
    for n in range(10):
        branch.offer(n)
    assert branch.join(time.monotonic() + 5)
    assert branch.written == 3 and branch.dropped == 7 and str(error) in str(branch.error)
    assert closed == [branch.error]
    assert not branch.offer(11) and branch.dropped == 8


def test_a_branch_that_is_told_to_finish_drops_what_it_has_no_time_for() -> None:
    branch: Branch[int] = Branch("b", 100, lambda _: time.sleep(0.1) or 1, lambda _: None)
    for n in range(100):
        branch.offer(n)
    branch.finish(time.monotonic() + 0.3)
    assert branch.join(time.monotonic() + 2)
    assert branch.written + branch.dropped == 100 and 1 <= branch.written <= 6


def test_a_crew_tells_the_first_failure_and_who_hangs() -> None:
    failed, gate = threading.Event(), threading.Event()
    crew = Crew(failed.set)
    crew.start("fails", lambda: 1 // 0)
    crew.start("hangs", lambda: gate.wait(10) and None)
    assert failed.wait(5) and isinstance(crew.error, ZeroDivisionError)
    assert crew.join(time.monotonic() + 0.1) == ["hangs"]
    gate.set()


def clip_of(times: list[float], length: int = 5, interval: float | None = None, fps: float = 25.0) -> list[int] | None:
    buffer = ClipBuffer(length, interval, fps)
    for index, moment in enumerate(times):
        buffer.add(frame(index, moment))
    clip = buffer.newest(-1, 1, 0.0)
    return None if clip is None else [f.index for f in clip]


def test_a_clip_is_the_last_frames_of_a_steady_source() -> None:
    assert clip_of([n / 25 for n in range(9)]) == [4, 5, 6, 7, 8]


def test_no_clip_before_there_are_frames_enough() -> None:
    assert clip_of([n / 25 for n in range(4)]) is None
    assert clip_of([n / 25 for n in range(5)]) == [0, 1, 2, 3, 4]


def test_time_stamps_that_jitter_neither_repeat_nor_skip_a_frame() -> None:
    # A wanted moment is off by the newest frame's jitter, and its frame by its own: less than half an interval.
    jitter = np.random.default_rng(0).uniform(-0.24, 0.24, 40) / 25
    times = [n / 25 + float(jitter[n]) for n in range(40)]
    for end in range(10, 40):
        assert clip_of(times[: end + 1]) == list(range(end - 4, end + 1))


def test_a_clip_is_resampled_to_the_models_rate() -> None:
    assert clip_of([n / 50 for n in range(20)], interval=1 / 25, fps=50) == [
        11,
        13,
        15,
        17,
        19,
    ]  # a camera twice as fast


def test_a_slower_source_serves_a_moment_by_its_nearest_frame() -> None:
    clip = clip_of([n / 10 for n in range(9)], interval=0.05, fps=10)
    assert clip is not None and clip[-1] == 8 and clip[::2] == [6, 7, 8]


def test_the_sources_true_interval_counts_and_not_what_it_says() -> None:
    assert clip_of([n / 50 for n in range(12)], fps=25) == [7, 8, 9, 10, 11]


def test_a_source_far_slower_than_it_says_gets_clips_all_the_same() -> None:
    """A camera in the dark: every interval would be a gap at the rate that it tells."""
    assert clip_of([n / 5 for n in range(12)], fps=30) == [7, 8, 9, 10, 11]
    assert clip_of([n / 3 for n in range(12)], fps=25) == [7, 8, 9, 10, 11]


def test_a_steady_source_that_becomes_slow_gets_clips_again() -> None:
    times = [n / 25 for n in range(40)]
    times += [times[-1] + n / 4 for n in range(1, 24)]
    assert clip_of(times) == [58, 59, 60, 61, 62]


def test_the_gap_of_one_lost_frame_is_bridged_by_its_neighbour() -> None:
    times = [n / 25 for n in range(10) if n != 7]
    assert clip_of(times) == [5, 6, 6, 7, 8] or clip_of(times) == [5, 6, 7, 7, 8]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(frame(5, 4.0), id="a gap"),
        pytest.param(frame(5, 0.05), id="a step back in time"),
        pytest.param(frame(5, 0.20, (8, 6)), id="another size"),
    ],
)
def test_what_lies_before_a_break_is_forgotten(after: Frame) -> None:
    buffer = ClipBuffer(5, None, 25.0)
    for n in range(5):
        buffer.add(frame(n, n / 25))
    assert buffer.newest(-1, 1, 0.0) is not None and buffer.complete
    buffer.add(after)
    assert buffer.newest(-1, 1, 0.0) is None and buffer.resets == 1 and not buffer.complete
    for n in range(6, 10):
        buffer.add(frame(n, after.time + (n - 5) / 25, after.image.shape[:2]))
    clip = buffer.newest(-1, 1, 0.0)
    assert clip is not None and [f.index for f in clip] == [5, 6, 7, 8, 9]


def test_the_next_clip_waits_for_its_hop() -> None:
    buffer = ClipBuffer(3, None, 25.0)
    for n in range(6):
        buffer.add(frame(n, n / 25))
    assert buffer.newest(3, 3, 0.0) is None  # 5 is only two frames behind 3
    assert buffer.newest(3, 2, 0.0) is not None


def test_a_buffer_keeps_few_frames_however_fast_they_come() -> None:
    buffer = ClipBuffer(5, 0.1, 1000.0)
    for n in range(5000):
        buffer.add(frame(n, n / 1000))
    assert len(buffer._frames) <= 4 * 5 + 1
    assert buffer.interval == 0.1 and buffer.source_interval == pytest.approx(0.001)
    clip = buffer.newest(-1, 1, 0.0)
    assert clip is not None
    # Frames that were kept lie a quarter of an interval apart, so the nearest is at most half of that away.
    assert np.abs(np.array([f.time for f in clip]) - (4.999 - 0.1 * np.arange(4, -1, -1))).max() <= 0.0126


def test_a_model_of_one_frame_needs_no_second() -> None:
    assert clip_of([0.0], length=1) == [0]


def test_fates_sum_up_from_all_threads() -> None:
    lines = []
    ledger = LiveLedger(lines.append)

    def work(what: str, first: int) -> None:
        for n in range(first, first + 500):
            ledger.captured(frame(n, 0.0))
            ledger.fate(frame(n, 0.0), what)

    threads = [threading.Thread(target=work, args=(what, 500 * n)) for n, what in enumerate(FATES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = ledger.counts()
    assert counts == {"captured": 500 * len(FATES), **dict.fromkeys(FATES, 500), "waiting": 0}
    assert len(lines) == 500 * len(FATES) and {line["fate"] for line in lines} == set(FATES)


def test_a_frame_that_is_lost_or_counted_twice_shows_in_the_sum() -> None:
    ledger = LiveLedger()
    for n in range(4):
        ledger.captured(frame(n, 0.0))
    for n in (0, 1, 1):
        ledger.fate(frame(n, 0.0), "shown")
    counts = ledger.counts()
    assert (counts["captured"], counts["shown"], counts["waiting"]) == (4, 3, 2)


def test_frames_of_overlapping_clips_count_once_as_inferred() -> None:
    ledger = LiveLedger()
    frames = [frame(n, 0.0) for n in range(9)]
    for each in frames:
        ledger.captured(each)
    ledger.inferred(frames[0:5])
    ledger.inferred(frames[2:7])
    ledger.inferred([frames[6], frames[6]])
    assert ledger.inference() == {"inferred": 7, "not_inferred": 2}


def test_quantiles_of_a_long_run_are_right_to_2_percent() -> None:
    values = np.random.default_rng(0).lognormal(1.0, 1.0, 20_000)
    durations = Durations()
    for value in values:
        durations.add(float(value))
    found = durations.quantiles()
    for key, percent in (("p50", 50), ("p95", 95), ("p99", 99)):
        assert found[key] == pytest.approx(np.percentile(values, percent), rel=0.025)  # a bin is 2 %
    assert found["max"] == pytest.approx(values.max(), abs=1e-3)
    assert Durations().quantiles() == {}


def test_rates_are_of_the_last_seconds_and_fall_when_nothing_comes() -> None:
    recent = Recent(seconds=0.4)
    for _ in range(20):
        recent.add(3.0)
        time.sleep(0.01)
    assert 50 < recent.rate() < 101
    assert recent.quantiles()["p95"] == pytest.approx(3.0)
    time.sleep(0.5)
    assert recent.rate() == 0.0 and recent.quantiles() == {}


def test_a_picture_of_another_size_is_fitted_with_its_aspect() -> None:
    picture = fitted(np.full((100, 50, 3), 9, np.uint8), (40, 60))
    assert picture.shape == (40, 60, 3)
    assert (picture[:, 20:40] == 9).all() and picture.sum() == 9 * 40 * 20 * 3


def said_of(moments: list[float], smooth: int) -> list[float]:
    """Logits of the newest frame of clips that end at these moments, alternately sure and sure of the contrary."""
    session = KnownSession(lambda clips: clips[..., 0] / 255.0, frames=1, size=(4, 4))
    results = []
    inference = Inference(
        session,  # type: ignore[arg-type]
        ClipBuffer(1, None, 25.0),
        1,
        results.append,
        threading.Event(),
        smooth=smooth,
    )
    for index, moment in enumerate(moments):
        image = np.full((4, 4, 3), 255 * (index % 2), np.uint8)
        result = inference._infer((Frame(index, moment, image),))
        assert result is not None
        results.append(result)
    return [float(result.logits[0, 0, 0, 0, 0]) for result in results]


def test_live_masks_are_a_mean_over_time_that_begins_anew_after_a_gap() -> None:
    high = float(np.log(0.999 / 0.001))  # of the known session
    plain = said_of([0.0, 0.04, 0.08], 1)
    assert plain == pytest.approx([-high, high, -high], rel=1e-5)
    smoothed = said_of([0.0, 0.04, 0.08, 2.0, 2.04], 3)  # each frame counts one half
    assert smoothed == pytest.approx([-high, 0.0, -high / 2, high, 0.0], rel=1e-5, abs=1e-5)
