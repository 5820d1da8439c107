"""Signals at the moments when an exception would crash something, get lost, or leave something behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vivim_runtime.commands.signals import Asked

# What the command does, where `told()` gives its own process the signal, and what it prints before it ends.
_PROGRAMS = {
    "the packages are imported": (
        """try:
    told()
except BaseException:
    pass
print("went on")
""",
        "",
    ),
    "in the middle of the work": (
        """def app(**options):
    try:
        told()
    finally:
        print("closed")
""",
        "closed",
    ),
    "something is imported": (
        """def app(**options):
    import lazy
    print("imported")
    wait()
""",
        "imported",
    ),
    # An exception within the start of onnx's extension (nanobind) ends the process with SIGABRT or SIGSEGV.
    "onnx makes its enumerations": (
        """
import sys

def profile(frame, event, argument):
    if event == "call" and frame.f_code.co_name == "__setattr__" and frame.f_code.co_filename.endswith("enum.py"):
        sys.setprofile(None)
        told()

def app(**options):
    import numpy
    sys.setprofile(profile)
    import onnx.onnx_cpp2py_export
    print("whole")
    wait()
""",
        "whole",
    ),
    # An exception that unwinds the dispatcher's C++ frames may end the process with SIGABRT: seen in an export.
    "PyTorch's dispatcher calls back": (
        """def app(**options):
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Traced(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            told()
            print("dispatched")
            return function(*arguments, **(options or {}))

    ones = torch.ones(2)
    with Traced():
        torch.neg(ones)
    wait()
""",
        "dispatched",
    ),
    "a frame is given to the outputs": (
        """from vivim_runtime.interrupts import undisturbed

@undisturbed
def write():
    told()
    print("written")

def app(**options):
    write()
    wait()
""",
        "written",
    ),
    "an extension makes an ImportError of it": (
        """def app(**options):
    try:
        told()
    except BaseException:
        raise ImportError("initialization failed") from None
""",
        "",
    ),
    "a package goes on and fails of what it has not": (
        """def app(**options):
    try:
        told()
    except BaseException:
        pass
    raise AttributeError("module 'torch._dynamo' has no attribute 'exc'")
""",
        "",
    ),
    "an error of ours is made of it": (
        """
from vivim_runtime.errors import ModelError

def app(**options):
    try:
        told()
    except BaseException as error:
        raise ModelError(f"the network's code failed: {error!r}") from None
""",
        "",
    ),
    "a destructor swallows it": (
        """class Held:
    def __del__(self):
        told()

def app(**options):
    Held()
    print("swallowed")
    wait()
""",
        "swallowed",
    ),
    "destructors fail of it": (
        """
class Broken:
    def __del__(self):
        raise RuntimeError("half-way")

def app(**options):
    held = Broken()
    told()
""",
        "",
    ),
    "it comes twice, as timeout sends it": (
        """def app(**options):
    try:
        told()
    finally:
        told()
        print("closed")
""",
        "closed",
    ),
    "packages have left something to remove": (
        """import atexit

atexit.register(print, "removed")

def app(**options):
    told()
""",
        "removed",
    ),
    "the interpreter could not be taken down": (
        """import threading

threading.Thread(target=time.sleep, args=(60,)).start()

def app(**options):
    told()
""",
        "",
    ),
    "all is done": (
        """import atexit

atexit.register(told)

def app(**options):
    print("done")
""",
        "done",
    ),
}
_TOLD = """import os, signal, time
told = lambda: os.kill(os.getpid(), signal.NAME)
def wait():
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.01)
    print('waited in vain')
"""
# SIGINT would be ignored where the suite is a job in the background.
_MAIN = """import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from vivim_runtime.commands import entry
entry.main('vivim-run', 'program')
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("when", _PROGRAMS)
def test_a_command_that_is_told_to_end_when(when: str, number: signal.Signals, tmp_path: Path) -> None:
    program, printed = _PROGRAMS[when]
    told = _TOLD.replace("NAME", number.name)
    (tmp_path / "program.py").write_text(told + program)
    (tmp_path / "lazy.py").write_text("from program import told\ntold()\n")
    ended = subprocess.run(
        [sys.executable, "-c", _MAIN],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (ended.returncode, ended.stdout.split()) == (128 + number, printed.split())
    assert ended.stderr == ("vivim-run: interrupted\n" if number == signal.SIGINT else "")


def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    clock = iter([100.0, 100.9, 101.1])
    monkeypatch.setattr("vivim_runtime.commands.signals.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("vivim_runtime.commands.signals.os._exit", codes.append)
    asked = Asked()
    assert asked.first(signal.SIGTERM) and asked.number == signal.SIGTERM
    assert not asked.first(signal.SIGTERM) and codes == []  # an echo
    asked.first(signal.SIGINT)
    assert codes == [130]


def test_nothing_that_crashes_of_an_interrupt_is_loaded_before_it_is_handled() -> None:
    code = "import sys, vivim_runtime.commands.entry; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "vivim_runtime.commands.signals" in loaded
    assert not {"numpy", "av", "typer", "rich", "importlib.metadata"} & set(loaded)
