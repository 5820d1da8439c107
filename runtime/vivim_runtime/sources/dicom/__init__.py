"""DICOM files, for runs, data sets and segmentations alike: one reader of frames, times, colours and aspect."""

from __future__ import annotations

from vivim_runtime.sources.dicom.files import is_dicom
from vivim_runtime.sources.dicom.loop import DicomFile

__all__ = ["DicomFile", "is_dicom"]
