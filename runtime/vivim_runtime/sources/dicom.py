"""DICOM files: single frames and cine loops, decoded one frame at a time (PS3.3 C.7.6.3, C.7.6.5, C.11.2).

Names and notes are made of the file name and technical attributes alone: patient data stays in the file.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import MissingExtraError, SourceError
from vivim_runtime.sources.base import DEFAULT_FPS, MAX_PIXELS, Frame, Image
from vivim_runtime.sources.codestream import read_codestream

__all__ = ["DicomFile", "is_dicom"]


# More than nine hours at 30 a second; a damaged header may say anything.
_MAX_FRAMES = 1_000_000


class _BoundedFile(io.BufferedReader):
    """A file of which a damaged header asks for more than it holds: Python would set all that memory aside first."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(str(path)))  # pydicom wants the name as text
        self._size = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def is_dicom(path: Path) -> bool:
    """Whether a file is named or begins like DICOM (PS3.10: DICM behind 128 bytes)."""
    if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _frame_times(dataset: Any, frames: int) -> tuple[list[float], float, bool]:
    """Times of the frames in seconds, frames per second, and whether the file told.

    In the order of trust: FrameTimeVector, FrameTime (both ms), CineRate, RecommendedDisplayFrameRate (both 1/s).
    """
    vector = dataset.get("FrameTimeVector")
    if vector is not None and frames > 1 and len(vector) == frames and sum(map(float, vector[1:])) > 0:
        times = np.cumsum([0.0, *(float(v) for v in vector[1:])]) / 1000.0
        return times.tolist(), (frames - 1) / float(times[-1]), True
    if float(dataset.get("FrameTime") or 0) > 0:
        fps = 1000.0 / float(dataset.FrameTime)
    else:
        fps = float(dataset.get("CineRate") or dataset.get("RecommendedDisplayFrameRate") or 0)
    known = fps > 0
    fps = fps if known else DEFAULT_FPS
    return [index / fps for index in range(frames)], fps, known


def _read(path: Path) -> Any:
    """The data set of a file, its pixels not yet decoded."""
    try:
        import pydicom
    except ModuleNotFoundError:
        raise MissingExtraError(f"reading {path.name}", "dicom") from None
    try:
        with warnings.catch_warnings(record=True) as found:
            # pydicom warns of what it puts up with (and goes on without what a cut file lost) and raises the rest.
            warnings.simplefilter("always")
            with _BoundedFile(path) as file:
                dataset = pydicom.dcmread(file)
    except pydicom.errors.InvalidDicomError:
        raise SourceError(f"{path} is no DICOM file (it lacks the prefix DICM); is it complete?") from None
    except MemoryError:
        raise
    except Exception as error:  # pydicom, zlib and struct raise whatever a damaged byte leads them to
        raise SourceError(f"{path} is no readable DICOM file ({_reason(error)}); is it complete?") from None
    cut = next((str(w.message) for w in found if "End of file" in str(w.message)), None)
    if cut:
        raise SourceError(f"{path} is cut off: expected more behind {path.stat().st_size} bytes; copy it again")
    return dataset


def _output_range(dataset: Any) -> tuple[float, float] | None:
    """What values the VOI transformation of a data set spans (PS3.3 C.11.2); None where it has none."""
    if "VOILUTSequence" in dataset:
        return 0.0, 2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if "WindowWidth" not in dataset:
        return None
    # A window maps onto the range of the stored values, rescaled (as pydicom's apply_windowing does).
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    low = -(2.0 ** (bits - 1)) if signed else 0.0
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    return low * slope + intercept, (low + 2.0**bits - 1) * slope + intercept


class DicomFile:
    """The frames of a DICOM object, whatever its transfer syntax and photometric interpretation, as 8-bit RGB.

    Attributes:
        path: the file, for those who write what refers to it.
    """

    def __init__(self, path: Path) -> None:
        self.name, self.path, self._path = path.name, path, path
        self.notes: list[str] = []
        self._dataset: Any = _read(path)
        dataset = self._dataset
        if "PixelData" not in dataset:
            raise SourceError(f"{path} has no pixels ({_kind(dataset)}); expected an image or a cine loop")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of values that are wrong and raise when used
                self._syntax = dataset.file_meta.TransferSyntaxUID
                self.size = (int(dataset.Rows), int(dataset.Columns))
                self._photometric = str(dataset.PhotometricInterpretation)
                self.frame_count: int | None = int(dataset.get("NumberOfFrames") or 1)
                self._check_numbers()
                self._times, self.fps, known = _frame_times(dataset, self.frame_count)
        except MemoryError:
            raise
        except Exception as error:  # pydicom interprets values when they are asked for
            raise SourceError(f"{path} does not describe its pixels well ({_reason(error)})") from None
        if not known and self.frame_count > 1:
            self.notes.append(f"{self.name} does not tell its frame rate; {DEFAULT_FPS:g} fps assumed")
        self._range: tuple[float, float] | None = None

    def _check_numbers(self) -> None:
        """Refuse what no file can hold before memory is set aside for it, and what contradicts itself."""
        rows, columns = self.size
        frames = self.frame_count or 0
        bits, samples = int(self._dataset.BitsAllocated), int(self._dataset.SamplesPerPixel)
        stored = int(self._dataset.get("BitsStored", bits))
        if not (rows > 0 and columns > 0 and rows * columns <= MAX_PIXELS and 0 < frames <= _MAX_FRAMES):
            raise ValueError(f"{frames} frames of {columns}x{rows}")
        grey = self._photometric.startswith(("MONOCHROME", "PALETTE"))
        if samples != (1 if grey else 3):
            raise ValueError(f"{samples} samples a pixel of {self._photometric}")
        if bits not in ((1, 8, 16) if self._is_jpeg else (1, 8, 16, 32, 64)) or not 0 < stored <= bits:
            raise ValueError(f"{stored} stored bits of {bits}")
        if self._is_jpeg and not grey and stored != bits:  # colours that are coded fill their bytes
            raise ValueError(f"{stored} stored bits of {bits} of a colour")

    @property
    def _is_jpeg(self) -> bool:
        """Whether frames are coded as JPEG, JPEG-LS or JPEG 2000."""
        from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

        return self._syntax in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes)

    def _check_codestreams(self) -> None:
        """Refuse coded frames that contradict the data set around them: GDCM would end the process."""
        from pydicom.encaps import generate_frames

        if not self._is_jpeg:
            return
        samples, bits = int(self._dataset.SamplesPerPixel), int(self._dataset.BitsAllocated)
        for index, data in enumerate(generate_frames(self._dataset.PixelData, number_of_frames=self.frame_count)):
            found = read_codestream(data)
            if found is None or found.size != self.size or found.components != samples or found.bits > bits:
                raise ValueError(f"frame {index} is coded as {found}")

    def __iter__(self) -> Iterator[Frame]:
        from pydicom.pixels import iter_pixels

        index = 0
        try:
            with warnings.catch_warnings():
                # pydicom warns of what it puts up with; what it cannot read it raises.
                warnings.simplefilter("ignore")
                self._check_codestreams()
                for pixels in iter_pixels(self._dataset):
                    yield Frame(index, self._times[min(index, len(self._times) - 1)], self._rgb(pixels))
                    index += 1
        except (MemoryError, GeneratorExit):
            raise
        except Exception as error:  # the decoders behind pydicom share no base class
            if (index == 0 and "plugins" in str(error)) or isinstance(error, NotImplementedError):
                raise SourceError(
                    f"{self._path} uses the transfer syntax {self._syntax.name}, which cannot be decoded here; "
                    "convert it, for instance with: gdcmconv --raw IN OUT"
                ) from None
            raise SourceError(
                f"frame {index} of {self.frame_count} of {self._path} cannot be decoded ({_reason(error)}); "
                "is the file complete?"
            ) from None
        if self.frame_count is not None and index < self.frame_count:
            raise SourceError(f"{self._path} holds {index} of {self.frame_count} frames; is the file complete?")

    def _rgb(self, pixels: npt.NDArray[Any]) -> Image:
        """One decoded frame, (H, W) or (H, W, 3), as uint8 RGB. iter_pixels has turned YBR into RGB already."""
        from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

        if self._photometric == "PALETTE COLOR":
            colors = apply_color_lut(pixels, self._dataset)
            return (colors >> 8).astype(np.uint8) if colors.dtype == np.uint16 else colors
        if pixels.ndim == 3:
            return (
                np.ascontiguousarray(pixels[..., :3], np.uint8) if pixels.dtype == np.uint8 else self._to_byte(pixels)
            )
        grey = apply_voi_lut(apply_modality_lut(pixels, self._dataset), self._dataset)
        if grey.dtype != np.uint8:
            grey = self._to_byte(grey)
        if self._photometric == "MONOCHROME1":
            grey = 255 - grey
        return np.repeat(grey[..., None], 3, axis=2)

    def _to_byte(self, values: npt.NDArray[Any]) -> Image:
        """Values of more than 8 bits scaled to 0..255; the range is that of the first frame, for the whole loop."""
        if self._range is None:
            self._range = _output_range(self._dataset) or (float(values.min()), float(values.max()))
        low, high = self._range
        return (np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255).round().astype(np.uint8)

    def __enter__(self) -> DicomFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dataset = None


def _kind(dataset: Any) -> str:
    try:
        return str(dataset.SOPClassUID.name)
    except Exception:  # pydicom interprets values when they are asked for
        return "of unknown kind"


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
