"""An RTSP camera over loopback: cut, silent, protected, changing its picture, losing packets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tests.runtime.live.rig import Run, Sender, free_port
from tests.runtime.live.sender import made_ms
from vivim_runtime.errors import SourceError
from vivim_runtime.live.status import State
from vivim_runtime.sources import Frame, open_source

# Encoded, sent, decoded and shown; one interval of 40 ms is FFmpeg's, which waits for the next time stamp to see that a
# picture is complete. Measured 52 ms; the rest is for a busy machine.
AGE_MS = 250.0


@contextmanager
def camera(*args: str) -> Iterator[tuple[str, Sender]]:
    port = free_port()
    with Sender(str(port), *args, module="rtsp") as sender:
        yield f"127.0.0.1:{port}", sender


def opened(url: str) -> Iterator[Frame]:
    """The frames of a camera that may still be starting."""
    until = time.monotonic() + 20
    while True:
        try:
            frames = iter(open_source(url))
            first = next(frames)
            break
        except SourceError as error:
            if "refused" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.2)
    yield first
    yield from frames


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lose", "bring_back"),
    [
        pytest.param(Sender.kill, Sender.start, id="the camera ends"),
        # Nothing tells the viewer of it, as with a cable that is pulled.
        pytest.param(Sender.stop, Sender.go_on, id="the camera falls silent"),
    ],
)
def test_a_camera_that_is_lost_is_told_and_comes_back_within_5_seconds(
    lose: Callable[[Sender], None], bring_back: Callable[[Sender], object]
) -> None:
    with camera() as (host, sender), Run(open_source(f"rtsp://{host}/ward")) as run:
        run.probe.wait_state(State.live, 20)
        time.sleep(1.0)
        run.probe.ages_ms.clear()
        time.sleep(1.0)
        assert np.median(run.probe.ages_ms) < AGE_MS
        lose(sender)
        assert run.probe.wait_state(State.no_signal, 10) < 4.0
        time.sleep(3.0)  # attempts to connect fail, or wait
        bring_back(sender)
        assert (
            run.probe.wait_state(State.live, 15) < 5.0 + 1.0
        )  # the sender is a Python process that takes 1 s to start
        time.sleep(0.5)
        assert run.end() < 2.0
    assert run.report.reconnects == 1 and run.report.abandoned == ()
    assert run.counts["captured"] > 40 and run.probe.lost == 0


def test_pictures_that_waited_while_the_stream_was_opened_are_not_taken_for_new_ones() -> None:
    with camera() as (host, _):
        frames = [frame for frame, _ in zip(opened(f"rtsp://{host}/ward"), range(30), strict=False)]
    # By the machine's clock, which the camera has too; it may be slow itself, and then its pictures seem to be early.
    late_ms = [(round(frame.taken * 1000) - made_ms(frame.image)) % (1 << 24) for frame in frames]
    late_ms = [late - (1 << 24) if late > 1 << 23 else late for late in late_ms]
    # On a busy machine a thread that has to wait for its turn looks like one that waits for the camera.
    assert sum(late > np.median(late_ms) + 100 for late in late_ms[1:]) <= 2


def test_the_picture_may_change_its_size_within_a_connection() -> None:
    with camera("--then", "240x512") as (host, _), Run(open_source(f"rtsp://{host}/ward")) as run:
        run.probe.wait(lambda shown: shown.masks is not None and shown.masks.shape == (1, 480, 640), 20)
        run.probe.wait(lambda shown: shown.masks is not None and shown.masks.shape == (1, 240, 512), 10)
        run.probe.wait_state(State.live, 5)
        run.end()
    assert run.report.reconnects == 0 and run.probe.lost == 0


def test_a_login_is_used_and_never_told() -> None:
    with camera("--login", "doctor:secret") as (host, _):
        frames = opened(f"rtsp://doctor:secret@{host}/ward")
        assert next(frames).image.shape == (480, 640, 3)
        for url, reason in (
            (f"rtsp://{host}/ward", "401 Unauthorized"),
            (f"rtsp://doctor:wrong@{host}/ward", "401 Unauthorized"),
            (f"rtsp://doctor:secret@{host}/elsewhere", "404 Not Found"),
        ):
            with pytest.raises(SourceError, match=reason) as caught:
                next(iter(open_source(url)))
            message = str(caught.value)
            assert "doctor" not in message and "secret" not in message and "\n" not in message


def test_packets_that_a_camera_loses_are_survived() -> None:
    with camera("--lose", "0.05") as (host, _), Run(open_source(f"rtsp://{host}/ward")) as run:
        run.probe.wait_state(State.live, 20)
        time.sleep(3.0)
        run.probe.wait_state(State.live, 5)
        run.end()
    assert run.counts["captured"] > 40 and run.probe.lost == 0
