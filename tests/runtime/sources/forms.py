"""Every form in which makers store pictures: a generator of files whose every pixel is known.

A `Case` says how a file is stored: its container and coding, its colours and bits, range, turn, aspect and number of
frames. `write` makes it, and returns what is to be seen. Nothing here uses the product: colours follow the formulas of
ITU-R BT.601, 709 and 2020, and stretched pixels lie on straight lines between the centres of those that are stored.

Films are coded without loss where their codec can (H.264 at qp 0, HEVC and VP9 in their lossless modes, FFV1, HuffYUV,
raw pixels), so that what differs comes from the reading.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import gdcm
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.uid import (
    HEVCMP51,
    MPEG2MPML,
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tests.runtime.sources.made import MATRICES, STORED, coded_loop, loop, picture, planes, write_film

__all__ = ["FORMS", "Case", "Form", "Truth", "cases", "write"]

Array = npt.NDArray[Any]

ALL, UPRIGHT = tuple(range(1, 9)), (1,)
SQUARE, ASPECTS = ((1, 1),), ((1, 1), (4, 3), (8, 9), (16, 11))
# Columns and rows that share a colour.
_SUBSAMPLED = {"444": (1, 1), "422": (2, 1), "420": (2, 2), "440": (1, 2), "411": (4, 1), "410": (4, 4), "nv12": (2, 2)}
_RATES = (Fraction(10), Fraction(25), Fraction(30000, 1001))


@dataclass(frozen=True)
class Form:
    """A container and a coding, with all that they can say of a picture.

    Attributes:
        suffix: of the file.
        codec, options: FFmpeg's; of images what makes them, of DICOM its transfer syntax.
        pixels: stored formats: FFmpeg's names, else a kind and its bits (`grey12`, `rgb8`, `palette4`).
        matrices, ranges, turns, aspects: the values of each that it keeps; None is "it does not say".
        odd: whether its sides may be odd.
        loss: levels that the coding loses of a smooth picture; 0 for none, and then pictures are rough.
        by_stream: whether the coded stream tells the turn, not the container.
    """

    name: str
    suffix: str
    codec: str
    pixels: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict, hash=False)
    matrices: tuple[str | None, ...] = (None,)
    ranges: tuple[bool | None, ...] = (None,)
    turns: tuple[int, ...] = UPRIGHT
    aspects: tuple[tuple[int, int], ...] = SQUARE
    odd: bool = True
    loss: int = 0
    by_stream: bool = False


@dataclass(frozen=True)
class Case:
    """One file."""

    form: Form
    pixels: str
    matrix: str | None
    full: bool | None
    turn: int
    aspect: tuple[int, int]
    odd: bool
    frames: int
    seed: int

    def __str__(self) -> str:
        (height, width), (wide, high) = self.size, self.aspect
        told = {None: "", True: " full", False: " limited"}[self.full]
        return (
            f"{self.form.name}: {self.pixels} {self.matrix or ''}{told}, turn {self.turn}, aspect {wide}:{high}, "
            f"{self.frames} frames of {width}x{height}, seed {self.seed}"
        )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) as stored."""
        return (33, 51) if self.odd else (32, 48)

    @property
    def is_yuv(self) -> bool:
        return self.pixels.startswith(("yuv", "nv", "uyvy", "ybr"))

    @property
    def is_grey(self) -> bool:
        return self.pixels.startswith(("gray", "grey", "inverse"))

    @property
    def is_full(self) -> bool:
        """Whether 0 is black: where nothing is said, YCbCr of films is of limited range, and the rest of full."""
        if self.full is not None:
            return self.full
        return not self.is_yuv or self.pixels.startswith("ybr")

    @property
    def steps(self) -> tuple[int, int]:
        """Columns and rows of pixels that share a colour."""
        if not self.is_yuv:
            return (1, 1)
        return next((steps for name, steps in _SUBSAMPLED.items() if name in self.pixels), (1, 1))

    @property
    def bits(self) -> int:
        """Of a stored value."""
        if self.form.suffix in _FILM_SUFFIXES or self.pixels.startswith("yuv"):
            return av.VideoFormat(self.pixels).components[0].bits
        return int((re.findall(r"\d+$", self.pixels) or ["8"])[0]) if self.pixels != "ybr422" else 8


@dataclass(frozen=True)
class Truth:
    """What is to be seen: pictures, float (H, W, 3) from 0 to 255, and their times in seconds."""

    pictures: list[Array]
    times: list[float]


_YUV8 = ("yuv420p", "yuv422p", "yuv444p")
_YUV10 = tuple(f"{name}10le" for name in _YUV8)
_YUV12 = tuple(f"{name}12le" for name in _YUV8)
_TAGS: dict[str, Any] = {"matrices": tuple(MATRICES), "ranges": (False, True)}
_QP0 = {"qp": "0", "preset": "ultrafast"}
_HEVC = {"x265-params": "lossless=1:bframes=0:log-level=none:pools=none:frame-threads=1", "preset": "ultrafast"}
_VP9 = {"lossless": "1", "deadline": "realtime", "cpu-used": "8"}
_Q1 = {"qmin": "1", "qmax": "1"}
_SCREEN: dict[str, Any] = {"turns": ALL, "aspects": ASPECTS}
_EVEN: dict[str, Any] = {"odd": False}

_FILMS = (
    Form("MKV, FFV1", ".mkv", "ffv1", (*_YUV8, *_YUV10, *_YUV12, "yuv444p16le"), **_TAGS, aspects=ASPECTS),
    Form("MKV, FFV1, few colours", ".mkv", "ffv1", ("yuv440p", "yuv411p", "yuv410p"), **_TAGS, aspects=ASPECTS),
    Form("MKV, FFV1, alpha", ".mkv", "ffv1", ("yuva420p", "yuva422p", "yuva444p", "yuva444p10le"), **_TAGS),
    Form("MKV, FFV1, untagged", ".mkv", "ffv1", _YUV8),
    Form("MKV, FFV1, RGB", ".mkv", "ffv1", ("bgr0", "bgra", "gbrp10le", "gbrp12le", "gbrp14le"), aspects=ASPECTS),
    Form("MKV, FFV1, grey", ".mkv", "ffv1", ("gray", "gray16le"), ranges=(None, False, True), aspects=ASPECTS),
    Form("AVI, HuffYUV", ".avi", "ffvhuff", ("yuv444p", "gbrp", "gbrp10le", "gray", "gray16le")),
    Form("AVI, HuffYUV, shared colours", ".avi", "ffvhuff", ("yuv420p", "yuv422p"), **_EVEN),
    Form("AVI, raw", ".avi", "rawvideo", ("bgr24", "yuv420p", "uyvy422"), **_EVEN),
    Form("NUT, raw", ".nut", "rawvideo", ("rgb24", "bgr24", "gray", "yuv420p", "nv12", "uyvy422"), **_EVEN),
    Form("MOV, PNG", ".mov", "png", ("rgb24", "rgba", "gray", "rgb48be"), **_SCREEN),
    Form("MOV, Animation", ".mov", "qtrle", ("rgb24",), **_SCREEN),
    Form("MP4, H.264", ".mp4", "libx264", (*_YUV8, *_YUV10), _QP0, **_TAGS, **_SCREEN, **_EVEN),
    Form("MP4, H.264, 4:4:4", ".mp4", "libx264", ("yuv444p",), _QP0, **_TAGS, **_SCREEN),
    Form("MP4, H.264, untagged", ".mp4", "libx264", _YUV8, _QP0, **_EVEN),
    Form("MP4, H.264, grey", ".mp4", "libx264", ("gray",), _QP0, ranges=(False, True), **_SCREEN),
    Form("MP4, H.264, RGB", ".mp4", "libx264rgb", ("bgr24", "rgb24"), _QP0, **_SCREEN),
    Form("TS, H.264", ".ts", "libx264", _YUV8, _QP0, **_TAGS, **_SCREEN, **_EVEN, by_stream=True),
    Form("AVI, H.264", ".avi", "libx264", ("yuv420p",), _QP0, **_TAGS, turns=ALL, **_EVEN, by_stream=True),
    Form("MP4, HEVC", ".mp4", "libx265", (*_YUV8, *_YUV10, "yuv420p12le"), _HEVC, **_TAGS, **_SCREEN, **_EVEN),
    Form(
        "MP4, HEVC, grey", ".mp4", "libx265", ("gray", "gray10le", "gray12le"), _HEVC, ranges=(False, True), **_SCREEN
    ),
    Form("MKV, H.264", ".mkv", "libx264", ("yuv420p", "yuv422p10le"), _QP0, **_TAGS, aspects=ASPECTS, **_EVEN),
    Form("WebM, VP9", ".webm", "libvpx-vp9", _YUV8, _VP9, **_TAGS),
    Form("WebM, VP9, RGB", ".webm", "libvpx-vp9", ("gbrp",), _VP9),
    # What the rest loses of a smooth picture at its finest; measured, and one more.
    Form("AVI, MJPEG", ".avi", "mjpeg", ("yuvj420p", "yuvj422p", "yuvj444p"), _Q1, ranges=(True,), loss=5),
    Form("AVI, MPEG-4", ".avi", "mpeg4", ("yuv420p",), _Q1, loss=5, **_EVEN),
    Form("MPEG, MPEG-2", ".mpg", "mpeg2video", ("yuv420p",), _Q1, loss=5, **_EVEN),
    Form("MOV, ProRes", ".mov", "prores_ks", ("yuv422p10le",), {}, ("bt709",), turns=ALL, loss=5, **_EVEN),
    Form("WebM, VP8", ".webm", "libvpx", ("yuv420p",), {"crf": "4", "b": "10M"}, loss=8, **_EVEN),
)
_IMAGES = (
    Form("PNGs", ".png", "files", ("grey1", "grey2", "grey4", "grey8", "grey16", "rgb8", "rgba8", "rgb16"), turns=ALL),
    Form("PNGs of a palette", ".png", "files", ("palette1", "palette2", "palette4", "palette8"), turns=ALL),
    Form("TIFFs", ".tif", "files", ("grey1", "grey8", "grey16", "palette8", "rgb8"), turns=ALL),
    Form("WebPs", ".webp", "files", ("rgb8", "rgba8"), turns=ALL),
    Form("BMPs", ".bmp", "files", ("grey1", "grey8", "palette8", "rgb8")),
    Form("Netpbm", ".pnm", "files", ("grey1", "grey8", "grey16", "rgb8")),
    Form("JPEGs", ".jpg", "files", ("grey8", "rgb8"), turns=ALL, loss=5),
    Form("pages of a TIFF", ".tif", "pages", ("grey1", "grey8", "grey16", "palette8", "rgb8")),
    Form("animated PNG", ".png", "pages", ("grey8", "rgb8", "rgba8")),
    Form("animated WebP", ".webp", "pages", ("rgb8", "rgba8")),
    Form("GIF", ".gif", "pages", ("palette4", "palette8")),
)
_PLAIN = ("grey8", "grey10", "grey12", "grey16", "inverse8", "inverse12", "rgb8", "planar8", "palette8", "ybr8")
_CODED = ("grey8", "grey12", "grey16", "inverse8", "rgb8")
_LOOPS = (
    Form("DICOM", ".dcm", ExplicitVRLittleEndian, _PLAIN, aspects=ASPECTS),
    Form("DICOM, 4:2:2", ".dcm", ExplicitVRLittleEndian, ("ybr422",), aspects=ASPECTS, **_EVEN),
    Form("DICOM, implicit", ".dcm", ImplicitVRLittleEndian, _PLAIN, aspects=ASPECTS),
    Form("DICOM, big endian", ".dcm", ExplicitVRBigEndian, ("grey8", "grey12", "grey16", "rgb8"), aspects=ASPECTS),
    Form("DICOM, deflated", ".dcm", DeflatedExplicitVRLittleEndian, _PLAIN, aspects=ASPECTS),
    Form("DICOM, RLE", ".dcm", RLELossless, (*_CODED, "palette8"), aspects=ASPECTS),
    Form("DICOM, JPEG-LS", ".dcm", "JPEGLSLossless", _CODED, aspects=ASPECTS),
    Form("DICOM, JPEG 2000", ".dcm", "JPEG2000Lossless", _CODED, aspects=ASPECTS),
    Form("DICOM, lossless JPEG", ".dcm", "JPEGLosslessProcess14_1", _CODED, aspects=ASPECTS),
    Form("DICOM, JPEG", ".dcm", "JPEG", ("grey8", "ybr8", "ybr422"), aspects=ASPECTS, loss=5),
    Form("DICOM, H.264", ".dcm", MPEG4HP41, ("yuv420p",), _QP0, **_TAGS, aspects=ASPECTS, **_EVEN),
    Form("DICOM, HEVC", ".dcm", HEVCMP51, ("yuv420p",), _HEVC, **_TAGS, aspects=ASPECTS, **_EVEN),
    Form("DICOM, MPEG-2", ".dcm", MPEG2MPML, ("yuv420p",), _Q1, aspects=ASPECTS, loss=5, **_EVEN),
)
FORMS = (*_FILMS, *_IMAGES, *_LOOPS)
_FILM_SUFFIXES = {form.suffix for form in _FILMS}


def cases(form: Form) -> Iterator[Case]:
    """Every combination of what a form can say; the number of frames and their rate go round with the seed."""
    sides = (False, True) if form.odd else (False,)
    axes = (form.pixels, form.matrices, form.ranges, form.turns, form.aspects, sides)
    for seed, (pixels, matrix, full, turn, aspect, odd) in enumerate(itertools.product(*axes)):
        yield Case(form, pixels, matrix, full, turn, aspect, odd, 1 + seed % 4, seed)


def write(case: Case, folder: Path) -> tuple[Path, Truth]:
    """The file, or the folder of files, and what is to be seen of it."""
    stored = [_stored(case, index) for index in range(case.frames)]
    path = folder / f"a{case.form.suffix}"
    times = [index / 25 for index in range(case.frames)]
    if case.form.suffix == ".dcm":
        _dicom(case, path, [values for values, _ in stored])
    elif case.form.suffix in _FILM_SUFFIXES:
        _film(case, path, [values for values, _ in stored])
        times = [float(index / _rate(case)) for index in range(case.frames)]
    elif case.form.codec == "files":
        path = folder / "files"
        path.mkdir()
        for index, (values, _) in enumerate(stored):
            _image(case, path / f"{index}{case.form.suffix}", values)
    else:
        times = _pages(case, path, [values for values, _ in stored])
    shown = STORED[{6: 8, 8: 6}.get(case.turn, case.turn)]  # the way back
    return path, Truth([shown(_stretched(seen, case.aspect)) for _, seen in stored], times)


def _rate(case: Case) -> Fraction:
    return _RATES[case.seed % len(_RATES)]


# --- pictures ----------------------------------------------------------------------------------------------------


def _stored(case: Case, index: int) -> tuple[Array, Array]:
    """Picture `index` as it is stored, and as it is meant, float (H, W, 3) from 0 to 255, neither turned nor stretched.

    What is stored are values of the case's bits, (H, W) or (H, W, 3); of a palette indices; of YCbCr the RGB itself.
    """
    chance = np.random.default_rng([case.seed, index])
    shape, top = (*case.size, 3), 2**case.bits - 1
    if case.pixels.startswith("palette"):
        values = chance.integers(0, top + 1, case.size).astype(np.uint8)
        return values, _palette(case).astype(np.float64)[values]
    if case.form.loss:
        rgb = picture(index, case.size).astype(np.float64)
        rgb = np.repeat(rgb[..., :1], 3, axis=2) if case.is_grey else rgb
        return (rgb[..., 0] if case.is_grey else rgb).astype(np.uint8), rgb
    if case.steps != (1, 1):  # rough in grey, smooth in colours
        y, x = np.mgrid[0 : shape[0], 0 : shape[1]] / 40
        colours = np.stack([30 * x - 15, 20 - 30 * y, 18 - 30 * x], axis=-1)
        rgb = chance.integers(60, 196, (*case.size, 1)) + colours
        return rgb, rgb
    if case.is_yuv:
        rgb = chance.integers(0, 256, shape).astype(np.float64)
        return rgb, rgb
    values = chance.integers(0, top + 1, case.size if case.is_grey else shape).astype(
        np.uint16 if top > 255 else np.uint8
    )
    values[-1, 0], values[0, -1] = 0, top  # black and white, so that all bits are used
    seen = values.astype(np.float64) * 255 / top
    if case.is_grey and not case.is_full:
        unit = 2 ** (case.bits - 8)
        values = ((16 + values.astype(np.float64) * 219 / top) * unit).round().astype(values.dtype)
        seen = (values / unit - 16) * 255 / 219
    return values, np.repeat(seen[..., None], 3, axis=2) if case.is_grey else seen


def _palette(case: Case) -> Array:
    """uint8 (N, 3): colours by chance, of which no two are alike."""
    count = 2**case.bits
    chance = np.random.default_rng([case.seed, 99])
    return np.stack([chance.permutation(256)[:count] for _ in range(3)], axis=-1).astype(np.uint8)


def _stretched(rgb: Array, aspect: tuple[int, int]) -> Array:
    """The picture on square pixels: the side that is too short grows, by linear interpolation between centres."""
    (height, width), (wide, high) = rgb.shape[:2], aspect
    size = (height, round(width * wide / high)) if wide > high else (round(height * high / wide), width)
    for axis, (before, after) in enumerate(zip((height, width), size, strict=True)):
        place = ((np.arange(after) + 0.5) * before / after - 0.5).clip(0, before - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        rgb = rgb.take(low, axis) * (1 - share) + rgb.take((low + 1).clip(0, before - 1), axis) * share
    return rgb


# --- films -------------------------------------------------------------------------------------------------------


def _film(case: Case, path: Path, stored: list[Array], form: str | None = None) -> Path:
    return write_film(
        path,
        [_frame(case, values, index) for index, values in enumerate(stored)],
        case.form.codec if case.form.suffix != ".dcm" else _CODECS[case.form.codec],
        case.pixels,
        rate=_rate(case),
        matrix=case.matrix,
        full=case.full,
        aspect=case.aspect,
        turn=case.turn,
        options=case.form.options,
        form=form,
        by_stream=case.form.by_stream,
    )


def _frame(case: Case, values: Array, index: int) -> Any:
    """FFmpeg's frame of the values; what may be seen through is so by chance."""
    frame = av.VideoFrame(case.size[1], case.size[0], case.pixels)
    kind = np.dtype(np.uint8 if case.bits == 8 else (">u2" if case.pixels.endswith("be") else "<u2"))
    alpha = np.random.default_rng([case.seed, index, 1]).integers(0, 2**case.bits, case.size)
    if case.is_yuv:
        luma, *colours = planes(values, case.matrix or "bt601", case.is_full, case.bits)
        halved = [_means(colour, case.steps) for colour in colours]
        if case.pixels == "nv12":
            content = [luma, np.stack(halved, axis=-1).reshape(len(halved[0]), -1)]
        elif case.pixels == "uyvy422":
            pairs = [halved[0], luma[:, 0::2], halved[1], luma[:, 1::2]]
            content = [np.stack(pairs, axis=-1).reshape(len(luma), -1)]
        else:
            content = [luma, *halved, alpha]
    elif case.is_grey:
        content = [values]
    elif case.pixels.startswith("gbr"):
        content = [values[..., channel] for channel in (1, 2, 0)]
    else:
        colours = values[..., ::-1] if case.pixels.startswith("bgr") else values
        parts = [colours, alpha[..., None]] if case.pixels[-1] in "a0" else [colours]
        content = [np.concatenate(parts, axis=-1).reshape(len(values), -1)]
    for plane, part in zip(frame.planes, content, strict=False):
        padded = np.zeros((plane.height, plane.line_size // kind.itemsize), kind)
        padded[:, : part.shape[1]] = part
        plane.update(padded.tobytes())
    return frame


def _means(plane: Array, steps: tuple[int, int]) -> Array:
    """A plane of colours at the resolution of its format: means of the pixels that share a colour."""
    across, down = steps
    height, width = plane.shape
    plane = np.pad(plane.astype(np.float64), ((0, -height % down), (0, -width % across)), mode="edge")
    blocks = plane.reshape(plane.shape[0] // down, down, plane.shape[1] // across, across)
    return blocks.mean(axis=(1, 3)).round()


# --- images ------------------------------------------------------------------------------------------------------


def _image(case: Case, path: Path, values: Array) -> None:
    exif = Image.Exif()
    exif[274] = case.turn
    options: dict[str, Any] = {} if case.turn == 1 else {"exif": exif}
    if case.form.suffix == ".png" and case.pixels in ("grey2", "grey4", "rgb16"):
        path.write_bytes(_png(case, values, exif.tobytes()[6:] if options else b""))
        return
    if case.form.suffix == ".tif":
        options = {"compression": ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")[case.seed % 4]}
        options |= {} if case.turn == 1 else {"tiffinfo": {274: case.turn}}
    options |= {".webp": {"lossless": True, "exact": True}, ".jpg": {"quality": 98, "subsampling": 0}}.get(
        path.suffix, {}
    )
    if case.pixels.startswith("palette") and case.form.suffix == ".png":
        options |= {"bits": case.bits}
    _pillow(case, values).save(path, **options)


def _pillow(case: Case, values: Array) -> Any:
    if case.pixels == "grey1":
        return Image.fromarray(values.astype(bool))
    if case.pixels == "rgba8":
        alpha = np.random.default_rng([case.seed, 1]).integers(0, 256, (*case.size, 1)).astype(np.uint8)
        opaque = case.form.codec == "pages"  # where one picture is laid over the one before
        return Image.fromarray(np.concatenate([values, np.full_like(alpha, 255) if opaque else alpha], axis=-1))
    image = Image.fromarray(values)
    if case.pixels.startswith("palette"):
        image.putpalette(_palette(case).tobytes())
    return image


def _png(case: Case, values: Array, exif: bytes) -> bytes:
    """A PNG file of grey with few bits, or of colours with many (its standard, 5 and 11.2)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    if case.is_grey:
        bits = np.unpackbits(values[..., None], axis=-1)[..., 8 - case.bits :]
        rows = np.packbits(bits.reshape(len(values), -1), axis=-1)
    else:
        rows = values.astype(">u2").reshape(len(values), -1).view(np.uint8)
    height, width = case.size
    header = struct.pack(">IIBBBBB", width, height, case.bits, 0 if case.is_grey else 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    middle = chunk(b"eXIf", exif) if exif else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _pages(case: Case, path: Path, stored: list[Array]) -> list[float]:
    """Several pictures in one file; their times."""
    first, *others = [_pillow(case, values) for values in stored]
    durations = [40 * (1 + (case.seed + index) % 3) for index in range(case.frames)]
    options: dict[str, Any] = {} if path.suffix == ".tif" else {"duration": durations}
    options |= {".webp": {"lossless": True, "exact": True}, ".gif": {"optimize": False, "disposal": 1}}.get(
        path.suffix, {}
    )
    first.save(path, save_all=True, append_images=others, **options)
    if path.suffix == ".tif" or case.frames == 1:
        return [index / 25 for index in range(case.frames)]
    return [sum(durations[:index]) / 1000 for index in range(case.frames)]


# --- DICOM -------------------------------------------------------------------------------------------------------

_CODECS = {MPEG4HP41: "libx264", HEVCMP51: "libx265", MPEG2MPML: "mpeg2video"}
_STREAMS = {
    MPEG4HP41: ("mp4", "mpegts", "h264"),
    HEVCMP51: ("mp4", "mpegts", "hevc"),
    MPEG2MPML: ("mpeg", "mpeg2video", "mpeg"),
}


def _dicom(case: Case, path: Path, stored: list[Array]) -> None:
    wide, high = case.aspect
    said: dict[str, Any] = {} if case.aspect == (1, 1) else {"PixelAspectRatio": [str(high), str(wide)]}
    syntax = case.form.codec
    if syntax in _CODECS:
        form = _STREAMS[syntax][case.seed % 3]
        data = _film(case, path.with_suffix(".film"), stored, form).read_bytes()
        coded_loop(path, [data], case.size, syntax, "YBR_PARTIAL_420", NumberOfFrames=case.frames, **said)
        return
    if syntax == "JPEG":
        subsampling = 1 if case.pixels == "ybr422" else 0
        frames = []
        for values in stored:
            file = io.BytesIO()
            Image.fromarray(values).save(file, "JPEG", quality=98, subsampling=subsampling)
            frames.append(file.getvalue())
        photometric = {"grey8": "MONOCHROME2", "ybr8": "YBR_FULL", "ybr422": "YBR_FULL_422"}[case.pixels]
        pieces, offsets = 1 + case.seed % 2, case.seed % 3 == 0
        coded_loop(
            path,
            frames,
            case.size,
            photometric=photometric,
            samples=1 if case.is_grey else 3,
            fragments=pieces,
            offsets=offsets,
            **said,
        )
        return
    pixels, bits, photometric = _native(case, np.stack(stored), said)
    if syntax == ExplicitVRBigEndian:
        said["PixelData"] = _even(pixels.astype(pixels.dtype.newbyteorder(">")).tobytes())
        loop(path, pixels, bits, photometric, syntax, **said)
        return
    loop(path, pixels, bits, photometric, **said)
    if syntax == ExplicitVRLittleEndian:
        return
    if isinstance(syntax, pydicom.uid.UID):
        _rewritten(path, syntax)
        return
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def _native(case: Case, values: Array, said: dict[str, Any]) -> tuple[Array, int, str]:
    """Pixels, stored bits and photometric interpretation; attributes that these need are put to `said`."""
    if case.pixels == "planar8":
        said |= {"PlanarConfiguration": 1, "PixelData": _even(np.moveaxis(values, -1, 1).tobytes())}
    if case.pixels.startswith("inverse"):
        return (2**case.bits - 1 - values).astype(values.dtype), case.bits, "MONOCHROME1"
    if case.is_grey:
        return values, case.bits, "MONOCHROME2"
    if case.pixels == "palette8":
        for channel, name in enumerate(("Red", "Green", "Blue")):
            said[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            said[f"{name}PaletteColorLookupTableData"] = (_palette(case)[:, channel].astype("<u2") * 257).tobytes()
        return values, 8, "PALETTE COLOR"
    if case.is_yuv:
        coded = np.stack([planes(rgb, "bt601", full=True) for rgb in values]).astype(np.uint8)
        if case.pixels == "ybr422":  # Y Y Cb Cr of two pixels (PS3.3 C.7.6.3.1.2)
            pairs = [coded[:, 0, :, 0::2], coded[:, 0, :, 1::2]]
            pairs += [np.stack([_means(plane, (2, 1)) for plane in coded[:, c]]).astype(np.uint8) for c in (1, 2)]
            said["PixelData"] = _even(np.stack(pairs, axis=-1).tobytes())
        return np.moveaxis(coded, 1, -1).copy(), 8, "YBR_FULL_422" if case.pixels == "ybr422" else "YBR_FULL"
    return values, 8, "RGB"


def _even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)


def _rewritten(path: Path, syntax: Any) -> None:
    """The same data set in another transfer syntax."""
    dataset = pydicom.dcmread(path)
    if syntax == RLELossless:
        dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True, enforce_file_format=True)
