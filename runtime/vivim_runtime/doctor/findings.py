"""What a probe reports: one line, and where something is wanting, one command that helps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vivim_runtime.doctor.asking import Answer

__all__ = ["ON_CPU", "Finding", "State", "wanting"]

# What still works where there is no GPU.
ON_CPU = "vivim-run SOURCE OUT --model MODEL.onnx --device cpu"


class State(str, Enum):
    """ok: works. missing: optional, and not there. broken: there, or needed, and does not work."""

    ok = "ok"
    missing = "missing"
    broken = "broken"


@dataclass(frozen=True)
class Finding:
    """One part of an installation.

    Attributes:
        part: its name, the same in every run.
        state: whether it works.
        found: what is there, with versions; or why there is nothing.
        means: what that means, for which feature.
        fix: one shell command; None exactly where the state is ok.
    """

    part: str
    state: State
    found: str
    means: str
    fix: str | None = None

    def __post_init__(self) -> None:
        if (self.fix is None) is not (self.state is State.ok):
            raise ValueError(
                f"{self.part} is {self.state.value} with the fix {self.fix}; expected one where it is not ok"
            )


def wanting(part: str, asked: Answer, means: str, package: str, required: bool = False) -> Finding | None:
    """Of a library that is not installed or cannot be imported; None of one that answered.

    Args:
        part: as in Finding.
        asked: what the library answered.
        means: which feature needs it.
        package: what pip installs.
        required: it belongs to the base install, so that it is broken where it is absent.
    """
    needed = f"needed for: {means}"
    if asked.problem:
        fix = f"pip install --force-reinstall {package}"
        return Finding(part, State.broken, f"cannot be imported: {asked.problem}", needed, fix)
    if asked.absent:
        state = State.broken if required else State.missing
        return Finding(part, state, "not installed", needed, f"pip install {package}")
    return None
