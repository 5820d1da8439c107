"""The web viewer over real sockets: what it serves, to whom, how fast, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vivim_runtime.errors import SinkError, UsageError
from vivim_runtime.live.ledger import FATES
from vivim_runtime.live.screens.actions import ACTIONS
from vivim_runtime.live.screens.base import ScreenOptions
from vivim_runtime.live.screens.web import WebViewer
from vivim_runtime.live.screens.web.access import Access, Address
from vivim_runtime.live.status import Controls, Shown, State, Status
from vivim_runtime.regions import Region
from vivim_runtime.sessions.base import ClassInfo
from vivim_runtime.sources.base import Frame

MODEL = type("Info", (), {"classes": (ClassInfo("lesion", (0, 230, 118)),)})()
TOKEN = "a-token-for-tests"
LOCAL_POST = b"POST /controls HTTP/1.1\r\nHost: localhost\r\n"
Answer = tuple[int, dict[str, str], bytes]


def shown(index: int, state: State = State.live, size: tuple[int, int] = (240, 320)) -> Shown:
    picture = np.full((*size, 3), (30, 60, 90), np.uint8)
    picture[:, :, 0] = index * 7 % 200
    status = Status(
        state,
        message="",
        source="phantom:",
        model='tiny "a".onnx',
        precision="fp16",
        backend="ONNX Runtime",
        device="cpu",
        fps=24.5,
        source_fps=25.0,
        latency_ms={"p50": 41.0 + index % 9, "p95": 63.0 + index % 17, "p99": 80.0, "max": 99.0},
        infer_ms={"p50": 30.0, "p95": 35.0},
        mask_age_ms=80.0 + index % 40,
        hop=2,
        counts={"captured": 100, "shown": 90, "dropped": 10},
        seconds=4.0,
    )
    return Shown(Frame(index, index / 25, picture), None, picture, status)


@contextlib.contextmanager
def viewer(name: str = "http://127.0.0.1:0", token: str | None = None) -> Iterator[tuple[WebViewer, Controls]]:
    controls = Controls(("overlay",), 0.5, 0.4)
    with WebViewer(name, controls, MODEL, ScreenOptions(token=token)) as web:
        web.show(shown(1))
        yield web, controls


def port_of(web: WebViewer) -> int:
    return int(web.name.rpartition(":")[2])


def ask(web: WebViewer, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
    """Status, headers with small letters, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(web), timeout=5)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {key.lower(): value for key, value in answer.getheaders()}, content


def act(web: WebViewer, action: str, **headers: str) -> int:
    headers = {"Content-Type": "application/json", **headers}
    return ask(web, "/controls", "POST", json.dumps({"action": action}), **headers)[0]


def raw(web: WebViewer, request: bytes, seconds: float = 5.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port_of(web)), seconds) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
            while block := connection.recv(65536):
                answer += block
    return answer


class Stream:
    """A viewer of the pictures, as fast or as slow as its reader."""

    def __init__(self, web: WebViewer, path: str = "/stream") -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port_of(web), timeout=5)
        self.connection.request("GET", path)
        self.answer = self.connection.getresponse()

    def picture(self) -> np.ndarray:
        """The next one, uint8 RGB."""
        length = 0
        while True:
            line = self.answer.readline()
            assert line, "the stream has ended"
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            if line == b"\r\n" and length:
                data = np.frombuffer(self.answer.read(length), np.uint8)
                return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@contextlib.contextmanager
def streams(web: WebViewer, number: int) -> Iterator[list[Stream]]:
    opened = [Stream(web) for _ in range(number)]
    try:
        yield opened
    finally:
        for stream in opened:
            stream.close()


def within(what: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return what()


# What it serves


def test_the_page_and_its_parts_need_nothing_from_elsewhere() -> None:
    with viewer() as (web, _):
        for path, kind in (("/", "text/html"), ("/viewer.css", "text/css"), ("/viewer.js", "text/javascript")):
            code, headers, body = ask(web, path)
            assert code == 200 and headers["content-type"].startswith(kind)
            assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"") and b"https://" not in body
            assert "default-src 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"


def test_opacity_is_set_to_a_number_and_to_nothing_else() -> None:
    def put(web: WebViewer, **body: Any) -> int:
        return ask(web, "/controls", "POST", json.dumps(body), Content_Type="application/json")[0]

    with viewer() as (web, controls):
        assert put(web, set="opacity", value=0.25) == 200 and controls.alpha == 0.25
        assert put(web, set="opacity", value=7) == 200 and controls.alpha == 1.0
        for value in (True, "0.5", None, [], float("nan")):
            assert put(web, set="opacity", value=value) == 400
        assert put(web, set="threshold", value=0.5) == 400 and put(web, set=["opacity"], value=0.5) == 400
        assert controls.alpha == 1.0


def test_the_page_says_that_it_is_for_research_unless_told_not_to() -> None:
    for notice in (True, False):
        with WebViewer("http://127.0.0.1:0", Controls((), 0.5, 0.4), MODEL, ScreenOptions(notice=notice)) as web:
            assert json.loads(ask(web, "/status")[2])["notice"] == ("RESEARCH USE ONLY" if notice else "")


def test_the_last_seconds_are_shown_again_marked_as_old_and_then_end() -> None:
    with viewer() as (web, _), streams(web, 1) as (live,):
        newest = live.picture()
        for index in range(2, 6):
            web.show(shown(index))
            newest = live.picture()
        again = Stream(web, "/again")
        old = again.picture()
        assert old.shape == newest.shape
        # The bar across the top, which no live picture has: orange (150, 90, 0) at 85 %.
        bar = old[4, 4].astype(int)
        assert bar[0] > bar[1] > bar[2] and np.abs(bar - newest[4, 4]).max() > 40
        for _ in range(4):
            again.picture()
        with pytest.raises(AssertionError, match="the stream has ended"):
            again.picture()
        again.close()


def test_the_words_of_the_page_have_every_fate_of_a_frame() -> None:
    with viewer() as (web, _):
        script = ask(web, "/viewer.js")[2].decode()
        page = ask(web, "/")[2].decode()
    assert all(f'"frames {fate}"' in script for fate in ("captured", *FATES))
    for action in ACTIONS:
        assert not action.remote or f'"{action.name}"' in script + page, action.name


def test_status_is_json_with_the_controls() -> None:
    with viewer() as (web, controls):
        controls.toggle("mask")
        code, headers, body = ask(web, "/status")
        status = json.loads(body)
    assert code == 200 and headers["content-type"] == "application/json"
    assert status["state"] == "live" and status["latency_ms"]["p95"] == 64.0 and status["counts"]["captured"] == 100
    assert status["layers"] == ["overlay", "mask"] and status["threshold"] == 0.5
    assert status["classes"] == [{"name": "lesion", "color": [0, 230, 118]}]
    assert 0 <= status["age_s"] < 5


def test_before_the_first_picture_it_is_warming_up_and_there_is_no_snapshot() -> None:
    with WebViewer("http://127.0.0.1:0", Controls((), 0.5, 0.4), MODEL, ScreenOptions()) as web:
        assert json.loads(ask(web, "/status")[2])["state"] == "warming up"
        assert ask(web, "/snapshot.png")[0] == 503
        assert ask(web, "/metrics")[0] == 200


def test_metrics_are_in_the_form_of_prometheus() -> None:
    with viewer() as (web, _):
        _, headers, body = ask(web, "/metrics")
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = body.decode().splitlines()
    assert 'vivim_state{state="live"} 1' in lines and 'vivim_state{state="no signal"} 0' in lines
    assert 'vivim_latency_seconds{quantile="0.95"} 0.064' in lines
    assert 'vivim_frames_total{fate="captured"} 100' in lines
    assert any(r'model="tiny \"a\".onnx"' in line for line in lines)
    samples = [line for line in lines if not line.startswith("#")]
    described = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert all(line.partition(" ")[0].partition("{")[0] in described for line in samples)
    assert all(float(line.rpartition(" ")[2]) >= 0 for line in samples)


def test_a_snapshot_is_the_picture_to_the_last_bit() -> None:
    with viewer() as (web, _):
        code, headers, body = ask(web, "/snapshot.png")
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert code == 200 and np.array_equal(picture, shown(1).picture)
    assert headers["content-disposition"].startswith('attachment; filename="vivim-')


def test_the_stream_shows_the_picture_with_the_status_on_it() -> None:
    with viewer() as (web, _), streams(web, 1) as (stream,):
        live = stream.picture()
        assert live.shape == (480, 640, 3)  # 240 x 320 is enlarged, so that the letters leave something of it
        assert np.abs(live[300:360, 200:400].astype(int) - shown(1).picture[0, 0]).max() < 12  # JPEG of a plain
        web.show(shown(1, State.no_signal))
        lost = stream.picture()
        assert (np.abs(lost.astype(int) - live).max(axis=2) > 30).all(axis=1).sum() > 20  # a bar right across


def test_unknown_pages_and_methods_are_refused() -> None:
    with viewer() as (web, _):
        assert [ask(web, path)[0] for path in ("/x", "/../viewer.py", "/page/viewer.js")] == [404] * 3
        assert ask(web, "/", "PUT", "x")[0] == 501


# What viewers may change


def test_actions_change_the_run() -> None:
    with viewer() as (web, controls):
        assert [act(web, name) for name in ("contour", "threshold_up", "pause", "record")] == [200] * 4
        assert set(controls.layers) == {"overlay", "contour"} and controls.threshold == 0.55
        assert controls.paused.is_set() and controls.recording.is_set()
        assert json.loads(ask(web, "/status")[2])["paused"] is True


@pytest.mark.parametrize("body", ['{"action": "quit"}', '{"action": "x"}', '{"action": []}', "[]", "{", "", "[" * 900])
def test_what_is_no_action_for_viewers_changes_nothing(body: str) -> None:
    with viewer() as (web, controls):
        assert ask(web, "/controls", "POST", body, Content_Type="application/json")[0] == 400
        assert not controls.quit.is_set() and controls.layers == ("overlay",)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        pytest.param({"Origin": "http://evil.example"}, 403, id="another site's page"),
        pytest.param({"Origin": "null"}, 403, id="a page in a sandbox"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, 403, id="another site, by the browser's word"),
        pytest.param({"Sec-Fetch-Site": "same-site"}, 403, id="another port of this machine"),
        pytest.param({"Content-Type": "text/plain"}, 415, id="a form, which needs no permission"),
        pytest.param({"Host": "evil.example"}, 403, id="a name that was made to point here"),
        pytest.param({"Sec-Fetch-Site": "same-origin"}, 200, id="our own page"),
    ],
)
def test_pages_of_other_sites_cannot_change_the_run(headers: dict[str, str], code: int) -> None:
    with viewer() as (web, controls):
        sent = {"Content-Type": "application/json", **headers}
        assert ask(web, "/controls", "POST", '{"action": "pause"}', **sent)[0] == code
        assert controls.paused.is_set() is (code == 200)


def see(web: WebViewer, region: object, **headers: str) -> tuple[int, str]:
    body = json.dumps({"action": "region", "region": region})
    code, _, text = ask(web, "/controls", "POST", body, **{"Content-Type": "application/json", **headers})
    return code, text.decode()


def sized(web: WebViewer, height: int, width: int) -> None:
    """Show a picture of a size, as a run does."""
    item = shown(1)
    web.show(replace(item, status=replace(item.status, size=(height, width))))


def test_the_region_can_be_drawn_and_dropped() -> None:
    with viewer() as (web, controls):
        sized(web, 96, 128)
        code, answer = see(web, [30, 20, 64, 70])
        assert code == 200 and controls.region == Region(30, 20, 64, 70)
        assert json.loads(answer)["region_drawn"] is True
        assert act(web, "region_reset") == 200 and controls.region is None


@pytest.mark.parametrize(
    "region",
    [
        None, [], [1, 2, 3], [0, 0, 64, 97], [-1, 0, 64, 64], [0, 0, 7, 64], [0.5, 0, 64, 64], [True, 0, 64, 64],
        ["0", 0, 64, 64], {"x": 0}, [0, 0, 10**30, 10],
    ],
)  # fmt: skip
def test_what_is_no_region_of_the_picture_changes_nothing(region: object) -> None:
    with viewer() as (web, controls):
        sized(web, 96, 128)
        code, answer = see(web, region)
        assert code == 400 and controls.region is None and answer.count("\n") == 1


def test_pages_of_other_sites_cannot_draw() -> None:
    with viewer() as (web, controls):
        sized(web, 96, 128)
        assert see(web, [0, 0, 64, 64], Origin="http://evil.example")[0] == 403
        assert see(web, [0, 0, 64, 64], **{"Sec-Fetch-Site": "cross-site"})[0] == 403 and controls.region is None
    with viewer(token=TOKEN) as (web, controls):
        sized(web, 96, 128)
        assert see(web, [0, 0, 64, 64])[0] == 401 and controls.region is None
        assert see(web, [0, 0, 64, 64], Authorization=f"Bearer {TOKEN}")[0] == 200


def test_the_own_origin_may_change_the_run() -> None:
    with viewer() as (web, _):
        assert act(web, "pause", Origin=web.name) == 200


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80", "127.9.9.9"])
def test_every_name_of_this_machine_will_do(host: str) -> None:
    with viewer() as (web, _):
        assert ask(web, "/status", Host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7:8080", "", "[", "@:"])
def test_without_a_token_other_names_are_refused(host: str) -> None:
    with viewer() as (web, _):
        assert ask(web, "/status", Host=host)[0] == 403


# The token


def test_this_machine_alone_needs_no_token_and_other_addresses_make_one_up() -> None:
    with viewer() as (web, _):
        assert "token" not in web.url
    tokens = set()
    for _ in range(2):
        with viewer("http://0.0.0.0:0") as (web, _):
            assert "token" not in web.name  # names are written down
            tokens.add(web.url.partition("/?token=")[2])
            assert ask(web, "/status")[0] == 401
    assert len(tokens) == 2 and min(map(len, tokens)) >= 22  # 128 bits


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/stream", "/snapshot.png", "/viewer.js", "/nothing"])
def test_nothing_is_served_without_the_token(path: str) -> None:
    with viewer(token=TOKEN) as (web, _):
        for wrong in ("", "?token=", f"?token={TOKEN}x", "?token=%ff%fe", f"?token={TOKEN[:-1]}"):
            code, _, body = ask(web, path + wrong)
            assert code == 401 and TOKEN.encode() not in body
        assert ask(web, path, Cookie=f"vivim_token_{port_of(web)}=x; a=b")[0] == 401
        assert ask(web, path, Authorization="Bearer x")[0] == 401


def test_the_run_cannot_be_changed_without_the_token() -> None:
    with viewer(token=TOKEN) as (web, controls):
        assert act(web, "pause") == 401 and not controls.paused.is_set()
        assert act(web, "pause", Authorization=f"Bearer {TOKEN}") == 200 and controls.paused.is_set()
        assert act(web, "pause", Authorization=f"Bearer {TOKEN}", Origin="http://evil.example") == 403


def test_the_address_with_the_token_gives_a_cookie_and_leads_to_the_page() -> None:
    with viewer(token=TOKEN) as (web, _):
        code, headers, _ = ask(web, f"/?token={TOKEN}")
        assert (code, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
        assert ask(web, "/", Cookie=cookie.partition(";")[0])[0] == 200
        # Programs that keep no cookies name it each time.
        assert ask(web, f"/status?token={TOKEN}")[0] == 200
        assert ask(web, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200


@pytest.mark.parametrize("token", ["", "short", "has a space in it", "semi;colon;semi;colon", "é" * 20])
def test_tokens_that_are_no_protection_or_need_quoting_are_refused(token: str) -> None:
    with pytest.raises(UsageError, match="12 to 128"):
        Access(Address("127.0.0.1", 0), token)


# Addresses


@pytest.mark.parametrize(
    ("name", "host", "port"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1", 8080),
        ("http://:9000", "127.0.0.1", 9000),  # nobody else, unless asked for
        ("http://0.0.0.0", "0.0.0.0", 8080),
        ("http://[::1]:80/", "::1", 80),
    ],
)
def test_addresses_are_read(name: str, host: str, port: int) -> None:
    assert Address.from_name(name) == Address(host, port)


@pytest.mark.parametrize(
    "name", ["http://h:x", "http://h:99999", "http://h/a", "http://u@h", "https://h", "http://h?a"]
)
def test_what_is_no_address_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no address to serve"):
        Address.from_name(name)


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with viewer() as (web, _), pytest.raises(SinkError, match="cannot serve .*in use.*choose another"):
        WebViewer(web.name, Controls((), 0.5, 0.4), MODEL, ScreenOptions())


def test_a_host_that_is_not_this_machine_is_one_clear_line() -> None:
    with pytest.raises(SinkError, match="cannot serve"):
        WebViewer("http://192.0.2.7:0", Controls((), 0.5, 0.4), MODEL, ScreenOptions())


def test_it_listens_on_version_6_of_the_protocol() -> None:
    try:
        with viewer("http://[::1]:0") as (web, _):
            connection = http.client.HTTPConnection("::1", port_of(web), timeout=5)
            connection.request("GET", "/status")
            assert connection.getresponse().status == 200
            connection.close()
    except SinkError:
        pytest.skip("this machine has no IPv6")


# Many viewers, slow viewers, bad viewers


def test_pictures_are_encoded_once_for_all_viewers_and_not_at_all_for_none() -> None:
    with viewer() as (web, _):
        pictures = web._server.pictures
        for index in range(20):
            web.show(shown(index))
        time.sleep(0.1)
        assert pictures.encoded == 0
        with streams(web, 4) as opened:
            for stream in opened:
                stream.picture()
            before = pictures.encoded
            for index in range(5):
                web.show(shown(index))
                for stream in opened:
                    stream.picture()
            assert pictures.encoded - before == 5


def test_the_run_waits_for_no_viewer() -> None:
    """One never reads: `show` takes microseconds (1 ms bears a busy machine), and the other viewer goes on."""
    with viewer() as (web, _), streams(web, 2) as (_, reader):
        took = []
        for index in range(60):
            item = shown(index, size=(720, 1280))
            started = time.perf_counter()
            web.show(item)
            took.append(time.perf_counter() - started)
            reader.picture()
        assert np.median(took) < 1e-3


def test_a_slow_viewer_gets_the_newest_picture_and_not_the_old_ones() -> None:
    with viewer() as (web, _), streams(web, 1) as (slow,):
        slow.picture()
        noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)  # about 1 MB as JPEG
        for index in range(40):
            item = shown(index, size=(720, 1280))
            picture = noise.copy()
            picture[300:420] = (5 * index, 0, 0)
            web.show(Shown(item.frame, None, picture, item.status))
            time.sleep(0.03)
        # One may wait in the system's buffers and one in the server's hand, then comes the newest.
        seen: list[int] = []
        while len(seen) < 3 and max(seen, default=0) < 190:
            seen.append(int(slow.picture()[360, 640, 0]))
        assert max(seen) >= 190, seen


def test_more_viewers_than_the_limit_are_told_so_and_places_become_free() -> None:
    with viewer() as (web, _):
        with streams(web, 8):
            assert within(lambda: web._server.pictures.viewers == 8)
            code, _, body = ask(web, "/stream")
            assert code == 503 and b"8 viewers" in body
            assert ask(web, "/status")[0] == 200

        def one_more() -> bool:
            web.show(shown(1))  # a viewer that has gone is noticed at the next picture
            return web._server.pictures.viewers == 0

        assert within(one_more)


def test_connections_beyond_the_limit_are_closed_and_the_others_go_on() -> None:
    with viewer() as (web, _):
        idle = [socket.create_connection(("127.0.0.1", port_of(web)), 5) for _ in range(32)]
        assert within(lambda: len(web._server._connections) == 32)
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask(web, "/status")
        for connection in idle:
            connection.close()
        assert within(lambda: not web._server._connections)
        assert ask(web, "/status")[0] == 200


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        pytest.param(b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n", b"", id="a long line"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 15_000 + b"\r\nY: " + b"b" * 9000, b"", id="long headers"),
        pytest.param(LOCAL_POST + b"Content-Length: 5000000\r\n\r\n", b"413", id="a long body"),
        pytest.param(LOCAL_POST + b"\r\n", b"411", id="no length"),
        pytest.param(LOCAL_POST + b"Content-Length: -1\r\n\r\n", b"411", id="a negative length"),
        pytest.param(LOCAL_POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", b"413", id="a huge length"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400", id="TLS"),
        pytest.param(b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", id="a broken address"),
    ],
)
def test_requests_of_no_sense_or_measure_are_cut_off(
    request_: bytes, expected: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with viewer() as (web, _):
        answer = raw(web, request_)
        assert expected in answer.partition(b"\r\n")[0] and b"200 OK" not in answer
        assert ask(web, "/status")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_nothing_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    with viewer(token=TOKEN) as (web, _):
        ask(web, f"/status?token={TOKEN}")
        ask(web, "/nothing")
        Stream(web, f"/stream?token={TOKEN}").close()
        web.show(shown(2))
    assert capfd.readouterr() == ("", "")


# The end


def test_it_ends_within_two_seconds_whoever_is_connected() -> None:
    threads = threading.active_count()
    with viewer() as (web, _):
        port = port_of(web)
        with streams(web, 3) as opened:
            opened[0].picture()
            idle = socket.create_connection(("127.0.0.1", port), 5)
            assert within(lambda: len(web._server._connections) == 4)
            started = time.monotonic()
            web.__exit__(None, None, None)
            took = time.monotonic() - started
            left = len(web._server._connections)  # while the viewers still hold their ends
            idle.close()
    assert took < 2.0 and left == 0
    assert within(lambda: threading.active_count() <= threads)
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port), 1).close()


# In a browser


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """Headless Chromium, driven through its debugging port (the DevTools protocol, by a minimal WebSocket)."""

    def __init__(self, folder: Path, url: str) -> None:
        command = [str(_chromium()), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "--window-size=1280,860", url]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = folder / "DevToolsActivePort"
        assert within(lambda: port_file.exists() and "\n" in port_file.read_text(), 60)
        port = int(port_file.read_text().split()[0])
        assert within(lambda: bool(self._pages(port)), 30)
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        path = self._pages(port)[0]["webSocketDebuggerUrl"].partition(f":{port}")[2]
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        self._socket.sendall(head.encode())
        self._file = self._socket.makefile("rb")
        while self._file.readline() != b"\r\n":
            pass
        self._number = 0

    @staticmethod
    def _pages(port: int) -> list[dict[str, Any]]:
        try:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
                connection.request("GET", "/json", headers={"Connection": "close"})
                return [page for page in json.loads(connection.getresponse().read()) if page["type"] == "page"]
        except OSError:
            return []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        text = json.dumps({"id": self._number, "method": method, "params": parameters}).encode()
        # RFC 6455: one text frame, 16-bit length, masked with zeros
        self._socket.sendall(b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text)
        while True:
            length = self._file.read(2)[1]
            if length >= 126:
                length = int.from_bytes(self._file.read(2 if length == 126 else 8), "big")
            answer = json.loads(self._file.read(length))
            if answer.get("id") == self._number:
                return answer.get("result", {})

    def eval(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        self._file.close()
        self._socket.close()
        self._process.terminate()
        self._process.wait(20)


MEASURED = {
    "lesion": 1, "longest_mm": [12.34, 0.61], "across_mm": [8.0, 0.5], "area_mm2": [77.0, 9.0],
    "longest_px": 24.0, "across_px": 16.0,
}  # fmt: skip


def _drag(browser: Browser, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From one place to another, as shares of the picture's width and height, as it lies on the page."""
    box = browser.eval(
        "(() => { const p = placed(); return [p.left, p.top, size[1] * p.scale, size[0] * p.scale]; })()"
    )
    for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
        at = {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}
        browser.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **at)


@pytest.mark.slow
@pytest.mark.skipif(_chromium() is None, reason="needs Chromium")
def test_the_page_works_in_a_browser(tmp_path: Path) -> None:
    from base64 import b64decode

    from vivim_runtime.phantom import PhantomSpec, phantom_frames

    images = [image for image, _ in phantom_frames(PhantomSpec(seed=1, frames=20, size=(480, 640)))]
    with viewer("http://0.0.0.0:0", TOKEN) as (web, controls):
        ended = threading.Event()

        def play() -> None:
            index = 0
            while not ended.wait(0.04):
                item = shown(index)
                image = images[index % 20]
                status = replace(item.status, size=(480, 640), lesions=(MEASURED,))
                web.show(Shown(replace(item.frame, image=image), None, image, status))
                index += 1

        player = threading.Thread(target=play)
        player.start()
        browser = Browser(tmp_path, f"http://127.0.0.1:{port_of(web)}/?token={TOKEN}")
        try:
            assert within(lambda: browser.eval("document.getElementById('state').textContent") == "live", 20)
            assert within(lambda: browser.eval("document.getElementById('picture').naturalWidth") == 640, 20)
            assert browser.eval("location.search") == ""  # the token is out of sight
            assert browser.eval("document.getElementById('figures').textContent").count("24.5 fps") == 1
            browser.eval("document.querySelector('[data-action=contour]').click()")
            assert within(lambda: "contour" in controls.layers)
            for key in ("+", "r"):
                browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
            assert within(lambda: controls.threshold == 0.55 and controls.recording.is_set())
            pressed = "document.querySelector('[data-action=contour]').getAttribute('aria-pressed')"
            assert within(lambda: browser.eval(pressed) == "true")
            assert "12.3 ± 0.6 × 8.0 ± 0.5 mm" in browser.eval("document.getElementById('lesions').textContent")
            _drag(browser, (0.25, 0.25), (0.75, 0.5))
            assert within(lambda: controls.region is not None)
            drawn = controls.region  # a pixel of the page is about one of the picture
            wrong = np.abs(np.array([drawn.x, drawn.y, drawn.width, drawn.height]) - (160, 120, 320, 120))
            assert wrong.max() <= 2, drawn
            browser.call("Input.dispatchKeyEvent", type="keyDown", key="x", text="x")
            assert within(lambda: controls.region is None)
            time.sleep(6)  # for the chart
            pixels = "document.getElementById('chart').getContext('2d').getImageData(0, 0, 640, 280).data"
            assert browser.eval(f"{pixels}.some(value => value > 200)") is True
            browser.eval("document.querySelector('[data-action=side]').click()")
            assert within(lambda: browser.eval("document.getElementById('picture').naturalWidth") == 1280, 10)
            browser.eval("document.querySelector('[data-action=side]').click()")
            browser.eval(
                "const slider = document.getElementById('opacity'); slider.value = 0.8; "
                "slider.dispatchEvent(new Event('input'))"
            )
            assert within(lambda: controls.alpha == 0.8)
            browser.eval("document.getElementById('replay').click()")
            assert within(lambda: browser.eval("document.getElementById('again').hidden") is False)
            keep = os.environ.get("VIVIM_TEST_SCREENSHOTS")
            if keep:
                time.sleep(1)
                shot = browser.call("Page.captureScreenshot")["data"]
                (Path(keep) / "web-again.png").write_bytes(b64decode(shot))
            browser.eval("document.getElementById('replay').click()")
            if keep:
                time.sleep(1)
                shot = browser.call("Page.captureScreenshot")["data"]
                (Path(keep) / "web.png").write_bytes(b64decode(shot))
            ended.set()
            web.__exit__(None, None, None)
            assert within(lambda: browser.eval("document.getElementById('lost').hidden") is False, 10)
            if keep:
                (Path(keep) / "web-lost.png").write_bytes(b64decode(browser.call("Page.captureScreenshot")["data"]))
        finally:
            ended.set()
            player.join()
            browser.close()


# A bad day


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(LOCAL_POST + b"Content-Length: 2\r\nContent-Length: 20\r\n\r\n{}", id="two lengths"),
        pytest.param(LOCAL_POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", id="one length twice"),
        pytest.param(LOCAL_POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="chunks"),
        pytest.param(b"GET /status HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", id="of a GET"),
    ],
)
def test_requests_that_could_be_read_as_two_are_refused(request_: bytes) -> None:
    with viewer() as (web, _):
        answer = raw(web, request_)
        assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1


def test_the_body_of_a_get_is_not_the_next_request() -> None:
    body = LOCAL_POST + b'Content-Length: 19\r\n\r\n{"action": "pause"}'
    head = b"GET /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n"
    with viewer() as (web, controls):
        assert raw(web, head + body).count(b"HTTP/1.1") == 1
        assert not controls.paused.is_set()


@pytest.mark.parametrize("foreign", ['a[b]={"c":1}', "ä=ö", "x", "=;;=", 'a="unclosed'])
def test_cookies_of_others_beside_ours_do_not_matter(foreign: str) -> None:
    with viewer(token=TOKEN) as (web, _):
        ours = f"vivim_token_{port_of(web)}={TOKEN}"
        for cookie in (f"{foreign}; {ours}", f"{ours}; {foreign}"):
            assert ask(web, "/status", Cookie=cookie.encode().decode("latin-1"))[0] == 200


def test_connections_that_drip_lock_nobody_out_and_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivim_runtime.live.screens.web.viewer._IDLE_S", 4.0)
    with viewer() as (web, _):
        dripping = [socket.create_connection(("127.0.0.1", port_of(web))) for _ in range(40)]
        ended = time.monotonic() + 1.5
        while time.monotonic() < ended:
            for connection in dripping:
                with contextlib.suppress(OSError):
                    connection.send(b"G")
            time.sleep(0.05)
        for _ in range(20):  # each of them finds a place
            assert ask(web, "/status")[0] == 200
        # Each has had its time for one request, however often it sent a byte.
        for connection in dripping:
            connection.settimeout(5.0)
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b""
            connection.close()


def test_an_encoder_that_fails_ends_the_stream_and_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from vivim_runtime.live.screens.web import pictures

    working = pictures.jpeg
    with viewer() as (web, _):
        web.show(shown(1))
        with contextlib.closing(Stream(web)) as stream:
            stream.picture()
            monkeypatch.setattr(pictures, "jpeg", lambda picture: 1 // 0)
            web.show(shown(2))
            with pytest.raises((AssertionError, OSError, http.client.HTTPException)):  # the stream has ended
                for _ in range(5):
                    stream.picture()
        assert json.loads(ask(web, "/status")[2])["stream_failures"] >= 1
        monkeypatch.setattr(pictures, "jpeg", working)
        with contextlib.closing(Stream(web)) as stream:
            web.show(shown(3))
            assert stream.picture().size
