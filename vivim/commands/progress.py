"""How a run goes, as it goes: a bar of steps in a terminal, and a line every half minute where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["RunProgress", "duration"]

# Seconds from one line to the next, and steps after which the time of a step is known well enough to be said.
_EVERY, _FIRST_STEPS = 30.0, 5


class RunProgress:
    """Says which step of which epoch it is, and how long the rest will take; a context manager that clears its bar."""

    def __init__(
        self,
        console: Console,
        epochs: int,
        done: int = 0,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`done`: epochs that lie behind already; `quiet`: say nothing."""
        self._console, self._epochs, self._done, self._quiet, self._clock = console, epochs, done, quiet, clock
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self._task = self._bar.add_task("making the first clips", total=None)
        self._began = self._said = clock()
        self._steps = 0  # of this call
        self._is_estimated = False

    def on_step(self, step: int, steps: int, loss: float) -> None:
        """After a step: its number within the epoch, steps an epoch, and the loss before it."""
        if self._quiet:
            return
        now = self._clock()
        if not self._steps:
            self._began = now  # the first step waits for its clips, and warms up
        self._steps += 1
        whole, here = self._epochs * steps, self._done * steps + step
        where = f"epoch {self._done + 1}/{self._epochs}"
        self._bar.update(self._task, completed=here, total=whole, description=f"{where}  loss {loss:.3f}")
        each = (now - self._began) / max(self._steps - 1, 1)
        rest = f"{each:.2g} s a step, {duration(each * (whole - here))} to go without validation"
        if not self._is_estimated and (self._steps > _FIRST_STEPS or (self._steps > 1 and now - self._began > 10)):
            self._is_estimated = True
            self._console.print(f"{rest}; {duration(each * steps)} an epoch", soft_wrap=True)
        if not self._console.is_terminal and now - self._said >= _EVERY:
            self._said = now
            self._console.print(f"{where}  step {step}/{steps}  loss {loss:.4f}  {rest}", soft_wrap=True)

    def on_epoch(self) -> None:
        """After an epoch."""
        self._done += 1

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def duration(seconds: float) -> str:
    """A time in words: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
