"""The runtime: sources of frames, models that run, masks, overlays and outputs. Needs neither torch nor onnx.

with open_source("clip.mp4") as source, open_session("model.onnx") as session:
    report = run(source, session, sinks=[], options=RunOptions())
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vivim_runtime.errors import (
    IncompatibleEngineError,
    MissingExtraError,
    ModelError,
    SinkError,
    SourceError,
    UsageError,
    VivimError,
    VivimRuntimeError,
)

if TYPE_CHECKING:
    from vivim_runtime.offline import RunOptions, RunReport, run
    from vivim_runtime.sessions import open_session
    from vivim_runtime.sessions.base import ClassInfo, ModelInfo, Session
    from vivim_runtime.sinks import Segmented, Sink, open_sink
    from vivim_runtime.sources import Frame, Source, open_source

    __version__: str

__all__ = [
    "ClassInfo",
    "Frame",
    "IncompatibleEngineError",
    "MissingExtraError",
    "ModelError",
    "ModelInfo",
    "RunOptions",
    "RunReport",
    "Segmented",
    "Session",
    "Sink",
    "SinkError",
    "Source",
    "SourceError",
    "UsageError",
    "VivimError",
    "VivimRuntimeError",
    "open_session",
    "open_sink",
    "open_source",
    "run",
]

_ROOMS = {
    "offline": ("RunOptions", "RunReport", "run"),
    "sessions": ("open_session",),
    "sessions.base": ("ClassInfo", "ModelInfo", "Session"),
    "sinks": ("Segmented", "Sink", "open_sink"),
    "sources": ("Frame", "Source", "open_source"),
}


def __getattr__(name: str) -> Any:
    """A public name, from its room when it is asked for: the commands have to handle signals before numpy and PyAV are
    loaded, and importing any room of this package imports this file first."""
    if name == "__version__":
        return import_module("vivim_runtime.installation").installed_version()
    for room, names in _ROOMS.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"vivim_runtime.{room}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
