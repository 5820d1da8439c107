"""From stored values to what is seen: palettes, windows, lookup tables, colours (PS3.3 C.7.6.3, C.11).

Attributes that say nothing (an empty window, a slope of 0) are left out, with a note: viewers do so, and a picture
that is black because of them would look like one without findings.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from vivim_runtime.sources.base import Image
from vivim_runtime.sources.depth import significant_bits, to_bytes
from vivim_runtime.sources.dicom.files import frame_groups, numbers, without

__all__ = ["Display"]

Pixels = npt.NDArray[Any]

_COLOURS = ("Red", "Green", "Blue")
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


class Display:
    """Shows the decoded frames of one data set as uint8 RGB.

    Args:
        dataset: of the file.
        name: for notes.
        frames: gives all decoded frames anew, for the range of values of the whole loop where nothing else tells it.

    Attributes:
        notes: what was left out, and how many bits count.
    """

    def __init__(self, dataset: Any, name: str, frames: Callable[[], Iterator[Pixels]]) -> None:
        self._name, self._frames = name, frames
        self.notes: list[str] = []
        self._photometric = str(dataset.PhotometricInterpretation)
        self._stored = int(dataset.get("BitsStored") or dataset.BitsAllocated)
        self._signed = int(dataset.get("PixelRepresentation") or 0) == 1
        self._palette = _palette(dataset) if self._photometric == "PALETTE COLOR" else None
        self._range: tuple[float, float] | None = None
        self._grey = self._grey_attributes(dataset) if self._photometric.startswith("MONOCHROME") else None

    def rgb(self, pixels: Pixels) -> Image:
        """One decoded frame, (H, W) or RGB (H, W, 3), as uint8 RGB (H, W, 3)."""
        if self._palette is not None:
            first, colours = self._palette
            return colours[(pixels.astype(np.int64) - first).clip(0, len(colours) - 1)]
        if pixels.ndim == 3:
            colours = pixels[..., :3]
            return np.ascontiguousarray(colours if self._is_plain(colours) else self._scaled(colours))
        grey = self._transformed(pixels)
        grey = grey if self._is_plain(grey) else self._scaled(grey)
        if self._photometric == "MONOCHROME1":
            grey = 255 - grey
        return np.repeat(grey[..., None], 3, axis=2)

    def _is_plain(self, values: Pixels) -> bool:
        return values.dtype == np.uint8 and self._stored == 8

    # --- grey: modality, then window or lookup table --------------------------------------------------------------

    def _grey_attributes(self, dataset: Any) -> Any:
        """A data set of those attributes of the modality and VOI transformations that say something."""
        import pydicom

        kept = pydicom.Dataset()
        for keyword in ("BitsStored", "BitsAllocated", "PixelRepresentation"):
            setattr(kept, keyword, int(dataset.get(keyword) or 0))
        kept.BitsStored, kept.PhotometricInterpretation = self._stored, self._photometric
        self._keep_rescale(dataset, kept)
        self._keep_voi(dataset, kept)
        return kept

    def _left_out(self, what: str) -> None:
        self.notes.append(f"{what} of {self._name} says nothing usable and is left out")

    def _keep_rescale(self, dataset: Any, kept: Any) -> None:
        table = self._table(dataset, "ModalityLUTSequence")
        if table is not None:
            kept.ModalityLUTSequence = [table]
            return
        source = dataset if "RescaleSlope" in dataset else frame_groups(dataset, "PixelValueTransformationSequence")
        if source is None or "RescaleSlope" not in source:
            return
        slope = (numbers(source, "RescaleSlope") or [math.nan])[0]
        intercept = (numbers(source, "RescaleIntercept") or [0.0])[0]
        if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
            self._left_out("the rescale slope")
        elif (slope, intercept) != (1.0, 0.0):
            kept.RescaleSlope, kept.RescaleIntercept = float(slope), float(intercept)

    def _keep_voi(self, dataset: Any, kept: Any) -> None:
        """A lookup table where there is one, else the first window that says something."""
        table = self._table(dataset, "VOILUTSequence")
        if table is not None:
            kept.VOILUTSequence = [table]
            self._range = 0.0, 2.0 ** significant_bits(float(np.max(_entries(table)))) - 1
            return
        source = dataset if "WindowWidth" in dataset else frame_groups(dataset, "FrameVOILUTSequence")
        if source is None or "WindowWidth" not in source:
            return
        function = str(source.get("VOILUTFunction") or "LINEAR").strip().upper()
        if function not in _FUNCTIONS:
            self._left_out("the VOI LUT function")
            function = "LINEAR"
        centres, widths = numbers(source, "WindowCenter") or [], numbers(source, "WindowWidth") or []
        least = 1.0 if function == "LINEAR" else 0.0  # C.11.2.1.2.1, C.11.2.1.3
        for centre, width in zip(centres, widths, strict=False):
            if math.isfinite(centre) and math.isfinite(width) and width > 0 and width >= least:
                kept.WindowCenter, kept.WindowWidth, kept.VOILUTFunction = float(centre), float(width), function
                self._range = _window_range(kept)
                return
        self._left_out("the window")

    def _table(self, dataset: Any, sequence: str) -> Any | None:
        """The first item of a sequence of lookup tables that can be used; None without, with a note."""
        if sequence not in dataset:
            return None
        import pydicom

        for item in dataset.get(sequence) or []:
            descriptor = numbers(item, "LUTDescriptor") or []
            data = item.get("LUTData")
            if len(descriptor) != 3 or not all(map(math.isfinite, descriptor)) or not data:
                continue
            length = int(descriptor[0]) or 65536
            entries = _entries(item)
            if len(entries) < length or float(np.max(entries)) == float(np.min(entries)):
                continue
            table = pydicom.Dataset()
            table.add_new("LUTDescriptor", "SS" if descriptor[1] < 0 else "US", [int(v) for v in descriptor])
            table.LUTDescriptor = [int(descriptor[0]), int(descriptor[1]), 16]
            table.add_new("LUTData", "US", [int(v) for v in entries[:length]])
            return table
        self._left_out("a lookup table without entries")
        return None

    def _transformed(self, pixels: Pixels) -> Pixels:
        from pydicom.pixels import apply_modality_lut, apply_voi_lut

        return apply_voi_lut(apply_modality_lut(pixels, self._grey), self._grey)

    # --- how many bits count ---------------------------------------------------------------------------------------

    def _scaled(self, values: Pixels) -> Image:
        if self._range is None:
            self._range = self._whole_range(values.ndim)
        return to_bytes(values, *self._range)

    def _whole_range(self, dimensions: int) -> tuple[float, float]:
        """Black and white where no window says it: by the bits that are used, or from the lowest to the highest value.

        Unsigned values begin at black. Signed and rescaled ones (of other modalities) have no black of their own.
        """
        rescaled = self._grey is not None and ("RescaleSlope" in self._grey or "ModalityLUTSequence" in self._grey)
        if not rescaled and not self._signed and self._stored <= 8:
            return 0.0, 2.0**self._stored - 1
        lowest, highest = math.inf, -math.inf
        for pixels in self._frames():
            values = pixels[..., :3] if dimensions == 3 else self._transformed(pixels)
            lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
            if not rescaled and not self._signed and self._stored < 16 and highest >= 256:
                break  # the file says how many bits there are, and more than 8 are used
        if rescaled or self._signed:
            return lowest, highest
        bits = significant_bits(highest)
        bits = bits if bits == 8 or self._stored >= 16 else self._stored
        self.notes.append(f"{self._name}: {bits} bits of {self._stored} are used: {2**bits - 1} is white")
        return 0.0, 2.0**bits - 1


def _entries(item: Any) -> Pixels:
    """The entries of a lookup table, whose data are words, or bytes of words, or bytes."""
    data = item.get("LUTData")
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, np.int64)) & 0xFFFF
    length = int((numbers(item, "LUTDescriptor") or [0])[0]) or 65536
    wide = len(data) >= 2 * length
    return np.frombuffer(data[: len(data) // 2 * 2] if wide else data, "<u2" if wide else "u1").astype(np.int64)


def _window_range(kept: Any) -> tuple[float, float]:
    """What a window maps onto: the range of the stored values, rescaled (as pydicom's apply_windowing does)."""
    bits, signed = int(kept.BitsStored), int(kept.PixelRepresentation)
    low = -(2.0 ** (bits - 1)) if signed else 0.0
    slope, intercept = float(kept.get("RescaleSlope", 1)), float(kept.get("RescaleIntercept", 0))
    ends = low * slope + intercept, (low + 2.0**bits - 1) * slope + intercept
    return min(ends), max(ends)


def _palette(dataset: Any) -> tuple[int, Image]:
    """The first value that is mapped, and the colours from it on, uint8 (N, 3).

    Entries of 8 bits may lie packed or in words of 16 (C.7.6.3.1.5), and a descriptor may say 16 where 8 are used: what
    the largest entry needs decides.
    """
    descriptor = numbers(dataset, "RedPaletteColorLookupTableDescriptor") or []
    if len(descriptor) != 3 or not all(map(math.isfinite, descriptor)):
        raise ValueError("a palette without descriptor")
    length, first, bits = int(descriptor[0]) % 65536 or 65536, int(descriptor[1]), int(descriptor[2])
    if "RedPaletteColorLookupTableData" in dataset:
        big_endian = dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.2"
        colours = np.stack([_plain_entries(dataset, colour, length, big_endian) for colour in _COLOURS], axis=-1)
    else:
        colours = _segmented_entries(dataset, length, 16 if bits > 8 else 8)
    if not len(colours):
        raise ValueError("a palette without entries")
    shift = max(0, significant_bits(float(colours.max())) - 8)
    return first, (colours >> shift).astype(np.uint8)


def _plain_entries(dataset: Any, colour: str, length: int, big_endian: bool) -> Pixels:
    data = bytes(dataset.get(f"{colour}PaletteColorLookupTableData") or b"")
    if big_endian:
        data = np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype("<u2").tobytes()
    entries = np.frombuffer(data, "<u2" if len(data) >= 2 * length else "u1", min(length, len(data)))
    return np.concatenate([entries, np.repeat(entries[-1:], length - len(entries))])


def _segmented_entries(dataset: Any, length: int, bits: int) -> Pixels:
    from pydicom.pixels import apply_color_lut

    table = without(dataset, "PixelData", "SegmentedAlphaPaletteColorLookupTableData")
    for colour in _COLOURS:
        setattr(table, f"{colour}PaletteColorLookupTableDescriptor", [length % 65536, 0, bits])
    # pydicom holds an index in the type of the entries.
    length = min(length, 2**bits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return apply_color_lut(np.arange(length, dtype=np.int32), table)[..., :3]
