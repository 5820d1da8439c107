"""Where the region of a source is, and how large its pixels are: what files say, people give, or pictures show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from vivim_runtime.errors import UsageError
from vivim_runtime.finding import find_region
from vivim_runtime.measuring.scale import Scales, spacing_scale, ultrasound_scales
from vivim_runtime.regions import AUTO, DICOM, Region, RegionRule, tissue_regions
from vivim_runtime.sources.base import Frame, Image, Source, counted_frames
from vivim_runtime.sources.dicom import DicomFile
from vivim_runtime.sources.paced import Paced

__all__ = ["LOOKED_AT", "Finder", "find_region", "located", "looked_at", "regions_of", "scales_of"]

# Finds the region in the pictures of a clip, of one size; None where there is none that it is sure of.
Finder = Callable[[Sequence[Image]], Region | None]

# So many frames are looked at, and no more than so many bytes of them.
LOOKED_AT = 48
_MOST_BYTES = 256 << 20


def _dicom_of(source: object) -> DicomFile | None:
    if isinstance(source, Paced):
        source = source.recorded
    found = source if isinstance(source, DicomFile) else getattr(source, "dicom", None)
    return found if isinstance(found, DicomFile) else None


def regions_of(
    rule: RegionRule,
    source: object,
    size: tuple[int, int],
    name: str,
    images: Callable[[], Sequence[Image]],
    finder: Finder = find_region,
) -> tuple[Region, ...]:
    """The regions of a source that a network sees; () where that is all of the picture.

    Args:
        source: may be a DICOM file, played at its own speed or not, or what has one as `dicom`.
        size: (H, W) of its pictures.
        name: of it, for messages.
        images: gives its pictures, for `auto`.
        finder: of `auto`.

    Raises:
        UsageError: there is none, or it lies beyond the picture.
    """
    if rule.region is not None:
        return (rule.region.check(size, name),)
    if rule.kind == DICOM:
        file = _dicom_of(source)
        if file is None:
            raise UsageError(f"{name} is no DICOM file, which has ultrasound regions; give --region X,Y,W,H or auto")
        if file.geometry.turns:
            raise UsageError(f"{name} is turned, and its ultrasound regions are not; give --region X,Y,W,H or auto")
        return tissue_regions(file.ultrasound_regions, file.stored_size, size, name)
    if rule.kind == AUTO:
        pictures = images()
        found = finder(pictures)
        if found is None:
            raise UsageError(
                f"{name} shows no region in {counted_frames(len(pictures))} that stands out from a screen around it; "
                "give --region X,Y,W,H or whole"
            )
        return (found.check(size, name),)
    return ()


def located(
    rule: RegionRule, source: Source, frames: Iterator[Frame], finder: Finder = find_region
) -> tuple[tuple[Region, ...], Iterator[Frame]]:
    """The regions of a source that is about to be read, and its frames, those that were looked at among them.

    Raises:
        UsageError: see `regions_of`.
    """
    kept = list(islice(frames, 1))
    if not kept:
        return (), frames
    size = (kept[0].image.shape[0], kept[0].image.shape[1])

    def images() -> list[Image]:
        kept.extend(looked_at(frames, LOOKED_AT - 1, kept[0]))
        return [frame.image for frame in kept]

    return regions_of(rule, source, size, source.name, images, finder), _again(kept, frames)


def _again(kept: list[Frame], frames: Iterator[Frame]) -> Iterator[Frame]:
    """What was looked at, let go as it is given, and the rest."""
    while kept:
        yield kept.pop(0)
    yield from frames


def looked_at(frames: Iterator[Frame], most: int, first: Frame) -> Iterator[Frame]:
    """The next frames, at most so many, and no more than fit into memory beside each other."""
    for _ in range(min(most, max(1, _MOST_BYTES // first.image.nbytes) - 1)):
        frame = next(frames, None)
        if frame is None:
            return
        yield frame


def scales_of(source: object, name: str, given: Scales | None = None) -> Scales:
    """The scale of a source: given by hand, of its ultrasound regions, or of its pixel spacing.

    Ultrasound regions come first: where they contradict the picture there are no millimetres, whatever else is said.
    """
    if given is not None:
        return given
    file = _dicom_of(source)
    if file is None:
        return Scales()
    if file.geometry.turns:
        return Scales(refusal=f"{name} is turned, and its scale is not")
    if any(region.is_tissue for region in file.ultrasound_regions):
        return ultrasound_scales(file.ultrasound_regions, file.stored_size, file.size, name)
    if file.spacing is not None:
        return spacing_scale(file.spacing, file.stored_size, file.size, name)
    return Scales(refusal=f"{name} does not say how large its pixels are (--mm-per-pixel)")
