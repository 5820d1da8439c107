"""DICOM images and cine loops as a source: whatever their coding, one frame after the other, as 8-bit RGB."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import NoPictureError, SourceError
from vivim_runtime.sources.base import MAX_PIXELS, Frame, counted_frames
from vivim_runtime.sources.codestream import has_whole_segments, read_codestream
from vivim_runtime.sources.dicom.display import Display
from vivim_runtime.sources.dicom.files import kind_of, no_picture, numbers, read_dicom, reason_of, without
from vivim_runtime.sources.dicom.frames import CodedFrames, coded_frames, count_pictures, is_film, native_frames
from vivim_runtime.sources.dicom.jpeg import components_of, is_ycbcr, rgb_of
from vivim_runtime.sources.dicom.regions import spacing_of, ultrasound_regions_of
from vivim_runtime.sources.dicom.times import frame_times
from vivim_runtime.sources.geometry import Geometry, pixel_aspect
from vivim_runtime.sources.video import VideoFile

__all__ = ["DicomFile", "geometry_of_dicom"]

# More than nine hours at 30 a second; a damaged header may say anything.
_MAX_FRAMES = 1_000_000
_NUMBER_OF_FRAMES = 0x00280008
_FILM_CODECS = ("mpeg1video", "mpeg2video", "h264", "hevc")
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


def geometry_of_dicom(dataset: Any) -> Geometry:
    """The aspect of the pixels: PixelAspectRatio, else the spacing of rows and columns (both PS3.3 C.7.6.3, 10.7)."""
    ratio = numbers(dataset, "PixelAspectRatio") or []
    if len(ratio) == 2:  # vertical and horizontal size
        return Geometry(aspect=pixel_aspect(ratio[1], ratio[0]))
    spacing = spacing_of(dataset, _SPACINGS)
    return Geometry() if spacing is None else Geometry(aspect=pixel_aspect(spacing[1], spacing[0]))


class DicomFile:
    """The frames of a DICOM object, whatever its transfer syntax and photometric interpretation, as 8-bit RGB.

    Attributes:
        path: the file, for those who write what refers to it.
        stored_size: (H, W) of the frames as they are stored, on which segmentations lie.
        geometry: how these are shown.
        ultrasound_regions: the Sequence of Ultrasound Regions, in stored pixels.
        spacing: millimetres between the rows and between the columns as they are stored; None where nobody says.
    """

    def __init__(self, path: Path) -> None:
        self.name, self.path, self._path = path.name, path, path
        self.notes: list[str] = []
        self.lost = 0
        self._dataset: Any = read_dicom(path)
        dataset = self._dataset
        if "PixelData" not in dataset:
            raise NoPictureError(f"{path} has no pixels ({kind_of(dataset)}); expected an image or a cine loop")
        if kind := no_picture(dataset):
            raise NoPictureError(f"{path} is {kind}; expected an image or a cine loop, such as the one it was made of")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of values that are wrong and raise when used
                self._syntax = dataset.file_meta.TransferSyntaxUID
                self.stored_size = (int(dataset.Rows), int(dataset.Columns))
                self._photometric = str(dataset.PhotometricInterpretation)
                self._check_numbers()
                self.geometry = geometry_of_dicom(dataset)
                self.ultrasound_regions = ultrasound_regions_of(dataset)
                self.spacing = spacing_of(dataset)
                self._film: VideoFile | None = self._opened_film() if is_film(self._syntax) else None
                self._coded: CodedFrames | None = None
                if self._film is None and self._syntax.is_encapsulated:
                    self._coded = coded_frames(dataset.PixelData, self._syntax)
                self.frame_count: int | None = self._counted()
        except (MemoryError, SourceError):
            raise
        except Exception as error:  # pydicom interprets values when they are asked for
            raise SourceError(f"{path} does not describe its pixels well ({reason_of(error)})") from None
        self.size = self.geometry.shown_size(self.stored_size)
        if self.size[0] * self.size[1] > MAX_PIXELS:
            raise SourceError(f"{path} is shown as {self.size[1]}x{self.size[0]}, which is too large")
        self._compare_counts()
        found = frame_times(dataset, self.frame_count, self.name)
        self._times, self.fps = found.times, found.fps
        if self._film is not None and not found.known:
            self.fps = self._film.fps
        else:
            self.notes += found.notes
        self._times_known = found.known
        if self.geometry.describe():
            self.notes.append(f"{self.name} is {self.geometry.describe()}, as it says")
        self._display: Display | None = None
        self._template: Any = None

    # --- what there is --------------------------------------------------------------------------------------------

    def _check_numbers(self) -> None:
        """Refuse what no file can hold before memory is set aside for it, and what contradicts itself."""
        rows, columns = self.stored_size
        if not (rows > 0 and columns > 0 and rows * columns <= MAX_PIXELS):
            raise ValueError(f"frames of {columns}x{rows}")
        if is_film(self._syntax):
            return  # the film says it by itself
        bits, samples = int(self._dataset.BitsAllocated), int(self._dataset.SamplesPerPixel)
        stored = int(self._dataset.get("BitsStored") or bits)
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

    @property
    def _is_plain_jpeg(self) -> bool:
        """Whether frames are colours of 8 bits coded by JPEG with loss, which libjpeg decodes."""
        from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit

        colours = int(self._dataset.SamplesPerPixel) == 3 and int(self._dataset.BitsAllocated) == 8
        return colours and self._syntax in (JPEGBaseline8Bit, JPEGExtended12Bit)

    def _counted(self) -> int:
        """How many frames the pixels are."""
        dataset, data = self._dataset, self._dataset.PixelData
        if self._film is not None:
            count = count_pictures(coded_frames(data, self._syntax).whole)
        elif self._coded is not None:
            count = len(self._coded)
            if not count:
                raise ValueError("no coded frame")
        else:
            samples, bits = int(dataset.SamplesPerPixel), int(dataset.BitsAllocated)
            count, rest = native_frames(len(data), self.stored_size, samples, bits, self._photometric)
            told = self._told_count()
            if rest > 1 and count and told > count:
                self.lost = told - count
                self.notes.append(f"{self.name} is cut off within frame {count}: {self.lost} frames are missing")
        if count > _MAX_FRAMES:
            raise ValueError(f"{count} frames")
        return max(1, count)

    def _opened_film(self) -> VideoFile:
        """The film in the fragments, shown as the data set says, or else as it says itself."""
        try:
            film = VideoFile(self._path, io.BytesIO(coded_frames(self._dataset.PixelData, self._syntax).whole))
        except SourceError as error:
            raise self._undecodable(0, NotImplementedError(str(error))) from None
        if film.codec not in _FILM_CODECS:
            raise self._undecodable(0, NotImplementedError(film.codec))
        if self.geometry.aspect == 1:
            self.geometry = film.geometry
        else:
            film.show_as(self.geometry)
        self.stored_size = film.stored_size
        return film

    def _told_count(self) -> int:
        """NumberOfFrames as the header has it; 1 where it says nothing (of a single frame it is left out)."""
        told = (numbers(self._dataset, "NumberOfFrames") or [1.0])[0]
        return int(told) if math.isfinite(told) and abs(told) < 2**31 else 0

    def _compare_counts(self) -> None:
        told, found = self._told_count(), self.frame_count
        if told > _MAX_FRAMES:
            raise SourceError(f"{self._path} does not describe its pixels well ({told} frames)")
        if told != found and not self.lost:
            says = "does not say how many frames it has" if told == 1 else f"says that it has {told} frames"
            self.notes.append(f"{self.name} {says}; its pixels are {found}, and these count")
        if "NumberOfFrames" in self._dataset or found != 1:
            self._dataset.add_new(_NUMBER_OF_FRAMES, "IS", found)  # whatever is there, unread

    # --- frames ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Frame]:
        if self._film is not None:
            yield from self._of_film(self._film)
            return
        index, cut = 0, self.lost
        try:
            with warnings.catch_warnings():
                # pydicom warns of what it puts up with; what it cannot read it raises.
                warnings.simplefilter("ignore")
                display = self._display = self._display or Display(self._dataset, self.name, self._decoded)
                before = len(display.notes)
                self.notes += [note for note in display.notes if note not in self.notes]
                for index, pixels in self._numbered():
                    image = self.geometry.show(display.rgb(pixels))
                    self.notes += [note for note in display.notes[before:] if note not in self.notes]
                    yield Frame(index, self._times[index], image)
                    index += 1
        except (MemoryError, GeneratorExit, SourceError):
            raise
        except Exception as error:  # the decoders behind pydicom share no base class
            raise self._undecodable(index, error) from None
        self.lost = max(self.lost, cut)

    def _undecodable(self, index: int, error: Exception) -> SourceError:
        if (index == 0 and "plugins" in str(error)) or isinstance(error, NotImplementedError):
            how = "is it complete?" if is_film(self._syntax) else "convert it, for instance with: gdcmconv --raw IN OUT"
            return SourceError(
                f"{self._path} uses the transfer syntax {self._syntax.name}, which cannot be decoded here; {how}"
            )
        return SourceError(
            f"frame {index} of {self.frame_count} of {self._path} cannot be decoded ({reason_of(error)}); "
            "is the file complete?"
        )

    def _of_film(self, film: VideoFile) -> Iterator[Frame]:
        for frame in film:
            self.lost = film.lost
            in_time = self._times_known and frame.index < len(self._times)
            time = self._times[frame.index] if in_time else frame.time
            yield Frame(frame.index, time, frame.image, damaged=frame.damaged)
        self.lost = film.lost
        self.notes += [note for note in film.notes if note.startswith("lost:") and note not in self.notes]

    def _decoded(self) -> Iterator[npt.NDArray[Any]]:
        return (pixels for _, pixels in self._numbered(counting=False))

    def _numbered(self, counting: bool = True) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Every frame that can be decoded, with its number; what cannot is counted, unless it is all of them."""
        if self._coded is None:
            yield from enumerate(self._native())
            return
        failed: Exception | None = None
        lost = decoded = 0
        for index, data in enumerate(self._coded):
            try:
                pixels = self._of_jpeg(data) if self._is_plain_jpeg else self._of_pydicom(data)
            except MemoryError:
                raise
            except Exception as error:  # the decoders behind pydicom share no base class
                if not decoded and not lost:
                    failed = error
                lost += 1
                continue
            decoded += 1
            if counting:
                self.lost = lost
            yield index, pixels
        if failed is not None and not decoded:
            raise failed
        if counting and lost:
            self.lost = lost
            note = f"lost: {counted_frames(lost)} of {self.name} cannot be decoded; the rest is used"
            self.notes = [*(n for n in self.notes if not n.startswith("lost:")), note]

    def _native(self) -> Iterator[npt.NDArray[Any]]:
        """Every frame of pixels that are not coded."""
        from pydicom.pixels import iter_pixels, pixel_array

        if self._photometric != "YBR_FULL_422" or self.frame_count == 1:
            return iter_pixels(self._dataset)
        # pydicom's iterator takes the second frame for RGB, of another length, once it has converted the first.
        return (pixel_array(self._dataset, index=index) for index in range(self.frame_count or 0))

    def _of_pydicom(self, data: bytes) -> npt.NDArray[Any]:
        """One coded frame, decoded; YBR turned into RGB."""
        from pydicom.encaps import encapsulate
        from pydicom.pixels import pixel_array

        if self._is_jpeg:
            self._check_codestream(data)
            if not has_whole_segments(data):
                raise ValueError("its markers are damaged")
        single = self._single
        single.PixelData = encapsulate([data], has_bot=False)
        single["PixelData"].is_undefined_length = True
        return pixel_array(single)

    @property
    def _single(self) -> Any:
        """A data set of one frame, to put coded pixels into."""
        if self._template is None:
            template = without(self._dataset, "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
            template.NumberOfFrames = 1
            self._template = template
        return self._template

    def _check_codestream(self, data: bytes) -> None:
        """Refuse a coded frame that contradicts the data set around it: GDCM would end the process."""
        samples, bits = int(self._dataset.SamplesPerPixel), int(self._dataset.BitsAllocated)
        found = read_codestream(data)
        if found is None or found.size != self.stored_size or found.components != samples or found.bits > bits:
            raise ValueError(f"it is coded as {found}")

    def _of_jpeg(self, data: bytes) -> npt.NDArray[np.uint8]:
        """One JPEG of colours, as RGB."""
        self._check_codestream(data)
        components, ycbcr = components_of(data)
        if components.shape[:2] != self.stored_size:
            raise ValueError(f"it is coded as {components.shape}")
        declared = self._photometric != "RGB"
        if ycbcr is None:
            ycbcr = is_ycbcr(components, declared)
        if ycbcr != declared:
            self._say_once(f"{self.name} says {self._photometric} and is coded as {'YCbCr' if ycbcr else 'RGB'}")
        return rgb_of(components) if ycbcr else components

    def _say_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def __enter__(self) -> DicomFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dataset = self._coded = None
