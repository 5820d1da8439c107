"""What holds for all tests: how they share the cores with pytest-xdist, and which may be left out in CI."""

from __future__ import annotations

import gc
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sharing import Shared

# Before torch is imported: as many threads a worker as there are cores for it.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

# A shell's jobs in the background ignore Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# They share ports, displays and the clock, so that they run one after the other.
LIVE = (Path("tests/runtime/live"), Path("tests/runtime/commands/test_live.py"))


@pytest.fixture(autouse=True)
def _as_of_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said about installing does not depend on where this copy came from."""
    monkeypatch.setattr("vivim_runtime.installation._origin", dict)


@pytest.fixture(autouse=True)
def _handlers_of_signals_stay() -> Iterator[None]:
    """A command that a test calls in this process takes them, and ends at once of Ctrl-C when its work is done."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """`shared(name, make)`: a folder that `make` fills once, however many workers ask for it."""
    return Shared(tmp_path_factory, os.environ.get("PYTEST_XDIST_WORKER", ""))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--allowed-skips", type=Path, metavar="FILE", help="fail where a test skips for a reason that is not in FILE"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker is xdist's own; without xdist it would be an unknown one."""
    config.addinivalue_line("markers", "xdist_group(name): tests that one worker of pytest-xdist runs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For --dist loadgroup: a file stays in one worker, and so do all live tests."""
    for item in items:
        path = item.path.relative_to(item.config.rootpath)
        group = "live" if any(path.is_relative_to(live) for live in LIVE) else str(path)
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the search for garbage, which exports call for often, leaves it out."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # an export's graphs are looked through seldom, too: a tenth of its time


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail on a skip whose reason is not listed; of the process that has the terminal, not of its workers."""
    path: Path | None = session.config.getoption("--allowed-skips")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if path is None or reporter is None or hasattr(session.config, "workerinput"):
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    allowed = [line for line in lines if line and not line.startswith("#")]
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(re.search(pattern, reason) for pattern in allowed):
            reporter.write_line(
                f"\nFAILED {report.nodeid} was left out for a reason that {path} does not list: {reason}"
            )
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
