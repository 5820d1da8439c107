"""An object in a process of its own, so that its memory, its libraries and its threads are its own to be measured."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from vivim_runtime.errors import VivimError

__all__ = ["EndedError", "MeasuringProcess", "proc_bytes"]


class EndedError(VivimError):
    """The process ended by itself.

    Attributes:
        code: its exit code; the negative of a signal.
    """

    def __init__(self, name: str, code: int | None) -> None:
        super().__init__(f"{name}: its process ended with code {code}; -9 means that memory ran out")
        self.code = code


class MeasuringProcess:
    """A fresh interpreter in which `make(*arguments)` gives an object whose methods are called from here.

    A context manager. What is sent either way must be picklable, `make` by its name.

    Attributes:
        name: for messages.
    """

    def __init__(self, name: str, make: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")  # a fresh interpreter: nothing is shared, CUDA can start
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is seen here as an EOFError

    def ask(self, method: str, *arguments: Any, seconds: float | None = None) -> Any:
        """What a method of the object returns; the first call waits until the object is made.

        Args:
            seconds: how long to wait at most; None waits for ever.

        Raises:
            TimeoutError: it took longer.
            EndedError: the process is gone.
            RuntimeError: a defect, with its traceback.
            VivimError: what the object, or making it, raised: another one than was raised there, of its class where
                that takes a message alone.
        """
        with suppress(BrokenPipeError):  # its process has ended: the answer says so
            self._pipe.send((method, arguments))
        try:
            if seconds is not None and not self._pipe.poll(seconds):
                raise TimeoutError(f"{self.name} took more than {seconds:g} s")
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise EndedError(self.name, self._process.exitcode) from None
        if kind == "defect":
            raise RuntimeError(f"{self.name}:\n{value}")
        if kind == "error":
            raise value
        return value

    def close(self, in_order: bool) -> None:
        """End the process: by itself, so that the object can let go of what it holds, or at once."""
        if in_order:
            with suppress(BrokenPipeError):
                self._pipe.send((_STOP, ()))
            self._process.join()
        self._process.terminate()
        self._process.join()
        self._pipe.close()

    def __enter__(self) -> MeasuringProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(in_order=kind is None)


def proc_bytes(file: str, name: str) -> int | None:
    """A figure of a file of /proc, in bytes; None where there is no such file or figure.

    Of `self/status`, VmRSS is what is resident now, and VmHWM the most there was since the start (or since 5 was
    written to self/clear_refs): ru_maxrss instead would start at the size of the process that started this one.
    """
    try:
        lines = (Path("/proc") / file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


# --- within the process ---------------------------------------------------------------------------------------------

_STOP = "stop"


def _serve(pipe: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Make the object, then answer requests until told to stop; an object with a `close` is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends this process
    thing = None
    try:
        while (request := pipe.recv())[0] != _STOP:
            if thing is None:
                thing = make(*arguments)
            pipe.send(("done", getattr(thing, request[0])(*request[1])))
    except (EOFError, BrokenPipeError):  # the parent is gone
        return
    except VivimError as error:
        pipe.send(("error", _portable(error)))
    except Exception:
        pipe.send(("defect", traceback.format_exc()))
    finally:
        close = getattr(thing, "close", None)
        if close is not None:
            close()


def _portable(error: VivimError) -> VivimError:
    """An error that can be sent: one of the same class, or of the nearest one above it that takes a message alone."""
    ours = [kind for kind in type(error).__mro__ if issubclass(kind, VivimError)]
    kind = next((k for i, k in enumerate(ours) if not any("__init__" in vars(above) for above in ours[i:])), VivimError)
    copied = kind(str(error))
    copied.__dict__["exit_code"] = error.exit_code
    return copied
