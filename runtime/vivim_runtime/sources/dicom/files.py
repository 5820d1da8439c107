"""DICOM files opened with care: what a damaged header says costs no memory, and what cannot be read is one line.

Messages are made of file names and technical attributes alone: patient data stays in the file.
"""

from __future__ import annotations

import math
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

from vivim_runtime.errors import MissingExtraError, SourceError
from vivim_runtime.sources.bounded import BoundedFile

__all__ = [
    "SEGMENTATION",
    "SEGMENTATIONS",
    "frame_groups",
    "is_dicom",
    "kind_of",
    "no_picture",
    "numbers",
    "read_dicom",
    "read_header",
    "reason_of",
    "without",
]

# Of a deflated file: 100 pictures of 8K as RGB would be more, and nobody deflates those.
_MOST_INFLATED = 1 << 30
_CHUNK = 1 << 20
# SOP classes of segmentations: Segmentation Storage, and that of label maps.
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
SEGMENTATIONS = (SEGMENTATION, "1.2.840.10008.5.1.4.1.1.66.7")
# SOP classes and modalities whose Pixel Data are no grey values or colours of a picture, and what they are.
_MASKS, _DOSE = "a segmentation, whose pixels are masks", "a distribution of dose"
_NO_PICTURES = {
    **dict.fromkeys((*SEGMENTATIONS, "SEG"), _MASKS),
    **dict.fromkeys(("1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE"), _DOSE),
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map, whose pixels are measurements",
}
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def is_dicom(path: Path) -> bool:
    """Whether a file is named or begins like DICOM (PS3.10: DICM behind 128 bytes)."""
    if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: Path) -> Any:
    """The data set of a file, its pixels not yet decoded.

    Raises:
        SourceError: it is missing, no DICOM, damaged, or cut off.
        MissingExtraError: pydicom is not installed.
    """
    return _read(path, pixels=True)[0]


def read_header(path: Path) -> tuple[Any, int | None]:
    """The data set of a file without its pixels, and where the element of these begins; None in a deflated file.

    Raises:
        SourceError, MissingExtraError: as `read_dicom`.
    """
    dataset, place = _read(path, pixels=False)
    return dataset, None if place >= path.stat().st_size else place


def _read(path: Path, pixels: bool) -> tuple[Any, int]:
    """The data set, and how far the file was read."""
    try:
        import pydicom
    except ModuleNotFoundError:
        raise MissingExtraError(f"reading {path.name}", "dicom") from None
    try:
        with warnings.catch_warnings(record=True) as found:
            # pydicom warns of what it puts up with (and goes on without what a cut file lost) and raises the rest.
            warnings.simplefilter("always")
            with BoundedFile(path) as file:
                _check_inflated(path, file)
                dataset = pydicom.dcmread(file, stop_before_pixels=not pixels)
                place = file.tell()
    except pydicom.errors.InvalidDicomError:
        raise SourceError(f"{path} is no DICOM file (it lacks the prefix DICM); is it complete?") from None
    except (MemoryError, SourceError):
        raise
    except Exception as error:  # pydicom, zlib and struct raise whatever a damaged byte leads them to
        # Not the error's text: it may quote a value.
        raise SourceError(f"{path} is no readable DICOM file ({type(error).__name__}); is it complete?") from None
    cut = next((str(w.message) for w in found if "End of file" in str(w.message)), None)
    if cut:
        raise SourceError(f"{path} is cut off: expected more behind {path.stat().st_size} bytes; copy it again")
    return dataset, place


def _check_inflated(path: Path, file: BoundedFile) -> None:
    """Refuse a deflated file that unpacks to more than any loop needs: pydicom would unpack all of it into memory.

    Raises:
        SourceError, and whatever pydicom and zlib raise of a damaged file.
    """
    if file.read(132)[128:] == b"DICM" and _syntax(file) == _DEFLATED:
        unpacking, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        data = file.read(_CHUNK)
        while data and not unpacking.eof:
            size += len(unpacking.decompress(data, _CHUNK))
            if size > _MOST_INFLATED:
                raise SourceError(
                    f"{path} unpacks to more than {_MOST_INFLATED >> 20} MiB, which is no loop of pictures; "
                    "convert it, for instance with: gdcmconv --raw IN OUT"
                )
            data = unpacking.unconsumed_tail or file.read(_CHUNK)
    file.seek(0)


def _syntax(file: BoundedFile) -> bytes:
    """The transfer syntax in the group 0002 (PS3.10 7.1), behind which the file then stands."""
    found = b""
    while (header := file.read(8))[:2] == b"\x02\0" and len(header) == 8:
        length = int.from_bytes(header[6:8], "little")
        if header[4:6] in (b"OB", b"OW", b"UN", b"UT", b"SQ"):
            length = int.from_bytes(file.read(4), "little")
        value = file.read(length)
        if header[2:4] == b"\x10\0":
            found = value.rstrip(b"\0 ")
    file.seek(-len(header), os.SEEK_CUR)
    return found


def numbers(dataset: Any, keyword: str) -> list[float] | None:
    """The values of a numeric attribute, however its writer has put them; None where it is absent or empty.

    Decimal commas are read as points. What is no number is NaN.
    """
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    try:
        element = dataset.get_item(tag_for_keyword(keyword))
        value = None if element is None else element.value
    except Exception:  # pydicom interprets values when they are asked for
        return [math.nan]
    if value is None:
        return None
    if isinstance(value, bytes):
        # Where the file does not say what a value is (implicit VR), the standard does.
        if (element.VR or dictionary_VR(element.tag)) not in ("DS", "IS", "UN"):
            try:
                value = dataset.get(keyword)  # binary numbers
            except Exception:  # see above
                return [math.nan]
        else:
            value = value.decode("ascii", "replace").split("\\")
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        value = [value]
    texts = [str(item).strip(" \0") for item in value]
    return [_number(text) for text in texts] if any(texts) else None


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan


def without(dataset: Any, *keywords: str) -> Any:
    """A data set with the same elements but some; it can be changed without changing the first one."""
    import pydicom
    from pydicom.datadict import tag_for_keyword

    left_out = {tag_for_keyword(keyword) for keyword in keywords}
    kept = pydicom.Dataset({tag: dataset.get_item(tag) for tag in dataset.keys() if tag not in left_out})  # noqa: SIM118
    kept.file_meta = dataset.file_meta
    kept.set_original_encoding(*dataset.original_encoding, dataset.original_character_set)
    return kept


def frame_groups(dataset: Any, macro: str) -> Any | None:
    """The first item of a functional group macro (PS3.3 C.7.6.16), shared or of the first frame; None without."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        try:
            found = dataset.get(groups)
            item = found[0].get(macro) if found else None
            if item:
                return item[0]
        except Exception:  # pydicom interprets values when they are asked for
            continue
    return None


def kind_of(dataset: Any) -> str:
    """What an object is, for people."""
    try:
        return str(dataset.SOPClassUID.name)
    except Exception:  # pydicom interprets values when they are asked for
        return "of unknown kind"


def no_picture(dataset: Any) -> str:
    """What an object is that holds no pictures for all its pixels; "" where it may well hold some."""
    try:
        said = (dataset.get("SOPClassUID"), dataset.file_meta.get("MediaStorageSOPClassUID"), dataset.get("Modality"))
        return next((_NO_PICTURES[str(word)] for word in said if str(word) in _NO_PICTURES), "")
    except Exception:  # pydicom interprets values when they are asked for
        return ""


def reason_of(error: Exception) -> str:
    """What an error says, in one line."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
