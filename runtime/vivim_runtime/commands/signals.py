"""What SIGINT and SIGTERM do to a command: they end it in good order, and crash nothing.

The exception of a handler is raised between two lines of Python, whoever called them: onnx's extension crashes of it
while it is loaded (SIGSEGV, SIGABRT), others make another error of it, and destructors swallow it. Therefore

- a command ends at once while it imports its packages, and when its work is done: nothing is open;
- in between, an exception closes and removes what is open, where it harms nothing (`vivim_runtime.interrupts`);
- an exception that a destructor swallowed is raised once more;
- of two signals within a second the second is an echo: `timeout` and make send what the terminal has sent already;
  a later one ends at once, whatever is left;
- an interpreter in which something was interrupted is not torn down, since extensions may be half-way.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from vivim_runtime.interrupts import may_interrupt

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = ["Asked", "Signals"]

_ECHO_S = 1.0
_LATER_S = 0.05  # until it is looked again what runs


class Asked:
    """The signal that asked for the end.

    Attributes:
        number: of the first that came; None before.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._when = 0.0

    def first(self, number: int) -> bool:
        """Whether this signal is the first; False for its echo. Does not return from a second one."""
        now = time.monotonic()
        if self.number is None:
            self.number, self._when = number, now
            return True
        if now - self._when >= _ECHO_S:
            os._exit(128 + number)
        return False


class Signals:
    """The handlers of a command.

    Args:
        command: its name, for what is told of an interrupt.

    Attributes:
        working: whether something may be open, which an exception is to close.
    """

    def __init__(self, command: str) -> None:
        self.working = False
        self._command = command
        self._asked = Asked()

    @property
    def told(self) -> int | None:
        """The signal that ended the work."""
        return self._asked.number

    def take(self) -> None:
        """Handle signals from now on. An interrupt that is ignored, as in a shell's job in the background, stays so."""
        signal.signal(signal.SIGTERM, self._came)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._came)

    def leave(self, code: int) -> NoReturn:
        """End this process with `code`, as an interpreter does that was told to end, but take no package down."""
        sys.unraisablehook = lambda swallowed: None
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()  # which end the processes and remove the folders that packages have made
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    def _came(self, number: int, frame: FrameType | None) -> None:
        if not self.working:
            if number == signal.SIGINT:
                with contextlib.suppress(OSError):
                    os.write(2, f"{self._command}: interrupted\n".encode())
            os._exit(128 + number)
        if self._asked.first(number):
            signal.signal(signal.SIGALRM, self._raise)
            sys.unraisablehook = self._swallowed
            self._raise(number, frame)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        """Raise what ends the work, or look again a moment later."""
        if not self.working:
            return
        if not may_interrupt(frame):
            _look_again()
        elif self.told == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            sys.exit(128 + (self.told or number))

    def _swallowed(self, what: UnraisableHookArgs) -> None:
        """What a destructor could not raise: our own comes once more; what fails after it says nothing."""
        if issubclass(what.exc_type, (KeyboardInterrupt, SystemExit)):
            _look_again()


def _look_again() -> None:
    signal.setitimer(signal.ITIMER_REAL, _LATER_S)
