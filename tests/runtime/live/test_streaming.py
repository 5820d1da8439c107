"""Models that remember, live and offline: when they forget, what the ledger says, and pictures with their own masks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.live.rig import MODEL, Frames, NullSession, Run, steady
from vivim_runtime.errors import UsageError
from vivim_runtime.live.run import LiveOptions
from vivim_runtime.live.status import State
from vivim_runtime.offline import RunOptions, run
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.sessions.base import Logits
from vivim_runtime.sinks.ledger import Ledger
from vivim_runtime.sources.base import Frame


class Counting(NullSession):
    """A streaming model that says how many frames it remembers."""

    info = replace(MODEL, frames=1, streaming=True)

    def step(self, frames: np.ndarray, states: int | None) -> tuple[Logits, int]:
        seen = (states or 0) + 1
        marked = super().__call__(frames)
        return np.where(marked > 0, np.float32(seen), np.float32(-1)), seen


class Film:
    """A recorded source of some pictures."""

    name, size, fps, frame_count = "film", (64, 64), 25.0, None

    def __init__(self, images: list[np.ndarray]) -> None:
        self.notes: list[str] = []
        self._images = images

    def __iter__(self) -> Iterator[Frame]:
        for index, image in enumerate(self._images):
            yield Frame(index, index / self.fps, image)


def pictures(seed: int, count: int) -> list[np.ndarray]:
    return [image for image, _ in phantom_frames(PhantomSpec(seed=seed, frames=count, size=(64, 64)))]


def test_offline_run_remembers_and_forgets_at_a_cut(tmp_path: Path) -> None:
    seen: list[float] = []
    session = Counting()
    with Ledger(tmp_path / "l.jsonl", session.info.classes, {}) as ledger:
        film = Film(pictures(0, 6) + pictures(1, 4))
        report = run(film, session, [ledger], RunOptions(), lambda item: seen.append(float(item.logits.max())))
    assert seen == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4]
    assert report.resets == {"cut": 1} and report.clips == report.frames == 10
    lines = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines if "reset" in line] == [6]
    assert lines[-1]["resets"] == 1
    # The next film begins anew, though the session is the same.
    run(Film(pictures(2, 2)), session, [], RunOptions(), lambda item: seen.append(float(item.logits.max())))
    assert seen[-2:] == [1, 2]


@pytest.mark.parametrize(
    ("options", "info", "message"),
    [
        (RunOptions(hop=2), Counting.info, "leave --hop out"),
        (RunOptions(), replace(Counting.info, batch=2), "export it with --batch 1"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(options: RunOptions, info: object, message: str) -> None:
    session = Counting()
    session.info = info  # type: ignore[assignment]
    with pytest.raises(UsageError, match=message):
        run(Film(pictures(0, 1)), session, [], options)


def test_live_run_forgets_on_request_and_behind_a_lost_connection(tmp_path: Path) -> None:
    ledger = (tmp_path / "live.jsonl", {"live": True})
    with Run(Frames([steady(1.0), steady(60)]), Counting(), ledger=ledger) as live:
        live.probe.wait_state(State.live, 5)
        live.probe.wait(lambda shown: shown.masks is not None)
        live.controls.forget.set()
        live.probe.wait(lambda shown: shown.status.counts["captured"] > 70, 10)  # 50 come before it is lost
        live.probe.wait_state(State.live, 10)
        live.end()
    lines = [json.loads(line) for line in (tmp_path / "live.jsonl").read_text().splitlines()]
    assert [line["reset"] for line in lines if line["type"] == "reset"] == ["key", "connection"]
    assert lines[-1]["resets"] == {"key": 1, "connection": 1}
    assert live.counts["captured"] > 25


def test_live_clips_cannot_be_asked_of_a_stream() -> None:
    with pytest.raises(UsageError, match="leave it out"), Run(Frames([]), Counting(), LiveOptions(clip_fps=5.0)):
        pass


def blinking(fps: float = 50.0) -> Iterator[np.ndarray]:
    """Three frames are dark and three bright by turns."""
    began = time.monotonic()
    for index in range(3000):
        time.sleep(max(0.0, began + index / fps - time.monotonic()))
        yield np.full((64, 96, 3), 200 if index // 3 % 2 else 20, np.uint8)


@pytest.mark.parametrize("session", [Counting, NullSession], ids=["streaming", "clips"])
def test_every_picture_has_its_own_mask_where_they_are_kept_in_step(session: type[NullSession]) -> None:
    """The masks mark bright frames; the film goes dark and bright by turns, faster than the model answers."""
    with Run(Frames([blinking]), session(0.08), LiveOptions(sync="on"), keep=400) as live:
        live.probe.wait(lambda shown: shown.masks is not None and shown.status.synchronised)
        assert live.probe.last.status.held_up
        time.sleep(1.5)
        live.end()
    kept = [one for one in live.probe.kept if one.masks is not None and one.frame is not None]
    frames = {one.frame.index: (one.frame.image.max() > 128, bool(one.masks.any())) for one in kept}
    assert len(frames) > 8
    assert all(bright == marked for bright, marked in frames.values())
    assert {bright for bright, _ in frames.values()} == {True, False}
    assert live.counts["replaced"] > 0


def test_pictures_go_on_where_a_model_that_they_wait_for_hangs() -> None:
    with Run(Frames([steady(60)]), NullSession(0.01), LiveOptions(sync="on", stuck_s=0.4)) as live:
        live.probe.wait_state(State.live, 5)
        live.session.hang.set()
        live.probe.wait_state(State.stuck, 5)
        before = live.probe.indices[-1]
        live.probe.wait(lambda shown: shown.frame is not None and shown.frame.index > before + 10, 5)
        live.session.hang.clear()
        live.probe.wait_state(State.live, 15)
        live.end()
    assert live.probe.indices == sorted(live.probe.indices)


@pytest.mark.parametrize("session", [Counting, NullSession], ids=["streaming", "clips"])
def test_a_fast_model_gives_every_picture_its_own_mask_without_being_asked(
    session: type[NullSession], tmp_path: Path
) -> None:
    """Nobody is told, for nothing is late; and where a mask stays away, though not for long, pictures go on."""
    ledger = (tmp_path / "live.jsonl", {"live": True})
    with Run(Frames([lambda: blinking(25.0)]), session(0.004), ledger=ledger) as live:
        live.probe.wait(lambda shown: shown.status.synchronised)
        since = live.probe.indices[-1] + 1
        live.probe.wait(lambda shown: shown.frame is not None and shown.frame.index > since + 14)
        assert not live.probe.last.status.held_up
        live.session.hang.set()
        until = live.probe.indices[-1]
        live.probe.wait(lambda shown: shown.frame is not None and shown.frame.index > until + 10)
        assert live.probe.last.status.state is State.live  # it is not called stuck
        live.session.hang.clear()
        live.end()
    assert live.probe.indices == sorted(set(live.probe.indices))
    lines = [json.loads(line) for line in (tmp_path / "live.jsonl").read_text().splitlines()]
    shown = [line for line in lines if line.get("fate") == "shown" and since < line["index"] < until]
    # Without waiting next to none has its own, since a picture is drawn at once. On a busy machine (load 13) 69 % had,
    # the others were shown when the next came.
    assert sum(line["mask_of"] == line["index"] for line in shown) >= 0.4 * len(shown) > 0


def test_pictures_of_which_no_clip_can_be_made_do_not_wait() -> None:
    """Clips of five at 2 frames a second: the first can be made after 1.75 s."""
    with Run(Frames([steady(60)]), NullSession(), LiveOptions(sync="on", clip_fps=2.0)) as live:
        live.probe.wait(lambda shown: shown.status.counts["shown"] > 3)
        assert live.session.calls == 0
        live.end()
