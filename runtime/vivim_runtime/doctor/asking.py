"""Questions put to libraries in a process of its own, since importing a broken one may end or hang the process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Answer", "ask"]

_TIME_LIMIT_S = 60.0  # torch takes seconds from a cold disk
_QUESTIONS = Path(__file__).with_name("questions.py")


@dataclass(frozen=True)
class Answer:
    """What a question returned, or why it did not.

    Attributes:
        value: what it returned; None otherwise.
        absent: the library is not installed.
        problem: in one line, how it is broken; empty otherwise.
    """

    value: Any = None
    absent: bool = False
    problem: str = ""


def ask(question: str) -> Answer:
    """The answer to one of `questions.QUESTIONS`, from a fresh interpreter. Never raises for what the library does."""
    # The same modules are found as here, whatever the current folder is. The file is run by its path: importing it
    # would import this package, and with it OpenCV and PyAV.
    code = f"import runpy, sys; sys.path[:] = {sys.path!r}; runpy.run_path({str(_QUESTIONS)!r})['answer']({question!r})"
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        return Answer(problem=f"no answer within {_TIME_LIMIT_S:.0f} s")
    except OSError as error:
        return Answer(problem=f"Python does not start: {error}")
    if done.returncode < 0:
        return Answer(problem=f"the process was ended by {signal.Signals(-done.returncode).name}")
    try:
        return Answer(**json.loads(done.stdout.splitlines()[-1]))  # libraries may have printed before
    except (IndexError, ValueError, TypeError):
        lines = done.stderr.strip().splitlines()
        return Answer(problem=lines[-1].strip() if lines else f"exit code {done.returncode}")
