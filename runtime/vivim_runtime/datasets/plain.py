"""The plain layout, for one's own data. In a folder, or in folders `train`, `validation`, `test` within it:

images/<video>/*        with  masks/<video>/*       frames and masks of the same names
<video>/images/*        with  <video>/masks/*       the same
images/*                with  masks/*               a single video
images/<video>.mp4      with  masks/<video>/*       masks numbered as frames are, from 0
*.dcm                                               cine loops and DICOM Segmentations, also within images and masks
"""

from __future__ import annotations

from pathlib import Path

from vivim_runtime.datasets.dicom import list_dicom
from vivim_runtime.datasets.folder import FolderVideo, image_names
from vivim_runtime.datasets.listing import Listing, folders_in, split_name, unique
from vivim_runtime.datasets.recorded import RecordedVideo
from vivim_runtime.datasets.videos import TitledVideo
from vivim_runtime.sources.dicom import is_dicom
from vivim_runtime.sources.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_foreign, natural_key

__all__ = ["is_plain", "list_plain"]

_FRAMES, _MASKS = "images", "masks"


def is_plain(root: Path) -> bool:
    """Whether a folder is laid out plainly."""
    return any(map(_fits, _parts(root).values()))


def _parts(root: Path) -> dict[str, Path]:
    """The folders of the splits, or the folder itself, of split ""."""
    splits = {name: folder for folder in folders_in(root) if (name := split_name(folder.name)) and _fits(folder)}
    return splits or {"": root}


def _fits(folder: Path) -> bool:
    pairs = (folder, *folders_in(folder))
    return any((pair / _FRAMES).is_dir() and (pair / _MASKS).is_dir() for pair in pairs) or bool(_dicom_files(folder))


def _dicom_files(folder: Path) -> list[Path]:
    """DICOM files in a folder and in its `images` and `masks`."""
    return [path for place in (folder, folder / _FRAMES, folder / _MASKS) for path in _files(place) if _may_be(path)]


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.is_file() and not is_foreign(p)), key=natural_key)


def _may_be(path: Path) -> bool:
    return path.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES and is_dicom(path)


def list_plain(root: Path, missing_is_empty: bool = False) -> Listing:
    """The videos of the plain layout, of all its forms that are there.

    Args:
        missing_is_empty: of frames that a DICOM Segmentation leaves out, see `DicomVideo`.
    """
    return unique({split: _videos(folder, missing_is_empty) for split, folder in _parts(root).items()})


def _videos(folder: Path, missing_is_empty: bool) -> list[TitledVideo]:
    frames, masks = folder / _FRAMES, folder / _MASKS
    recorded = [path for path in _files(frames) if path.suffix.lower() in VIDEO_SUFFIXES]
    videos: list[TitledVideo] = [RecordedVideo.listed(path.stem, path, masks / path.stem) for path in recorded]
    if image_names(frames):
        videos.append(FolderVideo.listed(folder.resolve().name, frames, masks))
    inner = dict.fromkeys(child.name for parent in (frames, masks) for child in folders_in(parent))
    for name in inner.keys() - {path.stem for path in recorded}:
        videos.append(FolderVideo.listed(name, frames / name, masks / name))
    for child in folders_in(folder):
        if child not in (frames, masks) and ((child / _FRAMES).is_dir() or (child / _MASKS).is_dir()):
            videos.append(FolderVideo.listed(child.name, child / _FRAMES, child / _MASKS))
    videos += list_dicom(_dicom_files(folder), missing_is_empty)
    return sorted(videos, key=lambda video: natural_key(Path(video.title)))
