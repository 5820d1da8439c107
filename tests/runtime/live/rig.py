"""What the live tests are made of: a model that does what it is told, a screen that remembers, senders of streams."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np

from tests.runtime.live.sender import made_ms, picture
from vivim_runtime.live.run import LiveOptions, LiveReport, Outputs, run_live
from vivim_runtime.live.status import Controls, Shown, State
from vivim_runtime.sessions.base import ClassInfo, Logits, ModelInfo
from vivim_runtime.sources import Frame, LiveSource

MODEL = ModelInfo(
    path=Path("null.onnx"),
    preset="null",
    frames=5,
    size=(64, 64),
    classes=(ClassInfo("lesion", (0, 230, 118)),),
    precision="fp32",
    input="uint8",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    batch=1,
    weights_sha256="0" * 64,
    metadata={},
)


class NullSession:
    """Marks what is bright, after `seconds`; hangs while `hang` is set, fails while `failing`."""

    backend, device, info = "null", "cpu", MODEL

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.failing, self.calls = seconds, False, 0
        self.hang = threading.Event()
        self.clips: list[np.ndarray] | None = None  # what it was given, where that is a list

    def __call__(self, clips: np.ndarray) -> Logits:
        self.calls += 1
        if self.clips is not None:
            self.clips.append(clips)
        time.sleep(self.seconds)
        while self.hang.is_set():
            time.sleep(0.01)
        if self.failing:
            raise RuntimeError("CUDA error: out of memory")
        return ((clips[..., 1].astype(np.float32) - 128.0) / 16.0)[:, :, None]

    def warm_up(self) -> None:
        pass

    def __enter__(self) -> NullSession:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Probe:
    """A screen that remembers what it was told."""

    name, needs_main_thread = "probe", False

    def __init__(self, keep: int = 0) -> None:
        self.states: list[State] = []  # changes only
        self.messages: list[str] = []
        self.last: Shown | None = None
        self.ages_ms: list[float] = []  # of the pictures, by what they say themselves
        self.when: list[float] = []
        self.indices: list[int] = []
        self.lost = 0  # looks at which captured was not what became of the frames
        self.kept: list[Shown] = []
        self._keep = keep
        self._changed = threading.Condition()

    def show(self, shown: Shown) -> None:
        with self._changed:
            status = shown.status
            if not self.states or self.states[-1] is not status.state:
                self.states.append(status.state)
                self.messages.append(status.message)
            counts = dict(status.counts)
            # One frame may lie in the mailbox, one may be on its way, and one be the picture that is being shown;
            # beside them there are those that wait for their masks.
            most = 3 + 64 * status.synchronised
            if counts.pop("captured") != sum(counts.values()) or not 0 <= counts["waiting"] <= most:
                self.lost += 1
            if shown.frame is not None and (not self.indices or shown.frame.index != self.indices[-1]):
                self.indices.append(shown.frame.index)
                self.when.append(time.monotonic())
                if shown.frame.image.shape[1] >= 384:
                    now = int(time.monotonic() * 1000) % (1 << 24)
                    self.ages_ms.append((now - made_ms(shown.frame.image)) % (1 << 24))
            if len(self.kept) < self._keep:
                self.kept.append(shown)
            self.last = shown
            self._changed.notify_all()

    def wait(self, what: Callable[[Shown], bool], seconds: float = 20.0) -> float:
        """Wait until a picture is as wanted; returns how long that took."""
        began = time.monotonic()
        with self._changed:
            there = self._changed.wait_for(lambda: self.last is not None and what(self.last), seconds)
        assert there, f"did not come in {seconds} s; states {self.states}, messages {self.messages}"
        return time.monotonic() - began

    def wait_state(self, state: State, seconds: float = 20.0) -> float:
        return self.wait(lambda shown: shown.status.state is state, seconds)

    def run_main(self) -> None:
        raise AssertionError("needs no main thread")

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Run:
    """A live run in the background of a test."""

    def __init__(
        self,
        source: LiveSource,
        session: NullSession | None = None,
        options: LiveOptions | None = None,
        keep: int = 0,
        **outputs: object,
    ) -> None:
        self.session, self.probe = session or NullSession(), Probe(keep)
        self.controls = Controls(("overlay", "contour"), 0.5, 0.45)
        self.report: LiveReport | None = None
        self.error: BaseException | None = None
        self._arguments = (source, self.session, self.controls, options or LiveOptions())
        self._outputs = Outputs(screens=[self.probe], **outputs)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.report = run_live(*self._arguments, self._outputs)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Run:
        self._thread.start()
        return self

    def end(self) -> float:
        """Ask for the end; returns the seconds that it took."""
        began = time.monotonic()
        self.controls.quit.set()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the run does not end"
        return time.monotonic() - began

    def join(self, seconds: float = 30.0) -> None:
        """Wait for it to end by itself."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the run does not end"

    def __exit__(self, kind: object, *_: object) -> None:
        self.end()
        if kind is None and self.error is not None:
            raise self.error

    @property
    def counts(self) -> dict[str, int]:
        """The ledger at the end; its sum is checked."""
        assert self.report is not None
        counts = dict(self.report.counts)
        assert counts.pop("waiting") == 0
        assert counts["captured"] == sum(counts.values()) - counts["captured"]
        # Frames with missing data are never inferred, and none is inferred twice.
        assert 0 <= self.report.inference["inferred"] <= counts["captured"] - counts["damaged"]
        return counts


class Frames(LiveSource):
    """A live source made of a function: one connection after the other, each an iterator of images or an error."""

    patience = 1.0

    def __init__(self, connections: Sequence[Callable[[], Iterator[np.ndarray]]], fps: float = 50.0) -> None:
        super().__init__("frames", fps)
        self._connections = iter(connections)
        self.opened: list[float] = []

    def __iter__(self) -> Iterator[Frame]:
        self.opened.append(time.monotonic())
        connection = next(self._connections, None)
        if connection is None:
            from vivim_runtime.errors import SourceError

            raise SourceError("frames: unplugged")
        for index, image in enumerate(connection()):
            self.size = image.shape[:2]
            yield Frame(index, index / self.fps, image, taken=time.monotonic())


def steady(seconds: float, fps: float = 50.0, size: tuple[int, int] = (64, 96), value: int = 200) -> Callable:
    """A connection that gives grey frames at a rate, and then ends."""

    def frames() -> Iterator[np.ndarray]:
        began = time.monotonic()
        for index in range(int(seconds * fps)):
            time.sleep(max(0.0, began + index / fps - time.monotonic()))
            yield np.full((*size, 3), value, np.uint8)

    return frames


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sender:
    """A process that sends a stream; `kill` ends it, `stop` lets it fall silent until `go_on`."""

    def __init__(self, where: str, *args: str, module: str = "sender") -> None:
        self._command = [sys.executable, "-m", f"tests.runtime.live.{module}", where, *args]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Sender:
        self._process = subprocess.Popen(self._command, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL)
        return self

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Sender:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def jpeg(image: np.ndarray) -> bytes:
    import cv2

    return bytes(cv2.imencode(".jpg", image[..., ::-1])[1])


@contextmanager
def mjpeg_server(
    size: tuple[int, int] = (480, 640),
    fps: float = 25.0,
    port: int = 0,
    spoil: Callable[[int, bytes], bytes] | None = None,
) -> Iterator[str]:
    """Serves motion JPEG as network cameras do; `spoil` may change each picture's bytes. Yields the URL."""
    gone = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            index, began = 0, time.monotonic()
            try:
                while not gone.is_set():
                    time.sleep(max(0.0, began + index / fps - time.monotonic()))
                    data = jpeg(picture(size, index, time.monotonic()))
                    data = spoil(index, data) if spoil else data
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                    self.wfile.write(head + data + b"\r\n")
                    index += 1
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        allow_reuse_address, daemon_threads = True, True

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/video"
    finally:
        gone.set()
        server.shutdown()
        server.server_close()
        thread.join()


def playable(path: Path) -> int:
    """How many frames of a video can be decoded."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))
