"""Where frames go: a video, a folder of masks, a DICOM Segmentation, a ledger; one interface, chosen by the name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivim_runtime.errors import SinkError
from vivim_runtime.measuring import Scales
from vivim_runtime.sessions.base import ModelInfo
from vivim_runtime.sinks.base import Segmented, Sink
from vivim_runtime.sinks.ledger import Ledger
from vivim_runtime.sinks.masks import MaskFolder
from vivim_runtime.sinks.segmentation import DicomSegmentation
from vivim_runtime.sinks.structured_report import StructuredReport
from vivim_runtime.sinks.video import CONTAINERS, VideoWriter
from vivim_runtime.sources.base import Source, lost_frames

__all__ = ["Segmented", "Sink", "open_sink"]


def open_sink(
    name: str,
    source: Source,
    model: ModelInfo,
    run: Mapping[str, Any],
    overwrite: bool = False,
    encoder: str = "auto",
    scales: Scales | None = None,
) -> Sink:
    """The sink of a name: `X.mp4` (or `.mkv`, `.avi`, `.webm`), `X.jsonl`, `X.sr.dcm`, `X.dcm`, or a folder.

    Args:
        source: whose frames will come.
        model: whose masks they carry.
        run: what the ledger says about the run.
        overwrite: replace the masks of an earlier run.
        encoder: of vivim_runtime.sinks.video.ENCODERS, for `X.mp4`.
        scales: how large pixels are, for `X.sr.dcm`.

    Raises:
        SinkError: when it cannot be written.
    """
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix in CONTAINERS:
        return VideoWriter(path, source.size, source.fps, encoder)
    if suffix == ".jsonl":
        return Ledger(path, model.classes, run, lambda: lost_frames(source))
    if path.name.lower().endswith(".sr.dcm"):
        return StructuredReport(path, source, model, scales)
    if suffix == ".dcm":
        return DicomSegmentation(path, source, model)
    if name.endswith("/") or path.is_dir() or not suffix:
        return MaskFolder(path, overwrite)
    raise SinkError(
        f"cannot write {name}: expected a name ending in {', '.join(CONTAINERS)}, .jsonl, .dcm or .sr.dcm, "
        "or a folder for masks"
    )
