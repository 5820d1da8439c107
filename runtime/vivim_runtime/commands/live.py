"""What `vivim-run` does with a live source: screens, recordings, signals, and what the terminal says."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from rich.status import Status as Spinner
from rich.table import Table

from vivim_runtime.commands.outputs import OutputOptions
from vivim_runtime.commands.signals import Asked
from vivim_runtime.commands.terminal import let_go, terminal
from vivim_runtime.errors import UsageError
from vivim_runtime.live.run import LiveOptions, LiveReport, Outputs, run_live
from vivim_runtime.live.screens import Screen, ScreenOptions, is_screen, open_screen
from vivim_runtime.live.status import Controls, HudLevel, State, Status
from vivim_runtime.sessions.base import Session
from vivim_runtime.sinks import Sink
from vivim_runtime.sources import LiveSource, Paced
from vivim_runtime.sources.base import counted_frames
from vivim_runtime.text import printable

__all__ = ["live_command"]

_console = terminal(stderr=True)


def live_command(
    source: LiveSource,
    session: Session,
    options: LiveOptions,
    screen_options: ScreenOptions,
    outputs: OutputOptions,
    hud: HudLevel = HudLevel.full,
) -> int:
    """Run live and return the exit code: 0 at the end of the source or when people quit, 130 on Ctrl-C, 143 on SIGTERM,
    2 when a recording failed on the way."""
    names = outputs.names
    ledgers = [name for name in names if name.lower().endswith(".jsonl")]
    recordings = [name for name in names if not is_screen(name) and name not in ledgers]
    if len(ledgers) > 1:
        raise UsageError("a live run has one ledger; expected one name ending in .jsonl")
    if any(name.lower().endswith(".dcm") for name in recordings) and not (
        isinstance(source, Paced) and source.frame_count
    ):
        raise UsageError("X.dcm refers to the frames of a DICOM file; expected one as the source, without --loop")
    # What a sink needs to know of a recorded source is known by that source alone.
    original = source.recorded if isinstance(source, Paced) else source

    def sinks() -> list[Sink]:
        with ExitStack() as opened:  # where one cannot be opened, the others leave nothing
            found = [opened.enter_context(outputs.open_sink(name, original, session.info)) for name in recordings]
            opened.pop_all()
        return found

    def film() -> Sink:
        name = Path(time.strftime("vivim-%Y%m%d-%H%M%S.mp4"))
        while name.exists():  # of another run, in the same second
            name = name.with_stem(f"{name.stem}-2")
        return outputs.open_sink(str(name), original, session.info)

    controls = Controls(options.run.layers, options.run.threshold, options.run.alpha, hud)
    if recordings:
        controls.recording.set()
    with ExitStack() as stack:
        asked = stack.enter_context(_signals(controls))
        screens: list[Screen] = []
        for name in names:
            if is_screen(name):
                screens.append(stack.enter_context(open_screen(name, controls, session.info, screen_options)))
        ledger = (Path(ledgers[0]), {**outputs.settings, "live": True}) if ledgers else None
        terminal = stack.enter_context(_Terminal(outputs.quiet))
        for screen in screens:
            terminal.say(f"watch at {getattr(screen, 'url', screen.name)}")
        report = run_live(source, session, controls, options, Outputs(screens, sinks, film, ledger), terminal.tell)
    outputs.write_summary({"live": True, **asdict(report)})
    try:
        if not outputs.quiet:
            _print_report(report)
        for failure in report.failures:
            sys.stderr.write(f"error: {printable(failure)}\n")
        sys.stderr.flush()
    except OSError:  # nobody reads
        let_go()
    code = 128 + asked.number if asked.number else 2 if report.failures else 0
    if report.abandoned:
        # A thread hangs in a driver or in the model: the interpreter would wait for it, or crash under it.
        sys.stderr.write(f"left behind: {', '.join(report.abandoned)}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


@contextmanager
def _signals(controls: Controls) -> Iterator[Asked]:
    """SIGINT and SIGTERM ask for an end in good order; a second one ends at once."""
    asked = Asked()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.first(number):
            controls.quit.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Terminal:
    """One line that is always true on a terminal; elsewhere a line for every change of state."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._last = quiet, ""
        self._spinner: Spinner | None = None
        if not quiet and _console.is_terminal:
            self._spinner = _console.status("starting")

    def say(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        """Nothing once the reader has gone: the picture goes on."""
        if self._quiet:
            return
        try:
            _console.print(text)
        except OSError:
            self._leave()

    def _leave(self) -> None:
        self._quiet, spinner, self._spinner = True, self._spinner, None
        let_go()
        if spinner:
            spinner.stop()

    def tell(self, status: Status) -> None:
        line = status.state.value + (f": {status.message}" if status.message else "")
        if line.partition(":")[0] != self._last.partition(":")[0] and not self._spinner:
            self.say(line)
        self._last = line
        if self._spinner:
            latency = status.latency_ms.get("p50")
            figures = f"{status.fps:.0f} fps of {status.source_fps:.0f}, hop {status.hop}"
            figures += f", latency p50 {latency:.0f} ms" if latency is not None else ""
            try:
                self._spinner.update(f"{line}  ({figures}; Ctrl-C ends)")
            except OSError:
                self._leave()

    def __enter__(self) -> _Terminal:
        if self._spinner:
            self._spinner.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._spinner:
            self._spinner.stop()
        if self._last.startswith(State.no_signal.value):
            self._print(self._last)


def _print_report(report: LiveReport) -> None:
    for note in report.notes:
        _console.print(f"note: {note}")
    table = Table(show_header=False, box=None, pad_edge=False)
    counts = dict(report.counts)
    table.add_row("frames", f"{counts.pop('captured')} in {report.seconds:.1f} s")
    table.add_row("of these", ", ".join(f"{n} {what}" for what, n in counts.items() if n or what == "shown"))
    if report.lost:
        table.add_row("lost", f"{counted_frames(report.lost)} of the source, which cannot be decoded")
    table.add_row("inferred", f"{report.inference['inferred']} in {report.clips} clips, hop {report.hop}")
    for name, figures in report.stages_ms.items():
        if figures:
            table.add_row(f"{name}, ms", ", ".join(f"{key} {value:.1f}" for key, value in figures.items()))
    if report.reconnects:
        table.add_row("signal lost", f"{report.reconnects} times")
    for name, numbers in report.recordings.items():
        what = "wrote" if numbers["written"] else "not written"
        table.add_row(what, f"{name} ({numbers['written']} frames, {numbers['dropped']} dropped)")
    _console.print(table)
