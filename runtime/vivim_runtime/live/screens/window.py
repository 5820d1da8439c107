"""A window on the desktop (SDL, by pygame-ce), with keys.

OpenCV's own windows are left out: the base install is opencv-python-headless, which has none.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

import cv2

from vivim_runtime.errors import MissingExtraError, SinkError, UsageError, VivimError
from vivim_runtime.files import atomic_path
from vivim_runtime.live.screens.actions import ACTIONS
from vivim_runtime.live.screens.again import LastSeconds, Replay, as_old, jpeg
from vivim_runtime.live.screens.base import ScreenOptions
from vivim_runtime.live.screens.hud import LEGIBLE_WIDTH, Hud
from vivim_runtime.live.screens.icon import icon
from vivim_runtime.live.screens.snapshots import png, snapshot_name
from vivim_runtime.live.screens.views import legibly_drawn, viewed
from vivim_runtime.live.status import Controls, Shown
from vivim_runtime.regions import Region
from vivim_runtime.sessions.base import ModelInfo
from vivim_runtime.sources.base import Image

__all__ = ["Window", "fitted"]

_TITLE = "Vivim Edge"
# What tells SDL where to draw; SDL_VIDEODRIVER=kmsdrm is a console without a desktop.
_SEATS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
# SDL's drivers that show nothing: what is left to it where there is no display.
_UNSEEN = ("offscreen", "dummy")
_FIRST_SIZE = (960, 720)  # width, height; until the first picture tells its shape
_DESKTOP_SHARE = 0.9  # of the desktop that a new window may cover
_KEY_WAIT_S = 0.01  # how long a key may wait for the next look
_MESSAGE_S = 3.0
# Pictures are kept no faster than this: each costs some milliseconds, which the inference needs.
_KEPT_EVERY_S = 1 / 15
# Keys that mean the same wherever they are on the keyboard.
_SAME_KEY = {"=": "+", "_": "-"}
_LEAST_DRAWN = 8  # pixels; less is a click


def fitted(size: tuple[int, int], room: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) of the shape of `size` that fits into `room`, at least 1x1."""
    scale = min(room[0] / size[0], room[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _pygame() -> Any:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    # SDL would take SIGINT and SIGTERM for itself where Python has not; ending is the run's business.
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
    try:
        import pygame
    except ModuleNotFoundError:
        raise MissingExtraError("the output 'display'", "display") from None
    return pygame


class Window:
    """The newest picture with the status on it. Opened, run and closed on the main thread; `show` is for any thread.

    Keys: see vivim_runtime.live.screens.actions; Escape leaves what is shown again, and full screen. Dragging draws
    what the model sees.
    """

    name = "display"
    needs_main_thread = True

    def __init__(self, controls: Controls, model: ModelInfo, options: ScreenOptions) -> None:
        self._pygame = _pygame()
        self._controls, self._options = controls, options
        self._hud = Hud(model.classes, options.notice)
        self._arrived = threading.Condition()
        self._newest: Shown | None = None
        self._shown: Shown | None = None  # the one in the window
        self._message, self._message_until = "", 0.0
        self._help = False
        self._last, self._kept_at = LastSeconds(), 0.0
        self._replay: Replay | None = None
        self._old: tuple[float, bytes] | None = None  # the picture of it that is due
        self._from: tuple[int, int] | None = None  # of a rectangle that is being drawn, in pixels of the picture
        self._to: tuple[int, int] | None = None
        self._shaped = False  # whether the window has taken the shape of the picture
        self._fullscreen = options.fullscreen
        self._own_keys: dict[str, Callable[[], None]] = {
            "again": self._switch_replay,
            "snapshot": self._snapshot,
            "fullscreen": self._switch_fullscreen,
            "help": self._switch_help,
        }
        try:
            # Asked first: SDL would try one system after the other, and their libraries write to the terminal.
            if not any(map(os.environ.get, _SEATS)):
                raise self._pygame.error(f"none of {', '.join(_SEATS)} is set")
            self._pygame.display.init()
            driver = self._pygame.display.get_driver()
            if driver in _UNSEEN and "SDL_VIDEODRIVER" not in os.environ:
                raise self._pygame.error(f"SDL found none and would draw {driver}")
            self._pygame.display.set_caption(_TITLE)
            mark = icon()
            self._pygame.display.set_icon(self._pygame.image.frombuffer(mark.tobytes(), mark.shape[1::-1], "RGB"))
            self._pygame.display.set_allow_screensaver(False)
            self._set_mode(_FIRST_SIZE)
        except self._pygame.error as error:
            self._pygame.display.quit()
            raise SinkError(
                f"there is no display to open a window on ({error}); start it from a desktop, "
                "or give the output http://127.0.0.1:8080 and watch in a browser"
            ) from None

    def show(self, shown: Shown) -> None:
        """Take the next picture; only the newest is kept."""
        with self._arrived:
            self._newest = shown
            self._arrived.notify()

    def run_main(self) -> None:
        """Show pictures and take keys until `controls.quit` is set; closing the window sets it."""
        while not self._controls.quit.is_set():
            changed = self._take_events()
            with self._arrived:
                if self._newest is self._shown and not changed:
                    self._arrived.wait(_KEY_WAIT_S)
                fresh, self._shown = self._newest is not self._shown, self._newest
            now = time.monotonic()
            expired = bool(self._message) and now > self._message_until
            if expired:
                self._message = ""
            if fresh:
                self._keep(now)
            if self._turned(now) or ((fresh or expired) and self._old is None) or changed:
                self._paint()

    def _take_events(self) -> bool:
        """Do what the user asked for; whether the window must be painted again."""
        pygame, changed = self._pygame, False
        for event in pygame.event.get():
            changed = True
            if event.type == pygame.QUIT:
                self._controls.quit.set()
            elif event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE:
                if self._replay is not None:
                    self._switch_replay()
                elif self._fullscreen:
                    self._switch_fullscreen()
            elif event.type == pygame.KEYDOWN:
                self._press(event.unicode.lower())
            elif event.type == pygame.MOUSEBUTTONDOWN and event.button == pygame.BUTTON_LEFT and self._old is None:
                self._from = self._to = self._in_picture(event.pos)
            elif event.type == pygame.MOUSEMOTION and self._from is not None:
                self._to = self._in_picture(event.pos)
            elif event.type == pygame.MOUSEBUTTONUP and event.button == pygame.BUTTON_LEFT:
                self._to = self._in_picture(event.pos)
                self._drop()
        return changed

    def _in_picture(self, place: tuple[int, int]) -> tuple[int, int] | None:
        """A place in the window as (x, y) in pixels of the picture, within it; None before the first picture."""
        if self._shown is None or self._shown.frame is None:
            return None
        height, width = self._shown.picture.shape[:2]
        room = self._pygame.display.get_surface().get_size()
        wide = viewed(self._shown, self._controls.view).shape[1]
        size = fitted((wide, height), room)
        x = (place[0] - (room[0] - size[0]) // 2) * wide / size[0]
        y = (place[1] - (room[1] - size[1]) // 2) * height / size[1]
        x -= width if x > width else 0  # beside the frame as it came
        return round(min(max(x, 0), width)), round(min(max(y, 0), height))

    def _drawn(self) -> tuple[int, int, int, int] | None:
        """(x, y, width, height) of the rectangle that is being drawn."""
        if self._from is None or self._to is None:
            return None
        (x0, y0), (x1, y1) = self._from, self._to
        return min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)

    def _drop(self) -> None:
        """Let the model see what was drawn; a click draws nothing."""
        drawn, shown = self._drawn(), self._shown
        self._from = self._to = None
        if drawn is None or min(drawn[2:]) < _LEAST_DRAWN or shown is None:
            return
        try:
            region = Region(*drawn).check((shown.picture.shape[0], shown.picture.shape[1]), "the picture")
        except UsageError as error:
            self._say(str(error))
            return
        self._controls.see(region)

    def _press(self, key: str) -> None:
        key = _SAME_KEY.get(key, key)
        for action in ACTIONS:
            if action.key == key:
                if action.apply:
                    action.apply(self._controls)
                else:
                    self._own_keys[action.name]()

    def _keep(self, now: float) -> None:
        """Keep what is in the window, as it is written there, to be looked at once more."""
        if self._shown is None or now - self._kept_at < _KEPT_EVERY_S:
            return
        self._kept_at = now
        self._last.keep(now, jpeg(legibly_drawn(self._hud, self._shown, self._controls)))

    def _turned(self, now: float) -> bool:
        """Whether another picture of what is shown again is due, or the live one after the last of them."""
        before, self._old = self._old, self._replay.at(now) if self._replay is not None else None
        if self._old is None:
            self._replay = None
        return self._old is not before

    def _paint(self) -> None:
        self._pygame.display.get_surface().fill((0, 0, 0))
        if self._old is not None:
            taken, data = self._old
            self._put(self._enlarged(as_old(data, time.monotonic() - taken)))
        elif self._shown is not None:
            self._shape(self._shown.picture)
            status, drawn = self._shown.status, self._drawn()
            if drawn is not None:
                status = replace(status, regions=(drawn,), size=self._shown.picture.shape[:2])
            # The status is drawn at the window's resolution, so that its letters are sharp.
            picture = self._hud.draw(
                self._enlarged(viewed(self._shown, self._controls.view)),
                status,
                threshold=self._controls.threshold,
                message=self._message,
                help_panel=self._help,
                level=self._controls.hud,
                corner=self._controls.hud_corner,
            )
            self._put(picture)
        self._pygame.display.flip()

    def _enlarged(self, picture: Image) -> Image:
        """A picture as large as the window has room for."""
        width = picture.shape[1]
        size = fitted((width, picture.shape[0]), self._pygame.display.get_surface().get_size())
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if size[0] < width else cv2.INTER_LINEAR)

    def _put(self, picture: Image) -> None:
        """Put a picture into the middle of the window."""
        surface, size = self._pygame.display.get_surface(), picture.shape[1::-1]
        room = surface.get_size()
        image = self._pygame.image.frombuffer(picture, size, "RGB")
        surface.blit(image, ((room[0] - size[0]) // 2, (room[1] - size[1]) // 2))

    def _shape(self, picture: Image) -> None:
        """Give a new window the shape of its first picture; after that it is the user's."""
        if self._shaped or self._fullscreen or self._shown is None or self._shown.frame is None:
            return
        self._shaped = True
        height, width = picture.shape[:2]
        desktop = self._pygame.display.get_desktop_sizes()[0]
        room = (int(desktop[0] * _DESKTOP_SHARE), int(desktop[1] * _DESKTOP_SHARE))
        grown = max(1.0, LEGIBLE_WIDTH / width)
        wanted = (min(room[0], round(width * grown)), min(room[1], round(height * grown)))
        self._set_mode(fitted((width, height), wanted))

    def _set_mode(self, size: tuple[int, int]) -> None:
        if self._fullscreen:
            if self._pygame.display.get_surface() is not None:
                # A window manager does that; without one, SDL leaves the window where the smaller one was.
                self._pygame.display.set_window_position((0, 0))
                self._pygame.event.pump()
            self._pygame.display.set_mode((0, 0), self._pygame.FULLSCREEN)
            self._pygame.mouse.set_visible(False)
        else:
            self._pygame.display.set_mode(size, self._pygame.RESIZABLE)
            self._pygame.mouse.set_visible(True)

    def _switch_fullscreen(self) -> None:
        self._fullscreen, self._shaped = not self._fullscreen, False
        self._set_mode(_FIRST_SIZE)

    def _switch_replay(self) -> None:
        kept = self._last.pictures()
        self._replay = Replay(kept, time.monotonic()) if kept and self._replay is None else None

    def _switch_help(self) -> None:
        self._help = not self._help

    def _snapshot(self) -> None:
        if self._shown is None:
            return
        name = snapshot_name(self._shown)
        try:
            with atomic_path(self._options.snapshots / name) as temporary:
                temporary.write_bytes(png(self._shown.picture))
            self._say(f"saved {name}")
        except (OSError, VivimError) as error:
            self._say(f"{name} was not saved: {error}")

    def _say(self, message: str) -> None:
        self._message, self._message_until = message, time.monotonic() + _MESSAGE_S

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pygame.display.quit()
