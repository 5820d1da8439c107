"""What a run writes, as `vivim-run` was told: one object for the offline and the live run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivim_runtime.files import write_text
from vivim_runtime.measuring import Scales
from vivim_runtime.sessions.base import ModelInfo
from vivim_runtime.sinks import Sink, open_sink
from vivim_runtime.sinks.segmentation import DicomSegmentation
from vivim_runtime.sinks.structured_report import StructuredReport
from vivim_runtime.sources import Source

__all__ = ["OutputOptions"]


@dataclass(frozen=True)
class OutputOptions:
    """Where a run goes, and what is said about it.

    Attributes:
        names: of screens, recordings and ledgers, as the user gave them.
        settings: what ran, for the ledger and the summary file.
        overwrite: replace the masks of an earlier run.
        encoder: of vivim_runtime.sinks.video.ENCODERS, for `X.mp4`.
        json_file: for the summary; None for none.
        quiet: no progress and no summary.
        scales: how large pixels are, for reports of measures.
    """

    names: tuple[str, ...]
    settings: Mapping[str, Any]
    overwrite: bool = False
    encoder: str = "auto"
    json_file: Path | None = None
    quiet: bool = False
    scales: Scales | None = None

    def open_sink(self, name: str, source: Source, model: ModelInfo) -> Sink:
        """The sink that one of the names stands for; see vivim_runtime.sinks.open_sink."""
        return open_sink(name, source, model, self.settings, self.overwrite, self.encoder, self.scales)

    @staticmethod
    def join(sinks: Sequence[Sink]) -> None:
        """Let reports refer to the segmentation beside them, where all get the same frames."""
        segmentation = next((sink for sink in sinks if isinstance(sink, DicomSegmentation)), None)
        for sink in sinks:
            if isinstance(sink, StructuredReport) and segmentation is not None:
                sink.refer_to(segmentation)

    def write_summary(self, report: Mapping[str, Any]) -> None:
        """Write what ran and what it gave to the summary file, where one was asked for."""
        if self.json_file:
            write_text(self.json_file, json.dumps({**self.settings, **report}, indent=2) + "\n")
