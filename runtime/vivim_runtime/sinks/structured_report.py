"""DICOM Structured Report of measurements (PS3.3 A.35.3, PS3.16 TID 1500) of a DICOM cine: what was found, how large.

A Measurement Group (TID 1410) for every lesion and frame: its outline on the pixels of the source's frame, area,
longest diameter and the one across it, in millimetres, each with its bounds of error (TID 310). One tracking identifier
is a lesion through all frames. Where the run writes a DICOM Segmentation too, and a frame of it holds that lesion and
nothing else, the group refers to that frame and segment instead of an outline: one of them is what TID 1410 allows.
highdicom builds it.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import MissingExtraError, SinkError
from vivim_runtime.files import GrowingFile, writable_file
from vivim_runtime.measuring import Bounded, Lesion, Scales
from vivim_runtime.sessions.base import ModelInfo
from vivim_runtime.sinks.base import Segmented
from vivim_runtime.sinks.segmentation import DicomSegmentation, check_identity, series_number, software_version
from vivim_runtime.sources.dicom import DicomFile
from vivim_runtime.sources.dicom.files import SEGMENTATION, read_header

__all__ = ["StructuredReport"]

_log = logging.getLogger(__name__)

# Beyond this, a report holds each lesion where it is longest alone: the ledger has all frames.
_MOST_GROUPS = 2000
# Digits of a decimal string that a measure deserves.
_DIGITS = 3

_Code = tuple[str, str, str]
_AREA: _Code = ("42798000", "SCT", "Area")
_LONG_AXIS: _Code = ("103339001", "SCT", "Long Axis")
_SHORT_AXIS: _Code = ("103340004", "SCT", "Short Axis")
_ULTRASONOGRAPHY: _Code = ("16310003", "SCT", "Diagnostic ultrasonography")
_QUANTITY: _Code = ("246205007", "SCT", "Quantity")
_NO_UNITS: _Code = ("1", "UCUM", "no units")
_MM: _Code = ("mm", "UCUM", "millimeter")
_MM2: _Code = ("mm2", "UCUM", "square millimeter")


@dataclass(frozen=True)
class _Found:
    """A lesion of a frame, as the report has it: number, class, frame of the source from 1, outline, measures.

    `segmented` is the frame of the segmentation, from 1, that holds it alone; None where none does.
    """

    number: int
    label: int
    frame: int
    segmented: int | None
    outline: npt.NDArray[np.float64]
    measures: tuple[tuple[_Code, _Code, Bounded], ...]
    longest: float


class StructuredReport:
    """A Comprehensive SR instance that refers to the frames of a DICOM source.

    Raises:
        SinkError: the source is no DICOM file, has no identity, or nothing says how large its pixels are.
        MissingExtraError: highdicom is not installed.
    """

    def __init__(self, path: Path, source: object, model: ModelInfo, scales: Scales | None) -> None:
        if not isinstance(source, DicomFile):
            raise SinkError(
                f"cannot write {path}: a structured report refers to the frames of a DICOM file, and the source is "
                "none; write X.jsonl instead, which has the measures too"
            )
        if scales is None or not scales.scales:
            reason = "nothing is measured" if scales is None else scales.refusal
            raise SinkError(f"cannot write {path}: no millimetres ({reason}); give --mm-per-pixel, or write X.jsonl")
        try:
            import highdicom  # noqa: F401
        except ModuleNotFoundError:
            raise MissingExtraError(f"writing {path.name}", "report") from None
        self._target = writable_file(path)
        self._source, self._model = read_header(source.path)[0], model
        check_identity(self._source, path, source.name)
        self._single = (source.frame_count or 1) == 1 and "NumberOfFrames" not in self._source
        self._geometry, self._stored, self._shown = source.geometry, source.stored_size, source.size
        self._scales = scales
        self._file = GrowingFile(path)
        self._found: list[_Found] = []
        self._frames = 0
        self._segmentation: DicomSegmentation | None = None

    @property
    def path(self) -> str:
        return str(self._target)

    def refer_to(self, segmentation: DicomSegmentation) -> None:
        """Refer to the segments of an object that gets the same frames; before the first of them."""
        self._segmentation = segmentation

    def write(self, item: Segmented) -> None:
        for lesion in item.lesions:
            if lesion.measures is not None:
                alone = lesion.pixels == int(np.count_nonzero(item.masks[lesion.label]))
                segmented = None
                if self._segmentation is not None and alone:
                    segmented = self._segmentation.frame_number(self._frames, lesion.label)
                self._found.append(self._entry(lesion, item.frame.index + 1, segmented))
        self._frames += 1
        if len(self._found) > 2 * _MOST_GROUPS:
            self._found = _longest(self._found)

    def _entry(self, lesion: Lesion, frame: int, segmented: int | None) -> _Found:
        measures = lesion.measures
        assert measures is not None
        return _Found(
            lesion.number,
            lesion.label,
            frame,
            segmented,
            self._outline(lesion),
            (
                (_LONG_AXIS, _MM, measures.longest),
                (_SHORT_AXIS, _MM, measures.across),
                (_AREA, _MM2, measures.area),
            ),
            measures.longest.value,
        )

    def _outline(self, lesion: Lesion) -> npt.NDArray[np.float64]:
        """A closed polygon (N, 2) of columns and rows on the stored pixels, whose first corner is at (0, 0)."""
        x, y, width, height = lesion.box
        canvas = np.zeros((height + 2, width + 2), np.uint8)
        canvas[1:-1, 1:-1] = lesion.mask
        contours, _ = cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        corners = max(contours, key=len)[:, 0].astype(np.float64)
        stretch = self._stored[1] / self._shown[1], self._stored[0] / self._shown[0]
        corners = (corners + np.array([x - 0.5, y - 0.5])) * np.array(stretch)
        corners = np.clip(corners, 0.0, (self._stored[1], self._stored[0]))
        return np.concatenate([corners, corners[:1]])

    def __enter__(self) -> StructuredReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._frames:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of odd values of the source: a warning would print them
                    buffer = BytesIO()
                    self._dataset().save_as(buffer, enforce_file_format=True)
                self._file.write(buffer.getvalue())
                self._file.complete()
        except OSError as failure:
            raise SinkError(f"cannot write {self._target}: {failure.strerror}") from None
        finally:
            if kind is None and self._frames:
                self._file.keep()
            else:
                self._file.discard()

    def _dataset(self) -> Any:
        import highdicom as hd
        from highdicom import sr

        found = self._found
        if len(found) > _MOST_GROUPS:
            found = _longest(found)
            _log.warning(
                "%s: more than %d measures; it has each lesion where it is longest, and the ledger all of them",
                self._target,
                _MOST_GROUPS,
            )
        uids = {number: hd.UID() for number in dict.fromkeys(entry.number for entry in found)}
        observer = sr.ObserverContext(
            observer_type=sr.CodedConcept("121007", "DCM", "Device"),
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=hd.UID(),
                name="Vivim Edge",
                manufacturer_name="Vivim Edge",
                model_name="vivim-run",
                serial_number="none",
            ),
        )
        report = sr.MeasurementReport(
            observation_context=sr.ObservationContext(observer_device_context=observer),
            procedure_reported=sr.CodedConcept(*_ULTRASONOGRAPHY),
            imaging_measurements=[self._group(entry, uids[entry.number]) for entry in found] or [self._nothing()],
            title=sr.CodedConcept("126000", "DCM", "Imaging Measurement Report"),
            language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
                sr.CodedConcept("en-US", "RFC5646", "English (United States)")
            ),
        )
        data = sr.ComprehensiveSR(
            evidence=self._evidence(any(entry.segmented for entry in found)),
            content=report[0],
            series_instance_uid=hd.UID(),
            series_number=series_number(self._source) + 1,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="Vivim Edge",
            is_complete=True,
            is_final=False,  # nobody has reviewed it
        )
        data.SeriesDescription = "Vivim measurements"
        data.ManufacturerModelName, data.SoftwareVersions = "vivim-run", software_version()
        return data

    def _evidence(self, segmented: bool) -> list[Any]:
        """What the report refers to: the source, and the segmentation, of which only its names are there yet."""
        source = _evidence(self._source)
        if not segmented or self._segmentation is None:
            return [source]
        beside = copy.deepcopy(source)  # the patient and the study are the same; a shallow copy shares all elements
        beside.SOPClassUID, beside.SOPInstanceUID = SEGMENTATION, self._segmentation.instance_uid
        beside.SeriesInstanceUID, beside.Modality = self._segmentation.series_uid, "SEG"
        return [source, beside]

    def _nothing(self) -> Any:
        """TID 1501 of a report without lesions: a template with measurements, of which there must be one: how many."""
        import highdicom as hd
        from highdicom import sr

        return sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier="lesions in all frames"),
            algorithm_id=self._algorithm(),
            measurements=[
                sr.Measurement(name=sr.CodedConcept(*_QUANTITY), value=0, unit=sr.CodedConcept(*_NO_UNITS)),
            ],
        )

    def _algorithm(self) -> Any:
        from highdicom import sr

        return sr.AlgorithmIdentification(
            name=f"Vivim {self._model.preset}"[:64],
            version=software_version(),
            parameters=[
                f"weights sha256 {self._model.weights_sha256}",
                f"precision {self._model.precision}",
                f"scale: {self._scales.describe()}",
            ],
        )

    def _group(self, entry: _Found, uid: str) -> Any:
        """TID 1410, and below it TID 1419 for each measure."""
        from highdicom import sr

        info = self._model.classes[entry.label]
        source = self._source
        frames = None if self._single else [entry.frame]
        region = segment = None
        if entry.segmented is None or self._segmentation is None:
            region = sr.ImageRegion(
                graphic_type=sr.GraphicTypeValues.POLYLINE,
                graphic_data=entry.outline,
                source_image=sr.SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID, frames),
            )
        else:
            segment = sr.ReferencedSegmentationFrame(
                SEGMENTATION,
                self._segmentation.instance_uid,
                entry.segmented,
                entry.label + 1,
                sr.SourceImageForSegmentation(source.SOPClassUID, source.SOPInstanceUID, frames),
            )
            # The frame says which segment it is of; both together are not allowed (PS3.3 table 10-3).
            del segment[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
        return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=f"{info.name} {entry.number}"[:64]),
            referenced_region=region,
            referenced_segment=segment,
            finding_type=None if info.kind is None else sr.CodedConcept(*info.kind),
            algorithm_id=self._algorithm(),
            measurements=[_measurement(*measure) for measure in entry.measures],
        )


def _measurement(name: _Code, unit: _Code, bounded: Bounded) -> Any:
    from highdicom import sr

    error = round(bounded.error, _DIGITS)
    value = round(bounded.value, _DIGITS)
    return sr.Measurement(
        name=sr.CodedConcept(*name),
        value=value,
        unit=sr.CodedConcept(*unit),
        properties=sr.MeasurementProperties(upper_measurement_uncertainty=error, lower_measurement_uncertainty=error),
    )


def _longest(found: Sequence[_Found]) -> list[_Found]:
    """Each lesion where it is longest, in the order of their numbers."""
    best: dict[int, _Found] = {}
    for entry in found:
        if entry.number not in best or entry.longest > best[entry.number].longest:
            best[entry.number] = entry
    return [best[number] for number in sorted(best)]


def _evidence(source: Any) -> Any:
    """The source as highdicom takes it, with the attributes that a report has even where they are empty."""
    for keyword in (
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
    ):
        if keyword not in source:
            setattr(source, keyword, None)
    return source
