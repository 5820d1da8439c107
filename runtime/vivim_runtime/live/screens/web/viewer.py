"""The server: a page, the picture stream, the status and the controls, over HTTP/1.1.

GET  /              the page (and /viewer.css, /viewer.js)
GET  /icon.png      its icon
GET  /stream        multipart JPEG
GET  /again         the last ten seconds that somebody watched, once more, as multipart JPEG
GET  /status        JSON
GET  /metrics       Prometheus
GET  /snapshot.png  the picture as shown, without the status
POST /controls      {"action": NAME}, of vivim_runtime.live.screens.actions where `remote`; or
                    {"set": NAME, "value": NUMBER}, of SETTINGS there; or, to draw what the model sees,
                    {"action": "region", "region": [X, Y, WIDTH, HEIGHT]} in pixels of the frame
"""

from __future__ import annotations

import io
import json
import math
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from types import TracebackType
from typing import IO, Any, ClassVar
from urllib.parse import SplitResult, urlsplit

from vivim_runtime.errors import SinkError, UsageError
from vivim_runtime.live.screens.actions import ACTIONS, SETTINGS
from vivim_runtime.live.screens.base import ScreenOptions
from vivim_runtime.live.screens.hud import NOTICE, Hud
from vivim_runtime.live.screens.icon import icon
from vivim_runtime.live.screens.snapshots import png, snapshot_name
from vivim_runtime.live.screens.web.access import Access, Address
from vivim_runtime.live.screens.web.pictures import Pictures
from vivim_runtime.live.screens.web.reports import as_json, as_metrics
from vivim_runtime.live.status import Controls, Shown, State, Status
from vivim_runtime.regions import Region
from vivim_runtime.sessions.base import ModelInfo
from vivim_runtime.text import parse_json, printable

__all__ = ["WebViewer"]

_MOST_VIEWERS = 8  # of the stream
_MOST_CONNECTIONS = 32
_MOST_HEAD = 16 << 10  # bytes of a request's line and headers
_MOST_BODY = 1 << 10
_IDLE_S = 15.0  # for a request to come, and for a viewer to take a picture
# So long a connection may take for its request while others find no place.
_PATIENCE_S = 1.0
# Small, so that a slow viewer's pictures are dropped here and do not wait in the system, getting old.
_SEND_BUFFER = 128 << 10
_BOUNDARY = b"vivim-picture"
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/viewer.css": ("viewer.css", "text/css; charset=utf-8"),
    "/viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
}
_REMOTE = {action.name: action for action in ACTIONS if action.remote}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class WebViewer:
    """Serves a run to browsers. `show` is called by the run and returns at once.

    Attributes:
        name: the address, without the token: it may be written down.
        url: the address to open, with the token where one is needed: for the person who started the run.
    """

    needs_main_thread = False

    def __init__(self, name: str, controls: Controls, model: ModelInfo, options: ScreenOptions) -> None:
        address = Address.from_name(name)
        access = Access(address, options.token)
        try:
            self._server = _Server(address, access, controls, model, options)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SinkError(f"cannot serve {name} ({reason}); choose another address or port") from None
        port = self._server.server_address[1]
        self.name = address.url(port)
        self.url = f"{self.name}/?token={access.token}" if access.token else f"{self.name}/"
        # Requests are answered from here on: a browser may be opened while the model warms up.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="web", daemon=True)
        self._thread.start()

    def show(self, shown: Shown) -> None:
        """Take the next picture; returns at once."""
        self._server.pictures.show(shown)

    def run_main(self) -> None:
        """Nothing: a web viewer needs no main thread."""

    def __enter__(self) -> WebViewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.pictures.close()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    """A thread a connection, up to a limit; beyond it connections are closed at once."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = _MOST_CONNECTIONS

    def __init__(
        self, address: Address, access: Access, controls: Controls, model: ModelInfo, options: ScreenOptions
    ) -> None:
        self.address_family = address.family
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self.waiting: dict[socket.socket, float] = {}  # connections without a whole request, and since when
        super().__init__((address.host, address.port), _Handler)
        self.access, self.controls, self.model, self.options = access, controls, model, options
        self.pictures = Pictures(Hud(model.classes, options.notice), controls, _MOST_VIEWERS)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self._lock:
            if len(self._connections) >= _MOST_CONNECTIONS and self.waiting:
                slowest = min(self.waiting, key=lambda connection: self.waiting[connection])
                if time.monotonic() - self.waiting[slowest] > _PATIENCE_S:
                    self._send_away(slowest)
            admitted = len(self._connections) < _MOST_CONNECTIONS
            if admitted:
                self._connections[request] = thread
        if admitted:
            thread.start()
        else:
            self.shutdown_request(request)

    def _send_away(self, connection: socket.socket) -> None:
        """Make room: whoever has been silent, or has dripped bytes, for longest."""
        self.waiting.pop(connection, None)
        self._connections.pop(connection, None)
        with suppress(OSError):  # closed meanwhile
            connection.shutdown(socket.SHUT_RDWR)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._connections.pop(request, None)
                self.waiting.pop(request, None)

    def waits(self, connection: socket.socket, since: float | None) -> None:
        """A connection waits for a request since then (time.monotonic()), or has it (None)."""
        with self._lock:
            if since is None:
                self.waiting.pop(connection, None)
            elif connection in self._connections:
                self.waiting[connection] = since

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A viewer that goes away in mid-sentence is no error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        """Close the door, then every connection, and wait for their threads, at most a second in all."""
        super().server_close()
        with self._lock:
            open_ones = list(self._connections.items())
        for connection, _ in open_ones:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed meanwhile
        for _, thread in open_ones:
            thread.join(1.0 / len(open_ones))


class _Incoming(io.RawIOBase):
    """What a connection sends, as long as the time for one request lasts, however slowly it comes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.until = time.monotonic() + _IDLE_S

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        rest = self.until - time.monotonic()
        if rest <= 0:
            raise TimeoutError("a request took too long")
        self._connection.settimeout(rest)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(_IDLE_S)  # for what is sent


class _Head:
    """A connection's reading side, which gives a request's line and headers no more than _MOST_HEAD bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.left = file, _MOST_HEAD

    def readline(self, limit: int = -1) -> bytes:
        line = self._file.readline(self.left + 1 if limit < 0 else min(limit, self.left + 1))
        self.left -= len(line)
        if self.left < 0:
            raise ConnectionError("a request's head is too long")
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "vivim-edge"
    sys_version = ""
    timeout = _IDLE_S
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain"
    _answers: ClassVar[dict[str, str]] = {
        "/status": "_status",
        "/metrics": "_metrics",
        "/stream": "_stream",
        "/again": "_again",
        "/icon.png": "_icon",
        "/snapshot.png": "_snapshot",
    }

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()
        self.rfile.close()
        self._incoming = _Incoming(self.request)
        self.rfile: Any = _Head(io.BufferedReader(self._incoming))

    def handle_one_request(self) -> None:
        self.rfile.left = _MOST_HEAD
        began = time.monotonic()
        self._incoming.until = began + _IDLE_S
        self.server.waits(self.request, began)
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Whether the head is one; refused is what could be read as two requests."""
        if not super().parse_request():
            return False
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) > 1 or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self._refuse(HTTPStatus.BAD_REQUEST, "expected one Content-Length, and no Transfer-Encoding")
            return False
        if self.command != "POST":
            self.server.waits(self.request, None)
            if lengths and lengths[0].strip() != "0":
                self.close_connection = True  # a body that nobody reads is not the next request
        return True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests may hold the token."""

    def do_GET(self) -> None:
        path = self._path()
        if path is None or not self._admitted(path.query):
            return
        if path.path == "/" and "token=" in path.query and self.server.access.token:
            self._remember_token()
        elif path.path in _PAGE:
            name, kind = _PAGE[path.path]
            self._answer((files(__package__) / "page" / name).read_bytes(), kind)
        elif path.path in self._answers:
            getattr(self, self._answers[path.path])()
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        path, body = self._path(), self._body()
        if path is None or body is None or not self._admitted(path.query):
            return
        if not self.server.access.may_change(self.headers):
            self._refuse(HTTPStatus.FORBIDDEN, "only this viewer's own page may change the run")
        elif self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        elif path.path != "/controls":
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        else:
            self._control(body)

    def _control(self, body: bytes) -> None:
        try:
            asked = parse_json(body.decode())
        except ValueError:
            asked = None
        asked = asked if isinstance(asked, dict) else {}
        if "set" in asked:
            self._set(asked["set"], asked.get("value"))
            return
        name = asked.get("action")
        if name == "region":
            self._see(asked.get("region"))
            return
        action = _REMOTE.get(name) if isinstance(name, str) else None
        if action is None or action.apply is None:
            self._refuse(HTTPStatus.BAD_REQUEST, f"expected an action of {', '.join(_REMOTE)}, region")
            return
        action.apply(self.server.controls)
        self._status()

    def _see(self, numbers: Any) -> None:
        """Let the model see the part of the picture that somebody has drawn."""
        status, _ = self._newest()
        try:
            if not isinstance(numbers, list) or len(numbers) != 4:
                raise UsageError("expected a region of [X, Y, WIDTH, HEIGHT]")
            region = Region(*numbers).check(status.size, "the picture")
        except UsageError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, printable(str(error), 300))
            return
        self.server.controls.see(region)
        self._status()

    def _set(self, name: Any, value: Any) -> None:
        change = SETTINGS.get(name) if isinstance(name, str) else None
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if change is None or not number:
            self._refuse(HTTPStatus.BAD_REQUEST, f"expected a number for one of {', '.join(SETTINGS)}")
            return
        change(self.server.controls, float(value))
        self._status()

    def _path(self) -> SplitResult | None:
        try:
            return urlsplit(self.path)
        except ValueError:
            self.close_connection = True
            self._refuse(HTTPStatus.BAD_REQUEST, "this is no address")
            return None

    def _body(self) -> bytes | None:
        """The body of a request; None, and the request refused, when it has no length or is too long."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or len(length) > 9 or int(length) > _MOST_BODY:
            self.close_connection = True  # what follows is not read
            code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if length.isdecimal() else HTTPStatus.LENGTH_REQUIRED
            self._refuse(code, f"expected a body of at most {_MOST_BODY} bytes")
            return None
        body = bytes(self.rfile.read(int(length)))
        self.server.waits(self.request, None)
        return body

    def _admitted(self, query: str) -> bool:
        headers, access = self.headers, self.server.access
        if not access.trusts_host(headers):
            self._refuse(HTTPStatus.FORBIDDEN, "this viewer answers to the names of its own machine only")
            return False
        if not access.knows_token(query, headers, self._port):
            self._refuse(HTTPStatus.UNAUTHORIZED, "open the address with the token that vivim-run printed")
            return False
        return True

    @property
    def _port(self) -> int:
        return int(self.server.server_address[1])

    def _remember_token(self) -> None:
        """Move the token from the address, which is seen and kept by browsers, into a cookie."""
        name, token = self.server.access.cookie_name(self._port), self.server.access.token
        # Lax: a link in a mail may open the page; may_change looks after what changes something.
        cookie = f"{name}={token}; Path=/; HttpOnly; SameSite=Lax"
        self._answer(b"", "text/plain", HTTPStatus.SEE_OTHER, {"Location": "/", "Set-Cookie": cookie})

    def _newest(self) -> tuple[Status, float]:
        shown, age = self.server.pictures.newest()
        return (shown.status if shown else Status(State.warming_up)), age

    def _status(self) -> None:
        status, age = self._newest()
        server = self.server
        values = as_json(status, server.controls, server.model.classes, age, server.pictures.viewers)
        values["stream_failures"] = server.pictures.failed
        values["notice"] = NOTICE if server.options.notice else ""
        self._answer(json.dumps(values).encode(), "application/json")

    def _metrics(self) -> None:
        status, age = self._newest()
        text = as_metrics(status, age, self.server.pictures.viewers)
        self._answer(text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _snapshot(self) -> None:
        shown, _ = self.server.pictures.newest()
        if shown is None:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "there is no picture yet")
            return
        name = {"Content-Disposition": f'attachment; filename="{snapshot_name(shown)}"'}
        self._answer(png(shown.picture), "image/png", headers=name)

    def _icon(self) -> None:
        self._answer(png(icon()), "image/png")

    def _stream(self) -> None:
        self._send(self.server.pictures.watch())

    def _again(self) -> None:
        self._send(self.server.pictures.watch(again=True))

    def _send(self, watched: AbstractContextManager[Iterator[bytes] | None]) -> None:
        with watched as pictures:
            if pictures is None:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{_MOST_VIEWERS} viewers watch already")
                return
            self.close_connection = True  # the stream has no length
            self._head(HTTPStatus.OK, f"multipart/x-mixed-replace; boundary={_BOUNDARY.decode()}", {})
            self.wfile.write(b"--" + _BOUNDARY + b"\r\n")
            for data in pictures:
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                # With the boundary behind it: browsers show a picture when they see where it ends.
                self.wfile.write(head + data + b"\r\n--" + _BOUNDARY + b"\r\n")

    def _answer(
        self, body: bytes, kind: str, code: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
    ) -> None:
        self._head(code, kind, {"Content-Length": str(len(body)), **(headers or {})})
        self.wfile.write(body)

    def _refuse(self, code: HTTPStatus, message: str) -> None:
        self._answer(f"{message}\n".encode(), "text/plain; charset=utf-8", code)

    def _head(self, code: HTTPStatus, kind: str, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, **headers, **_HEADERS}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
