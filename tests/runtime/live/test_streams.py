"""Real streams over loopback, with the cable pulled, the picture size changed and the bytes spoiled."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.live.rig import Run, Sender, free_port, mjpeg_server
from tests.runtime.live.sender import made_ms, picture
from vivim_runtime.errors import SourceError, UsageError
from vivim_runtime.live.run import LiveOptions
from vivim_runtime.live.status import State
from vivim_runtime.sources import LiveSource, open_source, parse_capture
from vivim_runtime.sources.camera import CaptureOptions, list_cameras
from vivim_runtime.sources.gstreamer import has_gstreamer
from vivim_runtime.sources.stream import SenderClock, Stream, _Backlog, _Damage, public_name

# How old a picture may be when it is shown, by what it says itself. Two frame intervals are MPEG-TS's own (a packet
# ends where the next begins, and the parser waits for one more): 80 ms at 25 fps. The rest is for a busy machine.
AGE_MS = 250.0


def recovers(run: Run, restart: object) -> None:
    """No signal is said within 4 s; it is live within 5 s of the source's return."""
    assert run.probe.wait_state(State.no_signal, 10) < 4.0
    time.sleep(1.5)
    restart()  # type: ignore[operator]
    assert run.probe.wait_state(State.live, 15) < 5.0 + 1.0  # the sender is a Python process that takes 1 s to start


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_transport_stream_that_is_cut_comes_back_within_5_seconds(protocol: str) -> None:
    port = free_port(socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    url = f"{protocol}://127.0.0.1:{port}"
    with ExitStack() as stack:
        sender = stack.enter_context(Sender(url + ("?listen=1" if protocol == "tcp" else "?pkt_size=1316")))
        run = stack.enter_context(Run(open_source(url)))
        run.probe.wait_state(State.live, 20)
        time.sleep(1.0)
        run.probe.ages_ms.clear()
        time.sleep(1.0)
        assert np.median(run.probe.ages_ms) < AGE_MS
        sender.kill()
        recovers(run, sender.start)
        time.sleep(0.5)
        assert run.end() < 2.0
    assert run.report.reconnects >= 1 and run.counts["captured"] > 40 and run.probe.lost == 0
    assert run.report.abandoned == ()


def test_motion_jpeg_over_http_is_timed_by_its_arrival_and_comes_back() -> None:
    port = free_port()
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        url = first.enter_context(mjpeg_server(port=port, fps=20.0))  # FFmpeg would say 25
        run = stack.enter_context(Run(open_source(url), keep=30))
        run.probe.wait_state(State.live, 10)
        time.sleep(1.5)
        frames = {one.frame.index: one.frame for one in run.probe.kept if one.frame is not None}.values()
        # A busy machine may send fewer; when they were sent the pictures say themselves.
        told, sent = [one.time for one in frames], [made_ms(one.image) / 1000 for one in frames]
        assert told[-1] - told[0] == pytest.approx(sent[-1] - sent[0], rel=0.15)
        first.close()
        recovers(run, lambda: stack.enter_context(mjpeg_server(port=port, fps=20.0)))
        run.end()
    assert run.probe.lost == 0


def test_spoiled_pictures_are_survived() -> None:
    rng = np.random.default_rng(0)

    def spoil(index: int, data: bytes) -> bytes:
        if index % 3:
            return data
        bytes_ = bytearray(data)
        for place in rng.integers(0, len(bytes_), 40):
            bytes_[place] = int(rng.integers(0, 256))
        return bytes(bytes_)

    with mjpeg_server(spoil=spoil) as url, Run(open_source(url)) as run:
        run.probe.wait_state(State.live, 10)
        time.sleep(3.0)
        run.probe.wait_state(State.live, 5)  # a spoiled header may change the size of a picture for a moment
        run.end()
    assert run.counts["shown"] > 25 and run.probe.lost == 0


def test_a_stream_may_change_its_picture_size(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        url = first.enter_context(mjpeg_server((480, 640), port=port))
        run = stack.enter_context(Run(open_source(url)))
        run.probe.wait_state(State.live, 10)
        first.close()
        stack.enter_context(mjpeg_server((240, 512), port=port))
        run.probe.wait(lambda shown: shown.frame is not None and shown.frame.image.shape == (240, 512, 3), 10)
        run.probe.wait(lambda shown: shown.masks is not None and shown.masks.shape == (1, 240, 512), 5)


def _fill(path: Path, chunks: list[bytes], stop: threading.Event) -> threading.Thread:
    """Write to a FIFO as a camera would, in a thread."""

    def write() -> None:
        with path.open("wb", buffering=0) as fifo:
            for chunk in chunks:
                if stop.is_set():
                    return
                try:
                    fifo.write(chunk)
                except BrokenPipeError:
                    return
                time.sleep(0.02)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def transport(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Eight seconds of MPEG-TS, 25 fps."""
    import av

    path = tmp_path_factory.mktemp("ts") / "s.ts"
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 240, 512, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
        stream.codec_context.gop_size = 25
        for index in range(200):
            frame = av.VideoFrame.from_ndarray(picture((240, 512), index, index / 25), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def pieces(data: bytes, count: int) -> list[bytes]:
    size = len(data) // count + 1
    return [data[start : start + size] for start in range(0, len(data), size)]


def test_a_fifo_stands_for_a_camera_and_may_be_silent_without_blocking_the_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "camera")
    with Run(open_source(str(tmp_path / "camera"))) as run:
        run.probe.wait_state(State.no_signal, 5)
        assert run.end() < 2.0
    assert run.report.abandoned in ((), ("read camera",))  # which still waits for its two seconds


def test_a_fifo_whose_writer_goes_and_returns(tmp_path: Path, transport: bytes) -> None:
    os.mkfifo(tmp_path / "camera")
    stop = threading.Event()
    with Run(open_source(str(tmp_path / "camera"))) as run:
        first = _fill(tmp_path / "camera", pieces(transport, 200)[:100], stop)
        run.probe.wait_state(State.live, 10)
        first.join(10)
        run.probe.wait_state(State.no_signal, 6)
        _fill(tmp_path / "camera", pieces(transport, 200), stop)
        assert run.probe.wait_state(State.live, 10) < 5.0
        stop.set()
        run.end()
    assert run.probe.lost == 0


def test_corrupted_bytes_in_a_transport_stream_are_survived(tmp_path: Path, transport: bytes) -> None:
    os.mkfifo(tmp_path / "camera")
    rng = np.random.default_rng(1)
    spoiled = bytearray(transport)
    for place in rng.integers(20_000, len(spoiled), 400):
        spoiled[place] = int(rng.integers(0, 256))
    stop = threading.Event()
    with Run(open_source(str(tmp_path / "camera"))) as run:
        writer = _fill(tmp_path / "camera", pieces(bytes(spoiled), 200), stop)
        run.probe.wait(lambda shown: shown.frame is not None, 10)
        writer.join(20)
        stop.set()
        run.end()
    assert run.counts["captured"] > 50


@pytest.mark.parametrize(
    ("place", "groups"),
    [
        pytest.param(lambda keys: keys[2] + 2, {2}, id="in a key frame"),
        pytest.param(lambda keys: (keys[4] + keys[5]) // 2, {4}, id="amid a group"),
        pytest.param(lambda keys: keys[5] - 3, {4}, id="just before a key frame"),
    ],
)
def test_what_is_decoded_from_incomplete_data_is_damaged_until_the_next_key_frame(
    tmp_path: Path, transport: bytes, place: Callable[[list[int]], int], groups: set[int]
) -> None:
    """One packet of MPEG-TS is lost; there is a key frame every 25 pictures."""
    packets = [transport[start : start + 188] for start in range(0, len(transport), 188)]
    # The random access indicator of the adaptation field (ISO/IEC 13818-1, 2.4.3.5).
    keys = [place for place, packet in enumerate(packets) if packet[3] & 0x20 and packet[4] and packet[5] & 0x40]
    del packets[place(keys)]
    (tmp_path / "s.ts").write_bytes(b"".join(packets))
    damaged, whole, wrong = set(), set(), set()
    with pytest.raises(SourceError, match="ended"):
        for frame in Stream(str(tmp_path / "s.ts")):
            # A picture says its number itself, if its top is whole; and a number says what the picture has to be.
            number = round(made_ms(frame.image) / 40)
            (damaged if frame.damaged else whole).add(number)
            expected = picture((240, 512), number, number / 25).astype(int)
            if not frame.damaged and np.abs(expected - frame.image).mean() > 0.5:  # H.264 rounds
                wrong.add(number)
    assert not wrong
    # The mark may be on the picture before; and the few that opening took are left out.
    doubtful = {number for number in range(200) if {number // 25, (number + 1) // 25} & groups}
    assert damaged and damaged <= doubtful
    assert whole >= set(range(25, 200)) - doubtful


def test_what_came_while_a_stream_was_opened_is_left_out_but_for_its_first_picture() -> None:
    """Opened in 0.4 s at 25 a second: five pictures wait, come at once, and the next in their time or in a rush."""
    backlog = _Backlog(0.4, 0.04)
    waits = [0.0] * 5 + [0.03, 0.0, 0.04]
    held = [backlog.holds(100.0 + 0.04 * n, wait) for n, wait in enumerate(waits)]
    assert held == [False, True, True, True, True, False, False, False]


def test_a_sender_that_is_faster_than_its_clock_loses_no_more_than_opening_took() -> None:
    backlog = _Backlog(0.2, 0.04)
    assert [backlog.holds(0.04 * n, 0.0) for n in range(20)] == [False] + [True] * 4 + [False] * 15


def test_damage_ends_with_the_second_packet_behind_it_at_the_earliest() -> None:
    damage = _Damage()
    found = []
    for holes, key_frame in ((0, 1), (0, 0), (1, 1), (0, 1), (0, 0), (0, 1), (0, 0)):
        damage.packet(bool(holes), 10.0)
        found.append(damage.of(bool(key_frame), 10.0))
    assert found == [False, False, True, True, True, False, False]


def test_damage_is_taken_to_be_over_where_a_stream_has_no_key_frames() -> None:
    damage = _Damage()
    damage.packet(True, 10.0)
    assert damage.of(False, 10.1) and damage.of(False, 11.9)
    assert not damage.of(False, 12.1) and not damage.of(False, 12.2)


def test_a_silent_stream_is_given_up_after_its_time_out() -> None:
    with socket.socket() as listener:  # accepts, and says nothing
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        run = Run(open_source(f"tcp://127.0.0.1:{listener.getsockname()[1]}"), options=LiveOptions(timeout_s=1.0))
        began = time.monotonic()
        with run:
            run.join(10)
            assert isinstance(run.error, SourceError) and "gave no frame for 1 s" in str(run.error)
            run.error = None
        assert time.monotonic() - began < 4.0


def test_a_recording_over_http_is_refused_as_a_live_source(tmp_path: Path) -> None:
    import functools
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    from tests.runtime.test_sources import write_video

    write_video(tmp_path / "v.mkv", [0, 40, 80])

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(SourceError, match="is a recording of 0 s and no live stream"):
            next(iter(open_source(f"http://127.0.0.1:{server.server_port}/v.mkv")))
    finally:
        server.shutdown()
        server.server_close()


def test_names_and_messages_hold_no_passwords() -> None:
    url = "rtsp://doctor:secret@127.0.0.1:9/ward?token=abc"
    source = open_source(url)
    assert source.name == public_name(url) == "rtsp://127.0.0.1:9/ward"
    with pytest.raises(SourceError) as caught:
        next(iter(source))
    assert "secret" not in str(caught.value) and "abc" not in str(caught.value)


def test_a_senders_clock_shows_what_came_late() -> None:
    clock = SenderClock()
    assert clock.taken(100.0, 5.0) == 5.0
    assert clock.taken(100.04, 5.09) == pytest.approx(5.04)  # 50 ms late
    assert clock.taken(100.08, 5.07) == pytest.approx(5.07)  # the fastest so far
    assert clock.taken(100.12, 5.16) == pytest.approx(5.11)
    assert clock.taken(3.0, 5.20) == pytest.approx(5.20)  # a new clock
    assert clock.taken(None, 9.0) == 9.0


def test_a_camera_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(SourceError, match="there is no camera /dev/video987; cameras here: "):
        open_source("987")


def test_a_camera_that_is_unplugged_and_plugged_in_again_comes_back(
    tmp_path: Path, transport: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO stands for the device: without a writer, reading fails as V4L2 does when the device has gone."""
    from vivim_runtime.sources import camera, stream

    class Device(stream._Pipe):
        def read(self, size: int) -> bytes:
            data = super().read(size)
            if not data:
                raise OSError(19, "No such device")
            return data

    opening = camera.av.open

    def open_(path: str, format: str, options: dict[str, str], timeout: object) -> object:
        assert format == "v4l2" and options["video_size"] == "512x240"
        del options["video_size"]
        return opening(Device(Path(path)), format="mpegts", options=options)

    device, stop = tmp_path / "video0", threading.Event()
    os.mkfifo(device)
    source = camera.Camera(str(device), CaptureOptions(size=(240, 512)))
    monkeypatch.setattr(camera.av, "open", open_)
    with Run(source) as run:
        _fill(device, pieces(transport, 200)[:100], stop).join(20)
        run.probe.wait_state(State.no_signal, 10)
        device.unlink()
        run.probe.wait(lambda shown: "it is not plugged in" in shown.status.message, 10)
        time.sleep(3.0)
        os.mkfifo(device)
        _fill(device, pieces(transport, 200), stop)
        assert run.probe.wait_state(State.live, 10) < 5.0
        stop.set()
        run.end()
    assert State.live in run.probe.states[: run.probe.states.index(State.no_signal)]
    assert run.report.reconnects == 1 and run.probe.lost == 0


def test_what_is_no_camera_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "video0").write_text("no device")
    (tmp_path / "videos").mkdir()
    assert list_cameras(tmp_path) == []


def test_a_device_that_is_no_camera_cannot_be_opened(tmp_path: Path) -> None:
    from vivim_runtime.sources.camera import Camera

    with pytest.raises(SourceError, match="cannot be opened"):
        next(iter(Camera("/dev/null", CaptureOptions())))


def test_cameras_are_listed_by_what_their_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As linux/videodev2.h lays it out: v4l2_capability is 104 bytes, v4l2_fmtdesc 64."""
    import struct

    from vivim_runtime.sources import camera

    for number in (0, 1, 10, 2):
        (tmp_path / f"video{number}").touch()

    def ioctl(descriptor: int, request: int, data: bytes) -> bytes:
        number = int(Path(f"/proc/self/fd/{descriptor}").readlink().name.removeprefix("video"))
        if request == 0x80685600:
            assert len(data) == 104
            node = 0x04A00000 if number == 1 else 0x04200001  # 1 carries metadata, as USB cameras have
            head = struct.pack("16s32s32sIII", b"uvcvideo", f"HD Cam {number}".encode(), b"usb", 0, 0x84A00001, node)
            return head + bytes(12)
        assert request == 0xC0405602 and len(data) == 64
        index = struct.unpack_from("I", data)[0]
        if index > 1:
            raise OSError(22, "Invalid argument")
        return struct.pack("III32s4sI12s", index, 1, 0, b"", [b"MJPG", b"YUYV"][index], 0, b"")

    monkeypatch.setattr(camera.fcntl, "ioctl", ioctl)
    found = [(Path(info.device).name, info.name, info.formats) for info in list_cameras(tmp_path)]
    assert found == [(f"video{n}", f"HD Cam {n}", ("MJPG", "YUYV")) for n in (0, 2, 10)]


def test_capture_options_are_read_as_cameras_are_described() -> None:
    assert parse_capture("1280x720", 30.0, "MJPG") == CaptureOptions((720, 1280), 30.0, "mjpeg")
    assert parse_capture(None, None, None) == CaptureOptions()
    for resolution, rate in (("1280", None), ("x", None), ("0x5", None), (None, -1.0), (None, float("nan"))):
        with pytest.raises(UsageError, match="expected"):
            parse_capture(resolution, rate, None)


@pytest.mark.skipif(has_gstreamer(), reason="this OpenCV has GStreamer")
def test_pipelines_without_gstreamer_are_refused_in_one_line() -> None:
    with pytest.raises(SourceError, match="needs an OpenCV that was built with GStreamer"):
        open_source("gst: videotestsrc")


@pytest.mark.skipif(not has_gstreamer(), reason="this OpenCV has no GStreamer")
def test_pipelines_give_frames() -> None:
    source = open_source("gst: videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48")
    frames: Iterator = iter(source)
    assert next(frames).image.shape == (48, 64, 3)


@pytest.mark.parametrize("uri", ["rtsp://h/a", "udp://@:5000", "tcp://h:1", "http://h/v", "https://h/v"])
def test_streams_are_known_by_their_scheme_and_connect_later(uri: str) -> None:
    assert isinstance(open_source(uri), LiveSource)
