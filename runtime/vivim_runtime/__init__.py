"""The runtime: sources of frames, models that run, masks, overlays and outputs. Needs neither torch nor onnx.

with open_source("clip.mp4") as source, open_session("model.onnx") as session:
    report = run(source, session, sinks=[], options=RunOptions())
"""

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
from vivim_runtime.installation import installed_version
from vivim_runtime.offline import RunOptions, RunReport, run
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.base import ClassInfo, ModelInfo, Session
from vivim_runtime.sinks import Segmented, Sink, open_sink
from vivim_runtime.sources import Frame, Source, open_source

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

__version__ = installed_version()
