"""A real window on a virtual screen, with keys that come from the X server as from a keyboard."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from vivim_runtime.errors import MissingExtraError, SinkError
from vivim_runtime.live.screens.base import ScreenOptions
from vivim_runtime.live.screens.window import Window, fitted
from vivim_runtime.live.status import Controls, HudLevel, Shown, State, Status, View
from vivim_runtime.sessions.base import ClassInfo
from vivim_runtime.sources.base import Frame

MODEL = type("Info", (), {"classes": (ClassInfo("lesion", (0, 230, 118)),)})()
needs_screen = pytest.mark.skipif(
    not all(map(shutil.which, ("Xvfb", "xdotool", "xwd"))), reason="needs Xvfb, xdotool and xwd (Debian x11-apps)"
)


def shown(index: int = 7, size: tuple[int, int] = (480, 640), state: State = State.live) -> Shown:
    picture = np.full((*size, 3), (200, 40, 90), np.uint8)  # no grey: the bars around it and letters are
    return Shown(Frame(index, index / 25, picture), None, picture, Status(state, fps=25.0, source="phantom:"))


@pytest.mark.parametrize(
    ("size", "room", "expected"),
    [
        ((640, 480), (1280, 960), (1280, 960)),
        ((640, 480), (1920, 480), (640, 480)),  # bars at the sides
        ((1920, 1080), (960, 960), (960, 540)),  # bars above and below
        ((4000, 1), (100, 100), (100, 1)),  # never nothing
    ],
)
def test_pictures_keep_their_shape(size: tuple[int, int], room: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted(size, room) == expected


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(MissingExtraError, match=r"display.*pip install 'vivim-edge\[display\]'"):
        Window(Controls((), 0.5, 0.4), MODEL, ScreenOptions())


def test_without_a_display_one_line_names_the_web_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.setenv("DISPLAY", ":987")
    with pytest.raises(SinkError, match=r"no display to open a window.*http://127.0.0.1:8080") as caught:
        Window(Controls((), 0.5, 0.4), MODEL, ScreenOptions())
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize("display", [pytest.param("", id="none"), pytest.param(":987", id="one that is not there")])
def test_a_window_that_nobody_would_see_is_no_display(display: str) -> None:
    """SDL falls back on drawing off screen, which would look like a run that works."""
    pytest.importorskip("pygame")
    code = textwrap.dedent("""
        from vivim_runtime.errors import SinkError
        from vivim_runtime.live.screens.base import ScreenOptions
        from vivim_runtime.live.status import Controls
        from vivim_runtime.live.screens.window import Window
        model = type("Info", (), {"classes": ()})()
        try:
            Window(Controls((), 0.5, 0.4), model, ScreenOptions())
        except SinkError as error:
            print(error)
    """)
    environment = {key: value for key, value in os.environ.items() if key not in ("WAYLAND_DISPLAY", "SDL_VIDEODRIVER")}
    environment |= {"DISPLAY": display, "PYTHONPATH": str(Path(__file__).parents[4] / "runtime")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30)
    if display and "no display" not in done.stdout and not done.stderr.startswith("Traceback"):
        pytest.skip("this machine has a console that SDL can draw on")
    assert "no display to open a window" in done.stdout
    if not display:
        assert done.stderr == ""


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A virtual screen of 1280x800."""
    pytest.importorskip("pygame")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x800x24", "-nolisten", "tcp"],
        pass_fds=(write,),
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as answer:
        display = f":{answer.readline().strip()}"
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    yield display
    server.terminate()
    server.wait(10)


class Desk:
    """The user at the virtual screen: presses keys, and sees."""

    def __init__(self, window: Window, controls: Controls) -> None:
        self.window, self.controls = window, controls

    def key(self, name: str) -> None:
        subprocess.run(["xdotool", "key", name], check=True, capture_output=True)

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """With the left button, from one place of the screen to another."""
        for words in (["mousemove", *map(str, start)], ["mousedown", "1"], ["mousemove", *map(str, end)]):
            subprocess.run(["xdotool", *words], check=True, capture_output=True)
            time.sleep(0.1)  # the window looks a hundred times a second
        subprocess.run(["xdotool", "mouseup", "1"], check=True, capture_output=True)

    def screenshot(self) -> np.ndarray:
        """uint8 RGB of the whole screen."""
        dump = b""
        while not dump:  # it fails when a window changes its size meanwhile
            dump = subprocess.run(["xwd", "-root", "-silent"], capture_output=True, timeout=10).stdout
        header = np.frombuffer(dump[:100], ">u4")  # XWDFile.h: 0 header size, 4 width, 5 height, 12 bytes a line,
        start = int(header[0]) + 12 * int(header[19])  # 19 colours (12 bytes each) between header and pixels
        width, height, stride = int(header[4]), int(header[5]), int(header[12])
        rows = np.frombuffer(dump[start : start + stride * height], np.uint8).reshape(height, stride)
        depth = int(header[11]) // 8  # 11: bits a pixel, 24 or 32; blue, green, red
        return rows[:, : width * depth].reshape(height, width, depth)[..., 2::-1]

    def sees(self, what: Callable[[np.ndarray], bool]) -> bool:
        """Whether the screen shows it within 5 s."""
        return self.within(lambda: what(self.screenshot()))

    @staticmethod
    def within(what: Callable[[], bool], seconds: float = 5.0) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if what():
                return True
            time.sleep(0.05)
        return what()


def colored(picture: np.ndarray) -> np.ndarray:
    """Where the test picture shows, letters and all: its bounding box has the picture's shape."""
    return np.abs(picture.astype(int) - (200, 40, 90)).max(axis=2) < 8


def box(picture: np.ndarray) -> tuple[int, int]:
    """(width, height) of the test picture on the screen."""
    rows, columns = np.nonzero(colored(picture))
    return (int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1) if len(rows) else (0, 0)


def at_the_desk(use: Callable[[Desk], None], options: ScreenOptions | None = None) -> Controls:
    """Run a window on this thread, and its user on another."""
    controls = Controls(("overlay",), 0.5, 0.4)
    failures: list[BaseException] = []
    with Window(controls, MODEL, options or ScreenOptions()) as window:

        def user() -> None:
            try:
                window.show(shown())
                desk = Desk(window, controls)
                assert desk.sees(lambda picture: colored(picture).any())
                use(desk)
                if "VIVIM_TEST_SCREENSHOTS" in os.environ:
                    name = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split()[0]
                    cv2.imwrite(f"{os.environ['VIVIM_TEST_SCREENSHOTS']}/{name}.png", desk.screenshot()[..., ::-1])
            except BaseException as error:
                failures.append(error)
            finally:
                controls.quit.set()

        thread = threading.Thread(target=user)
        thread.start()
        window.run_main()
        thread.join(30)
    if failures:
        raise failures[0]
    return controls


@needs_screen
def test_keys_change_what_they_say(screen: str) -> None:
    def use(desk: Desk) -> None:
        controls = desk.controls
        for name, changed in (
            ("c", lambda: set(controls.layers) == {"overlay", "contour"}),
            ("o", lambda: set(controls.layers) == {"contour"}),
            ("m", lambda: set(controls.layers) == {"contour", "mask"}),
            ("plus", lambda: controls.threshold == pytest.approx(0.55)),
            ("minus", lambda: controls.threshold == pytest.approx(0.5)),
            ("equal", lambda: controls.threshold == pytest.approx(0.55)),  # the key of + without shift
            ("space", controls.paused.is_set),
            ("space", lambda: not controls.paused.is_set()),
            ("bracketright", lambda: controls.alpha == pytest.approx(0.45)),
            ("bracketleft", lambda: controls.alpha == pytest.approx(0.4)),
            ("d", lambda: controls.view is View.side),
            ("p", lambda: controls.view is View.probability),
            ("p", lambda: controls.view is View.masks),
            ("i", lambda: controls.hud is HudLevel.small),
            ("k", lambda: controls.hud_corner == 1),
            ("r", controls.recording.is_set),
            ("r", lambda: not controls.recording.is_set()),
            ("q", controls.quit.is_set),
        ):
            assert not changed(), name
            desk.key(name)
            assert desk.within(changed), name

    at_the_desk(use)


@needs_screen
def test_dragging_draws_what_the_model_sees(screen: str) -> None:
    def use(desk: Desk) -> None:
        assert desk.sees(lambda picture: box(picture) == (640, 480))
        rows, columns = np.nonzero(colored(desk.screenshot()))
        left, top = int(columns.min()), int(rows.min())
        desk.drag((left + 100, top + 50), (left + 420, top + 250))
        assert desk.within(lambda: desk.controls.region is not None)
        drawn = desk.controls.region
        assert drawn is not None
        wrong = np.abs(np.array([drawn.x, drawn.y, drawn.width, drawn.height]) - (100, 50, 320, 200))
        assert wrong.max() <= 1, drawn  # the picture is as large as its pixels
        desk.drag((left + 200, top + 200), (left + 203, top + 203))  # a click that trembles
        assert desk.controls.region == drawn
        desk.key("x")
        assert desk.within(lambda: desk.controls.region is None)

    at_the_desk(use)


@needs_screen
def test_the_window_takes_the_shape_of_the_picture_and_full_screen_keeps_it(screen: str) -> None:
    def use(desk: Desk) -> None:
        assert desk.sees(lambda picture: box(picture) == (640, 480))
        desk.key("f")
        # All 800 rows, in the middle, though there is no window manager to put the window there.
        assert desk.sees(lambda picture: box(picture) == (1067, 800))
        columns = np.flatnonzero(colored(desk.screenshot()).any(axis=0))
        assert abs(int(columns[0]) - (1279 - int(columns[-1]))) <= 1
        desk.key("Escape")
        assert desk.sees(lambda picture: box(picture) == (640, 480))

    at_the_desk(use)


@needs_screen
def test_the_last_seconds_are_shown_again_under_a_bar_and_then_the_live_picture(screen: str) -> None:
    def use(desk: Desk) -> None:
        def old(picture: np.ndarray) -> bool:
            """The bar across the top of the picture, which no live one has: orange (150, 90, 0) at 85 %."""
            rows, columns = np.nonzero(colored(picture))
            bar = picture[int(rows.min()) - 4, int(columns.min()) + 4].astype(int)
            return bool(bar[0] > 120 and 60 < bar[1] < 130 and bar[2] < 60)

        for index in range(8, 23):  # 3 s of pictures
            desk.window.show(shown(index))
            time.sleep(0.2)
        assert not old(desk.screenshot())
        desk.key("l")
        assert desk.sees(old)
        desk.key("Escape")
        assert desk.sees(lambda picture: not old(picture))
        desk.key("l")
        assert desk.sees(old)
        assert desk.within(lambda: not old(desk.screenshot()), 10.0)  # it ends by itself

    at_the_desk(use)


@needs_screen
def test_help_shows_a_dark_panel_and_goes_again(screen: str) -> None:
    def use(desk: Desk) -> None:
        def panel(picture: np.ndarray) -> bool:
            rows, columns = np.nonzero(colored(picture))
            top, left = int(rows.min()), int(columns.min())
            return bool((picture[top + 100 : top + 380, left + 210 : left + 430].mean(axis=2) < 60).mean() > 0.5)

        assert not panel(desk.screenshot())
        desk.key("h")
        assert desk.sees(panel)
        desk.key("h")
        assert desk.sees(lambda picture: not panel(picture))

    at_the_desk(use)


@needs_screen
def test_a_snapshot_is_the_picture_without_the_status(screen: str, tmp_path: Path) -> None:
    def use(desk: Desk) -> None:
        desk.key("s")
        assert desk.within(lambda: any((tmp_path / "kept").glob("*.png")))
        time.sleep(0.1)

    at_the_desk(use, ScreenOptions(snapshots=tmp_path / "kept"))
    (file,) = (tmp_path / "kept").iterdir()
    assert file.name.startswith("vivim-") and file.name.endswith("-000007.png")
    assert np.array_equal(cv2.imread(str(file))[..., ::-1], shown().picture)


@needs_screen
def test_a_snapshot_that_cannot_be_saved_does_not_end_the_run(screen: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    def use(desk: Desk) -> None:
        desk.key("s")
        time.sleep(0.3)
        desk.key("c")
        assert desk.within(lambda: "contour" in desk.controls.layers)

    at_the_desk(use, ScreenOptions(snapshots=tmp_path / "file"))


@needs_screen
def test_closing_the_window_ends_the_run(screen: str) -> None:
    def use(desk: Desk) -> None:
        # What a window manager sends; there is none here, so the program sends it to itself.
        import pygame

        pygame.event.post(pygame.event.Event(pygame.QUIT))
        assert desk.within(desk.controls.quit.is_set)

    at_the_desk(use)


@needs_screen
def test_it_starts_in_full_screen_when_asked(screen: str) -> None:
    def use(desk: Desk) -> None:
        assert desk.sees(lambda picture: box(picture)[1] == 800)

    at_the_desk(use, ScreenOptions(fullscreen=True))


@needs_screen
def test_the_process_s_own_signal_handling_stays_as_it_is(screen: str) -> None:
    """SDL takes SIGTERM for itself where nobody has; then a run could not be ended from outside."""
    code = textwrap.dedent("""
        import os, signal
        from vivim_runtime.live.screens.base import ScreenOptions
        from vivim_runtime.live.status import Controls
        from vivim_runtime.live.screens.window import Window
        model = type("Info", (), {"classes": ()})()
        with Window(Controls((), 0.5, 0.4), model, ScreenOptions()):
            os.kill(os.getpid(), signal.SIGTERM)
    """)
    folder = Path(__file__).parents[4] / "runtime"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(folder)}, timeout=30)
    assert done.returncode == -15
