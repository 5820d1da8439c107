"""Annotated videos to train and evaluate on, however they lie on the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vivim_runtime.datasets.buv2022 import is_buv2022, list_buv2022
from vivim_runtime.datasets.check import CheckReport, Problem, check
from vivim_runtime.datasets.classes import TABLE, Classes
from vivim_runtime.datasets.fingerprints import changes, known_data, recorded_split, refuse_trained, training_data
from vivim_runtime.datasets.listing import Listing, split_name
from vivim_runtime.datasets.phantom import PHANTOM_SPLITS, phantom_videos
from vivim_runtime.datasets.plain import is_plain, list_plain
from vivim_runtime.datasets.polyp import is_polyp, list_polyp
from vivim_runtime.datasets.sheet import contact_sheet
from vivim_runtime.datasets.splits import RANDOM_SHARES, held_out, random_split, split_by_file
from vivim_runtime.datasets.videos import (
    AnnotatedVideo,
    Dataset,
    Mask,
    Part,
    Video,
    clip_indices,
    framed,
    read_clip,
)
from vivim_runtime.datasets.vtus import is_vtus, list_vtus
from vivim_runtime.errors import DataError, UsageError
from vivim_runtime.provenance import TrainingData

__all__ = [
    "LAYOUTS",
    "PHANTOM_SPLITS",
    "AnnotatedVideo",
    "CheckReport",
    "Classes",
    "Dataset",
    "Layout",
    "Mask",
    "Part",
    "Problem",
    "Video",
    "check",
    "clip_indices",
    "contact_sheet",
    "framed",
    "held_out",
    "open_dataset",
    "random_split",
    "read_clip",
    "refuse_trained",
    "training_data",
]


@dataclass(frozen=True)
class Layout:
    """How a data set lies in a folder.

    Attributes:
        fits: whether a folder is laid out like this.
        listing: its videos.
        shape: for people.
    """

    fits: Callable[[Path], bool]
    listing: Callable[[Path], Listing]
    shape: str


LAYOUTS = {
    "vtus": Layout(is_vtus, list_vtus, "Train/<case>/*.jpg with Train_GT/<case>/*.png"),
    "buv2022": Layout(is_buv2022, list_buv2022, "images/<video>/* with labels/<video>/*.png"),
    "polyp": Layout(is_polyp, list_polyp, ".../<video>/Frame/*.jpg with .../<video>/GT/*.png"),
    "plain": Layout(
        is_plain,
        list_plain,
        "images/<video>/* (or <video>.mp4) with masks/<video>/*, or <video>/images/* with <video>/masks/*, or *.dcm",
    ),
    # Never found out: only whoever made the segmentations knows whether a frame was empty, or not looked at.
    "plain-sparse": Layout(
        lambda root: False,
        partial(list_plain, missing_is_empty=True),
        "as plain; a frame that a DICOM Segmentation leaves out has no object",
    ),
}


def open_dataset(
    name: str,
    split: str = "",
    layout: str = "auto",
    split_file: Path | None = None,
    seed: int = 0,
    trained: Sequence[TrainingData] = (),
    classes: Classes | None = None,
    marked: Sequence[str] | None = None,
) -> Dataset:
    """The annotated videos that a name stands for. Lists files; reads no pixels.

    Args:
        name: a folder, or `phantom`, `phantom:clips=40,frames=5,size=256` (synthetic, built in).
        split: `train`, `validation`, `test`, or another one that the layout or the split file has; "" for all videos.
        layout: one of `LAYOUTS`, `phantom`, or `auto`.
        split_file: see `vivim_runtime.datasets.splits`; it overrides all other splits.
        seed: of the draw where nothing else makes splits.
        trained: what weights were trained on. Where they know this data set, its splits are those of their training.
        classes: of the masks; None takes those of the table in the folder, and where there is none, one object.
        marked: the classes that a model marks, in its order: masks are of those alone.

    Raises:
        DataError: no such folder, a layout that does not fit, a split that does not exist, a wrong split file,
            nothing to read, or classes that are not known.
    """
    if layout not in ("auto", "phantom", *LAYOUTS):
        raise UsageError(f"--layout is {layout}; expected auto, phantom, {', '.join(LAYOUTS)}")
    if layout == "phantom" or (layout == "auto" and name.partition(":")[0] == "phantom"):
        if split_file is not None:
            raise DataError("phantoms have splits of their own, by their seeds; leave the split file out")
        if classes is not None and classes.labels:
            raise DataError(f"phantoms have one class, and {classes.origin} names {classes.describe()}; name it alone")
        kept = _arranged(classes, marked, "phantoms")
        return Dataset("phantom", split, phantom_videos(name, split_name(split) or split), "phantom", classes=kept)
    root = Path(name)
    try:
        if not root.is_dir():
            raise DataError(f"there is no folder {name}; expected the folder of a data set, or phantom")
        chosen = _detected(root) if layout == "auto" else layout
        listing = LAYOUTS[chosen].listing(root)
        kept = _arranged(classes or Classes.of_folder(root), marked, str(root))
    except OSError as error:
        raise DataError(f"cannot list {error.filename or name}: {error.strerror}") from None
    if not listing.videos:
        raise DataError(f"{root} holds no videos; the layout {chosen} is {LAYOUTS[chosen].shape}")
    if kept is not None:
        listing = replace(listing, videos=tuple(replace(video, named=kept) for video in listing.videos))
    title = listing.official or root.resolve().name
    known = known_data(title, listing.videos, trained) if split and split_file is None else None
    recorded = known[0].splits.get(split_name(split) or split) if known else None
    if known and recorded:
        entry, prints = known
        videos = recorded_split(recorded, listing.videos, prints)
        if not videos:
            raise DataError(
                f"{root} has none of the videos of the split {split!r} that the weights were trained beside, such as "
                f"{recorded[0].label}; give the data set of the training, or a split file"
            )
        notes = (f"the split {split} is that of the training ({entry.origin})", *changes(entry, prints))
        return Dataset(title, split, videos, chosen, (*listing.notes, *notes), entry.origin, classes=kept)
    if known and not listing.splits:
        raise DataError(
            f"the weights were trained on {title}, and set no videos apart for the split {split!r}; give a split file"
        )
    videos, notes, origin = _of_split(root, listing, split, split_file, seed)
    return Dataset(title, split, videos, chosen, (*listing.notes, *notes), origin, tuple(listing.splits), kept)


def _arranged(classes: Classes | None, marked: Sequence[str] | None, data: str) -> Classes | None:
    """The classes of a data set as a model marks them; DataError where it marks others."""
    if marked is None:
        return classes
    if classes is not None:
        return classes.arranged(marked)
    if len(marked) > 1:
        example = ",".join(f"{value}={name}" for value, name in enumerate(marked, 1))
        raise DataError(
            f"the model marks {', '.join(marked)}, and nothing says which values these have in the masks of {data}; "
            f"say it, such as --classes {example}, or by a table {TABLE} there"
        )
    return None


def _detected(root: Path) -> str:
    """The one layout that fits a folder."""
    fitting = [name for name, layout in LAYOUTS.items() if layout.fits(root)]
    if len(fitting) == 1:
        return fitting[0]
    shapes = "; ".join(f"{name}: {LAYOUTS[name].shape}" for name in fitting or LAYOUTS if name != "plain-sparse")
    if fitting:
        raise DataError(f"{root} may be {' or '.join(fitting)} ({shapes}); say which with --layout")
    inner = [child for child in root.iterdir() if child.is_dir() and any(o.fits(child) for o in LAYOUTS.values())]
    hint = f"; did you mean {inner[0]}?" if len(inner) == 1 else ""
    raise DataError(f"{root} has no layout that is known ({shapes}){hint}")


def _of_split(
    root: Path, listing: Listing, split: str, split_file: Path | None, seed: int
) -> tuple[tuple[AnnotatedVideo, ...], tuple[str, ...], str]:
    """The videos of a split, what to know about it, and who made it."""
    notes: tuple[str, ...] = ()
    origin = "of the data set"
    if split_file is not None:
        splits = split_by_file(split_file, listing.videos)
        origin = f"of the split file {split_file.name}"
        everything = tuple(video for videos in splits.values() for video in videos)
    elif listing.splits:
        by_name = {video.name: video for video in listing.videos}
        splits = {part: tuple(by_name[name] for name in names) for part, names in listing.splits.items()}
        everything = listing.videos
    elif split:
        splits, everything = random_split(listing.videos, seed), listing.videos
        origin = f"drawn with seed {seed}"
        shares = ", ".join(f"{share:.0%} {part}" for part, share in RANDOM_SHARES.items())
        notes = (f"{root.name} has no splits; whole videos were drawn with seed {seed} ({shares})",)
    else:
        return listing.videos, (), ""
    if not split:
        return everything, notes, ""
    folded = {part.lower(): part for part in splits}
    found = folded.get(split.lower()) or folded.get(split_name(split) or "")
    if found is None:
        where = f"the split file {split_file}" if split_file else str(root)
        raise DataError(f"{where} has no split {split!r}; it has {', '.join(splits)}: name one, or give a split file")
    if not splits[found]:
        raise DataError(f"the split {split!r} of {split_file or root} holds no videos")
    return splits[found], notes, origin
