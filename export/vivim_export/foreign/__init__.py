"""Mamba networks of others, from their own code to one ONNX file: docs/any-mamba.md."""

from vivim_export.foreign.exporting import ForeignOptions, ForeignReport, Inspection, export_network, inspect_network
from vivim_export.foreign.loading import load_network
from vivim_export.foreign.stand_ins import stand_ins

__all__ = [
    "ForeignOptions",
    "ForeignReport",
    "Inspection",
    "export_network",
    "inspect_network",
    "load_network",
    "stand_ins",
]
