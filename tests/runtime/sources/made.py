"""Pictures with a known truth, and films, images and DICOM loops that hold them in every way that makers do."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

Picture = npt.NDArray[np.uint8]

# What is stored so that it is seen upright, by EXIF orientation (TIFF 6.0, tag 274: where row 0 and column 0 are).
STORED: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),  # shown turned clockwise
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
# The same eight as a, b, c, d of a display matrix: (x, y) goes to (a x + c y, b x + d y).
MATRIX = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
# The same as what a stream of H.264 or HEVC says of itself: mirrored first, then turned counterclockwise (D.2.27).
MESSAGE = {
    1: "",
    2: "flip=horizontal:rotate=0",
    3: "rotate=180",
    4: "flip=vertical:rotate=0",
    5: "flip=horizontal:rotate=90",
    6: "rotate=270",
    7: "flip=horizontal:rotate=270",
    8: "rotate=90",
}
# Kr, Kb of ITU-R BT.601, BT.709 and BT.2020, and what ISO/IEC 23091-2 calls the matrix.
MATRICES = {"bt601": (0.299, 0.114, 6), "bt709": (0.2126, 0.0722, 1), "bt2020": (0.2627, 0.0593, 9)}


def picture(index: int, size: tuple[int, int] = (48, 64)) -> Picture:
    """A smooth picture without any symmetry, uint8 RGB (H, W, 3), that codecs keep; its brightness tells its number."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = x / width, y / height
    red = 40 + 150 * x
    green = 60 + 90 * y + 5 * index
    blue = 200 - 120 * x * y - 3 * index
    return np.stack([red, green, blue], axis=-1).round().clip(0, 255).astype(np.uint8)


def grey(index: int, size: tuple[int, int] = (48, 64)) -> Picture:
    """A grey picture (H, W) from 4 to about 240, without symmetry."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    return (4 + 150 * x / width + 70 * y / height + 3 * index).round().clip(0, 255).astype(np.uint8)


def planes(rgb: npt.NDArray[Any], matrix: str, full: bool, bits: int = 8) -> npt.NDArray[np.uint16]:
    """RGB (H, W, 3) from 0 to 255 -> Y, Cb, Cr (3, H, W), by the formulas of BT.601, BT.709 and BT.2020."""
    kr, kb, _ = MATRICES[matrix]
    red, green, blue = (rgb[..., channel] / 255.0 for channel in range(3))
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    step, top = 2.0 ** (bits - 8), 2.0**bits - 1
    if full:
        values = [luma * top, cb * top + 128 * step, cr * top + 128 * step]
    else:
        values = [(16 + 219 * luma) * step, (128 + 224 * cb) * step, (128 + 224 * cr) * step]
    return np.stack(values).round().clip(0, top).astype(np.uint16)


def video_frame(values: npt.NDArray[Any], pixels: str) -> Any:
    """A frame of FFmpeg's pixel format: planes (3, H, W) of 4:4:4 or 4:2:0, grey (H, W), or packed (H, W, 3)."""
    if values.ndim == 3 and values.shape[0] == 3:
        height, width = values.shape[1:]
        frame = av.VideoFrame(width, height, pixels)
        kind = np.uint8 if frame.format.components[0].bits == 8 else np.dtype("<u2")
        for number, plane in enumerate(frame.planes):
            if number == 3:  # transparency: all there
                content = np.full((plane.height, plane.width), 255 if kind == np.uint8 else 1023, kind)
            else:
                content = values[number].astype(kind)
                if content.shape != (plane.height, plane.width):  # colours at half the resolution: means of 2 x 2
                    mean = values[number].reshape(plane.height, 2, plane.width, 2).mean(axis=(1, 3))
                    content = mean.round().astype(kind)
            padded = np.zeros((plane.height, plane.line_size // np.dtype(kind).itemsize), kind)
            padded[:, : plane.width] = content
            plane.update(padded.tobytes())
        return frame
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format=pixels)


def write_film(
    path: Path,
    frames: Sequence[Any],
    codec: str = "ffv1",
    pixels: str = "bgr0",
    rate: int | Fraction = 10,
    matrix: str | None = None,
    full: bool | None = None,
    aspect: tuple[int, int] | None = None,
    turn: int = 1,
    options: dict[str, str] | None = None,
    form: str | None = None,
    by_stream: bool = False,
) -> Path:
    """Encode frames of FFmpeg; the tags of colours, aspect and turn are those given.

    Args:
        by_stream: let the coded pictures tell the turn (H.264, HEVC), not the container (MP4).
    """
    with av.open(str(path), "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pixels
        if matrix is not None:
            stream.codec_context.colorspace = MATRICES[matrix][2]
        if full is not None:
            stream.codec_context.color_range = 2 if full else 1
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        held: list[Any] = []
        for index, frame in enumerate(frames):
            if matrix is not None:
                frame.colorspace = MATRICES[matrix][2]
            if full is not None:
                frame.color_range = 2 if full else 1
            frame.pts, frame.time_base = index, 1 / Fraction(rate)
            packets = stream.encode(frame)
            held += packets if by_stream else []
            container.mux([] if by_stream else packets)
        held += stream.encode(None)
        container.mux(_saying(held, stream, turn) if by_stream else held)
    if turn != 1 and not by_stream:
        turn_mp4(path, turn)
    if aspect not in (None, (1, 1)) and path.suffix == ".mkv":
        stretch_mkv(path, (frames[0].width * aspect[0], frames[0].height * aspect[1]))
    return path


def _saying(packets: list[Any], stream: Any, turn: int) -> list[Any]:
    """Packets of H.264 or HEVC with a message that says how their pictures are turned."""
    if turn == 1:
        return packets
    coding = "hevc" if stream.codec_context.name == "libx265" else "h264"
    saying = av.BitStreamFilterContext(f"{coding}_metadata=display_orientation=insert:{MESSAGE[turn]}", stream)
    return [told for packet in [*packets, None] for told in saying.filter(packet)]


def turn_mp4(path: Path, turn: int) -> None:
    """Put a display matrix into the track header of an MP4 file (ISO/IEC 14496-12 8.3.2)."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4
    place += 40 if data[place] == 0 else 52
    a, b, c, d = (value << 16 for value in MATRIX[turn])
    struct.pack_into(">9i", data, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def stretch_mkv(path: Path, size: tuple[int, int]) -> None:
    """Put DisplayWidth and DisplayHeight into a Matroska file (RFC 9559 5.1.4.1.28), which PyAV leaves out."""
    told = b"".join(
        name + b"\x84" + value.to_bytes(4, "big") for name, value in zip((b"\x54\xb0", b"\x54\xba"), size, strict=True)
    )
    data = path.read_bytes().replace(b"\x54\xb2\x81\x04", b"\x54\xb2\x81\x00")  # of DisplayUnit: pixels, not unknown
    path.write_bytes(_with_element(data, [b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0"], told))


def _with_element(data: bytes, masters: list[bytes], element: bytes) -> bytes:
    """EBML with an element more in the first master of these names, each of which lies within the one before."""
    if not masters:
        return data + element
    place, out = 0, b""
    while place < len(data):
        start, wide = place, 9 - data[place].bit_length()
        name, place = data[place : place + wide], place + wide
        wide = 9 - data[place].bit_length()
        length = int.from_bytes(data[place : place + wide], "big") & ((1 << 7 * wide) - 1)
        place += wide
        content, place = data[place : place + length], place + length
        if name != masters[0]:
            out += data[start:place]
            continue
        content = _with_element(content, masters[1:], element)
        return out + name + (len(content) | 1 << 56).to_bytes(8, "big") + content + data[place:]
    raise ValueError("no such master")


def rgb_frames(pictures: Sequence[Picture], pixels: str = "bgr0") -> list[Any]:
    return [
        av.VideoFrame.from_ndarray(np.ascontiguousarray(p), format="rgb24").reformat(format=pixels) for p in pictures
    ]


def loop(
    path: Path,
    pixels: npt.NDArray[Any],
    stored: int | None = None,
    photometric: str | None = None,
    syntax: str = ExplicitVRLittleEndian,
    **attributes: Any,
) -> Path:
    """An uncompressed ultrasound loop (N, H, W) or (N, H, W, 3); an attribute of None is left out."""
    colour = pixels.ndim == 4
    dataset = _empty(pixels.shape[1:3], len(pixels), 3 if colour else 1)
    dataset.PhotometricInterpretation = photometric or ("RGB" if colour else "MONOCHROME2")
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored = bits, stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    dataset.file_meta.TransferSyntaxUID = syntax
    return _saved(path, dataset, attributes)


def coded_loop(
    path: Path,
    frames: Sequence[bytes],
    size: tuple[int, int],
    syntax: str = JPEGBaseline8Bit,
    photometric: str = "YBR_FULL_422",
    samples: int = 3,
    offsets: bool = False,
    fragments: int = 1,
    **attributes: Any,
) -> Path:
    """A loop of coded frames, in so many fragments each."""
    dataset = _empty(size, len(frames), samples)
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = encapsulate(list(frames), fragments_per_frame=fragments, has_bot=offsets)
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    return _saved(path, dataset, attributes)


def _empty(size: tuple[int, ...], frames: int, samples: int) -> Any:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"  # Ultrasound Multi-frame Image Storage
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (generate_uid() for _ in range(3))
    dataset.PatientName, dataset.PatientID, dataset.Modality = "", "", "US"
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = size[0], size[1], frames
    dataset.SamplesPerPixel = samples
    if samples == 3:
        dataset.PlanarConfiguration = 0
    dataset.FrameTime = "40"
    return dataset


def _saved(path: Path, dataset: Any, attributes: dict[str, Any]) -> Path:
    for name, value in attributes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def jpeg(rgb: Picture, quality: int = 98, subsampling: int = 0) -> bytes:
    """A JPEG of YCbCr that says so by JFIF."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()


def without_jfif(data: bytes) -> bytes:
    """The same without its JFIF marker: nothing says what its components are."""
    assert data[2:4] == b"\xff\xe0"
    return data[:2] + data[4 + struct.unpack(">H", data[4:6])[0] :]


def rgb_jpeg(rgb: Picture, says: bool) -> bytes:
    """A JPEG whose components are RGB; `says`: by the names of its components."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=98, subsampling=0, keep_rgb=True)
    data = bytearray(file.getvalue())
    if says:
        return bytes(data)
    place = data.index(b"\xff\xc0")
    for component in range(3):  # R, G, B -> 1, 2, 3, in the frame and in the scan
        data[place + 10 + 3 * component] = component + 1
    place = data.index(b"\xff\xda")
    for component in range(3):
        data[place + 5 + 2 * component] = component + 1
    return bytes(data)
