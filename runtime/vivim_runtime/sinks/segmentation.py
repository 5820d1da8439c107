"""DICOM Segmentation (PS3.3 A.51) of a DICOM cine: one instance, a bit a pixel, one segment a class.

Ultrasound has no frame of reference, so every frame of the segmentation refers to the source's frame that it covers,
pixel by pixel (A.51.5.1: Derivation Image instead of Plane Position). highdicom refuses such sources, hence pydicom.

The order of the file is header, functional groups (5200,9230), pixels (7FE0,0010), and its lengths are known only at
the end. So the groups are kept encoded (about 500 bytes a frame and class), the pixels go bit-packed to a file
without a name beside the target, and `NAME.part.dcm` is put together at the end and renamed.
"""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import SinkError
from vivim_runtime.files import GrowingFile, writable_file
from vivim_runtime.sessions.base import ClassInfo, ModelInfo
from vivim_runtime.sinks.base import Segmented
from vivim_runtime.sinks.modules import copy_modules
from vivim_runtime.sources.dicom import DicomFile
from vivim_runtime.sources.dicom.files import read_header

__all__ = ["DicomSegmentation", "check_identity", "series_number", "software_version"]

_log = logging.getLogger(__name__)

_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")

# (value, scheme, meaning), PS3.16. What a class is comes with the model; nobody guesses it from a name.
_Code = tuple[str, str, str]
_TISSUE: _Code = ("85756007", "SCT", "Tissue")
_SEGMENTATION: _Code = ("113076", "DCM", "Segmentation")
_SOURCE_IMAGE: _Code = ("121322", "DCM", "Source Image for Image Processing Operation")
_NETWORK: _Code = ("123110", "DCM", "Artificial Intelligence")

# Transfer syntaxes that lose detail, and what PS3.3 C.7.6.1.1.5.1 calls their method.
_LOSSY = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
# The length of an element is 32 bits, even, and not all ones.
_MOST_BYTES = 2**32 - 2
_COPY_BYTES = 1 << 20


class DicomSegmentation:
    """A Segmentation instance that refers to the frames of a DICOM source.

    Every frame that is written gives one frame a class, empty or not: "no lesion here" differs from "not looked at".
    Patient and study are the source's; the series and the instance are new.

    Attributes:
        instance_uid, series_uid: of the object, which a report may refer to before it is there.
    """

    def __init__(self, path: Path, source: object, model: ModelInfo) -> None:
        if not isinstance(source, DicomFile):
            raise SinkError(
                f"cannot write {path}: a DICOM Segmentation refers to the frames of a DICOM file, and the source is "
                "none; write masks/ (PNG), X.mp4 or X.jsonl instead"
            )
        self._target = writable_file(path)
        self._source, self._model = read_header(source.path)[0], model
        self._frame_count = source.frame_count or 1
        self._geometry, self._size = source.geometry, source.stored_size
        self._check(source)
        self._file = GrowingFile(path)
        try:
            # Without a name, so that a run that is killed leaves nothing of it.
            self._spool: IO[bytes] = TemporaryFile(dir=path.parent)  # noqa: SIM115
        except OSError as error:
            self._file.discard()
            raise SinkError(f"cannot write {path}: {error.strerror}") from None
        from pydicom.uid import generate_uid

        self.instance_uid, self.series_uid = generate_uid(), generate_uid()
        self._bits = _BitPacker(self._spool)
        self._groups = bytearray()
        self._frames = 0

    def _check(self, source: DicomFile) -> None:
        check_identity(self._source, self._target, source.name)
        size = (source.frame_count or 1) * len(self._model.classes) * source.stored_size[0] * source.stored_size[1] // 8
        if size > _MOST_BYTES:
            raise SinkError(
                f"cannot write {self._target}: {source.frame_count} frames are {size >> 20} MB of masks, more than the "
                "4 GB of one DICOM object; add --max-frames, or write masks/ (PNG)"
            )

    @property
    def path(self) -> str:
        return str(self._target)

    def frame_number(self, written: int, label: int) -> int:
        """The number, from 1, of the frame that holds a class of the frame that was written after `written` others."""
        return written * len(self._model.classes) + label + 1

    def write(self, item: Segmented) -> None:
        try:
            for segment, mask in enumerate(item.masks, 1):
                self._bits.add(self._geometry.store(mask, self._size))
                self._groups += _encoded_item(self._frame_groups(item.frame.index + 1, segment))
        except OSError as error:
            raise SinkError(f"cannot go on writing {self._target}: {error.strerror}") from None
        self._frames += len(item.masks)

    def _frame_groups(self, source_frame: int, segment: int) -> Any:
        """The functional groups of one frame: which segment, of which frame of the source."""
        import pydicom

        image = pydicom.Dataset()
        image.ReferencedSOPClassUID = self._source.SOPClassUID
        image.ReferencedSOPInstanceUID = self._source.SOPInstanceUID
        if self._frame_count > 1 or "NumberOfFrames" in self._source:
            image.ReferencedFrameNumber = source_frame
        image.PurposeOfReferenceCodeSequence = [_coded(_SOURCE_IMAGE)]
        image.SpatialLocationsPreserved = "YES"
        derivation = pydicom.Dataset()
        derivation.SourceImageSequence = [image]
        derivation.DerivationCodeSequence = [_coded(_SEGMENTATION)]
        content = pydicom.Dataset()
        content.TemporalPositionIndex = source_frame
        content.DimensionIndexValues = [source_frame, segment]
        identification = pydicom.Dataset()
        identification.ReferencedSegmentNumber = segment
        groups = pydicom.Dataset()
        groups.DerivationImageSequence = [derivation]
        groups.FrameContentSequence = [content]
        groups.SegmentIdentificationSequence = [identification]
        return groups

    def __enter__(self) -> DicomSegmentation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._frames:
                self._complete()
                if kind is None:
                    self._file.complete()
        except OSError as failure:
            self._file.discard()
            # Behind a failed write (a full disk) nothing more can be said; the first error tells.
            if kind is None:
                raise SinkError(f"cannot write {self._target}: {failure.strerror}") from None
        finally:
            with suppress(OSError):  # what it could not write is lost anyway: the file goes
                self._spool.close()
            if self._frames:
                self._file.keep()
            else:
                self._file.discard()

    def _complete(self) -> None:
        """Put the file together: header, functional groups, pixels."""
        self._bits.finish()
        length = self._spool.tell()
        self._spool.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd values of the source: a warning would print them
            head = BytesIO()
            self._dataset().save_as(head, enforce_file_format=True)
        self._file.write(head.getvalue())
        # Explicit VR, little endian (PS3.5 7.1.2): group, element, VR, 2 reserved bytes, length.
        self._file.write(struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, len(self._groups)))
        self._file.write(self._groups)
        self._file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, length + length % 2))
        while block := self._spool.read(_COPY_BYTES):
            self._file.write(block)
        self._file.write(b"\0" * (length % 2))

    def _dataset(self) -> Any:
        """Everything before the functional groups of the frames."""
        import pydicom
        from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid

        source, now = self._source, datetime.now()
        date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
        data = pydicom.Dataset()
        unreadable = copy_modules(source, data)
        if unreadable:
            _log.warning("%s: %s of the source cannot be read and are left out", self._target, ", ".join(unreadable))
        if not _is_ascii(self._model.classes):  # which every character set holds
            data.decode()
            data.SpecificCharacterSet = "ISO_IR 192"
        data.SOPClassUID, data.SOPInstanceUID = SegmentationStorage, self.instance_uid
        data.InstanceCreationDate, data.InstanceCreationTime = date, time
        # General Series, Segmentation Series
        data.Modality, data.SeriesInstanceUID = "SEG", self.series_uid
        data.SeriesNumber, data.InstanceNumber = series_number(source), 1
        data.SeriesDescription = "Vivim segmentation"
        data.SeriesDate, data.SeriesTime = date, time
        # Equipment
        data.Manufacturer, data.ManufacturerModelName = "Vivim Edge", "vivim-run"
        data.DeviceSerialNumber, data.SoftwareVersions = "none", software_version()
        # Image
        data.ImageType = ["DERIVED", "PRIMARY"]
        data.ContentDate, data.ContentTime = date, time
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows, data.Columns = self._size
        data.NumberOfFrames = self._frames
        if self._geometry.aspect != 1 and source.get("PixelAspectRatio"):
            data.PixelAspectRatio = source.PixelAspectRatio
        data.BitsAllocated = data.BitsStored = 1
        data.HighBit = data.PixelRepresentation = 0
        _say_whether_lossy(data, source)
        # Segmentation Image
        data.ContentLabel, data.ContentDescription = "VIVIM", "Segmentation by a neural network, not reviewed"
        data.ContentCreatorName = ""
        data.SegmentationType = "BINARY"
        data.SegmentsOverlap = "NO" if len(self._model.classes) == 1 else "UNDEFINED"
        data.SegmentSequence = [_segment(n, info, self._model) for n, info in enumerate(self._model.classes, 1)]
        # Multi-frame Dimension: first the frame of the source, then the segment
        organization = pydicom.Dataset()
        organization.DimensionOrganizationUID = generate_uid()
        data.DimensionOrganizationSequence = [organization]
        data.DimensionIndexSequence = [
            _dimension(organization.DimensionOrganizationUID, index, group, label)
            for index, group, label in (
                ("TemporalPositionIndex", "FrameContentSequence", "Frame of the source"),
                ("ReferencedSegmentNumber", "SegmentIdentificationSequence", "Segment"),
            )
        ]
        # Common Instance Reference
        instance, series = pydicom.Dataset(), pydicom.Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        series.SeriesInstanceUID, series.ReferencedInstanceSequence = source.SeriesInstanceUID, [instance]
        data.ReferencedSeriesSequence = [series]
        data.SharedFunctionalGroupsSequence = [pydicom.Dataset()]
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return data


def check_identity(dataset: Any, target: Path, name: str) -> None:
    """SinkError where a source (its data set, and its name) lacks what must be referred to."""
    missing = [keyword for keyword in _IDENTITY if not dataset.get(keyword)]
    if missing:
        raise SinkError(f"cannot write {target}: {name} lacks {', '.join(missing)}, which it refers to")


class _BitPacker:
    """Writes masks as bits, lowest first, with nothing between the frames (PS3.5 8.1.1)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._rest: npt.NDArray[np.bool_] = np.zeros(0, bool)  # fewer than 8 pixels, for the next byte

    def add(self, mask: npt.NDArray[np.bool_]) -> None:
        pixels = np.concatenate([self._rest, mask.ravel()])
        whole = len(pixels) // 8 * 8
        self._file.write(np.packbits(pixels[:whole], bitorder="little").tobytes())
        self._rest = pixels[whole:]

    def finish(self) -> None:
        self._file.write(np.packbits(self._rest, bitorder="little").tobytes())
        self._rest = self._rest[:0]


def _encoded_item(item: Any) -> bytes:
    """One item of a sequence, explicit VR, little endian."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, item)
    content = buffer.getvalue()
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def _coded(code: _Code) -> Any:
    import pydicom

    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def _dimension(organization: str, index: str, group: str, label: str) -> Any:
    import pydicom
    from pydicom.datadict import tag_for_keyword

    item = pydicom.Dataset()
    item.DimensionOrganizationUID = organization
    item.DimensionIndexPointer, item.FunctionalGroupPointer = tag_for_keyword(index), tag_for_keyword(group)
    item.DimensionDescriptionLabel = label
    return item


def _segment(number: int, info: ClassInfo, model: ModelInfo) -> Any:
    """What a class is, who says so, and its colour."""
    import pydicom

    algorithm = pydicom.Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [_coded(_NETWORK)]
    algorithm.AlgorithmName, algorithm.AlgorithmVersion = f"Vivim {model.preset}"[:64], software_version()
    algorithm.AlgorithmParameters = f"weights sha256 {model.weights_sha256}, precision {model.precision}"
    algorithm.AlgorithmSource = "Vivim Edge"
    item = pydicom.Dataset()
    item.SegmentNumber, item.SegmentLabel = number, info.name[:64]
    item.SegmentedPropertyCategoryCodeSequence = [_coded(info.category or _TISSUE)]
    item.SegmentedPropertyTypeCodeSequence = [_coded(info.kind or _TISSUE)]
    item.SegmentAlgorithmType, item.SegmentAlgorithmName = "AUTOMATIC", f"Vivim {model.preset}"[:64]
    item.SegmentationAlgorithmIdentificationSequence = [algorithm]
    item.RecommendedDisplayCIELabValue = _cie_lab(info.color)
    return item


def _is_ascii(classes: Sequence[ClassInfo]) -> bool:
    """Whether what is written of classes needs no character set."""
    codes = (part for info in classes for code in (info.category, info.kind) for part in code or ())
    return all(text.isascii() for text in (*(info.name for info in classes), *codes))


def _cie_lab(color: tuple[int, int, int]) -> list[int]:
    """sRGB 0..255 -> CIELab in the 16-bit coding of PS3.3 C.10.7.1.1."""
    rgb = np.array([[color]], np.float32) / 255.0
    lightness, a, b = cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)[0, 0].tolist()
    return [round(lightness * 65535 / 100), round((a + 128) * 65535 / 255), round((b + 128) * 65535 / 255)]


def _say_whether_lossy(data: Any, source: Any) -> None:
    """A segmentation of an image that has lost detail says so, too (C.8.20.2)."""
    method = _LOSSY.get(str(source.file_meta.TransferSyntaxUID))
    lossy = source.get("LossyImageCompression") == "01" or method is not None
    data.LossyImageCompression = "01" if lossy else "00"
    if not lossy:
        return
    for name in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if source.get(name):
            data[name] = source[name]
    if method and "LossyImageCompressionMethod" not in data:
        data.LossyImageCompressionMethod = method


def series_number(source: Any) -> int:
    """A series of its own behind the source's."""
    try:
        return 1000 + int(source.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        return 1000


def software_version() -> str:
    try:
        return version("vivim-edge")
    except PackageNotFoundError:  # run from a folder
        return "unknown"
